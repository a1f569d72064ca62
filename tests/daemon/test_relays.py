"""Peers through which other people's sessions come: those of no use end, and they are named."""

import pytest

from tests.daemon.conftest import Make
from tests.daemon.live import MailHost, eventually
from tests.lab.net import GATEWAY4, GATEWAY6

SLOTS = 20
POLICY = {"block_at": 60}


@pytest.mark.parametrize("gateway", [str(GATEWAY4), str(GATEWAY6)])
def test_a_masquerading_router(host: MailHost, make: Make, gateway: str) -> None:
    """Row A7: it is white, as a gateway, so that it is never dropped."""
    daemon = make(protect={"slots": SLOTS}, policy=POLICY)
    daemon.start()
    for _ in range(3 * SLOTS):
        host.session(gateway)
    assert eventually(lambda: len(host.server.open) <= SLOTS, 30)
    named = f"{gateway} makes the pressure with"
    assert eventually(lambda: named in daemon.log.read_text(encoding="utf-8"))
    log = daemon.log.read_text(encoding="utf-8")
    assert "ended one by one" in log
    assert "open no new one" not in log or "; 0 peers may open no new one" in log
    assert not daemon.json("list", "block")
    assert host.reached(gateway)


def test_a_white_peer_that_fills_the_slots_is_named(host: MailHost, make: Make) -> None:
    peer = "10.99.41.1"
    daemon = make(protect={"slots": SLOTS}, policy=POLICY)
    daemon.start()
    daemon.cli("allow", peer, "--reason", "our branch", check=True)
    for _ in range(2 * SLOTS):
        host.session(peer)
    words = f"{peer} makes the pressure with {2 * SLOTS} sessions: it is white (our branch)"
    assert eventually(lambda: words in daemon.log.read_text(encoding="utf-8"))
    told = daemon.cli("status", check=True).stdout
    assert f"{peer} keeps {2 * SLOTS} sessions: it is white (our branch)" in told
    assert len(host.server.open) == 2 * SLOTS
