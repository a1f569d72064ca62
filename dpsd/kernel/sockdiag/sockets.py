"""The sockets that sessions to the mail ports have on this host, whatever conntrack knows of them.

One walk of the kernel's through its sockets, of both IP versions; a filter of the kernel's own
(inet diag bytecode) leaves out all other ports: an answer is as long as there are sessions.
"""

import socket
from collections.abc import Iterable, Mapping
from struct import Struct

from dpsd.core.events import Endpoints
from dpsd.errors import KernelError
from dpsd.kernel.ctnetlink import key_of
from dpsd.kernel.sockdiag import wire

MOST = 100_000  # sockets in one answer: 15 MB of it
TOLD = (1 << wire.ESTABLISHED) | (1 << wire.CLOSE_WAIT) | (1 << wire.FIN_WAIT2)

# struct inet_diag_bc_op: code, yes, no: where to go on, in bytes from its own start.
_OP, _JUMP, _GREATER_EQUAL, _LESS_EQUAL = Struct("=BBH"), 1, 2, 3
_FAIL = 4  # beyond the end of the program by so much: the socket isn't wanted
# inet_diag_msg: family, state; ports, addresses.
_MESSAGE = Struct("=BB2x2s2s16s16s")
_IPV4, _IPV6 = (key_of(Endpoints(bytes(n), bytes(n), 0, 0)) for n in (4, 16))
_MAPPED = bytes(10) + b"\xff\xff"


def held(ports: Iterable[int]) -> dict[bytes, int]:
    """The sockets of sessions to these local ports, by the session's key, with their TCP state
    (include/net/tcp_states.h): ESTABLISHED, CLOSE_WAIT, and FIN_WAIT2, those that this host has
    closed and the peer hasn't.

    What waits to be accepted is among them; what the listening socket's full queue dropped isn't.
    Raises KernelError if the kernel can't tell, or if there are more than MOST.
    """
    found: dict[bytes, int] = {}
    program = port_filter(sorted(set(ports)))
    if not program:
        return found
    with wire.opened() as diag:
        for data, start, _ in wire.dump_all(diag, TOLD, program):
            family, state, port, peer_port, server, peer = _MESSAGE.unpack_from(data, start)
            if family == socket.AF_INET:
                key = _key4(peer[:4], server[:4], peer_port, port)
            elif server.startswith(_MAPPED):  # IPv4 over a dual-stack socket
                key = _key4(peer[12:], server[12:], peer_port, port)
            else:
                key = _key6(peer, server, peer_port, port)
            found[key] = state
            if len(found) > MOST:
                raise KernelError(f"the sockets of sessions: more than {MOST:,}")
    return found


def closed(sockets: Mapping[bytes, int]) -> list[bytes]:
    """Those of them that this host has closed and the peer hasn't."""
    return [key for key, state in sockets.items() if state == wire.FIN_WAIT2]


def port_filter(ports: Iterable[int]) -> bytes:
    """The program by which the kernel leaves out sockets of other local ports: of each port one
    step, "at least it, and at most it: take", else the next one's.
    """
    steps = list(ports)
    program = b""
    for left, port in enumerate(reversed(steps)):
        rest = len(program)
        other = 8 + 8 + 4 if left else 8 + 8 + 4 + _FAIL
        program = (
            _OP.pack(_GREATER_EQUAL, 8, other) + _OP.pack(0, 0, port)
            + _OP.pack(_LESS_EQUAL, 8, other - 8) + _OP.pack(0, 0, port)
            + _OP.pack(_JUMP, 4, 4 + rest)
            + program
        )  # fmt: skip
    return program


def _key4(peer: bytes, server: bytes, peer_port: bytes, port: bytes) -> bytes:
    a, b, c, d, e = _IPV4[:8], _IPV4[12:16], _IPV4[20:36], _IPV4[38:44], _IPV4[46:]
    return b"".join((a, peer, b, server, c, peer_port, d, port, e))


def _key6(peer: bytes, server: bytes, peer_port: bytes, port: bytes) -> bytes:
    a, b, c, d, e = _IPV6[:8], _IPV6[24:28], _IPV6[44:60], _IPV6[62:68], _IPV6[70:]
    return b"".join((a, peer, b, server, c, peer_port, d, port, e))
