"""Many peers, and long lists: what they take in memory and time."""

import time
from ipaddress import IPv4Network, ip_network
from pathlib import Path
from statistics import median

from dpsd.core.lists import Entry, ListName
from dpsd.store import Action, Record, Store
from tests.bench import measure
from tests.bench.gateway import Gateway
from tests.bench.traffic import OPEN, Sessions, Wires
from tests.lab import private
from tests.lab.dpsd import Dpsd

LISTED = IPv4Network("172.16.0.0/12")
_PATIENCE = 30.0
_AT_ONCE = 10_000


def memory(gateway: Gateway, peers: tuple[int, ...]) -> list[float]:
    """MiB of the daemon with so many peers, each with one open session."""
    found = []
    known = 0
    wires = Wires(gateway)
    with gateway.dpsd("memory", protect={"slots": 1_000_000}) as daemon:
        time.sleep(2.0)
        for many in peers:
            if many:
                Sessions(wires, OPEN, many - known, first=known).all()
                known = many
                _wait(daemon, known)
            found.append(measure.rss(daemon.pid))
    return found


def _wait(daemon: Dpsd, peers: int) -> None:
    deadline = time.monotonic() + _PATIENCE
    while daemon.json("status")["peers"] < peers:
        if time.monotonic() > deadline:
            raise RuntimeError(f"the daemon doesn't know {peers} peers")
        time.sleep(0.5)


def lists(gateway: Gateway, entries: int, times: int) -> dict[str, float]:
    """What commands and the start take with so many entries on the list of blocked peers."""
    daemon = gateway.dpsd(f"lists-{entries}")
    _fill(f"sqlite:///{private.RUN}/lists-{entries}/dpsd.db", entries)
    began = time.perf_counter()
    with daemon:
        found = {"start": time.perf_counter() - began}
        time.sleep(2.0)
        found["memory"] = measure.rss(daemon.pid)
        found["list"] = median(_timed(daemon, "list") for _ in range(times))
        found["list --json"] = median(_timed(daemon, "list", "--json") for _ in range(times))
        found["block"] = median(_timed(daemon, "block", f"192.0.2.{i + 1}") for i in range(times))
        daemon.stop()
        began = time.perf_counter()
        daemon.start(timeout=120)  # now the kernel's sets are full, and are read back
        found["start again"] = time.perf_counter() - began
    return found


def adoption(gateway: Gateway, entries: int) -> tuple[float, float]:
    """Seconds until a daemon with an empty store is ready, and until it knows what the kernel has
    blocked for the one before it."""
    daemon = gateway.dpsd("adoption")
    with daemon:
        pass
    for name in ("dpsd.db", "dpsd.db-wal", "dpsd.db-shm"):
        Path(private.RUN, "adoption", name).unlink(missing_ok=True)
    for first in range(0, entries, _AT_ONCE):
        some = range(first, min(entries, first + _AT_ONCE))
        elements = ", ".join(f"{LISTED[number]} timeout 1d" for number in some)
        command = f"add element inet dpsd block4 {{ {elements} }}\n"
        gateway.space.run("nft", "-f", "-", stdin=command)
    began = time.perf_counter()
    daemon.start(timeout=120)
    ready = time.perf_counter() - began
    while daemon.json("status")["lists"]["block"] < entries:
        if time.perf_counter() - began > 20 * _PATIENCE:
            raise RuntimeError("they are not adopted")
        time.sleep(0.5)
    known = time.perf_counter() - began
    daemon.stop()
    return ready, known


def routes(gateway: Gateway, many: int) -> float:
    """Seconds until a daemon is ready where the routing table has so many routes."""
    lines = (
        f"route add 20.{number >> 14}.{number >> 6 & 255}.{(number & 63) * 4}/30 via 10.255.0.2\n"
        for number in range(many)
    )
    gateway.space.run("ip", "-batch", "-", stdin="".join(lines), timeout=120)
    daemon = gateway.dpsd("routes")
    began = time.perf_counter()
    with daemon:
        return time.perf_counter() - began


def _fill(url: str, entries: int) -> None:
    now = time.time()
    store = Store.open(url, upgrade=True)
    peers = [ip_network(LISTED[i]) for i in range(entries)]
    for first in range(0, entries, _AT_ONCE):
        store.commit(
            [
                Record(
                    Action.ADD,
                    Entry(ListName.BLOCK, peer, "bench", "import", now, now + 86400),
                    now,
                )
                for peer in peers[first : first + _AT_ONCE]
            ]
        )
    store.close()


def _timed(daemon: Dpsd, *args: str) -> float:
    began = time.perf_counter()
    daemon.cli(*args, check=True)
    return time.perf_counter() - began
