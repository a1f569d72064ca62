"""What the store gives back at a start: whatever the clock says, and not without a bound."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address, ip_network
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from dpsd import assembly
from dpsd.config import Config
from dpsd.core.engine import Engine
from dpsd.core.events import ASSURED, UPDATE, Endpoints, State
from dpsd.core.evidence import Excuse, Kind
from dpsd.core.lists import Entry, ListName, Lists
from dpsd.core.peers import Network
from dpsd.daemon import memory
from dpsd.daemon.clock import Clock
from dpsd.daemon.keeper import Before, Keeper
from dpsd.errors import StoreError
from dpsd.kernel.ctnetlink import key_of
from dpsd.kernel.host import Host
from dpsd.store import Action, PeerRow, Record, Store
from tests.core.transcript import CREDIT_MOST

PEER: Network = ip_network("203.0.113.7/32")
OTHER: Network = ip_network("203.0.113.8/32")
SERVER = ip_address("192.0.2.25")
CLIENT, OTHERS = (
    key_of(Endpoints(peer.network_address.packed, SERVER.packed, 40000, 25))
    for peer in (PEER, OTHER)
)

HONEST6 = ip_address("2001:db8:0:100::").packed[:8]
FIVE_HOURS = 5 * 3600.0


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(f"sqlite:///{tmp_path}/dpsd.db", upgrade=True) as opened:
        yield opened


@contextmanager
def kept(path: Path) -> Iterator[tuple[asyncio.Runner, Keeper]]:
    keeper = Keeper(f"sqlite:///{path}/dpsd.db", Clock())
    with asyncio.Runner() as runner:
        runner.run(keeper.open())
        try:
            yield runner, keeper
        finally:
            runner.run(keeper.close())


def recalled(path: Path) -> Engine:
    """An engine that has what the store remembers."""
    engine = assembly.engine(Config(), Host(), Lists())
    with kept(path) as (runner, keeper):
        runner.run(memory.Memory(engine, keeper, Clock()).recall())
    return engine


def test_peers_of_a_clock_that_was_ahead(store: Store, tmp_path: Path) -> None:
    """A score doesn't grow, nor does what is free shrink, until the clock is as late as it was."""
    ahead = time.time() + 400 * 86400
    evidence = {
        **{"kind": "empty", "state": "", "cost": 2.0, "count": 1, "first": ahead, "at": ahead},
        "ports": [25],
    }
    detail = {"evidence": [evidence], "trust": 3.0, "trusted_at": ahead}
    store.save_peers([PeerRow(PEER, 2.0, ahead, ahead, detail)])
    entry = Entry(ListName.BLOCK, OTHER, "", "score", ahead, ahead + 600)
    store.commit([Record(Action.ADD, entry, ahead)])
    engine = recalled(tmp_path)
    now = time.time() + 1.0
    peer = engine.scores.get(engine.size.key(PEER.network_address.packed))
    assert peer is not None
    assert engine.scores.score(peer, now) == pytest.approx(2.0, abs=0.1)
    assert engine.scores.credit(peer, now) == pytest.approx(3.0, abs=0.1)
    assert peer.evidence[Kind.EMPTY, ""].at <= now
    assert engine.scores.opened(peer, now)
    assert [at <= now for at in engine.sentences.blocks[OTHER]] == [True]


def test_what_only_holds_a_peer_up_is_told_though_it_costs_nothing(
    store: Store, tmp_path: Path
) -> None:
    """Who was ended to make room, wasn't charged, and may open no new session for a while."""
    engine, clock = (
        assembly.engine(Config(), Host(own=frozenset({SERVER.packed})), Lists()),
        Clock(),
    )
    now, keys = clock.now(), [CLIENT, OTHERS]
    flags = (0, 0)
    engine.feed([(UPDATE, key, ASSURED, State.ESTABLISHED, *flags) for key in keys], now)
    first, second = (engine.sessions.get(key) for key in keys)
    assert first is not None
    assert second is not None
    first.peer.excuse, first.peer.deferrals = Excuse.REPLY_DUE, 2
    first.peer.deferred_until = now + 15
    for peer in (first.peer, second.peer):
        peer.score = memory.WORTH_SAVING / 2  # too little to be told of for its own sake
    with kept(tmp_path) as (runner, keeper):
        kept_by = memory.Memory(engine, keeper, clock)
        kept_by.note([*keys, b"a session that is over"])
        runner.run(kept_by.save())
    row = store.peer(PEER)
    assert row is not None
    assert (row.detail["excuse"], row.detail["deferrals"]) == ("reply_due", 2)
    assert row.detail["deferred_until"] == pytest.approx(time.time() + 15, abs=5)
    assert store.peer(OTHER) is None


