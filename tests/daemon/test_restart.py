"""Killed, stopped and started again: nothing is forgotten, and nobody gets in meanwhile."""

import json
import time

import pytest

from tests.daemon.conftest import Make
from tests.daemon.live import Hammer, MailHost, Nft, at_once, ended, eventually, listed
from tests.lab.dpsd import Dpsd

BEFORE = (
    "block 10.99.120.1 --for 100s",
    "block 10.99.120.2 --permanent",
    "block 10.99.121.0/24 --for 1h",
    "block 10.99.121.128/25 --for 2h",
    "block 2001:db8:a120:1::1 --for 1h",
    "block 10.99.120.3 --for 1h",
    "allow 10.99.121.7",
    "block 10.99.122.0/24 --for 1h",
    "block 10.99.122.0/25 --for 2h",
)
BLOCKED = ("10.99.120.1", "10.99.120.2", "10.99.121.1", "10.99.121.200", "2001:db8:a120:1::2")


def test_killed_and_started_again(daemon: Dpsd, host: MailHost, nft: Nft) -> None:
    at_once(daemon, *BEFORE)
    before = listed(daemon)
    held = host.session("10.99.123.1")
    with Hammer(host, "10.99.120.1") as hammer, Hammer(host, "10.99.121.1") as other:
        daemon.kill()
        assert all(map(host.drops, BLOCKED))
        assert daemon.json("status")["running"] is False
        assert listed(daemon) == before  # the list needs no daemon
        # What happens meanwhile: operators, and a verdict that the store never learned of.
        at_once(
            daemon, "unblock 10.99.120.3", "unblock 10.99.122.0/24", "block 10.99.123.1 --for 1h"
        )
        nft("add element inet dpsd block4 { 10.99.124.1 timeout 300s }")
        nft("add element inet dpsd block6 { 2001:db8:a124:1:: timeout 300s }")
        began = time.monotonic()
        daemon.start()
        tried, others = hammer.tried, other.tried
        assert eventually(lambda: hammer.tried > tried + 20 and other.tried > others + 20)
    assert (hammer.through, other.through) == (0, 0), f"of {hammer.tried}, {other.tried}"
    assert all(map(host.drops, BLOCKED))
    assert host.reached("10.99.121.7")

    after = listed(daemon)
    unblocked = {("block", "10.99.120.3"), ("block", "10.99.122.0/24")}
    assert all(after.get(key) == entry or key in unblocked for key, entry in before.items())
    left = nft.elements("block4")["10.99.120.1"]
    assert left is not None
    assert 100 - (time.monotonic() - began) - 30 < left < 100

    # Unblocked meanwhile: free, and not adopted, neither as they were nor in pieces.
    assert host.reached("10.99.120.3")
    assert host.reached("10.99.122.200")
    assert host.drops("10.99.122.1")  # the narrower, longer one still stands
    assert {peer for _, peer in after if peer.startswith("10.99.122.")} == {"10.99.122.0/25"}

    # Blocked meanwhile: dropped, and its session ended.
    assert host.drops("10.99.123.1")
    assert eventually(lambda: not host.server.has(held)), "a blocked peer still holds a slot"
    assert ended(held)

    # In the kernel only: adopted with the time that was left.
    assert host.drops("10.99.124.1")
    assert host.drops("2001:db8:a124:1::5")
    assert eventually(lambda: ("block", "10.99.124.1") in listed(daemon))
    known = daemon.json("why", "2001:db8:a124:1::5")
    assert known["list"] == "block"
    assert 240 < (nft.elements("block4")["10.99.124.1"] or 0) <= 300


def test_clean_stop_leaves_the_sets_standing(daemon: Dpsd, host: MailHost, nft: Nft) -> None:
    at_once(daemon, "block 10.99.125.1 --for 1h", "block 10.99.125.2 --for 4s")
    with Hammer(host, "10.99.125.1") as hammer:
        assert daemon.stop() == 0
        assert nft.holds("block4", "10.99.125.1")
        assert host.drops("10.99.125.2")
        assert eventually(lambda: host.reached("10.99.125.2"))  # by the kernel alone
        assert ("block", "10.99.125.2") not in listed(daemon)
        daemon.start()
        assert hammer.tried > 10
    assert hammer.through == 0
    assert host.reached("10.99.125.2")
    assert ("block", "10.99.125.2") not in listed(daemon)
    assert not nft.holds("block4", "10.99.125.2")


@pytest.mark.parametrize("table", ["gone", "somebody else's"])
def test_kernel_empty_at_start(make: Make, host: MailHost, nft: Nft, table: str) -> None:
    daemon = make()
    at_once(daemon, "block 10.99.126.1 --for 1h")
    nft("delete table inet dpsd") if "dpsd" in nft("list tables") else None
    if table != "gone":
        nft("add table inet dpsd")
        nft("add chain inet dpsd prerouting { type filter hook input priority 0; policy drop; }")
    daemon.start()
    assert host.drops("10.99.126.1")
    assert host.reached("10.99.126.2")
    assert host.reached("10.99.126.1", 22)


def test_status_is_as_before_after_a_restart(daemon: Dpsd, host: MailHost) -> None:
    held = [host.session(f"10.99.127.{i}") for i in range(1, 11)]
    assert eventually(lambda: daemon.json("status")["sessions"]["open"] == 10), daemon.tail()
    daemon.kill()
    held.pop().close()
    daemon.start()
    assert eventually(lambda: daemon.json("status")["sessions"]["open"] == 9)
    status = daemon.json("status")
    assert status["sessions"]["by_state"]["ESTABLISHED"] == 9
    assert json.dumps(status)
