"""The conntrack sockets on the real kernel: what they pass on, lose and dump."""

import asyncio
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from ipaddress import ip_address

import pytest

from dpsd.core.events import BEGIN, DESTROY, END, ENTRY, LOST, UPDATE, Event, State
from dpsd.daemon.listener import Listener
from dpsd.errors import NotPermitted
from dpsd.kernel import conntrack
from dpsd.kernel.conntrack import NETLINK_NETFILTER, Dump, Events, LostEvents
from dpsd.kernel.ctnetlink import Decoder, endpoints
from tests.kernel.netns import MailHost, connect, established, eventually, inside, run

PEERS = {4: "10.99.0.7", 6: "2001:db8:99::7"}
SMALL = 16 << 10  # bytes, room for a few events only
ROOM = 4 << 20


class Stage:
    """A mail host whose kernel tracks connections, and clients that open them."""

    def __init__(self, host: MailHost, sockets: ExitStack) -> None:
        self.host = host
        self.sockets = sockets
        run("nft add table inet tracked")
        run("nft add chain inet tracked input { type filter hook input priority 0; }")
        run("nft add rule inet tracked input ct state new accept")

    def open(self, version: int, port: int = 25, number: int = 1) -> list[socket.socket]:
        """So many sessions to the mail host, established."""
        with inside(self.host.peers):
            clients = [
                self.sockets.enter_context(
                    connect(PEERS[version], self.host.address[version], port)
                )
                for _ in range(number)
            ]
        assert all(established(client, 5) for client in clients)
        return clients

    def say_udp(self, version: int, port: int = 25) -> None:
        """A datagram to the same port number."""
        family = socket.AF_INET6 if version == 6 else socket.AF_INET
        with inside(self.host.peers), socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"?", (self.host.address[version], port))

    def key(self, client: socket.socket) -> tuple[str, int]:
        """How a session is told by its client."""
        return named(client.getsockname()[:2])


def named(name: tuple[str, int]) -> tuple[str, int]:
    return str(ip_address(name[0])), name[1]


def who(event: Event) -> tuple[str, int]:
    """The peer's end of an event's session."""
    ends = endpoints(event[1])
    return str(ip_address(ends.peer)), ends.peer_port


@pytest.fixture
def stage(mail_host: MailHost) -> Iterator[Stage]:
    with ExitStack() as sockets:
        yield Stage(mail_host, sockets)


@contextmanager
def listening(ports: list[int], room: int = ROOM) -> Iterator[Callable[[], list[Event]]]:
    """An Events socket, as a function that gives what it has received so far."""
    events, decoder, heard = Events(ports, room), Decoder(), list[Event]()

    def receive() -> list[Event]:
        while spans := events.receive():
            heard.extend(decoder.decode(events.buffer, spans))
        assert decoder.skipped == 0
        return heard

    try:
        yield receive
    finally:
        events.close()


@contextmanager
def nobody() -> Iterator[None]:
    """As a user without any right."""
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def drain(events: Events) -> None:
    while events.receive():
        pass


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


# Events


SIXTEEN = [*range(1000, 1015), 25]


@pytest.mark.parametrize(
    ("ports", "passed"),
    [([25], {25}), ([80], {80}), ([80, 25], {25, 80}), ([443], set()), (SIXTEEN, {25})],
)
def test_only_tcp_to_these_ports_and_no_first_packet(
    stage: Stage, ports: list[int], passed: set[int]
) -> None:
    everything = stage.sockets.enter_context(
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
    )
    everything.bind((0, 7))
    everything.setblocking(False)
    told: list[bytes] = []

    def destroyed() -> bool:
        with suppress(BlockingIOError):
            while True:
                told.append(everything.recv(65536))
        return sum(datagram[4:6] == b"\2\1" for datagram in told) >= 10

    run("sysctl -qw net.netfilter.nf_conntrack_tcp_loose=0")  # what was flushed stays away
    with listening(ports) as receive:
        for version in (4, 6):
            for port in (25, 80):
                closed, still_open = stage.open(version, port, number=2)
                closed.close()
                assert still_open
            stage.say_udp(version)
        run("conntrack -F")
        assert eventually(destroyed)
        events = list(receive())
        assert destroyed()  # all that came before, and perhaps more
    all_events = [event for each in told for event in Decoder().decode(each, [(0, len(each))])]
    assert {endpoints(event[1]).server_port for event in all_events} >= {25, 80}
    expected = [
        event
        for event in all_events
        if endpoints(event[1]).server_port in passed
        and event[3] not in (State.SYN_SENT, State.SYN_RECV)
    ]
    assert events == expected[: len(events)]
    assert sum(event[0] == DESTROY for event in events) == 4 * len(passed)
    assert len(expected) < len(all_events) < len(told)


