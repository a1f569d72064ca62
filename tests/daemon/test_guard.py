"""The guard's comparison of the kernel's table with what is wanted, on a real kernel."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from ipaddress import IPv4Network, ip_network
from pathlib import Path
from threading import Event, Semaphore
from typing import Any

import pytest

from dpsd.core.lists import Element, ListName, Put
from dpsd.core.peers import Network
from dpsd.daemon.clock import Clock
from dpsd.daemon.guard import Guard
from dpsd.errors import KernelError
from dpsd.kernel.nftset import Crashed, TableSpec, child, library, wire
from dpsd.kernel.nftset.ruleset import SIZES
from tests.daemon.live import eventually
from tests.kernel.netns import fresh, inside, run

Wanted = dict[Element, float | None]

HERE = (ListName.BLOCK, ip_network("10.99.0.1/32"))
THERE = (ListName.BLOCK, ip_network("10.99.0.2/32"))


@pytest.fixture
def namespace() -> Iterator[None]:
    with fresh() as here, inside(here):
        yield


def guarded(
    wanted: Callable[[], Mapping[Element, float | None]],
    work: Callable[[Guard], Coroutine[Any, Any, None]],
) -> None:
    async def go() -> None:
        guard = Guard(TableSpec(ports=(25,)), Clock(), wanted)
        await guard.load()
        try:
            await work(guard)
        finally:
            await guard.close()

    asyncio.run(go())


@pytest.mark.usefixtures("namespace")
def test_what_differs_is_mended(caplog: pytest.LogCaptureFixture) -> None:
    async def work(guard: Guard) -> None:
        run("nft delete element inet dpsd block4 { 10.99.0.1 }")
        await guard.reconcile()
        assert await asyncio.to_thread(eventually, lambda: guard.repairs)

    guarded(lambda: {HERE: None}, work)
    assert "1 differences, missing from block4: 10.99.0.1/32 first" in caplog.text


@pytest.mark.usefixtures("namespace")
def test_what_is_listed_meanwhile_is_no_difference(caplog: pytest.LogCaptureFixture) -> None:
    both: Wanted = {HERE: None, THERE: None}
    # To load, for two looks, and for what is full.
    states: Iterator[Wanted] = iter([both, {HERE: None}, both, both])

    async def work(guard: Guard) -> None:
        await guard.reconcile()

    guarded(lambda: next(states), work)
    assert next(states, None) is None
    assert not caplog.text


@pytest.mark.usefixtures("namespace")
def test_others_that_expire_make_no_difference(caplog: pytest.LogCaptureFixture) -> None:
    """While elements are removed, once a second, the kernel's dump leaves out others."""
    start = time.time()
    first = int(IPv4Network("172.16.0.0/12").network_address)
    wanted: Wanted = {}
    for i in range(100_000):
        lasts = 3600 if i % 100 else 3 + i / 10_000  # a hundred a second are over
        wanted[ListName.BLOCK, IPv4Network((first + i, 32))] = start + lasts

    async def work(guard: Guard) -> None:
        while time.time() < start + 10:
            await guard.reconcile()

    guarded(lambda: wanted, work)
    assert not caplog.text