@pytest.mark.usefixtures("store")
def test_credit_outlives_a_restart(tmp_path: Path) -> None:
    """Also of a peer without a score."""
    engine, clock = assembly.engine(Config(), Host(), Lists()), Clock()
    peer = engine.scores.peer(engine.size.key(PEER.network_address.packed), clock.now())
    engine.scores.earn(peer, 2.0, CREDIT_MOST, clock.now())
    engine.scores.spend(peer, 1.0, clock.now())
    with kept(tmp_path) as (runner, keeper):
        runner.run(memory.Memory(engine, keeper, clock).save())
    again = recalled(tmp_path)
    peer_again = again.scores.get(peer.key)
    assert peer_again is not None
    assert again.scores.credit(peer_again, Clock().now()) == pytest.approx(1.0, abs=0.01)


@pytest.mark.usefixtures("store")
def test_who_delivered_mail_is_spared_after_a_restart_too(tmp_path: Path) -> None:
    """Its prefix isn't listed, and what of it is ended soon after a mail isn't charged."""
    engine, clock = assembly.engine(Config(), Host(), Lists()), Clock()
    now, peer = clock.now(), engine.scores.peer(HONEST6, clock.now())
    peer.mailed_at = now - 5
    engine.scores.earn(peer, 2.0, CREDIT_MOST, now)
    engine.judge.has_delivered(peer)
    with kept(tmp_path) as (runner, keeper):
        runner.run(memory.Memory(engine, keeper, clock).save())
    again = recalled(tmp_path)
    known = again.scores.get(HONEST6)
    assert known is not None
    assert known.mailed_at == pytest.approx(now - 5, abs=1)
    hopping = [HONEST6[:7] + bytes([number]) for number in range(1, 9)]
    charged = [again.judge.prefixes.charge(key, 900.0, 60.0, now) for key in hopping]
    assert charged == [None] * 8
    fresh = assembly.engine(Config(), Host(), Lists()).judge.prefixes
    assert any(fresh.charge(key, 900.0, 60.0, now) for key in hopping)


