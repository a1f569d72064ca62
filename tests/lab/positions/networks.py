"""Networks whose mail server isn't on dpsd's host, or where dpsd isn't on the server's path.

Clients reach the server by MAIL4 and MAIL6 in all of them. `box` is where dpsd is, `server` where
the mail server listens, and `public` who has the public addresses. Interfaces have the name of
what is at the other end of the wire.
"""

from tests.lab.net import (
    GATEWAY4,
    GATEWAY6,
    MAIL4,
    MAIL6,
    Namespace,
    Net,
    address,
    default,
    join,
    route,
)

MAIL_NETWORKS = ("198.51.100.0/24", "2001:db8:25::/64")
INSIDE = ("172.18.0.1", "fd00:18::1")
CONTAINER4, CONTAINER6 = "172.18.0.2", "fd00:18::2"
"""The server on a private network, and its gateway there."""
_OUTSIDE = {"world": ("192.0.2.1", "2001:db8:2::1"), "mail": ("192.0.2.2", "2001:db8:2::2")}
_BETWEEN = {"mail": ("203.0.113.1", "2001:db8:113::1"), "wall": ("203.0.113.2", "2001:db8:113::2")}
_LENGTHS = (24, 64)

# As docker does for published ports: who comes to an address of the host goes to the container.
_PUBLISHED = f"""
table inet published {{
  chain prerouting {{
    type nat hook prerouting priority dstnat;
    fib daddr type local meta nfproto ipv4 tcp dport {{ 25, 465, 587 }} dnat ip to {CONTAINER4}
    fib daddr type local meta nfproto ipv6 tcp dport {{ 25, 465, 587 }} dnat ip6 to {CONTAINER6}
  }}
"""
_PUBLISH = _PUBLISHED + "}\n"
_MASQUERADE = (
    _PUBLISHED
    + """
  chain postrouting {
    type nat hook postrouting priority srcnat;
    oifname "server" masquerade
  }
}
"""
)

# A firewall as many are written: new sessions to the mail ports only, and nothing invalid.
_WALL = """
table inet wall {
  chain forward {
    type filter hook forward priority filter; policy drop;
    ct state invalid drop
    ct state { established, related } accept
    iifname "mail" tcp dport { 25, 465, 587 } tcp flags & (fin | syn | rst | ack) == syn \
      ct state new accept
    iifname "public" ct state new accept
    meta l4proto { icmp, icmpv6 } accept
  }
}
"""

# A switch's mirror port: all that comes from either side goes to the watcher as well.
_MIRROR = """
table netdev mirror {
  chain in { type filter hook ingress device "world" priority 0; dup to "watcher"; }
  chain out { type filter hook ingress device "server" priority 0; dup to "watcher"; }
}
"""
# The frames are addressed to others. Only what the IP stack takes for its own does conntrack see.
_TAKE = """
table netdev taken {
  chain in {
    type filter hook ingress device "switch" priority 0;
    meta l4proto tcp meta pkttype set host
  }
}
"""


def _prefixed(addresses: tuple[str, str]) -> list[str]:
    return [f"{each}/{length}" for each, length in zip(addresses, _LENGTHS, strict=True)]


def _forward(space: Namespace) -> None:
    space.sysctl(ipv4__ip_forward=1, ipv6__conf__all__forwarding=1)


class Inside(Net):
    """The server on a private network of its own behind the mail host, as a container is."""

    def __init__(self, prefix: str = "") -> None:
        super().__init__(prefix)
        self.server = Namespace(f"{prefix}server")

    @property
    def spaces(self) -> tuple[Namespace, ...]:
        """All of its namespaces."""
        return (*super().spaces, self.server)

    def build(self) -> None:
        """World, mail host, and the server on a bridge of the mail host, as docker's are."""
        super().build()
        _forward(self.mail)
        self.server.sysctl(core__somaxconn=4096)
        self.mail.run("ip", "link", "add", "bridge", "type", "bridge")
        join(self.mail, "server", self.server, "host")
        self.mail.run("ip", "link", "set", "server", "master", "bridge")
        self.mail.run("ip", "link", "set", "bridge", "up")
        address(self.mail, "bridge", *_prefixed(INSIDE))
        address(self.server, "host", *_prefixed((CONTAINER4, CONTAINER6)))
        default(self.server, *INSIDE)


