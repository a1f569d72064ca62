"""The bench's network: clients, gateway and servers in a row, where only the gateway works.

The frames of both sides are made beforehand (see traffic.py) and put onto the two wires as they
are: no socket stands behind them. What the gateway forwards ends at the far end of a wire, since
it is addressed to nobody there. So nearly all that the load costs is the gateway's conntrack.
"""

import subprocess
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Self

from tests.lab import private
from tests.lab.dpsd import Dpsd, Section
from tests.lab.net import Namespace

CLIENTS = IPv4Network("10.0.0.0/9")
SERVERS = IPv4Network("198.51.100.0/24")
SERVER = IPv4Address("198.51.100.25")
PORT = 25

GATEWAY_MACS = {"clients": "02:00:00:00:00:01", "servers": "02:00:00:00:00:02"}
_NOBODY = "02:00:00:00:00:ff"


class Gateway:
    """Three namespaces; a context manager that leaves nothing."""

    def __init__(self) -> None:
        self.clients = Namespace("clients")
        self.space = Namespace("gateway")
        self.servers = Namespace("servers")

    def __enter__(self) -> Self:
        private.require()
        try:
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def dpsd(self, name: str, **sections: Section) -> Dpsd:
        """A dpsd on the gateway that protects the servers, with files of its own by this name."""
        protect = {"ports": [PORT], "addresses": [str(SERVERS)], **sections.pop("protect", {})}
        return Dpsd(self.space, private.RUN / name, protect=protect, **sections)

    def dropped(self) -> int:
        """Events that the kernel threw away since the sockets of the listeners were opened."""
        lines = self.space.run("cat", "/proc/net/netlink").stdout.splitlines()
        rows = [line.split() for line in lines[1:]]
        return sum(int(row[8]) for row in rows if row[1] == "12" and row[3] == "00000007")

    def _build(self) -> None:
        gateway = self.space
        for space in (self.clients, gateway, self.servers):
            _netns("add", space)
            space.sysctl(ipv6__conf__all__disable_ipv6=1, ipv6__conf__default__disable_ipv6=1)
            space.run("ip", "link", "set", "lo", "up")
        gateway.sysctl(
            ipv4__ip_forward=1,
            ipv4__conf__all__rp_filter=0,
            ipv4__conf__default__rp_filter=0,
            ipv4__conf__all__send_redirects=0,
        )
        for number, (space, network) in enumerate(
            ((self.clients, CLIENTS), (self.servers, SERVERS))
        ):
            hop = f"10.255.{number}.2"
            gateway.run(
                "ip",
                "-batch",
                "-",
                stdin=f"""
                link add {space.name} address {GATEWAY_MACS[space.name]} type veth peer wire \
                    netns {space.name}
                addr add 10.255.{number}.1/24 dev {space.name}
                link set {space.name} up
                neigh add {hop} lladdr {_NOBODY} dev {space.name} nud permanent
            """,
            )
            space.run("ip", "link", "set", "wire", "up")
            gateway.run("ip", "route", "add", str(network), "via", hop, "dev", space.name)

    def close(self) -> None:
        for space in (self.clients, self.space, self.servers):
            if Path(space.path).exists():
                _netns("del", space)


def _netns(action: str, space: Namespace) -> None:
    subprocess.run(["ip", "netns", action, space.name], check=True, stdin=subprocess.DEVNULL)
