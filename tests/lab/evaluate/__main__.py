"""`python -m tests.lab.evaluate`: make the runs that are missing, then write the page.

Needs root and the lab's packages (`python -m tests.lab.root`). Interrupted, it goes on where it
was: finished runs are in the results' file.
"""

import argparse
import os
import platform
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from pathlib import Path
from queue import SimpleQueue
from threading import Lock

from tests.lab import private
from tests.lab.evaluate.matrix import ATTACKS, ROUNDS, Cell, cells, compared, trial
from tests.lab.evaluate.outcome import Outcome, compact, line, load, outcome, summaries
from tests.lab.root import RootError
from tests.lab.trial import Trial, run

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "evaluation.md"
RESULTS = ROOT / "docs" / "evaluation" / "results.jsonl"
BEFORE = ROOT / "docs" / "evaluation" / "before.jsonl"
"""The results of the version before."""
SCRATCH = ROOT / "build" / "evaluation"
_QUICK = ("none/hold/1", "dpsd/hold/1", "dpsd/churn/1", "dpsd/distributed/1")


def machine() -> str:
    """The class of this machine; no names."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    kernel = platform.release().split("-")[0]
    return (
        f"{os.cpu_count()} processors, {round(pages / 2**30)} GiB, Linux {kernel},"
        f" Python {platform.python_version()}"
    )


class Evaluation:
    """Makes runs, several at a time, and keeps what they say as soon as they end."""

    def __init__(self, path: Path, *, peace: float, seconds: float) -> None:
        self._path = path
        self._times = {"peace": peace, "seconds": seconds}
        self._machine = machine()
        self._lock = Lock()
        self._failed: list[str] = []
        self._left = 0
        path.parent.mkdir(parents=True, exist_ok=True)

    def make(self, wanted: list[Cell], jobs: int) -> list[str]:
        """Make the runs, light ones `jobs` at a time; the keys of those that failed."""
        self._left = len(wanted)
        prefixes: SimpleQueue[str] = SimpleQueue()
        for number in range(jobs):
            prefixes.put(f"{number}-")
        light = [cell for cell in wanted if not ATTACKS[cell.attack].heavy]
        with ThreadPoolExecutor(jobs) as pool:
            list(pool.map(self._one, light, cycle([prefixes])))
        for cell in wanted:
            if cell not in light:
                self._one(cell, prefixes)
        return self._failed

    def _one(self, cell: Cell, prefixes: "SimpleQueue[str]") -> None:
        prefix = prefixes.get()
        began = time.monotonic()
        try:
            made = outcome(cell, run(trial(cell, **self._times), prefix=prefix), self._machine)
        except Exception as error:  # noqa: BLE001 - one failed run doesn't end an hour's work
            with self._lock:
                self._failed.append(cell.key)
                self._left -= 1
                print(f"  {cell.key:28} FAILED: {error}", flush=True)
            return
        finally:
            prefixes.put(prefix)
        with self._lock:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(line(made))
            self._left -= 1
            print(
                f"  {cell.key:28} {_told(made)}, took {time.monotonic() - began:.0f} s,"
                f" {self._left} to go",
                flush=True,
            )


def _told(made: Outcome) -> str:
    recovery = "never recovered" if made.recovery is None else f"recovery {made.recovery:4.1f} s"
    return (
        f"{made.delivered:3} of {made.due:3} mails, {recovery},"
        f" {len(made.listings):3} of {made.attackers:3} listed, {len(made.wronged)} wronged"
        + (f", STARVED: senders {made.late:.2f} s late" if made.starved else "")
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.lab.evaluate")
    parser.add_argument(
        "--only", nargs="+", default=["*"], help="globs of runs: 'dpsd/*' '*/hold/1'"
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of dpsd, on every attack")
    parser.add_argument("--jobs", type=int, default=1, help="light runs at a time")
    parser.add_argument("--again", action="store_true", help="make finished runs anew as well")
    parser.add_argument(
        "--before", action="store_true", help="results are those of the version before"
    )
    parser.add_argument("--quick", action="store_true", help="a few short runs, into build/")
    parser.add_argument("--render", action="store_true", help="no runs, only page and pictures")
    return parser.parse_args()


def _wanted(given: argparse.Namespace, path: Path) -> list[Cell]:
    if given.render:
        return []
    only = _QUICK if given.quick else given.only
    chosen = cells(only, given.rounds)
    if not chosen:
        sys.exit(f"evaluate: no run matches {' '.join(only)}; a key is defence/attack/round")
    done = load(path)
    needed = [cell for cell in compared(chosen) if cell not in chosen]
    return [cell for cell in needed if cell.key not in done] + [
        cell for cell in chosen if given.again or cell.key not in done
    ]


def main() -> int:
    """Make the missing runs, keep their results, write page and pictures; 1 when a run failed."""
    given = _arguments()
    private.enter()
    path = BEFORE if given.before else RESULTS
    if given.quick:
        path = SCRATCH / "results.jsonl"
        path.unlink(missing_ok=True)
    wanted = _wanted(given, path)
    times = (
        {"peace": 2.0, "seconds": 12.0}
        if given.quick
        else {"peace": Trial.peace, "seconds": Trial.seconds}
    )
    failed: list[str] = []
    if wanted:
        print(f"{len(wanted)} runs of about {sum(times.values()) + 12:.0f} s:", flush=True)
        failed = Evaluation(path, **times).make(wanted, given.jobs)
        compact(load(path), cells(rounds=max(given.rounds, ROUNDS)), path)
    from tests.lab.evaluate import page, pictures  # noqa: PLC0415 - runs need no matplotlib

    said = summaries(load(path if given.quick else RESULTS))
    where = SCRATCH if given.quick else PAGE.parent / "evaluation"
    pictures.draw(said, where)
    if given.quick:
        print(page.tables(said))
    else:
        text = page.render(PAGE.read_text("utf-8"), said, summaries(load(BEFORE)))
        PAGE.write_text(text, encoding="utf-8")
        print(f"Written: {PAGE}")
    if failed:
        print(f"Failed: {' '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (private.NotPrivateError, RootError) as problem:
        sys.exit(f"evaluate: {problem}")
    except KeyboardInterrupt:
        print("\ninterrupted: finished runs are kept", file=sys.stderr, flush=True)
        os._exit(130)  # with this process the private world ends, and every run in it
