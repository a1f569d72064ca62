"""Everybody attacks at once: the guilty are listed, their slots freed, and nobody else notices."""

import contextlib
import re
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.daemon.conftest import clear
from tests.daemon.live import CONTROL, MailHost, Server, ended, eventually, listed
from tests.lab import synflood
from tests.lab.dpsd import Dpsd
from tests.lab.net import GATEWAY4, GATEWAY6, MAIL4, SILENT4, source4

HOLDERS = [f"10.99.160.{i}" for i in range(1, 9)] + [f"2001:db8:a16{i}::1" for i in range(5, 9)]
SESSIONS = 120  # that they hold together
CHURNER, RESETTER, VANISHER = "10.99.161.1", "10.99.161.2", source4(SILENT4, 7)
WHITE, HONEST, HONEST6 = "10.99.162.1", "10.99.162.2", "2001:db8:a162::1"
FORGED = [source4(SILENT4, number) for number in range(100, 140)]
WHITES = {"white": ["127.0.0.0/8", WHITE, *CONTROL.values()]}
TCP_REPAIR = 19
MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


def peer_of(address: str) -> str:
    """How dpsd shows the peer that an address belongs to."""
    return f"{address.removesuffix('1')}/64" if ":" in address else address


class Talker:
    """An honest sender: several sessions at a time, each of which goes on and on."""

    def __init__(self, host: MailHost, address: str, sessions: int) -> None:
        self.sessions = [host.session(address) for _ in range(sessions)]
        self.cut = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._talk)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def _talk(self) -> None:
        while not self._stopping.wait(0.2):
            for session in self.sessions:
                try:
                    session.send(b"a line of an honest mail, and not the last one of them\r\n" * 4)
                    with contextlib.suppress(BlockingIOError):
                        while session.recv(65536):
                            pass
                except ConnectionError:
                    self.cut += 1


@dataclass
class Storm:
    """Everybody's sessions while all attack at the same time."""

    daemon: Dpsd
    held: dict[str, list[socket.socket]] = field(default_factory=dict)
    talkers: list[Talker] = field(default_factory=list)
    outgoing: list[socket.socket] = field(default_factory=list)
    own: list[socket.socket] = field(default_factory=list)
    began: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)

    def lists(self) -> dict[tuple[str, str], dict[str, Any]]:
        return listed(self.daemon)


@pytest.fixture(scope="module")
def storm(host: MailHost, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storm]:
    """The default policy but for the proper time of vanished peers: 100 slots, all wanted."""
    daemon = Dpsd(
        host.net.mail, tmp_path_factory.mktemp("storm"), lists=WHITES,
        proper_times={"last_ack": "2s"}, stress={"last_ack": "1s"},
        evidence={"calm_cost": 1}, protect={"slots": 100},
    )  # fmt: skip
    theirs = Server(host.net.world, (25,))
    with daemon:
        storm = Storm(daemon)
        storm.outgoing = [_connected(host, host.net.mail, str(GATEWAY4)) for _ in range(20)]
        storm.own = [_connected(host, host.net.mail, str(MAIL4)) for _ in range(5)]
        storm.talkers = [Talker(host, HONEST, 10), Talker(host, HONEST6, 5)]
        storm.held[WHITE] = [host.session(WHITE) for _ in range(10)]
        storm.held[str(GATEWAY4)] = [host.session(str(GATEWAY4)) for _ in range(10)]
        storm.began = time.monotonic()
        try:
            _attack(host, storm)
            yield storm
        finally:
            for talker in storm.talkers:
                talker.stop()
            for session in (*storm.outgoing, *storm.own):
                session.close()
    theirs.close()
    clear(host)


