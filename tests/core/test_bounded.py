"""What a call of the engine costs grows with what happened, not with what exists.

Counted are the lines of Python that run, which no machine's load changes: with a thousand and with
a hundred thousand of everything they are fewer than LINES for each that a slice holds.
"""

import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import pytest

from dpsd.core import halfclosed, owners, prefixes, room, scores, sentences, sessions
from dpsd.core.auction import MOST, TRIES
from dpsd.core.engine import OVER, Engine
from dpsd.core.events import (
    ASSURED,
    BEGIN,
    CLOSE_INIT,
    END,
    ENTRY,
    UPDATE,
    Endpoints,
    Event,
    Key,
    Measure,
    State,
    Word,
)
from dpsd.core.evidence import Kind
from dpsd.core.judge import Guilty
from dpsd.core.lists import SCORE, Entry, ListName, Lists
from dpsd.core.policy import Pool
from dpsd.core.sentences import RECALLED
from tests.core.transcript import PLAIN, SIZE

LINES = 45  # that are run at most for one thing, on average
SLICES = (
    *(sessions.SLICE, sessions.OVERSTAYS, halfclosed.OVERSTAYS, scores.SLICE, prefixes.SLICE),
    *(owners.SLICE, owners.TOGETHER, OVER, RECALLED, TRIES),
)
BOUND = LINES * sum(SLICES)
EITHER = pytest.mark.parametrize("number", [1_000, 100_000])

SERVER = bytes((192, 0, 2, 25))


def v4(number: int, port: int = 1) -> tuple[bytes, int]:
    return (0x0A000000 + number).to_bytes(4, "big"), port


