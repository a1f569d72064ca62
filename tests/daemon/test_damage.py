"""What was in the store comes back from the kernel when the store is lost, and only then."""

import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.daemon.conftest import Make
from tests.daemon.live import MailHost, Nft, at_once, eventually, listed
from tests.lab.dpsd import Dpsd

LISTED = (
    "block 10.99.195.1 --for 1h",
    "block 10.99.195.2 --permanent",
    "block 10.99.196.0/24 --for 1h",
    "block 10.99.197.0/24 --for 1h",
    "allow 10.99.197.7",
)


def _overwrite(path: Path, start: int, what: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(start)
        file.write(what)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "header": lambda path: _overwrite(path, 0, bytes(100)),
    "schema": lambda path: _overwrite(path, 100, b"\xff" * 3900),
    "pages": lambda path: _overwrite(path, 4096, b"\xa5" * (path.stat().st_size - 4096)),
    "cut": lambda path: os.truncate(path, 10_000),
    "garbage": lambda path: path.write_bytes(b"no database at all" * 5000),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_store_is_put_aside(daemon: Dpsd, host: MailHost, damage: str) -> None:
    at_once(daemon, *LISTED)
    daemon.kill()
    store = daemon.directory / "dpsd.db"
    with sqlite3.connect(store) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    DAMAGES[damage](store)
    harmed = store.read_bytes()
    assert daemon.cli("list").returncode in {0, 69}
    daemon.start()
    (aside,) = daemon.directory.glob("dpsd.db.damaged-*")
    assert aside.read_bytes() == harmed
    assert str(aside) in daemon.log.read_text()
    dropped = ("10.99.195.1", "10.99.195.2", "10.99.196.9", "10.99.197.8")
    assert all(map(host.drops, dropped))
    assert host.reached("10.99.197.7")
    assert eventually(lambda: ("black", "10.99.195.2") in listed(daemon))
    assert {("block", "10.99.195.1"), ("block", "10.99.196.0/24")} <= listed(daemon).keys()
    at_once(daemon, "unblock 10.99.195.1")
    assert host.reached("10.99.195.1")


def test_a_saved_ruleset_brings_nothing_back(make: Make, host: MailHost, nft: Nft) -> None:
    daemon = make()
    daemon.start()
    at_once(daemon, "block 10.99.198.1 --for 3s", "block 10.99.198.2 --for 1h --reason kept")
    saved = nft("list ruleset")
    for end in (daemon.stop, daemon.kill):
        nft(f"flush ruleset\n{saved}")
        assert eventually(lambda: ("block", "10.99.198.1") not in listed(daemon), 5)
        end()
        nft(f"flush ruleset\n{saved}")
        assert host.drops("10.99.198.1")
        daemon.start()
        assert host.reached("10.99.198.1")
        lists = listed(daemon)
        assert ("block", "10.99.198.1") not in lists
        assert lists["block", "10.99.198.2"]["reason"] == "kept"
        assert lists["block", "10.99.198.2"]["source"] == "operator"
        assert daemon.json("why", "10.99.198.1")["blocks"]["count"] == 0


def test_very_many_peers_are_adopted_in_seconds(make: Make, host: MailHost, nft: Nft) -> None:
    daemon = make()
    daemon.start()
    at_once(daemon, "block 10.99.199.1 --for 1h")
    daemon.kill()
    for name in ("dpsd.db", "dpsd.db-wal", "dpsd.db-shm"):
        (daemon.directory / name).unlink()
    for chunk in range(5):
        peers = ", ".join(
            f"172.{16 + chunk}.{a}.{b} timeout 2h" for a in range(200) for b in range(250)
        )
        nft(f"add element inet dpsd block4 {{ {peers} }}")
    began = time.monotonic()
    daemon.start(timeout=150)
    print(f"ready after {time.monotonic() - began:.1f} s")
    assert host.drops("10.99.199.1")
    assert eventually(lambda: daemon.json("status")["lists"]["block"] == 250_001, 180)
    assert len(daemon.log.read_text().splitlines()) < 100