@pytest.mark.parametrize("version", [4, 6])
def test_a_session_is_told_from_handshake_to_end(stage: Stage, version: int) -> None:
    with listening([25]) as receive:
        (client,) = stage.open(version)
        client.close()
        assert eventually(lambda: State.FIN_WAIT in {event[3] for event in receive()})
        run("conntrack -F")
        assert eventually(lambda: receive()[-1][0] == DESTROY)
        events = receive()
    assert [*dict.fromkeys(event[3] for event in events)][:2] == [3, 4]
    assert {event[0] for event in events} == {UPDATE, DESTROY}
    assert len({event[1] for event in events}) == 1


def test_who_sent_the_first_fin_is_told(stage: Stage) -> None:
    with socket.create_server(("192.0.2.3", 26)) as listener, listening([26]) as receive:
        with inside(stage.host.peers):
            client = stage.sockets.enter_context(connect("10.99.0.8", "192.0.2.3", 26))
        server, _ = listener.accept()
        server.close()
        assert client is not None
        assert eventually(lambda: State.FIN_WAIT in {event[3] for event in receive()})
        (fin,) = [event for event in receive() if event[3] == State.FIN_WAIT]
    _, _, _, _, peer_flags, server_flags = fin
    assert (peer_flags & 4, server_flags & 4) == (0, 4)


def test_ports_are_switched(stage: Stage) -> None:
    events, decoder = Events([25], ROOM), Decoder()
    try:
        for ports, heard in [([80], {80}), ([25, 80], {25, 80}), ([25], {25})]:
            events.watch(ports)
            for port in (25, 80):
                stage.open(4, port)
            found = set[int]()
            while spans := events.receive():
                told = decoder.decode(events.buffer, spans)
                found |= {endpoints(event[1]).server_port for event in told}
            assert found == heard
    finally:
        events.close()


def test_more_than_a_batch_at_once(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conntrack, "BATCH", 4)
    with listening([25]) as receive:
        clients = stage.open(4, number=30)
        events = receive()
    proven = [who(event) for event in events if event[3] == State.ESTABLISHED]
    assert sorted(proven) == sorted(map(stage.key, clients))


def test_a_full_buffer_is_a_loss_and_then_it_goes_on(stage: Stage) -> None:
    events, decoder = Events([25], SMALL), Decoder()
    try:
        stage.open(4, number=100)
        with pytest.raises(LostEvents):
            drain(events)
        drain(events)  # what was kept before the loss
        (client,) = stage.open(4)
        told = decoder.decode(events.buffer, events.receive())
        assert {who(event) for event in told} == {stage.key(client)}
        assert events.receive() == []
    finally:
        events.close()


# Dumps


def entries(ports: list[int]) -> tuple[list[Event], list[tuple[int, int]]]:
    """What a dump of these ports shows, and the scopes of its parts."""
    dump, decoder = Dump(), Decoder()
    events = list[Event]()
    try:
        request = dump.start(ports)
        assert dump.start(ports) is None  # one at a time
        while request is not None:
            events += decoder.decode(request, [(0, len(request))])
            part = list[Event]()
            while not part or part[-1][0] != END:
                part += decoder.decode(dump.buffer, dump.receive())
            events += part
            request = dump.advance()
        assert not dump.running
        assert dump.receive() == []
        assert decoder.skipped == 0
    finally:
        dump.close()
    scopes = [(event[4], event[5]) for event in events if event[0] == BEGIN]
    assert [event[4] for event in events if event[0] == END] == [0] * len(scopes)
    return [event for event in events if event[0] == ENTRY], scopes


@pytest.mark.parametrize("ports", [[25], [80], [25, 80], [443]])
def test_a_dump_shows_exactly_the_sessions_to_its_ports(stage: Stage, ports: list[int]) -> None:
    clients = {
        stage.key(client): port
        for version in (4, 6)
        for port in (25, 80)
        for client in stage.open(version, port, number=3)
    }
    stage.say_udp(4)
    found, scopes = entries(ports)
    assert sorted(map(who, found)) == sorted(key for key, port in clients.items() if port in ports)
    assert scopes == [(port, version) for port in ports for version in (4, 6)]
    assert {event[3] for event in found} <= {State.ESTABLISHED}


def test_a_long_dump_comes_whole(stage: Stage) -> None:
    """More than one datagram of it."""
    clients = stage.open(4, number=400)
    found, _ = entries([25])
    assert sorted(map(who, found)) == sorted(map(stage.key, clients))


