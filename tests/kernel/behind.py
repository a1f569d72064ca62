"""A mail server on the host, redirected, in a container, or behind a gateway, with its sessions."""

import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from select import poll

import pytest

from dpsd.core.events import Endpoints
from dpsd.kernel.ctnetlink import key_of
from dpsd.kernel.ending.challenges import Outcomes
from dpsd.kernel.ending.ender import Ender
from dpsd.kernel.ending.entries import Entries
from dpsd.kernel.ending.outcome import Fate, Outcome, Why
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


@contextmanager
def server_behind(mail_host: MailHost) -> Iterator[Behind]:
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