def _attack(host: MailHost, storm: Storm) -> None:
    """All at the same time; each goes on until it is blocked, or has done enough for it."""
    forging = threading.Thread(target=_forge, args=(host,))
    forging.start()
    for address in HOLDERS:
        storm.held[address] = [host.session(address) for _ in range(SESSIONS // len(HOLDERS))]
    for _ in range(40):
        _vanish(host)
    for attack in (_churn, _reset):
        for _ in range(400):
            if not attack(host):
                break
    guilty = [*HOLDERS, CHURNER, RESETTER, VANISHER]

    def all_listed() -> bool:
        lists = storm.lists()
        for address in guilty:
            if ("block", peer_of(address)) in lists:
                storm.seconds.setdefault(address, time.monotonic() - storm.began)
        for address, attack in ((VANISHER, _vanish), (CHURNER, _churn), (RESETTER, _reset)):
            if address not in storm.seconds:
                attack(host)
        left = [address for address in HOLDERS if address not in storm.seconds]
        for address in left:  # whoever is left takes what the others had to give up
            _hold_again(host, storm.held[address], address, SESSIONS // len(left))
        return len(storm.seconds) == len(guilty)

    eventually(all_listed, 40)
    forging.join()


def _hold_again(host: MailHost, held: list[socket.socket], address: str, sessions: int) -> None:
    """Whoever was ended comes back for more, as soon as its packets pass."""
    places = [number for number, client in enumerate(held) if ended(client, 0)]
    for number in (*places, *range(len(held), sessions)):
        if host.drops(address):
            return
        with contextlib.suppress(OSError, AssertionError):  # ended and deferred just now
            held[number : number + 1] = [host.session(address)]


def _churn(host: MailHost) -> bool:
    with host.start(CHURNER) as client:
        return _answered(client)


def _reset(host: MailHost) -> bool:
    with host.start(RESETTER) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        return _answered(client)


def _forge(host: MailHost) -> None:
    with host.net.world.entered():
        synflood.run(FORGED, 25, start=0, seconds=4, rate=500, seed=1)


def _vanish(host: MailHost) -> bool:
    """A session that closes and is then gone: nobody acknowledges the server's FIN."""
    with host.start(VANISHER) as client:
        if not _answered(client):
            return False
        client.shutdown(socket.SHUT_WR)
        client.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)  # so that close says nothing
        return True


def _answered(client: socket.socket) -> bool:
    """Whether the server greets within a moment; it no longer does once the peer is blocked."""
    client.settimeout(1.0)
    try:
        return bool(client.recv(100))
    except OSError:
        return False


def _connected(host: MailHost, space: Any, server: str) -> socket.socket:
    assert host is not None
    with space.entered():
        return socket.create_connection((server, 25), 5)


def test_guilty_are_listed(storm: Storm, host: MailHost) -> None:
    lists = storm.lists()
    log = storm.daemon.log.read_text(encoding="utf-8")
    for address in (*HOLDERS, CHURNER, RESETTER, VANISHER):
        assert address in storm.seconds, address
        entry = lists["block", peer_of(address)]
        assert entry["source"] == "score"
        assert "slot-seconds" in entry["reason"]
        assert MOMENT.fullmatch(entry["expires_at"])
        assert f"{peer_of(address)} block for" in log
        assert host.drops(address)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        (HOLDERS[0], {"crowd", "overstay"}),
        (HOLDERS[-1], {"crowd", "overstay"}),
        (CHURNER, {"churn", "empty"}),
        (RESETTER, {"abort", "churn"}),
        (VANISHER, {"overstay"}),
    ],
)
def test_why_tells_the_reasons(storm: Storm, address: str, expected: set[str]) -> None:
    why = storm.daemon.json("why", address)
    assert (why["list"], why["peer"]) == ("block", peer_of(address))
    assert why["score"] >= 50
    for evidence in why["evidence"]:
        assert {"kind", "cost", "at", "count"} <= evidence.keys()
        assert MOMENT.fullmatch(evidence["at"])
    assert expected & {each["kind"] for each in why["evidence"] if each["cost"] > 5}


def test_guilty_are_freed_of_their_slots(storm: Storm, host: MailHost) -> None:
    for address in HOLDERS:
        assert all(ended(session) for session in storm.held[address])
        assert not any(map(host.server.has, storm.held[address]))
    assert eventually(lambda: storm.daemon.json("status")["pressure"] < 0.8)


def test_honest_senders_never_noticed(storm: Storm, host: MailHost) -> None:
    lists = storm.lists()
    for address in (HONEST, HONEST6):
        assert ("block", peer_of(address)) not in lists
        assert host.reached(address)
    assert [talker.cut for talker in storm.talkers] == [0, 0]
    assert all(host.server.has(each) for talker in storm.talkers for each in talker.sessions)


def test_white_and_near_peers_are_never_listed(storm: Storm, host: MailHost) -> None:
    listed_peers = {peer for name, peer in storm.lists() if name != "white"}
    near = {str(GATEWAY4), peer_of(str(GATEWAY6)), str(MAIL4), "127.0.0.1", WHITE}
    assert not listed_peers & near
    assert all(map(host.server.has, storm.held[WHITE]))
    assert host.reached(WHITE)
    assert host.reached(str(GATEWAY4))


def test_forged_sources_are_never_listed(storm: Storm, host: MailHost) -> None:
    listed_peers = {peer for _, peer in storm.lists()}
    assert not listed_peers & set(FORGED)
    for address in FORGED[:3]:
        assert storm.daemon.cli("why", address).returncode == 1  # not even remembered
        assert host.reached(address)


def test_own_outgoing_sessions_never_count(storm: Storm, host: MailHost) -> None:
    for session in storm.outgoing:
        session.settimeout(1)
        session.recv(100)
        session.send(b".")
        assert session.recv(100) == b"."

    def counted() -> int:
        return int(storm.daemon.json("status")["sessions"]["by_state"]["ESTABLISHED"])

    assert eventually(lambda: counted() <= len(host.server.open)), counted()