def test_scores_that_could_not_be_saved_are_saved_later(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, clock = assembly.engine(Config(), Host(), Lists()), Clock()
    peer = engine.scores.peer(engine.size.key(PEER.network_address.packed), clock.now())
    engine.scores.earn(peer, 1.0, CREDIT_MOST, clock.now())

    def full(*_: object) -> None:
        raise StoreError("no room left")

    with kept(tmp_path) as (runner, keeper):
        remembers = memory.Memory(engine, keeper, clock)
        with monkeypatch.context() as broken:
            broken.setattr(Store, "save_peers", full)
            runner.run(remembers.save())
            runner.run(remembers.save_all())  # gives up, and doesn't go on for ever
        runner.run(remembers.save())  # not at once: it may keep others waiting
        assert store.peer(PEER) is None
        monkeypatch.setattr(remembers, "_not_before", 0.0)
        runner.run(remembers.save())
    assert store.peer(PEER) is not None


def test_all_scores_are_saved_before_a_stop(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "SAVED_A_FLUSH", 2)
    engine, clock = assembly.engine(Config(), Host(), Lists()), Clock()
    for number in range(5):
        peer = engine.scores.peer(bytes([203, 0, 113, number]), clock.now())
        engine.scores.earn(peer, 1.0, CREDIT_MOST, clock.now())
    with kept(tmp_path) as (runner, keeper):
        runner.run(memory.Memory(engine, keeper, clock).save_all())
    assert len(store.peers()) == 5


def test_credit_of_an_earlier_version_has_today_s_bound(store: Store, tmp_path: Path) -> None:
    now = time.time()
    store.save_peers([PeerRow(PEER, 0.0, now, now, {"trust": 60.0, "trusted_at": now})])
    engine = recalled(tmp_path)
    peer = engine.scores.get(engine.size.key(PEER.network_address.packed))
    assert peer is not None
    assert peer.credit == CREDIT_MOST


def test_an_entry_of_a_clock_that_was_ahead_lasts_as_long_as_it_was_meant(
    store: Store, tmp_path: Path
) -> None:
    now = time.time()
    lasting = Entry(ListName.BLOCK, OTHER, "", "operator", now - 60, now + FIVE_HOURS)
    entries = [
        Entry(ListName.BLOCK, PEER, "", "operator", now + FIVE_HOURS, now + FIVE_HOURS + 600),
        Entry(ListName.BLACK, PEER, "", "operator", now + FIVE_HOURS),
        lasting,
    ]
    store.commit([Record(Action.ADD, entry, entry.created_at) for entry in entries])
    with kept(tmp_path) as (runner, keeper):
        loaded = {(entry.list, entry.peer): entry for entry in runner.run(keeper.load())}
        assert loaded[ListName.BLOCK, PEER].expires_at == pytest.approx(now + 600, abs=30)
        assert loaded[ListName.BLACK, PEER].expires_at is None
        assert loaded[ListName.BLOCK, OTHER] == lasting
        keeper.write(Action.EXPIRE, [loaded[ListName.BLOCK, PEER]])
        runner.run(keeper.flush())
    assert store.entry(ListName.BLOCK, PEER, now) is None  # it is known again


def test_only_the_peers_seen_last_come_back(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "MOST", 3)
    now = time.time()
    networks = [ip_network(f"203.0.113.{number}/32") for number in range(5)]
    store.save_peers(PeerRow(n, 9.0, now, now - age, {}) for age, n in enumerate(networks))
    engine = recalled(tmp_path)
    found = {engine.size.network_of_key(peer.key) for peer in engine.scores}
    assert found == set(networks[:3])


@pytest.mark.parametrize("begun", [False, True], ids=["before its turn", "in its turn"])
def test_a_verdict_is_written_once_though_the_flush_was_cancelled(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: bool
) -> None:
    """As at a stop, when the disk is slow."""
    entry = Entry(ListName.BLOCK, PEER, "", "score", time.time(), time.time() + 60)
    working, go_on, commit = Event(), Event(), Store.record

    def slowly(*arguments: Any) -> Any:
        working.set()
        assert go_on.wait(10)
        return commit(*arguments)

    with kept(tmp_path) as (runner, keeper):

        async def stop() -> None:
            work: list[asyncio.Task[Any]] = []
            if begun:
                monkeypatch.setattr(Store, "record", slowly)
            else:
                work.append(asyncio.create_task(keeper.run(slowly_idle)))
            keeper.write(Action.ADD, [entry])
            await asyncio.sleep(0)
            flush = asyncio.create_task(keeper.flush())
            assert await asyncio.to_thread(working.wait, 10)
            flush.cancel()
            await asyncio.gather(flush, return_exceptions=True)
            assert flush.cancelled()
            go_on.set()
            await asyncio.gather(*work)

        def slowly_idle(_: Store) -> None:
            working.set()
            assert go_on.wait(10)

        runner.run(stop())
    assert [each.entry.peer for each in store.history()] == [PEER]


def test_a_host_without_a_name_follows_operators(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "")
    with kept(tmp_path) as (runner, keeper):
        runner.run(keeper.load())
        entry = Entry(ListName.BLOCK, OTHER, "", "operator", time.time())
        store.commit([Record(Action.ADD, entry, time.time())])
        news = runner.run(keeper.missed())
    assert news is not None
    assert [record.entry.peer for record in news.records] == [OTHER]


@pytest.mark.parametrize(
    ("before", "again"),
    [(Before.NOTHING, Before.NOTHING), (Before.CRASHED, Before.CRASHED)],
)
@pytest.mark.usefixtures("store")
def test_what_the_kernel_holds_is_adopted_again_after_a_stop_before_all_was_stored(
    tmp_path: Path, before: Before, again: Before
) -> None:
    with kept(tmp_path) as (runner, keeper):
        keeper.before, keeper.adopts = before, True
        runner.run(keeper.beat("enforce", {}))
    with kept(tmp_path) as (runner, keeper):
        assert keeper.before is again
        keeper.adopts = False
        runner.run(keeper.beat("enforce", {}))
    with kept(tmp_path) as (_, keeper):
        assert keeper.before is Before.STOPPED


def test_very_many_changes_are_written_a_part_at_a_time(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that what is asked of the store meanwhile doesn't wait for all of them."""
    monkeypatch.setattr("dpsd.daemon.keeper.WRITTEN_AT_ONCE", 2)
    now = time.time()
    peers = [ip_network(f"203.0.113.{number}") for number in range(5)]
    with kept(tmp_path) as (runner, keeper):
        entries = [Entry(ListName.BLOCK, peer, "", "score", now, now + 60) for peer in peers]
        keeper.write(Action.ADD, entries)

        async def work() -> list[int]:
            flushing = asyncio.create_task(keeper.flush())
            found = []
            while not flushing.done():
                found.append(await keeper.run(lambda opened: len(opened.history())))
            return found

        assert set(runner.run(work())) >= {2, 4}
        assert keeper.applied == 3
    assert [each.entry.peer for each in store.history()] == peers[::-1]


@pytest.mark.parametrize("step", [365 * 86400.0, -3600.0])
def test_what_is_listed_lasts_as_long_when_the_clock_is_set(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: float
) -> None:
    """Also when that is a year, and history is shortened at that very moment."""
    wall, now = time.time, time.time()
    entry = Entry(ListName.BLOCK, PEER, "", "operator", now, now + 3600)
    store.commit([Record(Action.ADD, entry, now)])
    with kept(tmp_path) as (runner, keeper):
        (inner,) = runner.run(keeper.load())
        monkeypatch.setattr(time, "time", lambda: wall() + step)
        new = Entry(ListName.BLOCK, OTHER, "", "operator", time.time(), time.time() + 60)
        store.commit([Record(Action.ADD, new, time.time())])
        engine = assembly.engine(Config(), Host(), Lists())
        clock = keeper._clock
        runner.run(memory.Memory(engine, keeper, clock).forget(86400.0))
        found = {each.peer: each for each in store.entries(time.time())}
        assert found[PEER].expires_at == now + 3600 + clock.step()
        assert found[OTHER] == new
        assert runner.run(keeper.load())[0].expires_at == inner.expires_at
        keeper.write(Action.EXPIRE, [inner])  # by its time, as the kernel has it
        runner.run(keeper.flush())
        assert PEER not in {each.peer for each in store.entries(time.time())}
