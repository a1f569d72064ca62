"""What the bailiff does beside verdicts, with a guard and a keeper that only note it."""

from collections import Counter
from ipaddress import ip_network
from types import SimpleNamespace
from typing import Any

from dpsd import assembly
from dpsd.config import Config
from dpsd.core.lists import Entry, ListName, Lists, Put
from dpsd.daemon.bailiff import Bailiff
from dpsd.kernel.host import Host

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
