"""How many sessions a server holds, learned from who waits for its greeting."""

from dataclasses import replace

import pytest

from dpsd.core.capacity import LASTS, LEAST
from dpsd.core.policy import Known, Pool
from tests.core.transcript import Stage

HELD = "SYN_RECV ESTABLISHED"


def server(slots: int = 100, known: Known = Known.ASSUMED, port: int = 0) -> Stage:
    pool = Pool(frozenset([port] if port else []), slots, known)
    return Stage({"pools": (pool,)}, dumps=1, kills=False)


def opened(
    stage: Stage, at: float, first: int, count: int, words: str = "", port: int = 25
) -> None:
    """Sessions of as many peers; greeted, unless the words say other."""
    for number in range(first, first + count):
        stage.play(f"{at} 10.1.{number >> 8}.{number & 255}@{port} {HELD} {words}")


def learned(stage: Stage) -> dict[int, int]:
    return {each.port: each.slots for each in stage.engine.capacity.lessons}


def pools(stage: Stage) -> list[tuple[list[int], int]]:
    return [(sorted(pool.ports), pool.slots) for pool in stage.engine.policy.pools]


def full(stage: Stage, slots: int, port: int = 25) -> Stage:
    opened(stage, 0, 0, slots, port=port)
    opened(stage, 2, slots, 5, "unanswered", port=port)
    return stage.until(6)


def test_who_waits_while_as_many_as_ever_are_served() -> None:
    """Row A15."""
    stage = full(server(), 40)
    assert learned(stage) == {25: 40}
    assert pools(stage) == [([25], 40), ([], 100)]
    assert stage.engine.pressure == 45 / 40


def test_a_server_with_more_than_was_assumed() -> None:
    stage = server()
    opened(stage, 0, 0, 250)
    stage.until(3)
    assert pools(stage) == [([], 250)]
    opened(stage, 3, 250, 5, "unanswered")
    assert learned(stage.until(8)) == {25: 250}


def test_an_explicit_number_wins() -> None:
    stage = full(server(400, Known.TOLD), 40)
    assert pools(stage) == [([], 400)]
    assert learned(stage) == {25: 40}  # to be told


@pytest.mark.parametrize(("told", "taken"), [(100, 40), (42, 42), (20, 20)])
def test_what_the_server_said_holds_unless_it_is_too_high(told: int, taken: int) -> None:
    stage = full(server(told, Known.ASKED, 25), 40)
    assert pools(stage) == [([25], taken)]


def test_few_sessions_teach_nothing() -> None:
    stage = full(server(), LEAST - 1)
    assert learned(stage) == {}


def test_one_peer_alone_teaches_nothing() -> None:
    stage = server()
    opened(stage, 0, 0, 40)
    for number in range(10):
        stage.play(f"2 10.9.0.1#{number + 1} {HELD} unanswered")
    assert learned(stage.until(20)) == {}


def test_nor_do_those_that_the_server_passes_by() -> None:
    """A tarpit: others that came later are greeted."""
    stage = server()
    opened(stage, 0, 0, 40)
    for second in range(1, 30):
        opened(stage, second, 100 + 2 * second, 1, "unanswered")
        stage.play(f"{second}.5 10.2.0.{second} {HELD}")
        stage.play(f"{second}.6 10.1.0.{second} FIN_WAIT/peer LAST_ACK TIME_WAIT")
    assert learned(stage.until(31)) == {}


def test_nor_do_those_that_the_server_never_had() -> None:
    stage = server()
    opened(stage, 0, 0, 40)
    opened(stage, 2, 40, 9, "unanswered")
    for key, row in stage.table.items():
        if row.answers == 1:
            row.answers, row.answered = 3, 180
            assert key
    assert learned(stage.until(20)) == {}


def test_nor_on_a_port_where_the_peer_speaks_first() -> None:
    assert learned(full(server(), 40, port=465)) == {}


def test_who_waits_with_room_to_spare_shows_a_slow_server() -> None:
    """Then longer waits count, and what the shorter one taught is forgotten."""
    stage = full(server(), 40)
    assert learned(stage) == {25: 40}
    for number in range(20):  # they leave, and nobody is greeted for it
        stage.play(f"7 10.1.0.{number} FIN_WAIT/peer LAST_ACK TIME_WAIT")
    stage.until(12)
    assert learned(stage) == {}
    assert pools(stage) == [([], 100)]


def test_more_served_at_once_raise_it() -> None:
    stage = full(server(), 40)
    opened(stage, 7, 100, 9)
    stage.until(9)
    assert learned(stage) == {25: 49}


def test_a_lesson_lasts_a_day() -> None:
    stage = full(server(), 40)
    for number in range(45):
        stage.play(f"7 10.1.0.{number} FIN_WAIT/peer LAST_ACK TIME_WAIT")
    capacity = stage.engine.capacity
    capacity.look(7 + LASTS / 2)
    assert learned(stage) == {25: 40}
    capacity.look(8 + LASTS)
    assert learned(stage) == {}


def test_while_events_are_missing_nothing_is_learned() -> None:
    stage = server()
    opened(stage, 0, 0, 40)
    stage.engine.unseen = {(1, 4)}
    opened(stage, 2, 40, 9, "unanswered")
    assert learned(stage.until(20)) == {}


def test_a_reload_keeps_what_was_learned() -> None:
    stage = full(server(), 40)
    both = Pool(frozenset([25, 587]), 100, Known.ASSUMED)
    stage.engine.apply(replace(stage.engine.policy, pools=(both,)))
    assert pools(stage) == [([25], 40), ([587], 100)]
