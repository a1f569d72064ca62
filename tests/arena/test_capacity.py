"""Servers that nobody can ask: how many sessions they hold is learned while they are full."""

from dataclasses import replace
from statistics import mean

import pytest

from tests.arena import case as arena
from tests.arena.attackers import Attack
from tests.arena.case import Arena, Case
from tests.arena.result import Outcome, line

HOLD = Attack("hold")


def play(case: Case, seed: int) -> tuple[Outcome, Arena]:
    """Play it where nobody tells the slots; what came of it, and the world."""
    worlds: list[Arena] = []

    class Kept(Arena):
        def __init__(self, seed: int, case: Case) -> None:
            super().__init__(seed, case)
            worlds.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arena, "Arena", Kept)
        return arena.play(replace(case, told=False), seed), worlds[0]


def learned(world: Arena) -> dict[int, int]:
    return {each.port: each.slots for each in world.engine.capacity.lessons}


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("sockets", [True, False])
def test_a_server_of_20(seed: int, sockets: bool) -> None:
    """Row A15: with 100 assumed, it would be full for as long as the attack lasts."""
    case = Case("20", (HOLD,), slots=20, sockets=sockets)
    found, world = play(case, seed)
    assert found.share >= (97 if sockets else 95), line(found)
    assert found.wronged == []
    assert learned(world) == {25: 20}
    assert found.listed >= 36, line(found)
    (lesson,) = world.engine.capacity.lessons
    assert lesson.at - 1010 < 120
    first = world.engine.policy.pools[0]
    assert (first.ports, first.slots) == (frozenset({25}), 20)


@pytest.mark.parametrize("sockets", [True, False])
def test_learning_them_costs_little(sockets: bool) -> None:
    """Of honest mail, as against a server whose slots are told; from seed to seed both differ by
    some 3 %."""
    case, seeds = Case("20", (HOLD,), slots=20, sockets=sockets), range(1, 9)
    found = mean(play(case, seed)[0].share for seed in seeds)
    told = mean(arena.play(case, seed).share for seed in seeds)
    assert found >= told - 2.0


@pytest.mark.parametrize("slots", [100, 300, 1000])
def test_a_server_of(slots: int) -> None:
    """It may have more than is assumed: what is served at once counts."""
    hold = Attack("hold", sources=100, sessions=20) if slots == 1000 else HOLD
    found, world = play(Case(f"{slots}", (hold,), slots=slots), 1)
    assert found.share >= 99, line(found)
    assert found.wronged == []
    assert all(slots * 0.9 <= number <= slots * 1.05 for number in learned(world).values())


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("greets", [3.0, 6.0])
def test_a_server_that_greets_slowly_teaches_nothing(greets: float, seed: int) -> None:
    case = Case("slow", greets=greets, load=0.4, peace=60.0, sockets=False)
    found, world = play(case, seed)
    assert found.share >= 96, line(found)
    assert not learned(world)
    assert sum(world.seen.ended.values()) == 0


def test_a_slow_disk_teaches_nothing() -> None:
    found, world = play(Case("slow disk", slow=True, peace=60.0, sockets=False), 1)
    assert found.share >= 99, line(found)
    assert not learned(world)
