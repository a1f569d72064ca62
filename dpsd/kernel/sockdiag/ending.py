"""The end of live sessions, by SOCK_DESTROY.

When no socket has the four addresses and ports of a session any more, the kernel's look-up
(inet_diag_find_one_icsk) goes on to the *listening* socket of the port and would end that: the mail
server would be deaf. So every session is asked for first, and only what is no listener is ended,
under the cookie that names exactly that socket.
"""

import errno
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from struct import Struct

from dpsd.kernel.sockdiag import wire
from dpsd.kernel.sockdiag.wire import Session

_IP_FREEBIND = 15
# inet_diag_msg: family, state, timer, retransmissions; inet_diag_sockid: ports, addresses,
# interface, cookie; expires, queues, uid, inode.
_ANSWER = Struct("=xB2x2x2x16x16x4x8s16xI")

# In these states a socket without an inode waits to be accepted. In all others it has been closed
# and belongs to nobody: it holds no slot, and before Linux 6.11 ending it leaves it there for good.
_UNACCEPTED = frozenset({wire.ESTABLISHED, wire.SYN_RECV, wire.CLOSE_WAIT})

# No such socket, or none with this cookie: it ended by itself.
_GONE = frozenset({errno.ENOENT, errno.ESTALE})

# So many are asked for and then ended: between the two, one may end by itself.
_AT_A_TIME = 64


@dataclass(frozen=True, slots=True)
class _Socket:
    """What the kernel says of a socket: TCP state, inode (0: no process holds it), cookie."""

    state: int
    inode: int
    cookie: bytes

    def endable(self) -> bool:
        if self.state in {wire.LISTEN, wire.TIME_WAIT}:
            return False
        return self.inode != 0 or self.state in _UNACCEPTED


def end_sessions(sessions: Iterable[tuple[bytes, int, bytes, int]]) -> int:
    """End these sessions (Session or plain tuples): the peer gets a reset, the server an error.

    Returns how many there were to end: those that are over, or end at a server behind this host,
    aren't counted. IPv4 sessions of dual-stack sockets are found by their IPv4 addresses. Raises
    NotPermitted without CAP_NET_ADMIN, KernelError if the kernel can't.
    """
    wanted = [Session(*session) for session in sessions]
    with wire.opened() as diag:
        return sum(
            _end(diag, wanted[start : start + _AT_A_TIME])
            for start in range(0, len(wanted), _AT_A_TIME)
        )


def probe() -> None:
    """Whether sessions can be ended, tried on a listening socket of its own: returns if so.

    The kernel asks for permission only once it has found a socket to end. Raises NotPermitted or
    KernelError, which say what is missing.
    """
    with wire.opened() as diag, socket.socket(socket.AF_INET) as listener:
        listener.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)  # even if lo is down
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        ours = Session(b"\x7f\0\0\1", listener.getsockname()[1], b"\x7f\0\0\1", 1)
        (found,) = wire.answers(diag, [wire.request(wire.SOCK_DIAG_BY_FAMILY, ours)], _socket)
        if isinstance(found, int):
            raise wire.refused(found)
        order = wire.request(wire.SOCK_DESTROY, ours, cookie=found.cookie)
        (outcome,) = wire.answers(diag, [order], _socket)
    if outcome != 0:
        raise wire.refused(outcome if isinstance(outcome, int) else errno.EPROTO)


def _end(diag: socket.socket, sessions: list[Session]) -> int:
    questions = [wire.request(wire.SOCK_DIAG_BY_FAMILY, session) for session in sessions]
    orders = [
        wire.request(wire.SOCK_DESTROY, session, cookie=found.cookie)
        for session, found in zip(sessions, wire.answers(diag, questions, _socket), strict=True)
        if isinstance(found, _Socket) and found.endable()
    ]
    outcomes = wire.answers(diag, orders, _socket)
    for outcome in outcomes:
        if outcome == errno.EOPNOTSUPP:
            probe()  # raises if it's the kernel; before Linux 6.5 also a session just in TIME_WAIT
        elif outcome != 0 and outcome not in _GONE:
            raise wire.refused(outcome if isinstance(outcome, int) else errno.EPROTO)
    return outcomes.count(0)


def _socket(datagram: bytes, start: int, _: int) -> _Socket:
    state, cookie, inode = _ANSWER.unpack_from(datagram, start)
    return _Socket(state, inode, cookie)
