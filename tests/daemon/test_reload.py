"""SIGHUP: a good configuration is taken as a whole, a bad one leaves the old one as it is."""

import contextlib
import sqlite3

import pytest

from tests.daemon.conftest import CALM
from tests.daemon.live import MailHost, answered, at_once, ended, eventually, listed
from tests.lab.dpsd import Dpsd, Section


def test_reload_takes_ports_and_white_list(shared: Dpsd, host: MailHost) -> None:
    at_once(shared, "block 10.99.141.1 --for 1h", "block 10.99.142.0/24 --permanent")
    client = host.session("10.99.141.3", 587)
    assert host.reached("10.99.141.1", 22)
    assert eventually(lambda: shared.json("status")["sessions"]["open"] == 1)
    white = ["127.0.0.0/8", "10.99.142.5", "2001:db8:a142::/48"]
    shared.configure(protect={"ports": [22, 25]}, lists={"white": white}, policy=CALM)
    shared.reload()
    assert eventually(lambda: host.drops("10.99.141.1", 22))
    assert host.drops("10.99.141.1", 25)
    assert host.reached("10.99.141.1", 587)
    assert eventually(lambda: host.reached("10.99.142.5"))
    assert host.drops("10.99.142.6")
    assert listed(shared)["white", "10.99.142.5"]["source"] == "config"
    # Sessions of a port that isn't protected any more don't count, those of a new one do.
    held = host.session("10.99.141.2", 22)
    assert answered(client)
    assert eventually(lambda: shared.json("status")["sessions"]["open"] == 1)
    shared.cli("block", "10.99.141.2", "--for", "1h", check=True)
    assert eventually(lambda: not host.server.has(held))
    shared.configure(policy=CALM)
    shared.reload()
    assert eventually(lambda: host.reached("10.99.141.1", 22))
    assert eventually(lambda: host.drops("10.99.141.1", 587))
    assert eventually(lambda: host.drops("10.99.142.5"))
    assert ("white", "10.99.142.5") not in listed(shared)
    assert eventually(lambda: shared.json("status")["sessions"]["open"] == 1)  # on 587 again
    assert shared.running


GOOD: dict[str, Section] = {"protect": {"ports": [22, 25]}, "lists": {"white": ["10.99.143.1"]}}


@pytest.mark.parametrize(
    ("bad", "word"),
    [
        ({"policy": {"block_att": 5}}, "block_at"),
        ({"stress": {"at": 7}}, "stress.at"),
        ({"nonsense": {"a": 1}}, "nonsense"),
        ({"store": {"url": "sqlite:////elsewhere/dpsd.db"}}, "store.url"),
        ({"kernel": {"event_buffer": "1MiB"}}, "kernel.event_buffer"),
        (None, "TOML"),
        ("gone", "no such file"),
    ],
    ids=["unknown key", "bad value", "unknown section", "restart", "restart too", "text", "gone"],
)
def test_bad_reload_changes_nothing(
    shared: Dpsd, host: MailHost, bad: dict[str, Section] | str | None, word: str
) -> None:
    if not host.drops("10.99.143.2"):
        shared.configure(policy=CALM)
        at_once(shared, "block 10.99.143.2 --for 1h", "block 10.99.143.1 --for 1h")
    if isinstance(bad, dict):
        shared.configure(**({"policy": CALM} | GOOD | bad))
    elif bad is None:
        shared.config.write_text("[protect\nports = 1", encoding="utf-8")
    else:
        shared.config.unlink()
    said = shared.log.stat().st_size
    shared.reload()
    assert eventually(lambda: b"not reloaded" in shared.log.read_bytes()[said:])
    assert word in shared.log.read_text(encoding="utf-8")[said:]
    assert host.reached("10.99.143.2", 22)
    assert host.drops("10.99.143.2", 587)
    assert host.drops("10.99.143.1")
    shared.configure(policy=CALM)
    assert ("white", "10.99.143.1") not in listed(shared)


def test_from_enforcing_to_observing_and_back(shared: Dpsd, host: MailHost) -> None:
    peer = "10.99.113.1"
    shared.configure(enforce={"mode": "observe"}, policy=CALM)
    shared.reload()
    assert eventually(lambda: shared.json("status")["mode"] == "observe")
    held, honest = host.session(peer), host.session("10.99.113.2")
    shared.cli("block", peer, "--for", "1h", check=True)
    assert answered(held)
    assert host.reached(peer)
    shared.configure(policy=CALM)
    shared.reload()
    assert eventually(lambda: host.drops(peer))
    assert ended(held)
    assert eventually(lambda: not host.server.has(held))
    assert eventually(lambda: shared.json("status")["mode"] == "enforce")
    assert answered(honest)


def test_a_reload_while_the_store_fails_is_whole_or_not_at_all(
    shared: Dpsd, host: MailHost
) -> None:
    peer = "10.99.113.9"
    at_once(shared, f"block {peer} --for 1h")
    with contextlib.closing(sqlite3.connect(shared.directory / "dpsd.db")) as db:
        db.execute("BEGIN IMMEDIATE")
        # Nothing to be written: an operator's way out.
        shared.configure(enforce={"mode": "observe"}, policy=CALM)
        shared.reload()
        assert eventually(lambda: host.reached(peer), 20)
        said = shared.log.stat().st_size
        shared.configure(lists={"white": ["10.99.113.77"]}, policy=CALM)
        shared.reload()
        assert eventually(lambda: b"not reloaded" in shared.log.read_bytes()[said:], 20)
        assert host.reached(peer)  # it goes on observing
        db.rollback()
    assert eventually(lambda: shared.json("status")["mode"] == "observe")
    shared.reload()
    assert eventually(lambda: host.drops(peer))
    assert eventually(lambda: shared.json("status")["mode"] == "enforce")
    assert ("white", "10.99.113.77") in listed(shared)
    shared.configure(policy=CALM)
    shared.reload()