class Container(Inside):
    """A container whose ports are published by DNAT."""

    def build(self) -> None:
        """The same, with DNAT."""
        super().build()
        self.mail.run("nft", "-f", "-", stdin=_PUBLISH)


class Gateway(Net):
    """The server behind a router, which is `mail` here."""

    def __init__(self, prefix: str = "") -> None:
        super().__init__(prefix)
        self.server = self.public = Namespace(f"{prefix}server")

    @property
    def spaces(self) -> tuple[Namespace, ...]:
        """All of its namespaces."""
        return (*super().spaces, self.server)

    def build(self) -> None:
        """World, the router, and the server."""
        self._outside()
        self._servers(self.mail)

    def _outside(self) -> None:
        _forward(self.mail)
        join(self.world, "mail", self.mail, "world")
        address(self.world, "mail", *_prefixed(_OUTSIDE["world"]))
        address(self.mail, "world", *_prefixed(_OUTSIDE["mail"]))
        default(self.mail, *_OUTSIDE["world"])
        route(self.world, *zip(MAIL_NETWORKS, _OUTSIDE["mail"], strict=True))

    def _servers(self, gateway: Namespace) -> None:
        """The network of the server's public addresses, behind a gateway."""
        _forward(gateway)
        self.public.sysctl(core__somaxconn=4096)
        join(gateway, "public", self.public, "gateway")
        address(gateway, "public", f"{GATEWAY4}/24", f"{GATEWAY6}/64")
        address(self.public, "gateway", f"{MAIL4}/24", f"{MAIL6}/64")
        default(self.public, GATEWAY4, GATEWAY6)


class Walled(Gateway):
    """The same, with a stateful firewall between router and server."""

    def __init__(self, prefix: str = "") -> None:
        super().__init__(prefix)
        self.wall = Namespace(f"{prefix}wall")

    @property
    def spaces(self) -> tuple[Namespace, ...]:
        """All of its namespaces."""
        return (*super().spaces, self.wall)

    def build(self) -> None:
        """World, the router, the firewall, and the server."""
        self._outside()
        join(self.mail, "wall", self.wall, "mail")
        address(self.mail, "wall", *_prefixed(_BETWEEN["mail"]))
        address(self.wall, "mail", *_prefixed(_BETWEEN["wall"]))
        route(self.mail, *zip(MAIL_NETWORKS, _BETWEEN["wall"], strict=True))
        default(self.wall, *_BETWEEN["mail"])
        self._servers(self.wall)
        self.wall.run("nft", "-f", "-", stdin=_WALL)


class Router(Gateway):
    """A router with NAT behind dpsd's: the server sees the router's address for every peer."""

    def __init__(self, prefix: str = "") -> None:
        super().__init__(prefix)
        self.public = Namespace(f"{prefix}router")

    @property
    def spaces(self) -> tuple[Namespace, ...]:
        """All of its namespaces."""
        return (*super().spaces, self.public)

    def build(self) -> None:
        """World, dpsd's router, the one with NAT, and the server on a private network."""
        super().build()
        _forward(self.public)
        self.server.sysctl(core__somaxconn=4096)
        join(self.public, "server", self.server, "router")
        address(self.public, "server", *_prefixed(INSIDE))
        address(self.server, "router", *_prefixed((CONTAINER4, CONTAINER6)))
        default(self.server, *INSIDE)
        self.public.run("nft", "-f", "-", stdin=_MASQUERADE)


class BehindRouter(Router):
    """The same network, dpsd on the server: all peers have the router's address there."""

    def __init__(self, prefix: str = "") -> None:
        super().__init__(prefix)
        self.box = self.server


