"""Peers through which other people's sessions come are never listed; those of no use are ended."""

from ipaddress import ip_address

import pytest

from dpsd.core.given import GATEWAY, HOST
from dpsd.core.lists import Entry, ListName
from dpsd.core.relays import MAILS, Relays
from dpsd.core.scores import Peer
from tests.core.transcript import Stage, network

A, B, C = "203.0.113.1", "203.0.113.2", "10.20.0.1"
HELD = "SYN_RECV ESTABLISHED"
RULES = {"slots": 10, "stress_until": 0.5, "churn_rate": 1e3, "churn_burst": 1e3}


def key(peer: str) -> bytes:
    return ip_address(peer).packed


def crowd(stage: Stage, peer: str, waves: int = 12, mails: float = 0.0) -> Stage:
    """Useless sessions, which come back whenever they are ended; and some mails with each."""
    for wave in range(waves):
        if mails:
            stage.engine.relays.earned(Peer(key(peer), 1.0, 0.0), mails, stage.now)
        for number in range(12):
            stage.play(f"{stage.now} {peer}#{100 * wave + number + 1} {HELD} says=12 hears=40")
        stage.until(stage.now + 6)
    return stage


@pytest.mark.parametrize("how", ["near", "proxy", "carries"])
def test_a_relay_is_not_listed_and_its_useless_sessions_are_ended(how: str) -> None:
    """Rows A7, A8 and A12."""
    stage = Stage(dict(RULES), dumps=0.5)
    relays = stage.engine.relays
    if how == "near":
        relays.set(lambda peer: peer == key(C), ())
    elif how == "proxy":
        relays.set(lambda _: False, frozenset([25]))
    crowd(stage, C, mails=50.0 if how == "carries" else 0.0)
    assert stage.listed == []
    assert stage.deferred == []
    assert len(stage.ended) > 60
    assert stage.score(C) == 0.0


def test_who_is_none_is_listed() -> None:
    stage = Stage(dict(RULES), dumps=0.5)
    assert crowd(stage, C, 30).listed[:1] == [C]


def test_each_of_a_relays_sessions_is_looked_at_by_itself() -> None:
    """Otherwise its mail would pay for everybody's useless sessions."""
    stage = Stage(dict(RULES), dumps=0.5)
    stage.engine.relays.set(lambda peer: peer == key(C), ())
    for number in range(30):
        stage.play(f"0 {C}#{number + 1} {HELD} says=12 hears=40")
    stage.play(f"0 {C}#99 {HELD} says=12 hears=40")
    for second in range(1, 16):
        stage.play(f"{second}.1 {C}#99 says=30000").play(f"{second}.6 {C}#99 says=30000")
    assert stage.key(f"{C}#99") not in stage.ended
    assert len(stage.ended) >= 25


def white(peer: str, source: str, reason: str) -> Entry:
    return Entry(ListName.WHITE, network(peer), reason, source, 0.0)


def test_behind_the_gateway_may_be_anybody() -> None:
    """Row A7: it is white, so that it is never dropped."""
    stage = Stage(dict(RULES), dumps=0.5, immune=lambda each: each == network(C))
    stage.engine.lists.put(white(C, HOST, GATEWAY))
    stage.engine.relays.set(lambda peer: peer == key(C), ())
    crowd(stage, C, 3)
    assert len(stage.ended) > 10
    assert stage.listed == []
    (named,) = stage.engine.pressing(stage.now)
    assert (named.peer, named.white, named.relay) == (network(C), "gateway", True)


def test_unless_somebody_said_that_it_is_white() -> None:
    """Then it is named."""
    stage = Stage(dict(RULES), dumps=0.5)
    stage.engine.lists.put(white(C, HOST, GATEWAY))
    stage.engine.lists.put(white("10.20.0.0/24", "operator", "our site"))
    stage.engine.relays.set(lambda peer: peer == key(C), ())
    crowd(stage, C, 2)
    assert stage.ended == []
    (named,) = stage.engine.pressing(stage.now)
    assert (named.peer, named.sessions, named.white) == (network(C), 24, "our site")
    assert stage.engine.pressing(stage.now + 60) == []


def test_at_rest_nobody_is_named() -> None:
    stage = Stage({"slots": 100}, dumps=0.5)
    stage.engine.lists.put(white(C, "operator", ""))
    crowd(stage, C, 2)
    assert stage.engine.pressing(stage.now) == []


def brings(relays: Relays, peer: str, mails: int, at: float) -> Peer:
    made = Peer(key(peer), 1.0, 0.0)
    for number in range(mails):
        relays.earned(made, 1.0, at + number)
    return made


def test_who_brings_nearly_all_mail_carries_it() -> None:
    relays = Relays()
    some = brings(relays, A, int(MAILS) - 1, 0.0)
    assert not relays.holds(some, 25, 20.0)
    brings(relays, A, 200, 20.0)
    other = brings(relays, B, 10, 220.0)
    assert relays.holds(some, 25, 230.0)
    assert not relays.holds(other, 25, 230.0)
    brings(relays, B, 30, 230.0)
    assert not relays.holds(some, 25, 260.0)


def test_who_brings_no_more_of_it_does_not() -> None:
    relays = Relays()
    peer = brings(relays, A, 200, 0.0)
    assert relays.holds(peer, 25, 210.0)
    assert not relays.holds(peer, 25, 300.0)


def test_of_very_many_senders_nobody_does() -> None:
    relays = Relays()
    for number in range(1000):
        last = brings(relays, f"10.1.{number >> 8}.{number & 255}", 1, float(number))
        assert not relays.holds(last, 25, float(number))
    assert len(relays._mails) <= 8


def test_the_hosts_own_public_address_behind_a_nat() -> None:
    """Row A11: what the host opens to that comes back from it, by the same port."""
    stage = Stage(dict(RULES), dumps=0.5)
    for number in (1, 2):
        stage.play(f"0 192.0.2.25#{number}>{A} {HELD}")  # goes out
        stage.play(f"0 {A}#{number} {HELD}")  # and comes back
    crowd(stage, A)
    assert stage.listed == []
    assert crowd(stage, B, 30).listed == [B]


def test_a_server_that_is_written_to_and_writes_is_none() -> None:
    stage = Stage(dict(RULES), dumps=0.5)
    for number in range(1, 9):
        stage.play(f"0 192.0.2.25#{number}>{A} {HELD}").play(f"0 {A}#{100 + number} {HELD}")
    stage.until(10)  # from now on by the same ports
    assert crowd(stage, A, 30).listed == [A]


def test_what_went_out_is_remembered_within_bounds() -> None:
    relays = Relays()
    for port in range(10_000):
        relays.went_out(key(A), port, 0.0)
        relays.went_out(key(A), port, 0.0)
    assert len(relays.outgoing) == 1_000
    for number in range(100):
        address = key(f"203.0.113.{number}")
        relays.went_out(address, 1, 0.0)
        relays.came_in(address, 1, address, 1.0)
    assert len(relays._hairpins) == 16
