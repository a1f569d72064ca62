"""Ending live sessions on the real kernel, in every state that a session can be held in, and what
its sockets tell of them."""

import errno
import fcntl
import os
import socket
import struct
import termios
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from ipaddress import ip_address

import pytest

from dpsd.core.events import Endpoints, Word
from dpsd.errors import KernelError, NotPermitted
from dpsd.kernel.ctnetlink import key_of
from dpsd.kernel.sockdiag import Session, ask, closed, destroy, probe, wire, words
from dpsd.kernel.sockdiag import held as held_at
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
    monkeypatch.setattr(wire, "SOCK_DESTROY", 22)  # nothing that any kernel knows
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
        ours = key_of(Endpoints(packed, packed, client.getsockname()[1], port))
        assert closed(held_at([port])) == []
        assert held_at([port]) == {ours: wire.ESTABLISHED}
        accepted.close()
        assert client.recv(1) == b""  # its FIN is there
        assert eventually(lambda: closed(held_at([port, port + 1])) == [ours])
        client.close()
        assert eventually(lambda: held_at([port]) == {})


def test_all_sessions_that_hold_a_slot_or_wait_for_one(hold: Hold, mail_host: MailHost) -> None:
    """Of the given ports only, in both IP versions."""
    many = [hold(peer).established() for peer in PEERS for _ in range(3)]
    other = hold(PEERS[0], mail_host.listeners[80]).established()
    keys = [
        key_of(Endpoints(s.remote, s.local, s.remote_port, s.local_port))
        for s in (each.session for each in (*many, other))
    ]
    assert held_at([25]) == dict.fromkeys(keys[:-1], wire.ESTABLISHED)
    assert held_at([80]) == {keys[-1]: wire.ESTABLISHED}
    assert held_at([465, 587]) == held_at([]) == {}
    ports = [1, 7, *range(20, 30), 79, 80, 65535, 25]
    assert held_at(ports) == dict.fromkeys(keys, wire.ESTABLISHED)
    many[0].client.shutdown(socket.SHUT_WR)
    assert eventually(lambda: held_at([25])[keys[0]] == wire.CLOSE_WAIT)


