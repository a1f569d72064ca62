"""Sessions end wherever the mail server is: on this host, redirected, in a container by DNAT, or
behind this gateway, masqueraded or not. That a session ended is shown by the server's own socket.
"""

import errno
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from select import POLLIN, poll
from typing import Any

import pytest

from dpsd.core.events import Endpoints
from dpsd.errors import KernelError, NotPermitted
from dpsd.kernel import sockdiag
from dpsd.kernel.ctnetlink import key_of
from dpsd.kernel.ending import rule
from dpsd.kernel.ending.challenges import Outcomes
from dpsd.kernel.ending.ender import Ender
from dpsd.kernel.ending.entries import Entries
from dpsd.kernel.ending.outcome import ENDED, Fate, Outcome, Why
from dpsd.kernel.nftset import Watch
from tests.kernel.netns import MailHost, connect, established, fresh, inside, run

HOST = {4: "192.0.2.1", 6: "2001:db8:1::1"}
SERVER = {4: "198.51.100.2", 6: "2001:db8:2::2"}
PEER = {4: "10.99.0.1", 6: "2001:db8:99:1::1"}

BRIDGE = Path("/proc/sys/net/bridge")
TCP_CLOSE = 7  # include/net/tcp_states.h

Session = tuple[socket.socket, socket.socket, bytes]
"""The peer's end, the server's end, and the key that the core knows it by."""


