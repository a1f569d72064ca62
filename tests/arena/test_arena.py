"""Attacks in simulation: a few short ones that must never get worse than this.

For all of them: python -m tests.arena
"""

import pytest

from tests.arena.case import play
from tests.arena.cases import CASES
from tests.arena.kept import KEPT, SEEDS
from tests.arena.result import Outcome, line, recovery, table

HOLDS = (
    ("peace", 99, 0.0),
    ("20 slots: peace", 99, 0.0),
    ("filter 8 s: peace", 99, 0.0),
    ("slow disk: peace", 99, 0.0),
    ("hold 40x10", 99, 4.0),
    ("hold 150x1", 99, 3.0),
    ("hold 40x10 46", 99, 5.0),
    ("hold 1x200 within /56", 99, 3.0),
    ("silent 40x10", 99, 4.0),
    ("noop 40x10", 99, 12.0),
    ("drip 40x10", 98, 60.0),
    ("slowdata 40x10", 98, 6.0),
    ("quit 40x10", 98, 6.0),
    ("deaf 40x10", 98, 6.0),
    ("churn 8x10", 99, 3.0),
    ("helobyte 40x10", 99, 3.0),
    ("silent 40x10 465", 99, 3.0),
    ("half_hello 40x10", 98, 5.0),
    ("bought by noops, hold 40x10", 99, 6.0),
    ("rcpt 40x10", 99, 3.0),
    ("trickle 100 B/s 40x10", 98, 5.0),
    ("trickle 2000 B/s 40x10", 98, 6.0),
    ("stall 40x10", 98, 6.0),
    ("no sockets: hold 40x10", 98, 5.0),
    ("filter 8 s: hold 40x10", 94, 22.0),
    ("rtt 200 ms: hold 40x10", 98, 22.0),
)
"""Per cent of honest mail in time, at least; and seconds until it goes on as in peace, at most."""


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize(("name", "least", "most"), HOLDS, ids=[name for name, *_ in HOLDS])
def test_honest_mail_goes_on(name: str, least: float, most: float, seed: int) -> None:
    (case,) = (each for each in CASES if each.name == name)
    found = play(case, seed)
    assert found.share >= least, line(found)
    assert found.recovery is not None, line(found)
    assert found.recovery <= most, line(found)
    assert found.wronged == []
    assert found.attempted > 100


def test_the_same_seed_gives_the_same() -> None:
    (case,) = (each for each in CASES if each.name == "20 slots: stall 40x10")
    one, two = ({**vars(play(case, 5)), "cpu": 0.0} for _ in range(2))
    assert one == two


def test_every_case_has_a_name_of_its_own() -> None:
    names = [case.name for case in (*CASES, *KEPT)]
    assert len(set(names)) == len(names)


def test_what_is_kept_back_is_none_of_the_others() -> None:
    assert not {case.attacks for case in KEPT} & {case.attacks for case in CASES}
    assert 1 not in SEEDS


def test_without_mail_nothing_has_to_recover() -> None:
    assert recovery([], 60.0) == 0.0


def test_a_table_is_one_row_a_case() -> None:
    found = Outcome("a case", 1, 10, 9, None, 40, 38, 2.5, [], 1, 0, 400, 3, 2, 0.1)
    better = Outcome("a case", 2, 10, 10, 4.0, 40, 40, 2.5, [], 1, 0, 400, 3, 2, 0.1)
    assert "| a case | 95 % | 4.0 s, never in 1 of 2 | 39/40 after 2.5 s |" in table(
        [[found, better]]
    )
    assert line(found).startswith("a case")
