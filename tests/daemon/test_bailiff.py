"""What the bailiff does beside verdicts, with a guard and a keeper that only note it."""

import asyncio
from collections import Counter
from ipaddress import ip_network
from types import SimpleNamespace
from typing import Any

import pytest

from dpsd import assembly
from dpsd.config import Config
from dpsd.core.lists import Entry, ListName, Lists, Put
from dpsd.daemon.bailiff import Bailiff
from dpsd.kernel.host import Host
from dpsd.store import Action, Recorded

NOW = 1_000_000.0
PEER, QUIET = ip_network("203.0.113.7"), ip_network("203.0.113.8")


def test_who_knocks_stays_black_for_as_long_again() -> None:
    engine = assembly.engine(Config(), Host(), Lists())
    put: list[Any] = []
    written = Counter[str]()
    guard: Any = SimpleNamespace(put=put.extend)
    keeper: Any = SimpleNamespace(
        write=lambda action, entries: written.update({action.value: len(entries)})
    )
    clock: Any = SimpleNamespace(now=lambda: NOW)
    nothing: Any = None
    bailiff = Bailiff(engine, guard, nothing, keeper, nothing, clock, nothing)
    bailiff.black_for = 86_400.0
    bailiff.retried({PEER: 4000}, NOW - 10)
    over = [Entry(ListName.BLACK, peer, "", "score", NOW - 9, NOW) for peer in (PEER, QUIET)]
    bailiff.expire(over)
    assert put == [Put(ListName.BLACK, PEER, NOW + 86_400)]
    entry = engine.lists.get(ListName.BLACK, PEER)
    assert entry is not None
    assert "4000 packets" in entry.reason
    assert written == {"expire": 2, "add": 1}


def test_very_many_changes_are_followed_a_part_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of `dpsd unblock --all`: events and ticks have their turn between."""
    monkeypatch.setattr("dpsd.daemon.bailiff.FOLLOWED_AT_ONCE", 2)
    engine = assembly.engine(Config(), Host(), Lists())
    parts: list[Any] = []
    told: list[int] = []

    async def apply(changes: Any) -> None:
        parts.append(len(changes))

    async def undefer(_: Any) -> None:
        pass

    guard: Any = SimpleNamespace(apply=apply, undefer=undefer)
    keeper: Any = SimpleNamespace(supersede=lambda _: None)
    nothing: Any = None
    clock: Any = SimpleNamespace(now=lambda: NOW)
    bailiff = Bailiff(engine, guard, nothing, keeper, nothing, clock, nothing)
    peers = [ip_network(f"203.0.113.{number}") for number in range(5)]
    records = [
        Recorded(Action.ADD, Entry(ListName.BLOCK, peer, "", "operator", NOW), NOW, 1, "")
        for peer in peers
    ]

    async def main() -> None:
        following = asyncio.create_task(bailiff.follow(records))
        while not following.done():
            told.append(engine.lists.size(ListName.BLOCK))
            await asyncio.sleep(0)
        await following

    asyncio.run(main())
    assert parts == [2, 2, 1]
    assert set(told) >= {2, 4}
