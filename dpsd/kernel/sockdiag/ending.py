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

from dpsd.errors import DpsdError
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


def destroy(sessions: Iterable[tuple[bytes, int, bytes, int]]) -> list[int]:
    """End these sessions (Session or plain tuples): the peer gets a reset, the server an error.

    One errno each, in order: 0 it was ended; ENOENT no socket of this network namespace has it;
    ESTALE its socket is over already (closed by the server, or in TIME_WAIT) and holds no slot; any
    other: why the kernel wouldn't. IPv4 sessions of dual-stack sockets are found by their IPv4
    addresses. Raises KernelError if there is no socket to ask the kernel by.
    """
    wanted = [Session(*session) for session in sessions]
    outcomes: list[int] = []
    with wire.opened() as diag:
        for start in range(0, len(wanted), _AT_A_TIME):
            try:
                outcomes += _destroy(diag, wanted[start : start + _AT_A_TIME])
            except OSError as failure:  # its answers can't be told apart any more
                outcomes += [failure.errno or errno.EIO] * (len(wanted) - len(outcomes))
                break
    return outcomes


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


def _destroy(diag: socket.socket, sessions: list[Session]) -> list[int]:
    questions = [wire.request(wire.SOCK_DIAG_BY_FAMILY, session) for session in sessions]
    found = wire.answers(diag, questions, _socket)
    orders = {
        index: wire.request(wire.SOCK_DESTROY, session, cookie=each.cookie)
        for index, (session, each) in enumerate(zip(sessions, found, strict=True))
        if isinstance(each, _Socket) and each.endable()
    }
    done = dict(zip(orders, wire.answers(diag, [*orders.values()], _socket), strict=True))
    return [_outcome(each, done.get(index)) for index, each in enumerate(found)]


def _outcome(found: int | _Socket, done: int | _Socket | None) -> int:
    """The errno of one session: what was found for it, and what became of the order to end it."""
    if isinstance(found, int):
        return found
    if done is None:
        return errno.ENOENT if found.state == wire.LISTEN else errno.ESTALE
    if done == errno.EOPNOTSUPP and _can_end():
        return errno.ESTALE  # before Linux 6.5: it has just got to TIME_WAIT
    if isinstance(done, _Socket):
        return errno.EPROTO
    return errno.ESTALE if done in _GONE else done


def _can_end() -> bool:
    try:
        probe()
    except DpsdError:
        return False
    return True


def _socket(datagram: bytes, start: int, _: int) -> _Socket:
    state, cookie, inode = _ANSWER.unpack_from(datagram, start)
    return _Socket(state, inode, cookie)
