"""`python -m tests.lab.positions`: make the runs that are missing, then write page and picture.

Needs root and the lab's packages (`python -m tests.lab.root`, and the same with `haproxy`).
Interrupted, it goes on where it was: finished runs are in the results' file.
"""

import argparse
import os
import sys
import time
from pathlib import Path

from tests.lab import private
from tests.lab.evaluate.__main__ import machine
from tests.lab.positions.matrix import PEACE, SECONDS, Cell, cells, trial
from tests.lab.positions.measured import Measured, compact, line, load, measured
from tests.lab.root import RootError
from tests.lab.trial import run

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "positions.md"
RESULTS = ROOT / "docs" / "positions" / "results.jsonl"


def _told(made: Measured) -> str:
    recovery = "never recovered" if made.recovery is None else f"recovery {made.recovery:4.1f} s"
    return (
        f"{made.delivered:3} of {made.due:3} mails, {recovery},"
        f" {len(made.listings):3} of {made.attackers:3} listed, {len(made.wronged)} wronged,"
        f" server {made.held:.0f}, {made.told}, cpu {made.cpu}, {made.visits} visits"
        + (f", STARVED: senders {made.late:.2f} s late" if made.starved else "")
    )


def _make(wanted: list[Cell], path: Path) -> list[str]:
    """Make the runs one after another, and keep each as soon as it ends; keys of those that
    failed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    failed = []
    for number, cell in enumerate(wanted, 1):
        began = time.monotonic()
        try:
            made = measured(cell, run(trial(cell)), machine())
        except Exception as error:  # noqa: BLE001 - one failed run doesn't end an hour's work
            failed.append(cell.key)
            print(f"  {cell.key:28} FAILED: {error}", flush=True)
            continue
        with path.open("a", encoding="utf-8") as file:
            file.write(line(made))
        took = f"took {time.monotonic() - began:.0f} s, {len(wanted) - number} to go"
        print(f"  {cell.key:28} {_told(made)}, {took}", flush=True)
    return failed


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.lab.positions")
    parser.add_argument(
        "--only", nargs="+", default=["*"], help="globs of runs: 'container/*' '*/hold/1'"
    )
    parser.add_argument("--rounds", type=int, default=1, help="of each run")
    parser.add_argument("--most", type=int, default=None, help="end after so many runs")
    parser.add_argument("--again", action="store_true", help="make finished runs anew as well")
    parser.add_argument("--render", action="store_true", help="no runs, only page and picture")
    return parser.parse_args()


def _wanted(given: argparse.Namespace) -> list[Cell]:
    if given.render:
        return []
    chosen = cells(given.only, given.rounds)
    if not chosen:
        sys.exit(
            f"positions: no run matches {' '.join(given.only)}; a key is position/attack/round"
        )
    done = load(RESULTS)
    return [cell for cell in chosen if given.again or cell.key not in done][: given.most]


def main() -> int:
    """Make the missing runs, keep their results, write page and picture; 1 when a run failed."""
    given = _arguments()
    private.enter()
    wanted = _wanted(given)
    failed: list[str] = []
    if wanted:
        print(f"{len(wanted)} runs of about {PEACE + SECONDS + 12:.0f} s:", flush=True)
        failed = _make(wanted, RESULTS)
        compact(load(RESULTS), cells(rounds=max(given.rounds, 9)), RESULTS)
    from tests.lab.positions import page, picture  # noqa: PLC0415 - runs need no matplotlib

    runs = load(RESULTS)
    picture.draw(runs, RESULTS.parent / "positions.svg")
    PAGE.write_text(page.render(PAGE.read_text("utf-8"), runs), encoding="utf-8")
    print(f"Written: {PAGE}")
    if failed:
        print(f"Failed: {' '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (private.NotPrivateError, RootError) as problem:
        sys.exit(f"positions: {problem}")
    except KeyboardInterrupt:
        print("\ninterrupted: finished runs are kept", file=sys.stderr, flush=True)
        os._exit(130)  # with this process the private world ends, and every run in it
