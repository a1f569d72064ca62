"""The lab's network: a mail host and the rest of the world, joined by a wire (veth).

`world` owns whole address ranges (AnyIP: `ip route add local`), so that any number of senders and
attackers can come from different addresses, of both families, without configuring each.
"""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import IO, Self

from tests.lab import private

MAIL4 = IPv4Address("198.51.100.25")
MAIL6 = IPv6Address("2001:db8:25::25")
GATEWAY4 = IPv4Address("198.51.100.1")
GATEWAY6 = IPv6Address("2001:db8:25::1")

HONEST4 = IPv4Network("10.99.0.0/17")
HONEST6 = IPv6Network("2001:db8:a000::/37")
ATTACK4 = IPv4Network("10.99.128.0/18")
ATTACK6 = IPv6Network("2001:db8:a800::/38")
SILENT4 = IPv4Network("10.99.192.0/18")
SILENT6 = IPv6Network("2001:db8:ac00::/38")
"""Sources from which `world` never sends a reset: hosts that are gone, or were never there."""

# World's own firewall: what arrives at a vanished or forged host meets no answer. No `ct` in it.
_SILENCE = f"""
table inet world {{
  chain output {{
    type filter hook output priority 0;
    ip saddr {SILENT4} tcp flags & rst == rst drop
    ip6 saddr {SILENT6} tcp flags & rst == rst drop
  }}
}}
"""


def source4(network: IPv4Network, index: int) -> str:
    """The index-th host of an IPv4 range, from 0."""
    return str(network[index + 1])


def source6(network: IPv6Network, index: int) -> str:
    """A host in the index-th /64 of an IPv6 range, from 0: every index is another peer."""
    return str(network[(index << 64) + 0x19])


@dataclass(frozen=True)
class Namespace:
    """A network namespace under /run/netns of the private world."""

    name: str

    @property
    def path(self) -> Path:
        return Path("/run/netns") / self.name

    def command(self, *argv: str) -> list[str]:
        """What to execute so that `argv` runs here, with the same process id."""
        return ["nsenter", f"--net={self.path}", "--", *argv]

    def run(
        self, *argv: str, stdin: str | None = None, check: bool = True, timeout: float = 30
    ) -> subprocess.CompletedProcess[str]:
        """Run `argv` here to its end; `timeout` in seconds."""
        done = subprocess.run(
            self.command(*argv),
            input=stdin or "",
            text=True,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
        if check and done.returncode != 0:
            raise RuntimeError(f"{self.name}: {' '.join(argv)}: {done.stderr.strip()}")
        return done

    def spawn(self, *argv: str, output: IO[bytes] | int | None = None) -> subprocess.Popen[bytes]:
        """Start `argv` here and go on; what it prints goes to `output`."""
        return subprocess.Popen(
            self.command(*argv), stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Be here with this thread for a while; sockets made meanwhile stay here."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        here = os.open(self.path, os.O_RDONLY)
        try:
            private.setns(here, private.CLONE_NEWNET)
            try:
                yield
            finally:
                private.setns(home, private.CLONE_NEWNET)
        finally:
            os.close(here)
            os.close(home)

    def sysctl(self, **values: int | str) -> None:
        """Set sysctls below `net`, with `__` for the dot: `ipv4__ip_forward=1`."""
        with self.entered():
            for key, value in values.items():
                # thread-self: net sysctls are those of the thread's own namespace
                Path("/proc/sys/net", *key.split("__")).write_text(str(value), encoding="ascii")


class Net:
    """`world` and `mail` with a wire between; a context manager that leaves nothing.

    dpsd's `box`, the mail `server` and its public addresses are all on `mail` here; on a network
    whose parts are elsewhere (tests.lab.positions) they are not.
    """

    def __init__(self, prefix: str = "") -> None:
        """`prefix` keeps two networks of one private world apart."""
        self.world = Namespace(f"{prefix}world")
        self.mail = Namespace(f"{prefix}mail")
        self.box = self.server = self.public = self.mail
        """Where dpsd is, where the mail server is, and who has MAIL4 and MAIL6."""

    @property
    def spaces(self) -> tuple[Namespace, ...]:
        """All of its namespaces."""
        return (self.world, self.mail)

    def __enter__(self) -> Self:
        private.require()
        try:
            for space in self.spaces:
                _ip("netns", "add", space.name)
            for space in self.spaces:
                space.sysctl(ipv6__conf__default__accept_dad=0)  # else every start waits a second
                space.run("ip", "link", "set", "lo", "up")
            self._open_world()
            self.build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open_world(self) -> None:
        self.world.sysctl(
            ipv4__ip_local_port_range="1024 65535",
            ipv6__ip_nonlocal_bind=1,  # AnyIP routes suffice to bind in IPv4, not in IPv6
            ipv4__tcp_tw_reuse=1,
            core__somaxconn=4096,
        )
        for prefix in ("10.99.0.0/16", "2001:db8:a000::/36"):
            self.world.run("ip", "route", "add", "local", prefix, "dev", "lo")
        self.world.run("nft", "-f", "-", stdin=_SILENCE)

    def build(self) -> None:
        """Join the namespaces, which are there by now, and give them addresses and routes."""
        self.mail.sysctl(core__somaxconn=4096)
        join(self.world, "mail", self.mail, "world")
        address(self.world, "mail", f"{GATEWAY4}/24", f"{GATEWAY6}/64")
        address(self.mail, "world", f"{MAIL4}/24", f"{MAIL6}/64")
        default(self.mail, GATEWAY4, GATEWAY6)

    def close(self) -> None:
        for space in self.spaces:
            if space.path.exists():
                _ip("netns", "del", space.name)


def join(one: Namespace, its: str, other: Namespace, others: str) -> None:
    """A wire (veth) between two namespaces: interface `its` of the one, `others` of the other."""
    one.run("ip", "link", "add", its, "type", "veth", "peer", others, "netns", other.name)
    one.run("ip", "link", "set", its, "up")
    other.run("ip", "link", "set", others, "up")


def address(space: Namespace, device: str, *addresses: str) -> None:
    """Give an interface addresses with prefix lengths, usable at once."""
    for each in addresses:
        space.run("ip", "addr", "add", each, "dev", device, *(["nodad"] if ":" in each else []))


def route(space: Namespace, *routes: tuple[object, object]) -> None:
    """Add routes: a prefix or `default` each, and the gateway to it."""
    for to, via in routes:
        version = "-6" if ":" in str(via) else "-4"
        space.run("ip", version, "route", "add", str(to), "via", str(via))


def default(space: Namespace, *gateways: object) -> None:
    """Default routes by these gateways."""
    route(space, *(("default", gateway) for gateway in gateways))


def _ip(*argv: str) -> None:
    subprocess.run(["ip", *argv], check=True, stdin=subprocess.DEVNULL)