class BehindProxy(Inside):
    """A proxy on another host, dpsd on the server: all peers have the proxy's address there."""

    def __init__(self, prefix: str = "") -> None:
        super().__init__(prefix)
        self.box = self.server

    def build(self) -> None:
        """The same, without a way out for the server: else the proxy were white as its gateway."""
        super().build()
        for version in ("-4", "-6"):
            self.server.run("ip", version, "route", "del", "default")


class Bridge(Net):
    """dpsd's host is a bridge between world and server; it has an address there, too."""

    def __init__(self, prefix: str = "") -> None:
        super().__init__(prefix)
        self.server = self.public = Namespace(f"{prefix}server")

    @property
    def spaces(self) -> tuple[Namespace, ...]:
        """All of its namespaces."""
        return (*super().spaces, self.server)

    def build(self) -> None:
        """World and server on one network, the bridge between, whose frames meet its firewall."""
        bridged(self.mail, self.world, "mail", self.server, "gateway")
        self.mail.sysctl(
            **{f"bridge__bridge-nf-call-{name}": 1 for name in ("iptables", "ip6tables")}
        )
        address(self.mail, "bridge", "198.51.100.2/24", "2001:db8:25::2/64")
        default(self.mail, GATEWAY4, GATEWAY6)
        one_network(self.world, self.server)


class Mirror(Net):
    """dpsd's host gets a copy of each frame, by a switch's mirror port, and is on nobody's path."""

    def __init__(self, prefix: str = "") -> None:
        super().__init__(prefix)
        self.server = self.public = Namespace(f"{prefix}server")
        self.switch = Namespace(f"{prefix}switch")

    @property
    def spaces(self) -> tuple[Namespace, ...]:
        """All of its namespaces."""
        return (*super().spaces, self.server, self.switch)

    def build(self) -> None:
        """World and server on a switch, and the watcher at the mirror port of it.

        The watcher takes what it gets for its own and routes it to nowhere: what a host drops, its
        connection table forgets.
        """
        bridged(self.switch, self.world, "mail", self.server, "gateway")
        one_network(self.world, self.server)
        join(self.switch, "watcher", self.mail, "switch")
        self.switch.run("nft", "-f", "-", stdin=_MIRROR)
        _forward(self.mail)
        join(self.mail, "nowhere", self.switch, "sink")
        self.mail.run("ip", "link", "set", "nowhere", "arp", "off")
        for version in ("-4", "-6"):
            self.mail.run("ip", version, "route", "add", "default", "dev", "nowhere")
        self.mail.run("nft", "-f", "-", stdin=_TAKE)


class Uplink(Mirror):
    """The same, and a second interface by which dpsd's host can send to the server."""

    def build(self) -> None:
        """The same, with an address of its own on the switch; copies still go to nowhere."""
        super().build()
        join(self.switch, "host", self.mail, "uplink")
        self.switch.run("ip", "link", "set", "host", "master", "bridge")
        address(self.mail, "uplink", "198.51.100.3/24", "2001:db8:25::3/64")
        for version in ("-4", "-6"):
            self.mail.run("ip", version, "rule", "add", "iif", "switch", "lookup", "100")
            nowhere = ("default", "dev", "nowhere", "table", "100")
            self.mail.run("ip", version, "route", "add", *nowhere)


def bridged(bridge: Namespace, world: Namespace, its: str, server: Namespace, others: str) -> None:
    """A bridge in a namespace, with world and server on it: ports `world` and `server`."""
    bridge.run("ip", "link", "add", "bridge", "type", "bridge")
    join(bridge, "world", world, its)
    join(bridge, "server", server, others)
    for port in ("world", "server"):
        bridge.run("ip", "link", "set", port, "master", "bridge")
    bridge.run("ip", "link", "set", "bridge", "up")


def one_network(world: Namespace, server: Namespace) -> None:
    """World and server in the same network, world being the gateway."""
    server.sysctl(core__somaxconn=4096)
    address(world, "mail", f"{GATEWAY4}/24", f"{GATEWAY6}/64")
    address(server, "gateway", f"{MAIL4}/24", f"{MAIL6}/64")
    default(server, GATEWAY4, GATEWAY6)
