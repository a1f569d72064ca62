"""A short cut of `make soak`: some kills, one of them while it starts."""

from tests.soak.field import Field
from tests.soak.kills import once, operators


def test_nothing_is_lost_and_nobody_comes_back(field: Field) -> None:
    with operators(field, seed=1) as typing:
        for moment, starting in ((0.7, False), (0.4, True), (0.2, False)):
            assert once(field, typing, moment, starting) == []
        assert sum(each.done for each in typing) > len(typing)
