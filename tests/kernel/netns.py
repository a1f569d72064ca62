"""Network namespaces for tests on the real kernel: the mail host in one, its peers in another."""

import ctypes
import os
import select
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

_CLONE_NEWNET = 0x40000000
_IPV6_FREEBIND = 78
_libc = ctypes.CDLL(None, use_errno=True)


def _must(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _here() -> int:
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


@contextmanager
def inside(namespace: int) -> Iterator[None]:
    """This thread in another network namespace; sockets opened there stay there."""
    before = _here()
    try:
        _must(_libc.setns(namespace, _CLONE_NEWNET))
        yield
    finally:
        _must(_libc.setns(before, _CLONE_NEWNET))
        os.close(before)


@contextmanager
def fresh() -> Iterator[int]:
    """A new network namespace with lo up, as a descriptor for inside()."""
    before = _here()
    try:
        _must(_libc.unshare(_CLONE_NEWNET))
        namespace = _here()
        for device in ("all", "default"):  # addresses that can be used at once
            Path(f"/proc/sys/net/ipv6/conf/{device}/accept_dad").write_text("0")
        run("ip link set lo up")
    finally:
        _must(_libc.setns(before, _CLONE_NEWNET))
        os.close(before)
    try:
        yield namespace
    finally:
        os.close(namespace)


def run(command: str) -> str:
    """What a command prints, run in this thread's namespace."""
    done = subprocess.run(command.split(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


def eventually(true: Callable[[], bool], seconds: float = 5) -> bool:
    """Whether it comes true in time, asked again and again."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)  # what the kernel does by its own clock has no event
    return True


def connect(peer: str, server: str, port: int, peer_port: int = 0) -> socket.socket:
    """A connection that a peer's address starts; returns before it is answered."""
    version = socket.AF_INET6 if ":" in peer else socket.AF_INET
    client = socket.socket(version, socket.SOCK_STREAM)
    client.setblocking(False)
    if version == socket.AF_INET6:  # else a route of type local isn't enough to bind
        client.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
    client.bind((peer, peer_port))
    client.connect_ex((server, port))
    return client


def established(client: socket.socket, seconds: float) -> bool:
    """Whether the server's kernel answers a connection within so many seconds."""
    poll = select.poll()
    poll.register(client, select.POLLOUT)
    if not poll.poll(seconds * 1000):
        return False
    failure = client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if failure:
        raise OSError(failure, os.strerror(failure))
    return True


@dataclass
class MailHost:
    """A mail host (this thread's namespace) and its peers' namespace behind a veth.

    peers: that namespace; listeners: by port. The peers own 10.99.0.0/16 and 2001:db8:99::/48, the
    host 192.0.2.1, 192.0.2.3 and 2001:db8:1::1.
    """

    peers: int
    listeners: dict[int, socket.socket]
    address: dict[int, str] = field(
        default_factory=lambda: {4: "192.0.2.1", 6: "2001:db8:1::1"},
    )

    def reached(self, peer: str, port: int = 25, server: str = "") -> bool:
        """Whether a peer gets a connection; False once the ruleset refused its packet."""
        server = server or self.address[6 if ":" in peer else 4]
        before = self.refused()
        with inside(self.peers):
            client = connect(peer, server, port)
        with client:
            for _ in range(1000):
                if established(client, 0.005):
                    return True
                if self.refused() > before:
                    return False
        raise AssertionError(f"{peer}: neither let through nor refused")

    @staticmethod
    def refused() -> int:
        """How many packets were refused so far; 0 without our table."""
        listed = subprocess.run(
            ["nft", "list", "chain", "inet", "dpsd", "refuse"],
            capture_output=True,
            text=True,
            check=False,
        ).stdout
        return int(listed.partition("packets ")[2].partition(" ")[0] or 0)
