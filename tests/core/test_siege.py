"""When a siege is reckoned with, and for how long."""

from math import inf

import pytest

from dpsd.core.siege import Siege
from dpsd.core.stress import LASTS


@pytest.mark.parametrize(
    ("what", "waves", "until"),
    [
        ("nothing was ended", [(1.0, 0)], -inf),
        ("a whole wave", [(1.0, 40)], 1.0 + LASTS),
        ("too few", [(1.0, 39)], -inf),
        ("a wave in three parts", [(1.0, 15), (1.25, 15), (1.5, 20)], 1.5 + LASTS),
        ("as many, one after the other", [(float(at), 15) for at in range(20)], -inf),
        ("each wave prolongs it", [(1.0, 50), (21.0, 50)], 21.0 + LASTS),
    ],
)
def test_a_wave_of_ended_sessions_is_a_siege(
    what: str, waves: list[tuple[float, int]], until: float
) -> None:
    siege = Siege()
    for at, ended in waves:
        siege.take(ended, 100, False, at)
    assert siege.until == until, what
    assert siege.swarm_until == -inf


def test_a_swarm_is_reckoned_with_for_as_long() -> None:
    siege = Siege()
    siege.take(1, 100, True, 5.0)
    siege.take(1, 100, False, 6.0)
    assert (siege.until, siege.swarm_until) == (-inf, 5.0 + LASTS)
