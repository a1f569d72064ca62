"""The daemon where the mail server isn't on its own host, or on another port of it: the server
itself has to lose its sessions, and what it doesn't lose isn't told as ended.
"""

import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.daemon.conftest import CALM, Make
from tests.daemon.live import GREETING, HOST, MailHost, answered, eventually, said
from tests.lab.dpsd import Dpsd
from tests.lab.net import GATEWAY4, GATEWAY6, MAIL4, MAIL6, Namespace, Net

SERVER = {4: "203.0.113.2", 6: "2001:db8:113::2"}
BLOCKED = {4: "10.99.1.1", 6: "2001:db8:a001:1::1"}
SLOTS = 60
OTHER = {4: "10.99.1.2", 6: "2001:db8:a001:2::1"}


@pytest.fixture(scope="module")
def network() -> Iterator[tuple[Net, Namespace]]:
    """World, the mail host in between as a gateway, and a server's namespace behind it."""
    with Net("p-") as net, ExitStack() as stack:
        behind = Namespace("p-server")
        subprocess.run(["ip", "netns", "add", behind.name], check=True)
        stack.callback(subprocess.run, ["ip", "netns", "del", behind.name], check=True)
        behind.sysctl(ipv6__conf__default__accept_dad=0)
        behind.run("ip", "link", "set", "lo", "up")
        net.mail.sysctl(ipv4__ip_forward=1, ipv6__conf__all__forwarding=1)
        net.mail.run(
            "ip", "-batch", "-",
            stdin=f"""
            link add server type veth peer gateway netns {behind.name}
            link set server up
            addr add 203.0.113.1/24 dev server
            addr add 2001:db8:113::1/64 dev server nodad
            route replace default via {GATEWAY4}
            route replace default via {GATEWAY6}
        """,
        )  # fmt: skip
        behind.run(
            "ip", "-batch", "-",
            stdin="""
            link set gateway up
            addr add 203.0.113.2/24 dev gateway
            addr add 2001:db8:113::2/64 dev gateway nodad
            route add default via 203.0.113.1
            route add default via 2001:db8:113::1
        """,
        )  # fmt: skip
        net.world.run("ip", "route", "add", "203.0.113.0/24", "via", str(MAIL4))
        net.world.run("ip", "route", "add", "2001:db8:113::/64", "via", str(MAIL6))
        yield net, behind


@pytest.fixture
def daemon(make: Make, network: tuple[Net, Namespace]) -> Iterator[Dpsd]:
    """Not started yet, in the mail host's place of this network."""
    made = make()
    made.space = network[0].mail
    yield made
    if made.running:
        made.stop()
    made.space.run("nft", "flush", "ruleset")
    made.space.run("conntrack", "-F")


def nat(space: Namespace, hook: str, *rules: str) -> None:
    priority = {"prerouting": -100, "postrouting": 100}[hook]
    chain = f"chain {hook} {{ type nat hook {hook} priority {priority}; {'; '.join(rules)}; }}"
    space.run("nft", "-f", "-", stdin=f"table inet admin {{\n{chain}\n}}\n")


CONTAINER = (
    f"ip daddr {MAIL4} tcp dport 25 dnat ip to {SERVER[4]}",
    f"ip6 daddr {MAIL6} tcp dport 25 dnat ip6 to {SERVER[6]}",
)


@pytest.fixture(
    params=["redirected", "container", "masqueraded-container", "gateway", "masquerading-gateway"]
)
def placed(
    request: pytest.FixtureRequest, network: tuple[Net, Namespace], daemon: Dpsd
) -> Iterator[MailHost]:
    """The server at one of the places where it may be; the daemon is told of a gateway only."""
    (net, behind), place = network, request.param
    address, space = (SERVER, behind) if "gateway" in place else (HOST, behind)
    if "container" in place:
        nat(net.mail, "prerouting", *CONTAINER)
    if "masquerad" in place:
        nat(net.mail, "postrouting", "oifname server masquerade")
    addresses = [*SERVER.values()] if "gateway" in place else []
    daemon.configure(policy=CALM, protect={"addresses": addresses, "slots": SLOTS})
    if place == "redirected":
        nat(net.mail, "prerouting", "tcp dport 25 redirect to :22")
        space = net.mail
    with MailHost(net, space, address) as host:
        yield host


