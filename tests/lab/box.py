"""What dpsd's host tells of an attack, and the processor time that it costs."""

import json
import os
import subprocess
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tests.lab.dpsd import Dpsd

_ASK_AT = 0.8
"""The part of the attack after which dpsd is asked: it is settled by then, and nobody left yet."""
_TICKS = os.sysconf("SC_CLK_TCK")


class Moment(Protocol):
    """A sample of the server's sessions: see tests.lab.result.Sample."""

    @property
    def at(self) -> float:
        """Seconds since the attack began."""

    @property
    def attackers(self) -> Counter[str]:
        """The server's sessions by TCP state; whoever isn't known as honest is an attacker."""

    @property
    def honest(self) -> Counter[str]:
        """Those of peers that are known as honest."""


@dataclass(frozen=True)
class Box:
    """What was told late in the attack, and what the attack cost."""

    seconds: float
    """The span in which the processor time was spent."""
    cpu: dict[str, float]
    """Seconds of processor time, of `dpsd` and of what is in `front` of the server."""
    status: dict[str, Any]
    """`dpsd status --json`; empty without dpsd."""
    established: int
    """Sessions that the server itself had at that moment."""


class Meter:
    """Looks at dpsd and at what is in front while a run goes on."""

    def __init__(self, daemon: Dpsd | None, front: Sequence[int]) -> None:
        self._daemon = daemon
        self._pids = {"dpsd": [daemon.pid]} if daemon else {}
        if front:
            self._pids["front"] = [*front]
        self._first: tuple[float, dict[str, float]] | None = None
        self._last: tuple[float, dict[str, float]] | None = None
        self._asked: subprocess.Popen[bytes] | None = None
        self._established = 0

    def at(self, sample: Moment, seconds: float) -> None:
        """A moment of the run; `seconds`: how long the attack is watched."""
        if not self._pids or not 0 <= sample.at < seconds:
            return
        self._last = (sample.at, {name: spent(pids) for name, pids in self._pids.items()})
        self._first = self._first or self._last
        if self._daemon and self._asked is None and sample.at >= _ASK_AT * seconds:
            self._established = sample.attackers["ESTAB"] + sample.honest["ESTAB"]
            self._asked = self._daemon.begun("status", "--json")

    def read(self) -> Box | None:
        """What was seen; None: there was nothing to look at."""
        if self._first is None or self._last is None:
            return None
        told: dict[str, Any] = {}
        if self._asked is not None:
            output, _ = self._asked.communicate(timeout=30)
            told = json.loads(output)
        (began, before), (ended, after) = self._first, self._last
        cpu = {name: round(after[name] - before[name], 2) for name in after}
        return Box(round(ended - began, 1), cpu, told, self._established)


def spent(pids: Iterable[int]) -> float:
    """Seconds of processor time of processes, their children that are over, and those that live."""
    total, wanted = 0.0, {*pids}
    for each in sorted(int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()):
        try:
            words = Path(f"/proc/{each}/stat").read_text("ascii").rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue  # over meanwhile: its parent has counted it
        if each in wanted or int(words[1]) in wanted:
            wanted.add(each)
            total += sum(map(int, words[11:15])) / _TICKS
    return total
