"""What is read off a process and off the machine, and how the table shows it."""

import os
import platform
import re
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median, quantiles

_CPUCLOCK_SCHED = 2


def cpu(pid: int) -> float:
    """Processor seconds of a whole process so far, to the nanosecond (clock_getcpuclockid(3))."""
    return time.clock_gettime(~pid << 3 | _CPUCLOCK_SCHED)


def rss(pid: int) -> float:
    """Resident memory of a process, in MiB."""
    text = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    found = re.search(r"VmRSS:\s+(\d+) kB", text)
    return int(found[1]) / 1024 if found else 0.0


def keep_apart(pid: int) -> None:
    """Put all threads of a process onto the last processor; the load has the first."""
    last = max(os.sched_getaffinity(0))
    for thread in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), {last})


def machine() -> str:
    """One line on what this was measured on."""
    info = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    found = re.search(r"model name\s*: (.*)", info)
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / (1 << 30)
    kernel = re.match(r"[\d.]*\d", platform.release())
    return (
        f"{found[1] if found else platform.machine()}, {os.cpu_count()} processors,"
        f" {memory:.0f} GiB, Linux {kernel[0] if kernel else '?'},"
        f" Python {platform.python_version()}"
    )


def spread(values: Sequence[float], form: str) -> str:
    """The median, with the least and the most behind it."""
    return f"{median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def percentile99(values: Sequence[float]) -> float:
    return quantiles(values, n=100, method="inclusive")[98]


Row = tuple[str, str, str]
"""What was measured, what came out, and what was aimed at ("" for nothing); a heading: a name."""


def line(row: Row) -> str:
    """A line of the table, as plain text."""
    name, value, aim = row
    return f"{name:42}  {value:26}  {aim}".rstrip() if value else name