def v6(number: int, in_48s: int = 10) -> tuple[bytes, int]:
    """The first host of one /64 of so many /48s."""
    peer = (0x20010DB80000 + number % in_48s) << 80 | (number // in_48s) << 64 | 1
    return peer.to_bytes(16, "big"), 1


def endpoints(key: Any) -> Endpoints:
    peer, port = key
    return Endpoints(peer, SERVER, port, 25)


def lines(call: Callable[[], Any]) -> int:
    """How many lines of Python a call runs."""
    count = 0

    def trace(*_: object) -> Any:
        nonlocal count
        count += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return count


def engine(**rules: Any) -> Engine:
    rules = {"block_at": 1e9, "pools": (Pool(frozenset(), 10**6),), **rules}
    made = Engine(replace(PLAIN, **rules), SIZE, Lists(), endpoints, lambda *_: True)
    made.look([(25, 4), (25, 6)])
    made.feed([*dump([], 4), *dump([], 6)], 0.0)
    return made


def opened(keys: Iterable[Key]) -> list[Event]:
    return [(UPDATE, key, ASSURED, State.ESTABLISHED, 0, 0) for key in keys]


def closing(keys: Iterable[Key]) -> list[Event]:
    return [(UPDATE, key, ASSURED, State.FIN_WAIT, 0, CLOSE_INIT) for key in keys]


GREETED = Measure(1200, 3, 164, 3, 164 + 60)


def dump(keys: Iterable[Key], version: int = 4) -> list[Event]:
    entries = ((ENTRY, key, ASSURED, State.ESTABLISHED, (0, 0), GREETED) for key in keys)
    return [(BEGIN, None, 0, 0, 25, version), *entries, (END, None, 0, 0, 0, 0)]


@EITHER
def test_half_closed_sessions_that_overstay(number: int) -> None:
    """Row B4."""
    made, keys = engine(), [v4(n) for n in range(number)]
    made.feed(opened(keys), 1.0)
    made.feed(closing(keys), 1.0)
    for now in range(2, 200):
        made._ticked = now - 1.0
    assert lines(lambda: made.tick(200.0)) < BOUND


@EITHER
def test_sessions_that_closed_leave_no_deadline(number: int) -> None:
    """What is due later is no more than what is open, however many came and went."""
    made, keys = engine(), [v4(n) for n in range(number)]
    made.feed(opened(keys), 1.0)
    made.feed(closing(keys), 1.0)
    made.feed([(UPDATE, key, ASSURED, State.TIME_WAIT, 0, 0) for key in keys], 1.0)
    assert lines(lambda: made.tick(200.0)) < BOUND
    assert not made.sessions._deadlines._at


@EITHER
def test_half_closed_sessions_that_only_sockets_know(number: int) -> None:
    made, keys = engine(), [v4(n) for n in range(number)]
    for now in (1.0, 100.0, 101.0):
        count = lines(lambda now=now: made.linger(keys, now))  # type: ignore[misc]
        assert count < 4 * LINES * halfclosed.MOST
    assert lines(lambda: made.linger([], 102.0)) < LINES * halfclosed.MOST


@EITHER
@pytest.mark.parametrize("many", ["peers", "of one peer"])
def test_idle_sessions_while_slots_run_short(number: int, many: str) -> None:
    made = engine(pools=(Pool(frozenset(), 100),))
    keys = [v4(n) if many == "peers" else v4(1, n) for n in range(number)]
    made.feed(opened(keys), 1.0)
    made.tick(1.0)
    made.feed(dump(keys), 1.2)
    doomed: list[Any] = []
    assert lines(lambda: doomed.extend(made.tick(4.0).doomed)) < BOUND
    assert 0 < len(doomed) <= MOST
    words = {key: Word(3.0, True, 0, 60, 0.01, 0, 0, True) for key in doomed}
    assert lines(lambda: made.settle(doomed, words, 4.0)) < 10 * LINES * MOST


@EITHER
def test_sessions_of_a_peer_that_is_deferred(number: int) -> None:
    """Those that the server hasn't greeted yet end with it, some at a time."""
    made = engine(pools=(Pool(frozenset(), 1),))
    made.feed(opened([v4(2, 1), v4(2, 2), v4(1, 0)]), 0.5)
    made.tick(0.5)
    made.feed(dump([v4(1, 0)]), 1.0)
    made.feed(opened(v4(1, n) for n in range(1, number)), 1.2)
    doomed = made.tick(3.0).doomed
    assert doomed
    assert lines(lambda: made.settle(doomed, None, 3.0)) < 4 * LINES * room.WAITING


@EITHER
def test_a_peer_with_many_closing_sessions_that_delivered(number: int) -> None:
    """Whether it holds several more is counted in a few of them."""
    made = engine(pools=(Pool(frozenset(), 100),))
    keys = [v4(1, n) for n in range(number)]
    made.feed(opened(keys), 1.0)
    made.feed(closing(keys), 1.0)
    peer = made.scores.peer(v4(1)[0], 1.0)
    assert lines(lambda: peer.holds(7)) < LINES * 50


@EITHER
def test_peers_to_forget(number: int) -> None:
    made = engine()
    for n in range(number):
        made.scores.peer(v4(n)[0], 0.0)
    assert lines(lambda: made.tick(1e6)) < BOUND
    assert len(made.scores) < number


@EITHER
def test_64s_in_a_few_48s(number: int) -> None:
    """Row B5."""
    made = engine(block_at=1e9)
    peers = [v6(n) for n in range(number)]
    charge = made.judge.prefixes.charge
    for address, _ in peers:
        charge(address[:8], 1.0, 1e9, 1.0)
    assert lines(lambda: charge(peers[-1][0][:8], 1.0, 1e9, 2.0)) < LINES * 10
    assert lines(lambda: made.tick(3.0)) < BOUND
    assert lines(lambda: made.tick(1e5)) < BOUND


@EITHER
def test_64s_that_are_charged_after_a_pause(number: int) -> None:
    """Those that count no more are as many as were charged before: each once."""
    made = engine(block_at=1e9)
    charge = made.judge.prefixes.charge
    for n in range(number):
        charge(v6(n)[0][:8], 1.0, 1e9, n / 1e6)
    first = lines(lambda: charge(v6(0)[0][:8], 1.0, 1e9, 1e4))
    assert first < BOUND


@EITHER
@pytest.mark.parametrize("block", ["10.0.{}.{}", "2001:db8:{}{:02x}::/48"])
def test_blocks_that_end_together_with_prefixes_remembered(number: int, block: str) -> None:
    """Row B6."""
    made = engine(block_at=1e9)
    for n in range(number):
        made.judge.prefixes.charge(v6(n, in_48s=max(10, number // 10))[0][:8], 1.0, 1e9, 1.0)
    for n in range(2000):
        peer = ip_network(block.format(n // 256, n % 256))
        made.lists.put(Entry(ListName.BLOCK, peer, "", SCORE, 0.0, 2.0))
    assert lines(lambda: made.tick(3.0)) < BOUND
    assert made.lists.size(ListName.BLOCK) == 2000 - OVER


@EITHER
def test_a_verdict_on_a_peer_among_many(number: int) -> None:
    """Row B7."""
    made = engine(block_at=1.0)
    made.feed(opened(v4(n + 10) for n in range(number)), 1.0)
    made.feed(opened(v4(1, n) for n in range(10)), 1.0)
    said: list[Any] = []
    more = opened([v4(1, 10)])
    made._stress.flood = 1.0
    assert lines(lambda: said.extend(made.feed(more, 1.0))) < LINES * 50
    ((verdict),) = said
    assert len(verdict.sessions) == 11


@EITHER
def test_a_verdict_on_a_peer_with_many_sessions(number: int) -> None:
    """Some of them end at once, and the others in the ticks to come."""
    made = engine(churn_cost=0.0)
    made.feed(opened(v4(1, n) for n in range(number)), 1.0)
    peer = made.scores.peer(v4(1)[0], 1.0)
    made.scores.charge(peer, Kind.CHURN, "", 2e9, 1.0)
    said: list[Any] = []
    guilty = Guilty({peer.key: peer})
    assert lines(lambda: said.extend(made.sentences.on(guilty, 1.0))) < BOUND
    ended, now = {*said[0].sessions}, 1.0
    while len(ended) < number and now < 100.0:
        now += 0.25
        passed: list[Any] = []
        assert lines(lambda now=now, to=passed: to.append(made.tick(now))) < BOUND  # type: ignore[misc]
        ended.update(passed[0].listed)
    assert ended == {v4(1, n) for n in range(number)}


@EITHER
def test_verdicts_on_many_peers_at_once(number: int) -> None:
    """They wait for each other, and everybody's turn comes."""
    made, guilty = engine(block_at=1.0), Guilty()
    for n in range(number):
        peer = made.scores.peer(v4(n)[0], 1.0)
        made.scores.charge(peer, Kind.CHURN, "", 9.0, 1.0)
        guilty.peers[peer.key] = peer
    assert lines(lambda: made.sentences.on(guilty, 1.0)) < 10 * LINES * sentences.AT_ONCE
    assert lines(lambda: made.feed([], 1.0)) < 10 * LINES * sentences.AT_ONCE
    while made.sentences.waiting:
        made.feed([], 1.0)
    assert made.lists.size(ListName.BLOCK) == number


@EITHER
def test_sessions_that_a_reload_leaves(number: int) -> None:
    made = engine()
    made.feed(opened(v4(n) for n in range(number)), 1.0)
    assert lines(lambda: made.look([(587, 4)])) < LINES
    for n in range(number // sessions.SLICE + 2):
        now = 2.0 + n / 4
        assert lines(lambda now=now: made.tick(now)) < BOUND  # type: ignore[misc]
    assert not len(made.sessions)


@EITHER
def test_a_listed_prefix_among_many_sessions(number: int) -> None:
    made = engine()
    made.feed(opened(v6(n) for n in range(number)), 1.0)
    made.tick(1.0)
    prefix = ip_network("2001:db8::/48")
    assert lines(lambda: made.sessions_of(prefix)) < 2 * LINES  # most of them ipaddress's
    found, now = set[Any](), 1.0
    while len(found) < number // 10 and now < 60.0:
        now += 0.25
        passed: list[Any] = []
        assert lines(lambda now=now, to=passed: to.append(made.tick(now))) < BOUND  # type: ignore[misc]
        found.update(passed[0].listed)
    assert len(found) == number // 10


@EITHER
@pytest.mark.parametrize("left", [0, 1, 2])
def test_listed_peers_that_are_looked_at_again(number: int, left: int) -> None:
    """Whether they have no session any more, or more than are ended at a tick."""
    made, keys = engine(), [v4(n, port) for n in range(number) for port in range(left)]
    made.feed(opened(keys), 1.0)
    made.tick(1.0)
    for n in range(number):
        made.sessions_of(ip_network(v4(n)[0]))
    found, now = set[Any](), 1.0
    for _ in range(len(keys) // owners.TOGETHER + number // owners.TOGETHER + 5):
        now += 0.25
        passed: list[Any] = []
        assert lines(lambda now=now, to=passed: to.append(made.tick(now))) < BOUND  # type: ignore[misc]
        found.update(passed[0].listed)
    assert found == set(keys)
    assert not made.owners._again


@EITHER
@pytest.mark.parametrize("left", [0, 1])
def test_the_end_of_a_dump(number: int, left: int) -> None:
    """Whether nothing or everything is gone."""
    made, keys = engine(), [v4(n) for n in range(number)]
    made.feed(opened(keys), 1.0)
    *entries, end = dump(keys[: number * left])
    made.feed(entries, 2.0)
    assert lines(lambda: made.feed([end], 2.0)) < BOUND
    for n in range(number // sessions.SLICE + 2):
        now = 2.0 + n / 4
        assert lines(lambda now=now: made.tick(now)) < BOUND  # type: ignore[misc]
    assert len(made.sessions) == number * left


@EITHER
def test_blocks_to_forget(number: int) -> None:
    made = engine()
    for n in range(number):
        made.sentences.blocks[ip_network(v4(n)[0])] = [0.0]
    assert lines(lambda: made.tick(1e9)) < BOUND
    assert len(made.sentences.blocks) == number - RECALLED
