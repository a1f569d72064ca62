"""How long it takes from the packet that earns a block to the element in the kernel."""

import socket
import time
from ipaddress import IPv4Address

from tests.bench.gateway import CLIENTS, Gateway
from tests.bench.traffic import OPEN, Sessions, Wires
from tests.lab.dpsd import Section

_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, _NFNLGRP_NFTABLES = 270, 1, 7
_NETLINK_NETFILTER = 12
_PATIENCE = 5.0  # seconds until a block that doesn't come is a failure
_APART = 0.02  # seconds between two packets of a peer
_FIRST_PEER = 1 << 20  # far from the load's peers

POLICY: dict[str, Section] = {
    "evidence": {"churn_rate": 1, "churn_burst": 1, "churn_cost": 1000, "churn_flood": 0},
}
"""A peer's second session within a second is one too many; the load's peers come less often."""


def samples(gateway: Gateway, count: int, first: int) -> list[float]:
    """Seconds each, for as many peers from the first-th on. dpsd must run with POLICY.

    A peer opens a session, then another one; the time runs from just before the last packet of
    that one's handshake to when this process has read nf_tables' notification of the element.
    """
    with gateway.space.entered():
        told = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
    with told:
        told.bind((0, 0))
        told.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, _NFNLGRP_NFTABLES)
        told.settimeout(_PATIENCE)
        sessions = Sessions(Wires(gateway), OPEN, count, ports=2, first=_FIRST_PEER + first)
        return [
            _sample(sessions, told, number, count, CLIENTS[1 + _FIRST_PEER + first + number])
            for number in range(count)
        ]


def _sample(
    sessions: Sessions, told: socket.socket, number: int, count: int, peer: IPv4Address
) -> float:
    for stage in range(len(OPEN)):
        sessions.stage(stage, number)
    time.sleep(_APART)
    for stage in range(len(OPEN) - 1):
        sessions.stage(stage, number + count)
    time.sleep(_APART)
    began = time.perf_counter()
    sessions.stage(len(OPEN) - 1, number + count)
    while peer.packed not in told.recv(1 << 16):
        pass
    return time.perf_counter() - began
