"""A fresh network namespace around a test, alone or as a mail host with peers."""

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from dpsd.kernel.ending.ender import Ender
from tests.kernel.behind import Behind, server_behind
from tests.kernel.netns import MailHost, fresh, inside, run


@pytest.fixture
def namespace() -> Iterator[int]:
    """A fresh network namespace around the test."""
    with fresh() as here, inside(here):
        yield here


@pytest.fixture
def mail_host(namespace: int) -> Iterator[MailHost]:
    """A mail host that listens on ports 25 and 80, both IP versions, around the test."""
    with fresh() as peers, ExitStack() as sockets:
        run(
            "ip link add mail address 02:00:00:00:00:01 type veth"
            f" peer name world address 02:00:00:00:00:02 netns /proc/{os.getpid()}/fd/{peers}"
        )
        run("ip address add 192.0.2.1/24 dev mail")
        run("ip address add 192.0.2.3/24 dev mail")
        run("ip address add 2001:db8:1::1/64 dev mail nodad")
        run("ip link set mail up")
        for address in ("192.0.2.2", "2001:db8:1::2"):  # known at once: no packet has to wait
            run(f"ip neighbour add {address} lladdr 02:00:00:00:00:02 dev mail nud permanent")
        with inside(peers):
            run("ip address add 192.0.2.2/24 dev world")
            run("ip address add 2001:db8:1::2/64 dev world nodad")
            run("ip link set world up")
            for address in ("192.0.2.1", "192.0.2.3", "2001:db8:1::1"):
                run(f"ip neighbour add {address} lladdr 02:00:00:00:00:01 dev world nud permanent")
            run("ip route add local 10.99.0.0/16 dev lo")
            run("ip route add local 2001:db8:99::/48 dev lo")
        run("ip route add 10.99.0.0/16 via 192.0.2.2")
        run("ip route add 2001:db8:99::/48 via 2001:db8:1::2")
        listeners = {
            port: sockets.enter_context(
                socket.create_server(
                    ("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=4096
                )
            )
            for port in (25, 80)
        }
        assert namespace  # this thread is in it
        yield MailHost(peers, listeners)


@pytest.fixture
def behind(mail_host: MailHost) -> Iterator[Behind]:
    """A server behind this namespace, which forwards and keeps track of sessions."""
    with server_behind(mail_host) as made:
        yield made


@pytest.fixture
def ender() -> Iterator[Ender]:
    """Leaves nothing in the kernel."""
    made = Ender()
    yield made
    made.close()