@pytest.mark.usefixtures("namespace")
def test_what_finds_no_room_while_the_table_is_loaded_fails_no_load(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As when a set is full, and a command says so twice: to the store and to the daemon."""
    until = time.time() + 3600
    wanted: Wanted = {
        (ListName.WHITE, IPv4Network((0x0B000000 + number, 32))): until
        for number in range(SIZES["white4"])
    }
    shortest = Put(ListName.WHITE, THERE[1], until - 60)
    longest = Put(ListName.WHITE, HERE[1], until + 60)

    async def work(guard: Guard) -> None:
        load = asyncio.create_task(guard.load())
        await asyncio.sleep(0)
        for put in (shortest, longest):
            wanted[put.list, put.peer] = put.expires_at
            guard.put([put])
        await load
        assert guard.repairs == 0
        held = run("nft list set inet dpsd white4")
        assert "10.99.0.1 " in held
        assert "10.99.0.2 " not in held
        await guard.apply([shortest])  # nor is the table loaded again for what isn't put there
        assert "loading the whole table" not in caplog.text
        assert "what lasts shortest isn't in it" in caplog.text
        next_one = Put(ListName.WHITE, ip_network("10.99.0.3/32"), until + 90)
        wanted[next_one.list, next_one.peer] = next_one.expires_at
        await guard.apply([next_one])
        assert "10.99.0.3 " in run("nft list set inet dpsd white4")

    guarded(lambda: wanted, work)
    assert "a change failed" not in caplog.text


@pytest.mark.usefixtures("namespace")
def test_a_stop_waits_for_no_dump(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel tells 250,000 elements in 4 s and more; nobody wants them any more."""
    first = int(IPv4Network("172.16.0.0/12").network_address)
    wanted: Wanted = {(ListName.BLOCK, IPv4Network((first + i, 32))): None for i in range(2000)}
    parts, go_on = Semaphore(0), Event()
    found = wire.found

    def slowly(*datagram: Any) -> Any:
        parts.release()
        assert go_on.wait(20)
        return found(*datagram)

    async def work(guard: Guard) -> None:
        monkeypatch.setattr(wire, "found", slowly)
        looking = asyncio.create_task(guard.reconcile())
        assert await asyncio.to_thread(parts.acquire, timeout=20)
        guard.table.stop()
        go_on.set()
        await looking
        assert not parts.acquire(blocking=False)

    guarded(lambda: wanted, work)


@pytest.mark.usefixtures("namespace")
def test_many_are_deferred_a_part_at_a_time() -> None:
    first = int(IPv4Network("172.16.0.0/12").network_address)
    peers: dict[Network, float] = {IPv4Network((first + i, 32)): 60.0 for i in range(1200)}

    def deferred() -> int:
        return run("nft list set inet dpsd defer4").count("expires")

    async def work(guard: Guard) -> None:
        guard.defer(peers)
        assert deferred() == 500
        await asyncio.sleep(0)
        assert deferred() == 1000
        await asyncio.sleep(0)
        assert deferred() == 1200
        await guard.undefer(list(peers)[:700])
        assert deferred() == 500
        load = asyncio.create_task(guard.load())
        await asyncio.sleep(0)
        guard.defer(peers)  # nobody, while the table is loaded
        await load
        assert deferred() == 0

    guarded(dict, work)


@pytest.mark.usefixtures("namespace")
def test_deferral_that_fails_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    async def work(guard: Guard) -> None:
        peers: dict[Network, float] = {IPv4Network("10.99.0.1/32"): 60.0}
        run("nft delete table inet dpsd")
        for _ in range(3):
            guard.defer(peers)
        assert caplog.text.count("nobody is deferred") == 1
        await guard.load()
        guard.defer(peers)
        run("nft delete table inet dpsd")
        guard.defer(peers)
        assert caplog.text.count("nobody is deferred") == 2

    guarded(dict, work)


@pytest.mark.usefixtures("namespace")
def test_the_table_that_is_there_stands_until_it_is_known_what_it_holds(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def leave(_: Guard) -> None:
        pass

    guarded(lambda: {HERE: None}, leave)
    wanted: Wanted = {}
    prefix = Put(ListName.BLOCK, ip_network("10.98.0.0/16"), None)

    def held(name: str) -> str:
        return run(f"nft list set inet dpsd {name}")

    async def begin() -> None:
        guard = Guard(TableSpec(ports=(25,)), Clock(), lambda: wanted)
        known = asyncio.Event()

        async def learn() -> None:
            await known.wait()
            wanted[HERE] = None

        beginning = asyncio.create_task(guard.begin_after(learn()))
        await asyncio.sleep(0)
        guard.watch()
        wanted[THERE] = None
        guard.put([Put(*THERE, None)])
        assert "10.99.0.1" in held("block4")
        assert "10.99.0.2" in held("block4")
        wanted[prefix.list, prefix.peer] = None
        blocking = asyncio.create_task(guard.apply([prefix]))
        await asyncio.sleep(0)
        assert not blocking.done()
        assert "10.98.0.0/16" not in held("block4_nets")
        known.set()
        await beginning
        await blocking
        assert "10.98.0.0/16" in held("block4_nets")
        assert "10.99.0.1" in held("block4")
        assert "10.99.0.2" in held("block4")
        await asyncio.sleep(0)
        await guard.close()

    asyncio.run(begin())
    assert "somebody else" not in caplog.text


def test_what_cannot_be_counted_is_told_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused() -> None:
        raise KernelError("the kernel says no")

    async def work(guard: Guard) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(guard.table, "dropped", refused)
            await guard.count()
            await guard.count()
        assert caplog.text.count("the kernel says no; what is dropped isn't counted") == 1
        await guard.count()
        assert guard.dropped.packets == 0

    guarded(dict, work)


DIES = """
import importlib.util, os, signal, sys
import nftables
spec = importlib.util.spec_from_file_location("child", {child!r})
child = importlib.util.module_from_spec(spec)
spec.loader.exec_module(child)
cmd = nftables.Nftables.cmd
def dying(self, commands):
    there = "table inet theirs" in cmd(self, "list tables")[1]
    if there and ("theirs" in commands or not commands.startswith("list table")):
        os.kill(os.getpid(), signal.SIGSEGV)
    return cmd(self, commands)
nftables.Nftables.cmd = dying
child.main()
"""


@pytest.mark.usefixtures("namespace")
def test_a_library_that_dies_takes_nobody_along(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As libnftables 1.0.6 dies of a table that a newer nft made."""
    script = tmp_path / "child.py"
    script.write_text(DIES.format(child=child.__file__))
    monkeypatch.setattr(library, "_CHILD", script)
    prefix = (ListName.BLOCK, ip_network("10.98.0.0/16"))
    wanted: Wanted = {HERE: None}

    async def work(guard: Guard) -> None:
        run("nft add table inet theirs")
        wanted[prefix] = None
        with pytest.raises(Crashed, match=r"died of SIGSEGV.*table inet theirs"):
            await guard.apply([Put(*prefix, None)])
        wanted[THERE] = None
        guard.put([Put(*THERE, None)])
        assert "10.99.0.2" in run("nft list set inet dpsd block4")
        assert await asyncio.to_thread(eventually, lambda: guard.problem)
        run("nft delete table inet theirs")
        assert await asyncio.to_thread(
            eventually, lambda: "10.98.0.0/16" in run("nft list set inet dpsd block4_nets")
        )
        assert await asyncio.to_thread(eventually, lambda: guard.problem is None)

    guarded(lambda: wanted, work)

    # A start goes on with the table that is there.
    run("nft add table inet theirs")
    wanted.pop(HERE)

    async def begin() -> None:
        guard = Guard(TableSpec(ports=(25,)), Clock(), lambda: wanted)
        await guard.begin()
        held = run("nft list set inet dpsd block4")
        assert "10.99.0.2" in held
        assert "10.99.0.1" not in held
        await guard.close()

    asyncio.run(begin())
