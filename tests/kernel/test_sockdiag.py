"""Ending live sessions on the real kernel, in every state that a session can be held in."""

import errno
import os
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from ipaddress import ip_address

import pytest

from dpsd.errors import KernelError, NotPermitted
from dpsd.kernel import sockdiag
from dpsd.kernel.sockdiag import Session, Word, destroy, probe
from tests.kernel.netns import MailHost, connect, established, eventually, inside, run


def end_sessions(sessions: list[Session]) -> int:
    """How many of them were ended."""
    return destroy(sessions).count(0)


PEERS = ["10.99.0.1", "2001:db8:99:1::1"]


def packed(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


class Held:
    """One session with the mail host, from both ends."""

    def __init__(self, host: MailHost, peer: str, listener: socket.socket) -> None:
        server = host.address[6 if ":" in peer else 4]
        self.listener = listener
        port = listener.getsockname()[1]
        with inside(host.peers):
            self.client = connect(peer, server, port)
        self.session = Session(packed(server), port, packed(peer), self.client.getsockname()[1])
        self.accepted: socket.socket | None = None

    def established(self) -> "Held":
        assert established(self.client, 5)
        return self

    def accept(self) -> socket.socket:
        self.established()
        self.accepted, _ = self.listener.accept()
        return self.accepted

    def state(self) -> str:
        """The state of the server's socket, as ss names it; empty if there is none."""
        port = self.session.remote_port
        lines = run(f"ss -Htan sport = :{self.session.local_port} and dport = :{port}")
        return lines.split()[0] if lines.strip() else ""

    def close(self) -> None:
        self.client.close()
        if self.accepted:
            self.accepted.close()


Hold = Callable[..., Held]


@pytest.fixture
def hold(mail_host: MailHost) -> Iterator[Hold]:
    held: list[Held] = []

    def hold(peer: str, listener: socket.socket | None = None) -> Held:
        held.append(Held(mail_host, peer, listener or mail_host.listeners[25]))
        return held[-1]

    yield hold
    for each in held:
        each.close()


def reset(client: socket.socket) -> bool:
    """Whether the client learns that its session was reset."""
    client.settimeout(5)
    try:
        return client.recv(1) != b""
    except ConnectionResetError:
        return True


def still_listening(hold: Hold, peer: str = PEERS[0]) -> bool:
    return bool(hold(peer).established())


@pytest.mark.parametrize("peer", PEERS)
def test_an_accepted_session(hold: Hold, peer: str) -> None:
    held = hold(peer)
    server = held.accept()
    assert end_sessions([held.session]) == 1
    with pytest.raises(ConnectionAbortedError):
        server.recv(1)
    assert reset(held.client)
    assert end_sessions([held.session]) == 0
    assert still_listening(hold, peer)


@pytest.mark.parametrize("peer", PEERS)
def test_a_session_not_yet_accepted(hold: Hold, peer: str) -> None:
    held = hold(peer).established()
    assert end_sessions([held.session]) == 1
    assert reset(held.client)
    assert still_listening(hold, peer)


def test_a_session_of_an_ipv4_only_listener(hold: Hold, mail_host: MailHost) -> None:
    with socket.create_server((mail_host.address[4], 465)) as listener:
        held = hold(PEERS[0], listener)
        held.accept()
        assert end_sessions([held.session]) == 1
        assert reset(held.client)


@pytest.mark.parametrize("accepted", [True, False])
def test_a_peer_that_has_closed(hold: Hold, accepted: bool) -> None:
    held = hold(PEERS[0]).established()
    if accepted:
        held.accept()
    held.client.shutdown(socket.SHUT_WR)
    assert eventually(lambda: held.state() == "CLOSE-WAIT")
    assert end_sessions([held.session]) == 1
    assert held.state() == ""


def test_a_peer_that_does_not_answer_the_servers_fin(hold: Hold) -> None:
    held = hold(PEERS[0])
    held.accept().shutdown(socket.SHUT_WR)
    assert eventually(lambda: held.state() == "FIN-WAIT-2")
    assert end_sessions([held.session]) == 1
    assert held.state() == ""


def test_a_session_that_the_server_has_closed_is_left_to_the_kernel(hold: Hold) -> None:
    held = hold(PEERS[0])
    held.accept().close()
    assert eventually(lambda: held.state() == "FIN-WAIT-2")
    assert end_sessions([held.session]) == 0


@pytest.mark.parametrize("peer", PEERS)
def test_a_half_open_session(hold: Hold, mail_host: MailHost, peer: str) -> None:
    with inside(mail_host.peers):  # the peers never see the server's answer
        run("nft add table inet deaf")
        run("nft add chain inet deaf input { type filter hook input priority 0 ; }")
        run("nft add rule inet deaf input tcp sport 25 drop")
    held = hold(peer)
    assert eventually(lambda: held.state() == "SYN-RECV")
    assert end_sessions([held.session]) == 1
    assert held.state() == ""


def test_a_session_in_time_wait_is_over(hold: Hold) -> None:
    held = hold(PEERS[0])
    held.accept().close()
    held.client.settimeout(5)
    assert held.client.recv(1) == b""
    held.client.close()
    assert eventually(lambda: held.state() == "TIME-WAIT")
    assert end_sessions([held.session]) == 0


def test_the_listener_outlives_sessions_that_are_over(hold: Hold) -> None:
    held = hold(PEERS[0])
    held.accept()
    never = held.session._replace(remote=packed("10.99.77.77"))
    elsewhere = held.session._replace(local=packed("10.1.2.3"))
    assert end_sessions([never, elsewhere, held.session, held.session]) >= 1
    assert end_sessions([]) == 0
    assert still_listening(hold)


def test_many_at_a_time_and_only_those_meant(hold: Hold) -> None:
    sessions = [hold(f"10.99.1.{i}").established() for i in range(1, 201)]
    other = hold("10.99.2.1").established()
    plain = [tuple(held.session) for held in sessions]
    assert end_sessions(plain) == 200  # type: ignore[arg-type]
    assert other.state() == "ESTAB"
    assert all(reset(held.client) for held in sessions)


def test_probe_ends_nothing(hold: Hold) -> None:
    held = hold(PEERS[0])
    held.accept()
    probe()
    assert held.state() == "ESTAB"
    assert still_listening(hold)


@pytest.mark.usefixtures("namespace")
def test_probe_works_with_lo_down() -> None:
    run("ip link set lo down")
    probe()


def test_a_kernel_without_it_is_named(monkeypatch: pytest.MonkeyPatch, namespace: int) -> None:
    assert namespace
    monkeypatch.setattr(sockdiag, "_SOCK_DESTROY", 22)  # nothing that any kernel knows
    with pytest.raises(KernelError):
        probe()


def test_nobody_may_not_end_sessions(hold: Hold) -> None:
    held = hold(PEERS[0])
    held.accept()
    child = os.fork()
    if not child:
        os.setresuid(65534, 65534, 65534)
        refused = False
        try:
            with suppress(NotPermitted):
                probe()
                os._exit(1)
            refused = destroy([held.session]) == [errno.EPERM]
        finally:
            os._exit(0 if refused else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert held.state() == "ESTAB"


@pytest.mark.parametrize(
    ("family", "address", "named"),
    [
        (socket.AF_INET, "127.0.0.1", "127.0.0.1"),
        (socket.AF_INET6, "::1", "::1"),
        (socket.AF_INET6, "::", "127.0.0.1"),
    ],
    ids=["ipv4", "ipv6", "ipv4-on-ipv6"],
)
def test_sessions_that_only_this_end_has_closed(
    family: socket.AddressFamily, address: str, named: str
) -> None:
    dual = address == "::"
    with socket.create_server((address, 0), family=family, dualstack_ipv6=dual) as server:
        port = server.getsockname()[1]
        client = socket.create_connection((named, port), 5)
        accepted, _ = server.accept()
        packed = ip_address(named).packed
        ours = Session(packed, port, packed, client.getsockname()[1])
        assert sockdiag.look([port], False).half_closed == []
        accepted.close()
        assert client.recv(1) == b""  # its FIN is there
        assert eventually(lambda: sockdiag.look([port, port + 1], False).half_closed == [ours])
        client.close()
        assert eventually(lambda: sockdiag.look([port], False).half_closed == [])


@pytest.mark.parametrize(
    ("sent", "received", "acknowledged", "word"),
    [
        (900, 1000, 860, Word(0.85, ours=True)),
        (1000, 900, 900, Word(0.9, ours=False)),
        (1000, 900, 10, Word(0.9, ours=False)),  # a keepalive is no acknowledgement of ours
        (900, 900, 860, Word(0.85, ours=True)),
        (900, 900, 900, Word(0.9, ours=False)),
        (20, 30, 20, Word(0.0, ours=True)),  # not there yet: a way there and back takes 50 ms
    ],
)
def test_the_last_word_as_the_kernel_tells(
    sent: int, received: int, acknowledged: int, word: Word
) -> None:
    info = struct.pack("=44x4I8xI", sent, 0, received, acknowledged, 50_000)
    other, ours = struct.pack("=HH4x", 8, 8), struct.pack("=HH", 4 + len(info), 2) + info
    assert sockdiag._last_word(memoryview(bytes(72) + other + ours)) == word
    assert sockdiag._last_word(memoryview(bytes(72) + other)) is None


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_who_spoke_last(address: str) -> None:
    """On loopback a question and its answer have the same time; only whoever heard acknowledges."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, 0), family=family) as server, ExitStack() as open_:
        port = server.getsockname()[1]

        def session(*words: bytes) -> Session:
            """The server says the capitals, its peer the others, in turn."""
            client = open_.enter_context(socket.create_connection((address, port), 5))
            accepted = open_.enter_context(server.accept()[0])
            for word in words:
                speaker, listener = (accepted, client) if word.isupper() else (client, accepted)
                speaker.sendall(word)
                assert listener.recv(1 << 16)
            ends = packed(address), port, packed(address), client.getsockname()[1]
            return Session(*ends)

        answered = session(b"GREETING", b"helo", b"REPLY")
        stalled = session(b"GREETING", b"data", b"GO ON", b"received: " * 200)

        def ours() -> dict[Session, bool]:
            words = sockdiag.look([port], True).words
            return {each: word.ours for each, word in words.items()}

        assert eventually(lambda: ours() == {answered: True, stalled: False})
        assert all(0.0 <= word.ago < 60.0 for word in sockdiag.look([port], True).words.values())
        assert sockdiag.look([port], False).words == {}
        assert sockdiag.look([port + 1], True).words == {}