def test_a_dump_tells_how_long_a_session_was_silent(stage: Stage) -> None:
    run("sysctl -qw net.netfilter.nf_conntrack_tcp_timeout_established=777")
    stage.open(4)
    ((*_, measure),), _ = entries([25])
    assert 770 < measure.remaining <= 777


def test_bytes_are_counted_if_the_kernel_is_told_to(stage: Stage) -> None:
    stage.open(4)
    run("sysctl -qw net.netfilter.nf_conntrack_acct=1")
    (client,) = stage.open(6)
    client.sendall(b"x" * 1000)
    found, _ = entries([25])
    measures = {endpoints(event[1]).peer[:2].hex(): event[5] for event in found}
    assert measures["0a63"][1:] == (None,) * 4
    assert measures["2001"].octets > 1000
    assert measures["2001"].packets >= 2


# Rights and descriptors


@pytest.mark.usefixtures("namespace")
def test_nobody_may_not() -> None:
    with nobody():
        with pytest.raises(NotPermitted, match="CAP_NET_ADMIN"):
            Events([25], ROOM)
        with pytest.raises(NotPermitted, match="CAP_NET_ADMIN"):
            Listener([25], ROOM, lambda _: None)


@pytest.mark.usefixtures("namespace")
def test_no_descriptor_stays_open() -> None:
    before = descriptors()
    for _ in range(3):
        Events([25], ROOM).close()
        Dump().close()
        with nobody(), suppress(NotPermitted):
            Listener([25], ROOM, lambda _: None)
        Listener([25], ROOM, lambda _: None).close()
    assert descriptors() == before


# The listener


class Heard(list[Event]):
    """What a listener heard; `news` is set when there is more."""

    def __init__(self) -> None:
        super().__init__()
        self.news = asyncio.Event()

    def take(self, events: Sequence[Event]) -> None:
        self.extend(events)
        self.news.set()


async def listen(
    listener: Listener, heard: Heard, enough: Callable[[], bool], act: Callable[[], object]
) -> None:
    """Let a listener run until there is enough; `act` is done once it has begun."""
    try:
        listener.start()
        act()
        async with asyncio.timeout(10):
            while not enough():
                heard.news.clear()
                await heard.news.wait()
    finally:
        listener.close()


def ends(heard: list[Event]) -> int:
    return sum(event[0] == END for event in heard)


def test_a_listener_hears_and_dumps(stage: Stage) -> None:
    (before,) = stage.open(4)
    heard = Heard()
    kept = list[bytes]()
    listener = Listener([25, 80], ROOM, heard.take, kept.append)
    later = list[socket.socket]()
    asyncio.run(
        listen(
            listener,
            heard,
            lambda: ends(heard) == 4 and any(e[0] == UPDATE and e[3] == 3 for e in heard),
            lambda: later.extend(stage.open(6, 80)),
        )
    )
    assert {who(e) for e in heard if e[0] == ENTRY} >= {stage.key(before)}
    assert {who(e) for e in heard if e[0] == UPDATE} == {stage.key(later[0])}
    assert listener.received == sum(e[0] in {UPDATE, DESTROY} for e in heard)
    again = Decoder()
    assert [e for each in kept for e in again.decode(each, [(0, len(each))])] == heard


def test_a_loss_is_told_and_then_everything_is_dumped(stage: Stage) -> None:
    heard = Heard()
    listener = Listener([25, 80], SMALL, heard.take)
    clients = list[socket.socket]()
    scopes = [(port, version) for port in (25, 80) for version in (4, 6)]

    def enough() -> bool:
        return any(e[0] == LOST for e in heard) and ends(whole_dump(heard)) == len(scopes)

    asyncio.run(listen(listener, heard, enough, lambda: clients.extend(stage.open(4, number=200))))
    whole = whole_dump(heard)
    assert [(e[4], e[5]) for e in whole if e[0] == BEGIN] == scopes
    assert {who(e) for e in whole if e[0] == ENTRY} == set(map(stage.key, clients))


def whole_dump(heard: list[Event]) -> list[Event]:
    """What came from the first dump that was begun after the last loss."""
    lost = max(n for n, event in enumerate(heard) if event[0] == LOST)
    begun = (n for n, event in enumerate(heard) if n > lost and event[0] == BEGIN)
    return heard[next((n for n in begun if heard[n][4:] == (25, 4)), len(heard)) :]


def test_a_listener_that_is_closed_hears_no_more(stage: Stage) -> None:
    heard = list[Event]()

    async def run_it() -> None:
        listener = Listener([25], ROOM, heard.extend)
        listener.start()
        stage.open(4)
        await asyncio.sleep(0)
        listener.close()
        number = len(heard)
        stage.open(4)
        await asyncio.sleep(0.01)
        assert len(heard) == number

    asyncio.run(run_it())
