"""Attacks in simulation: what becomes of honest mail?

python -m tests.arena --only 'hold*' --seeds 3 --jobs 2
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from fnmatch import fnmatch
from itertools import groupby
from multiprocessing import Pool
from pathlib import Path

from tests.arena.case import Case, play
from tests.arena.cases import CASES
from tests.arena.kept import KEPT, SEEDS
from tests.arena.result import Outcome, line, summary, table


def _played(each: tuple[Case, int]) -> Outcome:
    return play(*each)


def _play(wanted: Sequence[tuple[Case, int]], jobs: int) -> Iterator[Outcome]:
    if jobs == 1:
        yield from map(_played, wanted)
        return
    with Pool(jobs) as pool:
        yield from pool.imap(_played, wanted)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.arena")
    parser.add_argument("--only", default="*", help="names of cases, as a shell's pattern")
    parser.add_argument("--seeds", type=int, default=1, help="how many")
    parser.add_argument("--first", type=int, help="the first seed")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--kept-back", action="store_true", help="others, not to be tuned by")
    parser.add_argument("--list", action="store_true", help="only name the cases")
    parser.add_argument("--json", action="store_true", help="an object a line")
    parser.add_argument("--table", type=Path, help="write a table in Markdown")
    return parser.parse_args()


def main() -> None:
    """See above."""
    given = _arguments()
    every = KEPT if given.kept_back else CASES
    cases = [case for case in every if fnmatch(case.name, given.only)]
    if given.list:
        print("\n".join(case.name for case in cases))
        return
    first = given.first or (SEEDS[0] if given.kept_back else 1)
    wanted = [(case, seed) for case in cases for seed in range(first, first + given.seeds)]
    outcomes = []
    for found in _play(wanted, given.jobs):
        outcomes.append(found)
        print(json.dumps(asdict(found)) if given.json else line(found), flush=True)
    if outcomes and not given.json:
        print(summary(outcomes))
    if given.table:
        groups = (list(each) for _, each in groupby(outcomes, key=lambda found: found.case))
        given.table.write_text(table(groups), encoding="utf-8")


if __name__ == "__main__":
    main()