@pytest.fixture
def behind_gateway(network: tuple[Net, Namespace], daemon: Dpsd) -> Iterator[MailHost]:
    net, behind = network
    daemon.configure(policy=CALM, protect={"addresses": [*SERVER.values()]})
    with MailHost(net, behind, SERVER) as host:
        yield host


def opened(placed: MailHost, peer: str) -> socket.socket:
    """A session that the server has greeted; under a masqueraded address, it may be."""
    client = placed.hold(placed.start(peer))
    assert said(client) == GREETING
    return client


def test_a_blocked_peers_sessions_end_at_the_server(placed: MailHost, daemon: Dpsd) -> None:
    daemon.start()
    server = placed.server
    others = [opened(placed, OTHER[version]) for version in (4, 6)]
    assert eventually(lambda: len(server.open) == 2)
    for version in (4, 6):
        for _ in range(10):
            opened(placed, BLOCKED[version])
    assert eventually(lambda: len(server.open) == 22)
    assert eventually(lambda: daemon.json("status")["sessions"]["open"] == 22)
    for peer in BLOCKED.values():
        daemon.cli("block", peer, "--for", "1h", check=True)
    assert eventually(lambda: len(server.open) == 2)
    assert all(map(answered, others))
    assert eventually(lambda: daemon.json("status")["ended"] == 20)
    status = daemon.json("status")
    assert (status["not_ended"], status["not_ended_why"]) == (0, {})
    assert eventually(lambda: daemon.json("status")["sessions"]["open"] == 2)
    assert "ended 10 sessions" in daemon.log.read_text(encoding="utf-8")
    daemon.stop()
    assert "dpsd_ending" not in daemon.space.run("nft", "list", "tables").stdout


@pytest.mark.parametrize("placed", ["redirected", "container", "gateway"], indirect=True)
def test_room_is_made_at_the_server(placed: MailHost, daemon: Dpsd) -> None:
    """While useless sessions fill the slots: as where the server is on this host."""
    daemon.start()
    for number in range(3 * SLOTS):
        opened(placed, f"10.99.2.{number % 12 + 1}")
    assert eventually(lambda: len(placed.server.open) <= SLOTS, 30)
    assert eventually(lambda: daemon.json("status")["sessions"]["open"] <= SLOTS)
    assert daemon.json("status")["not_ended"] == 0


def test_what_is_not_ended_is_told_and_goes_on_counting(
    behind_gateway: MailHost, daemon: Dpsd
) -> None:
    daemon.start()
    for _ in range(5):
        opened(behind_gateway, BLOCKED[4])
    assert eventually(lambda: daemon.json("status")["sessions"]["open"] == 5)
    rule = "tcp sport 25 tcp flags & (fin | syn | rst) == 0 drop"
    chain = f"chain c {{ type filter hook prerouting priority -400; {rule}; }}"
    daemon.space.run("nft", "-f", "-", stdin=f"table inet wall {{\n{chain}\n}}\n")
    daemon.cli("block", BLOCKED[4], "--for", "1h", check=True)
    assert eventually(lambda: daemon.json("status")["not_ended"] == 5)
    status = daemon.json("status")
    assert (status["ended"], status["not_ended_why"]) == (0, {"no_answer": 5})
    assert status["sessions"]["open"] == 5
    assert status["pressure"] > 0
    assert len(behind_gateway.server.open) == 5
    words = "5 sessions not ended: the server's host doesn't answer"
    assert words in daemon.log.read_text(encoding="utf-8")
    told = daemon.cli("status", check=True).stdout
    assert "not ended 5 times: the server's host doesn't answer" in told
