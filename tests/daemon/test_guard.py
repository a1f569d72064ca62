"""The guard's comparison of the kernel's table with what is wanted, on a real kernel."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from ipaddress import IPv4Network, ip_network
from typing import Any

import pytest

from dpsd.core.lists import Element, ListName
from dpsd.core.peers import Network
from dpsd.daemon.clock import Clock
from dpsd.daemon.guard import Guard
from dpsd.kernel.nftset import TableSpec
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