def packed(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


class Behind:
    """A mail server on port 25 of a namespace of its own, reached through this one."""

    def __init__(self, host: MailHost, servers: int, listener: socket.socket) -> None:
        self.host = host
        self.servers = servers
        self.listener = listener
        self.held: list[Session] = []

    def session(
        self,
        peer: str,
        to: str,
        port: int = 25,
        listener: socket.socket | None = None,
        from_port: int = 0,
    ) -> Session:
        """A session that stands at both ends."""
        with inside(self.host.peers):
            client = connect(peer, to, port, from_port)
        assert established(client, 5)
        accepted, _ = (listener or self.listener).accept()
        accepted.setblocking(False)
        ends = Endpoints(packed(peer), packed(to), client.getsockname()[1], port)
        self.held.append((client, accepted, key_of(ends)))
        return self.held[-1]

    def close(self) -> None:
        for client, accepted, _ in self.held:
            client.close()
            accepted.close()


@pytest.fixture
def behind(mail_host: MailHost) -> Iterator[Behind]:
    """A server behind this namespace, which forwards and keeps track of sessions."""
    with fresh() as servers, ExitStack() as stack:
        run(
            "ip link add servers address 02:00:00:00:00:03 type veth"
            f" peer name gateway address 02:00:00:00:00:04 netns /proc/{os.getpid()}/fd/{servers}"
        )
        for setting in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
            Path("/proc/sys/net", setting).write_text("1")
        run("ip address add 198.51.100.1/24 dev servers")
        run("ip address add 2001:db8:2::1/64 dev servers nodad")
        run("ip link set servers up")
        with inside(servers):
            run("ip address add 198.51.100.2/24 dev gateway")
            run("ip address add 2001:db8:2::2/64 dev gateway nodad")
            run("ip link set gateway up")
            run("ip route add default via 198.51.100.1")
            run("ip route add default via 2001:db8:2::1")
            for address in ("198.51.100.1", "2001:db8:2::1"):
                run(
                    f"ip neighbour add {address} lladdr 02:00:00:00:00:03 dev gateway nud permanent"
                )
            listener = stack.enter_context(
                socket.create_server(
                    ("::", 25), family=socket.AF_INET6, dualstack_ipv6=True, backlog=4096
                )
            )
        for address in SERVER.values():
            run(f"ip neighbour add {address} lladdr 02:00:00:00:00:04 dev servers nud permanent")
        with inside(mail_host.peers):
            run("ip route add 198.51.100.0/24 via 192.0.2.1")
            run("ip route add 2001:db8:2::/64 via 2001:db8:1::1")
        run("nft add table inet on")
        run("nft add chain inet on f { type filter hook forward priority 0 ; }")
        run("nft add rule inet on f ct state invalid counter")
        made = Behind(mail_host, servers, listener)
        yield made
        made.close()


@pytest.fixture
def ender() -> Iterator[Ender]:
    made = Ender()
    yield made
    made.close()


def end(ender: Ender, sessions: Sequence[Session]) -> list[Outcome]:
    """End these, to the last of them, as the daemon does."""
    outcomes: Outcomes = ender.begin([key for _, _, key in sessions], time.monotonic())
    while (due := ender.due) is not None:
        time.sleep(max(0.0, due - time.monotonic()))
        outcomes |= ender.step(time.monotonic())
    return [outcomes[key] for _, _, key in sessions]


def fates(outcomes: Sequence[Outcome]) -> list[Fate]:
    return [outcome.fate for outcome in outcomes]


def over(end_: socket.socket, seconds: float = 5) -> bool:
    """Whether the kernel tells this end in time that its session was reset or aborted."""
    waiting = poll()
    waiting.register(end_, 0)  # for POLLERR and POLLHUP only
    if not waiting.poll(seconds * 1000):
        return False
    state = end_.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
    return state == TCP_CLOSE


def alive(session: Session) -> bool:
    """Whether a byte goes through, both ways."""
    client, accepted, _ = session
    accepted.send(b"a")
    client.settimeout(5)
    there = client.recv(1) == b"a"
    client.send(b"b")
    accepted.settimeout(5)
    return there and accepted.recv(1) == b"b"


def forgotten(session: Session) -> bool:
    return not Entries().look([session[2]])


def on_host(behind: Behind, version: int) -> Callable[[], Session]:
    listener = behind.host.listeners[25]
    return lambda: behind.session(PEER[version], HOST[version], listener=listener)


def redirected(behind: Behind, version: int) -> Callable[[], Session]:
    run("nft add chain inet on n { type nat hook prerouting priority -100 ; }")
    run("nft add rule inet on n tcp dport 25 redirect to :80")
    listener = behind.host.listeners[80]
    return lambda: behind.session(PEER[version], HOST[version], listener=listener)


def translated(behind: Behind, version: int) -> Callable[[], Session]:
    """To a container: port 2525 of the host is the server's port 25."""
    run("nft add chain inet on n { type nat hook prerouting priority -100 ; }")
    run(f"nft add rule inet on n ip daddr {HOST[4]} tcp dport 2525 dnat ip to {SERVER[4]}:25")
    run(f"nft add rule inet on n ip6 daddr {HOST[6]} tcp dport 2525 dnat ip6 to [{SERVER[6]}]:25")
    return lambda: behind.session(PEER[version], HOST[version], 2525)


def routed(behind: Behind, version: int) -> Callable[[], Session]:
    return lambda: behind.session(PEER[version], SERVER[version])


def masqueraded(behind: Behind, version: int) -> Callable[[], Session]:
    run("nft add chain inet on p { type nat hook postrouting priority 100 ; }")
    run("nft add rule inet on p oifname servers masquerade random")
    return routed(behind, version)


def both(behind: Behind, version: int) -> Callable[[], Session]:
    """A container whose host masquerades its peers: what docker does without a user's choice."""
    run("nft add chain inet on p { type nat hook postrouting priority 100 ; }")
    run("nft add rule inet on p oifname servers masquerade random")
    return translated(behind, version)


def bridged(behind: Behind, version: int) -> Callable[[], Session]:
    """A container on a bridge whose frames pass the firewall, as docker's do."""
    run("ip link add bridge type bridge")
    if not BRIDGE.exists():
        pytest.skip("this kernel has no br_netfilter, or hasn't loaded it")
    for name in ("iptables", "ip6tables"):
        (BRIDGE / f"bridge-nf-call-{name}").write_text("1")
    run("ip address flush dev servers")
    run("ip link set servers master bridge")
    run("ip link set bridge up")
    run("ip address add 198.51.100.1/24 dev bridge")
    run("ip address add 2001:db8:2::1/64 dev bridge nodad")
    with inside(behind.servers):
        for address in ("198.51.100.1", "2001:db8:2::1"):
            run(f"ip neighbour del {address} dev gateway")
    return translated(behind, version)


PLACES = [on_host, redirected, translated, bridged, routed, masqueraded, both]
ELSEWHERE = [translated, bridged, routed, masqueraded, both]
Opens = Callable[[Behind, int], Callable[[], Session]]


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("place", PLACES)
def test_a_session_ends_where_it_is(
    behind: Behind, ender: Ender, place: Opens, version: int
) -> None:
    opened = place(behind, version)
    mine, other = opened(), opened()  # another session of the same peer with the same server
    assert alive(mine)
    assert fates(end(ender, [mine])) == [Fate.ENDED]
    assert over(mine[1], 0)
    assert over(mine[0])  # and so the peer knows, and can try again
    assert forgotten(mine)
    assert alive(other)
    assert not forgotten(other)
    assert fates(end(ender, [mine])) == [Fate.GONE]
    assert alive(opened())


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("place", PLACES)
def test_very_many_idle_ones_at_once(
    behind: Behind, ender: Ender, place: Opens, version: int
) -> None:
    opened = place(behind, version)
    end(ender, [opened()])  # libnftables aborts when its socket's number is above 1024
    sessions = [opened() for _ in range(500)]
    other = opened()
    assert fates(end(ender, sessions)) == [Fate.ENDED] * 500
    assert all(over(accepted, 0) for _, accepted, _ in sessions)
    assert alive(other)


@pytest.mark.parametrize("place", ELSEWHERE)
def test_nothing_is_left_in_the_kernel(behind: Behind, ender: Ender, place: Opens) -> None:
    opened = place(behind, 4)
    end(ender, [opened(), opened()])
    listed = run("nft list table inet dpsd_ending")
    assert "elements" not in listed
    ender.close()
    assert "dpsd_ending" not in run("nft list tables")


@pytest.mark.parametrize("half", ["peer", "server"])
@pytest.mark.parametrize("place", [on_host, translated, routed])
def test_half_closed_sessions(behind: Behind, ender: Ender, place: Opens, half: str) -> None:
    session = place(behind, 4)()
    client, accepted, _ = session
    (client if half == "peer" else accepted).shutdown(socket.SHUT_WR)
    assert fates(end(ender, [session])) == [Fate.ENDED]
    assert over(session[1], 0)


def test_a_session_that_only_conntrack_still_has(behind: Behind, ender: Ender) -> None:
    """The server has let go of it, and no packet told."""
    session, other = behind.session(PEER[4], SERVER[4]), behind.session(PEER[4], SERVER[4])
    in_servers(behind, "add table inet silent", *SILENT)
    session[1].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    session[1].close()  # by a reset, which is dropped
    in_servers(behind, "delete table inet silent")
    assert fates(end(ender, [session])) == [Fate.GONE]
    assert forgotten(session)
    assert alive(other)


def test_nobody_listens_there_any_more(behind: Behind, ender: Ender) -> None:
    session = behind.session(PEER[4], SERVER[4])
    behind.listener.close()
    assert fates(end(ender, [session])) == [Fate.ENDED]
    assert over(session[1], 0)


SILENT = (
    "add chain inet silent output { type filter hook output priority 0; }",
    "add rule inet silent output tcp flags & (rst | fin) != 0 drop",
)


def in_servers(behind: Behind, *commands: str) -> None:
    with inside(behind.servers):
        for command in commands:
            run(f"nft {command}")


def firewall(behind: Behind, *rules: str) -> None:
    """At the server's host, before its sockets."""
    in_servers(
        behind,
        "add table inet wall",
        "add chain inet wall input { type filter hook input priority 0; }",
        *(f"add rule inet wall input {rule}" for rule in rules),
    )


def because(outcomes: Sequence[Outcome]) -> set[Why | None]:
    return {outcome.why for outcome in outcomes}


def test_a_host_that_is_down(behind: Behind, ender: Ender) -> None:
    sessions = [behind.session(PEER[version], SERVER[version]) for version in (4, 6)]
    with inside(behind.servers):
        run("ip link set gateway down")
    outcomes = end(ender, sessions)
    assert fates(outcomes) == [Fate.NOT_ENDED] * 2
    assert because(outcomes) == {Why.NO_ANSWER}
    assert not any(map(forgotten, sessions))


def test_a_server_without_a_route(behind: Behind, ender: Ender) -> None:
    session, near = behind.session(PEER[4], SERVER[4]), on_host(behind, 4)()
    run("ip route add unreachable 198.51.100.2/32")
    outcomes = end(ender, [session, near])
    assert fates(outcomes) == [Fate.NOT_ENDED, Fate.ENDED]
    assert outcomes[0].why is Why.NO_ROUTE
    assert not forgotten(session)


def test_a_firewall_that_drops_the_reset(behind: Behind, ender: Ender) -> None:
    session = behind.session(PEER[4], SERVER[4])
    firewall(behind, "tcp flags & rst == rst drop")
    outcomes = end(ender, [session])
    assert because(outcomes) == {Why.STAYS}
    assert not forgotten(session)
    assert alive(session)


def test_a_firewall_that_drops_the_question(behind: Behind, ender: Ender) -> None:
    session = behind.session(PEER[4], SERVER[4])
    firewall(behind, "tcp flags & syn == syn drop")
    assert because(end(ender, [session])) == {Why.NO_ANSWER}
    assert alive(session)


def test_a_stateful_firewall(behind: Behind, ender: Ender) -> None:
    firewall(
        behind, "ct state invalid drop", "ct state established accept",
        "tcp dport 25 ct state new accept", "drop",
    )  # fmt: skip
    sessions = [behind.session(PEER[4], SERVER[4]) for _ in range(20)]
    assert fates(end(ender, sessions)) == [Fate.ENDED] * 20
    assert all(over(accepted, 0) for _, accepted, _ in sessions)


def test_packets_get_lost(behind: Behind, ender: Ender) -> None:
    sessions = [behind.session(PEER[4], SERVER[4]) for _ in range(50)]
    firewall(behind, "tcp dport 25 numgen inc mod 7 == 1 drop")
    outcomes = end(ender, sessions)
    assert fates(outcomes) == [Fate.ENDED] * 50
    assert all(over(accepted, 0) for _, accepted, _ in sessions)


def test_a_server_whose_queue_is_full(behind: Behind, ender: Ender) -> None:
    """It answers no SYN for a new session; but it did while it had the old one."""
    with inside(behind.servers):
        small = socket.create_server((SERVER[4], 587), backlog=0)
    with small, ExitStack() as waiting:
        session = behind.session(PEER[4], SERVER[4], 587, small)
        with inside(behind.host.peers):
            for _ in range(4):
                waiting.enter_context(connect(PEER[4], SERVER[4], 587))
        assert fates(end(ender, [session])) == [Fate.ENDED]
        assert over(session[1], 0)
        assert forgotten(session)


def test_in_another_zone(behind: Behind, ender: Ender) -> None:
    run("nft add chain inet on z { type filter hook prerouting priority -300 ; }")
    run("nft add rule inet on z iifname { mail, servers } ct zone set 7")
    sessions = [behind.session(PEER[4], SERVER[4]) for _ in range(3)]
    place = Entries().look([sessions[0][2]])[sessions[0][2]]
    assert place.zone == 7
    assert fates(end(ender, sessions)) == [Fate.ENDED] * 3
    assert all(over(accepted, 0) for _, accepted, _ in sessions)
    assert all(map(forgotten, sessions))


@pytest.mark.parametrize("port", [25, 587])
def test_a_port_that_this_host_listens_on(behind: Behind, ender: Ender, port: int) -> None:
    """A peer isn't safe behind a source port below 1024, nor behind one that is open here."""
    session = behind.session("192.0.2.2", SERVER[4], from_port=port)
    assert end(ender, [session]) == [ENDED]
    assert over(session[1], 0)


def test_a_masqueraded_port_that_a_socket_here_has(behind: Behind, ender: Ender) -> None:
    session = masqueraded(behind, 4)()
    place = Entries().look([session[2]])[session[2]]
    assert (place.peer, place.server) == (packed("198.51.100.1"), packed(SERVER[4]))
    with socket.create_server(("198.51.100.1", place.peer_port)) as here:
        assert end(ender, [session]) == [ENDED]
        with socket.create_connection(here.getsockname(), 5):  # it listens on
            here.accept()[0].close()


def test_somebody_takes_the_table_away(behind: Behind, ender: Ender) -> None:
    for _ in range(2):
        session = behind.session(PEER[4], SERVER[4])
        assert fates(end(ender, [session])) == [Fate.ENDED]
        run("nft flush ruleset")
        run("nft add table inet on")
        run("nft add chain inet on f { type filter hook forward priority 0 ; }")
        run("nft add rule inet on f ct state invalid counter")


def test_one_that_the_kernel_refuses_costs_no_other(
    behind: Behind, ender: Ender, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions = [on_host(behind, 4)() for _ in range(3)]
    ask = sockdiag._ask

    def odd(diag: socket.socket, requests: Sequence[bytes]) -> list[Any]:
        answers = list(ask(diag, requests))
        if answers == [0, 0, 0]:  # to the orders
            answers[1] = errno.EINVAL
        return answers

    monkeypatch.setattr(sockdiag, "_ask", odd)
    outcomes = end(ender, sessions)
    assert fates(outcomes) == [Fate.ENDED, Fate.NOT_ENDED, Fate.ENDED]
    assert outcomes[1] == Outcome(Fate.NOT_ENDED, Why.REFUSED, "Invalid argument")
    assert [forgotten(session) for session in sessions] == [True, False, True]


@pytest.mark.parametrize("number", [0, 1], ids=["ask", "order"])
def test_the_kernel_answers_no_more(
    behind: Behind, ender: Ender, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """In the second batch of 64: what was ended in the first one is told as ended."""
    sessions = [on_host(behind, 4)() for _ in range(70)]
    ask, asked = sockdiag._ask, list[int]()

    def failing(diag: socket.socket, requests: Sequence[bytes]) -> list[Any]:
        asked.append(len(requests))
        if len(asked) > 2 + number:
            raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))
        return list(ask(diag, requests))

    monkeypatch.setattr(sockdiag, "_ask", failing)
    assert fates(end(ender, sessions)) == [Fate.ENDED] * 64 + [Fate.NOT_ENDED] * 6


def test_routes_that_cannot_be_asked(
    behind: Behind, ender: Ender, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(_: bytes) -> bool:
        raise KernelError("the routes can't be asked")

    sessions = [behind.session(PEER[4], SERVER[4]), on_host(behind, 4)()]
    monkeypatch.setattr("dpsd.kernel.ending.ender.is_local", failing)
    outcomes = end(ender, sessions)
    assert outcomes == [Outcome(Fate.NOT_ENDED, Why.REFUSED, "the routes can't be asked"), ENDED]


def test_nobody_may_not(behind: Behind) -> None:
    sessions = [behind.session(PEER[4], SERVER[4]), on_host(behind, 4)()]
    os.seteuid(65534)
    nobodys = Ender()
    try:
        outcomes = end(nobodys, sessions)
        with pytest.raises(NotPermitted):
            rule.probe()
    finally:
        os.seteuid(0)
        nobodys.close()
    assert because(outcomes) == {Why.NOT_PERMITTED}
    assert all(map(alive, sessions))


def test_the_probe_changes_nothing(behind: Behind) -> None:
    session = behind.session(PEER[4], SERVER[4])
    before = run("nft list ruleset")
    rule.probe()
    assert rule.may_use_low_ports()
    assert run("nft list ruleset") == before
    assert alive(session)


def test_the_watch_of_the_table_hears_nothing_of_it(behind: Behind, ender: Ender) -> None:
    """Else its buffer would overflow, which counts as if somebody had changed the table."""
    watch = Watch()
    try:
        end(ender, [behind.session(PEER[4], SERVER[4])])  # which loads the table
        assert not watch.foreign()
        end(ender, [behind.session(PEER[4], SERVER[4])])
        heard = poll()
        heard.register(watch.fileno(), POLLIN)
        assert not heard.poll(0)
        run("nft add table inet another")
        assert heard.poll(5000)
    finally:
        watch.close()