def test_more_sockets_than_can_be_looked_at_are_an_error(
    hold: Hold, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dpsd.kernel.sockdiag.sockets.MOST", 2)
    for _ in range(3):
        hold(PEERS[0]).established()
    with pytest.raises(KernelError, match="more than 2"):
        held_at([25])


# What sockets tell


def answer(attributes: bytes) -> bytes:
    """An inet_diag_msg of an ESTABLISHED session without anything but attributes."""
    return struct.pack("=xB70x", wire.ESTABLISHED) + attributes


def info(sent: int, received: int, acknowledged: int, said: int, answered: int) -> bytes:
    """An attribute INET_DIAG_INFO with these times and bytes, of a peer that is 50 ms away."""
    times = struct.pack("=44x4I8xI56x", sent, 0, received, acknowledged, 50_000)
    octets = struct.pack("=Q64xQQ", said, answered + 7, 7)
    return struct.pack("=HH", 4 + len(times + octets), 2) + times + octets


@pytest.mark.parametrize(
    ("sent", "received", "acknowledged", "ago", "by_server"),
    [
        (900, 1000, 860, 0.85, True),
        (1000, 900, 900, 0.9, False),
        (1000, 900, 10, 0.9, False),  # a keepalive is no acknowledgement of ours
        (900, 900, 860, 0.85, True),
        (900, 900, 900, 0.9, False),
        (20, 30, 20, 0.0, True),  # not there yet: a way there and back takes 50 ms
    ],
)
def test_the_last_word_as_the_kernel_tells(
    sent: int, received: int, acknowledged: int, ago: float, by_server: bool
) -> None:
    other, ours = struct.pack("=HH4x", 8, 8), info(sent, received, acknowledged, 5, 9)
    read = words._Reader()
    word = Word(ago, by_server, 5, 9, 0.05, 0, 0, False)
    for attributes in (other + ours, other * 2 + ours, ours, ours + other):
        data = b"before" + answer(attributes)
        assert read.word(data, 6, len(data)) == word
    for attributes in (b"", other, other + ours[:-8], bytes(8) + ours):
        data = answer(attributes)
        assert read.word(data + ours, 0, len(data)) is None


@pytest.mark.parametrize(("said", "answered"), [(0, 0), (0, 9), (5, 0)])
def test_who_spoke_alone_spoke_last(said: int, answered: int) -> None:
    data = answer(info(900, 900, 900, said, answered))
    word = words._Reader().word(data, 0, len(data))
    assert word is not None
    assert word.by_server == (answered > 0)


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

        def by_server() -> dict[Session, bool]:
            return {each: word.by_server for each, word in ask([answered, stalled]).items()}

        assert eventually(lambda: by_server() == {answered: True, stalled: False})
        assert all(0.0 <= word.ago < 60.0 for word in ask([answered, stalled]).values())


def told(held: Held) -> Word:
    """What its socket tells of a session."""
    (word,) = ask([held.session]).values()
    return word


@pytest.mark.parametrize("peer", PEERS)
def test_bytes_are_exact_in_both_directions(hold: Hold, peer: str) -> None:
    held = hold(peer).established()
    assert (told(held).said, told(held).answered) == (0, 0)
    server = held.accept()
    assert (told(held).said, told(held).answered) == (0, 0)
    server.sendall(b"220 mail.example.org\r\n")
    held.client.settimeout(5)
    assert len(held.client.recv(100)) == 22
    assert (told(held).said, told(held).answered, told(held).by_server) == (0, 22, True)
    held.client.sendall(b"EHLO you.example.org\r\n" * 5000)
    read = 0
    while read < 110_000:
        read += len(server.recv(1 << 16))
    assert (told(held).said, told(held).answered) == (110_000, 22)
    assert 0 < told(held).rtt < 60


def test_a_session_of_an_ipv4_only_listener_is_told_of(hold: Hold, mail_host: MailHost) -> None:
    with socket.create_server((mail_host.address[4], 465)) as listener:
        held = hold(PEERS[0], listener).established()
        held.client.sendall(b"hello")
        assert eventually(lambda: told(held).said == 5)


def test_what_the_server_has_not_read(hold: Hold) -> None:
    held = hold(PEERS[0])
    server = held.accept()
    held.client.sendall(bytes(1000))
    assert eventually(lambda: told(held).unread == 1000)
    server.recv(300)
    assert (told(held).unread, told(held).said) == (700, 1000)


def test_what_a_peer_does_not_take(hold: Hold) -> None:
    """Its window is full: what it has in its own kernel is acknowledged, the rest isn't."""
    held = hold(PEERS[0])
    server = held.accept()
    server.setblocking(False)
    written = 0
    with suppress(BlockingIOError):
        while True:
            written += server.send(bytes(1 << 16))

    def taken() -> int:
        return int.from_bytes(fcntl.ioctl(held.client, termios.FIONREAD, bytes(4)), "little")

    assert eventually(lambda: told(held).unacked == written - taken() > 0)
    assert eventually(lambda: told(held).answered == taken())


def test_what_does_not_reach_a_peer_counts_once(hold: Hold) -> None:
    held = hold(PEERS[0])
    server = held.accept()
    run("nft add table inet deaf")
    run("nft add chain inet deaf input { type filter hook input priority 0 ; }")
    run("nft add rule inet deaf input tcp dport 25 drop")  # no acknowledgement gets here
    server.sendall(bytes(500))
    which = f"sport = :25 and dport = :{held.session.remote_port}"
    assert eventually(lambda: "bytes_retrans:" in run(f"ss -Htin {which}"))
    assert (told(held).unacked, told(held).answered, told(held).by_server) == (500, 500, True)


@pytest.mark.parametrize("peer", PEERS)
def test_who_waits_to_be_accepted(hold: Hold, peer: str) -> None:
    held = hold(peer).established()
    assert not told(held).accepted
    held.accept()
    assert told(held).accepted


def test_only_open_sessions_are_told_of(hold: Hold) -> None:
    held, other = hold(PEERS[0]), hold("10.99.0.2").established()
    server = held.accept()
    never = held.session._replace(remote=packed("10.99.77.77"))  # is found as the listener
    elsewhere = held.session._replace(local=packed("10.1.2.3"))
    assert ask([never, held.session, elsewhere]).keys() == {held.session}
    assert ask([]) == {}
    held.client.shutdown(socket.SHUT_WR)
    assert eventually(lambda: held.state() == "CLOSE-WAIT")
    assert ask([held.session]) == {}
    server.close()
    assert eventually(lambda: held.state() != "CLOSE-WAIT")
    assert ask([held.session]) == {}
    assert ask([other.session]).keys() == {other.session}
    assert other.state() == "ESTAB"


def test_each_of_many_gets_its_own_word(hold: Hold) -> None:
    many = [hold(f"10.99.1.{i}").established() for i in range(1, 201)]
    for i, held in enumerate(many):
        held.client.sendall(bytes(i + 1))
    wanted = {held.session: i + 1 for i, held in enumerate(many)}
    asked = [held.session for held in reversed(many)]

    def said() -> dict[Session, int]:
        return {session: word.said for session, word in ask(asked).items()}

    assert eventually(lambda: said() == wanted)
    with ThreadPoolExecutor(4) as threads:  # each may ask at any time
        assert list(threads.map(lambda _: said(), range(8))) == [wanted] * 8


def test_answers_that_are_lost_are_an_error(hold: Hold, monkeypatch: pytest.MonkeyPatch) -> None:
    held = hold(PEERS[0]).established()
    monkeypatch.setattr(wire, "_BATCH", 1000)  # more than there is room for
    with pytest.raises(KernelError):
        ask([held.session] * 1000)
