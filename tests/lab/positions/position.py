"""Positions of dpsd and the mail server: the network, what each is told, what is in front."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

from tests.lab.dpsd import Section
from tests.lab.net import MAIL4, MAIL6, Net
from tests.lab.positions import networks
from tests.lab.positions.dockerproxy import DockerProxy
from tests.lab.positions.haproxy import HAProxy
from tests.lab.postfix import SMTPD

SERVERS: Mapping[str, Section] = {"protect": {"addresses": [str(MAIL4), str(MAIL6)]}}
"""What dpsd is told where peers come to another host's address."""
ONE_CLIENT = {"smtpd_client_connection_count_limit": "0"}
"""Where all peers have one address to Postfix, its limit of 50 sessions each is a limit for all."""
_DOOR = 10025
# Whoever is before a server that expects the PROXY protocol needs another way in, without.
_PROXIED = (
    "smtp inet n - n - - smtpd -o smtpd_upstream_proxy_protocol=haproxy",
    f"{_DOOR} inet n - n - - smtpd",
)


class Front(Protocol):
    """What peers talk to instead of the mail server."""

    @property
    def pids(self) -> list[int]:
        """Its process ids, once started."""


FrontOf = Callable[[Net], AbstractContextManager[Front]]


@dataclass(frozen=True)
class Position:
    """One place of dpsd on a network."""

    name: str
    title: str
    network: Callable[[str], Net] = Net
    """Made with the prefix of its namespaces' names."""
    dpsd: Mapping[str, Section] = field(default_factory=dict)
    """What dpsd has to be told of it."""
    postfix: Mapping[str, str] = field(default_factory=dict)
    """What Postfix has to be told of it: main.cf."""
    port25: tuple[str, ...] = (SMTPD,)
    door: tuple[str, int] = (str(MAIL4), 25)
    """Where Postfix greets without anything in between, in its own namespace."""
    front: FrontOf | None = None
    paper: str = ""
    """The row of the paper's Table 2 that it belongs to."""
    like: str = ""
    """A position from which to dpsd this one is no different."""
    on_path: bool = True
    """Whether dpsd sees each peer's sessions and can refuse its packets; else it can only tell."""


def _relay(net: Net) -> DockerProxy:
    return DockerProxy(net.public, networks.CONTAINER4)


def _haproxy(net: Net) -> HAProxy:
    return HAProxy(net.public, networks.CONTAINER4, proxied=False)


def _proxied(net: Net) -> HAProxy:
    return HAProxy(net.public, networks.CONTAINER4, proxied=True)


_INSIDE = (networks.CONTAINER4, 25)

_DMZ, _FRONT = "host or DMZ", "front of the router"

HOST = Position("host", "the server's own host", paper=_DMZ)
_ALL = (
    HOST,
    Position(
        "container",
        "host of a container, ports published by DNAT",
        networks.Container,
        door=_INSIDE,
        paper=_DMZ,
    ),
    Position(
        "relay",
        "host of a container, ports relayed by docker-proxy",
        networks.Inside,
        postfix=ONE_CLIENT,
        door=_INSIDE,
        front=_relay,
        paper=_DMZ,
    ),
    Position(
        "haproxy",
        "host of HAProxy, server elsewhere",
        networks.Inside,
        postfix=ONE_CLIENT,
        door=_INSIDE,
        front=_haproxy,
        paper=_DMZ,
    ),
    Position(
        "haproxy-proxy",
        "host of HAProxy, with the PROXY protocol",
        networks.Inside,
        port25=_PROXIED,
        door=(networks.CONTAINER4, _DOOR),
        front=_proxied,
        paper=_DMZ,
        like="haproxy",
    ),
    Position(
        "bridge",
        "bridge before the server (br_netfilter)",
        networks.Bridge,
        SERVERS,
        paper="internal network",
    ),
    Position(
        "gateway",
        "gateway, the server right behind it",
        networks.Gateway,
        SERVERS,
        paper="behind the first firewall",
    ),
    Position(
        "firewall",
        "gateway, a stateful firewall behind it",
        networks.Walled,
        SERVERS,
        paper="back of the router",
    ),
    Position(
        "router",
        "gateway, a masquerading router behind it",
        networks.Router,
        SERVERS,
        postfix=ONE_CLIENT,
        door=_INSIDE,
        paper=_FRONT,
    ),
    Position(
        "watch",
        "observation: gets a copy of each frame",
        networks.Mirror,
        {**SERVERS, "enforce": {"mode": "observe"}},
        paper="internal network",
        on_path=False,
    ),
    Position(
        "uplink",
        "observation, and an interface to send by",
        networks.Uplink,
        # Whoever is listed would still get through, and no longer be seen.
        {**SERVERS, "policy": {"block_at": 1_000_000}},
        paper="internal network",
        on_path=False,
    ),
    Position(
        "masqueraded",
        "the server's host, behind a masquerading router",
        networks.BehindRouter,
        postfix=ONE_CLIENT,
        door=_INSIDE,
        paper=_DMZ,
        on_path=False,
    ),
    Position(
        "behind-haproxy",
        "the server's host, behind HAProxy (PROXY protocol)",
        networks.BehindProxy,
        port25=_PROXIED,
        door=(networks.CONTAINER4, _DOOR),
        front=_proxied,
        paper=_DMZ,
        on_path=False,
    ),
)
POSITIONS = {position.name: position for position in _ALL}
