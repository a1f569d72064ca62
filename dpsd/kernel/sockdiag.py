"""This host's own sockets, by the sock_diag netlink family: what they tell of sessions that
conntrack doesn't, and SOCK_DESTROY, which ends live sessions.

Layouts from include/uapi/linux/inet_diag.h and tcp.h. When no socket has the four addresses and
ports of a session any more, the kernel's look-up (inet_diag_find_one_icsk) goes on to the
*listening* socket of the port and would end that: the mail server would be deaf. So every session
is asked for first, and only what is no listener is ended, under the cookie that names exactly that
socket.
"""

import errno
import os
import socket
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from struct import Struct
from typing import NamedTuple

from dpsd.errors import DpsdError, KernelError, NotPermitted
from dpsd.kernel.ctnetlink import ATTRIBUTE, NLM_F_DUMP, NLMSG_DONE, messages

_NETLINK_SOCK_DIAG = 4
_SOL_NETLINK, _NETLINK_CAP_ACK = 270, 10
_SOCK_DIAG_BY_FAMILY, _SOCK_DESTROY = 20, 21
_IP_FREEBIND = 15
_NLMSG_ERROR = 2
_NLM_F_REQUEST, _NLM_F_ACK = 1, 4

_HEADER = Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence number, port id
_ERROR = Struct("=i")  # nlmsgerr: negative errno
# inet_diag_req_v2: family, protocol, extensions, padding, states; inet_diag_sockid: ports,
# addresses (network byte order), interface, cookie.
_REQUEST = Struct("=BBBxI2s2s16s16sI8s")
# inet_diag_msg: family, state, timer, retransmissions; inet_diag_sockid; expires, queues, uid,
# inode.
_ANSWER = Struct("=BBBB2s2s16s16sI8s5I")
# tcp_info: tcpi_last_data_sent, _ack_sent (never told), _data_recv, _ack_recv: milliseconds ago;
# tcpi_rtt: microseconds.
_LAST = Struct("=44x4I8xI")
_SLOWEST = 2.0  # seconds to a peer and back; it can make them more by late acknowledgements
_STATE_AT = 1
_INFO = 2  # INET_DIAG_INFO
_NO_COOKIE = b"\xff" * 8
_MAPPED = bytes(10) + b"\xff\xff"

# include/net/tcp_states.h
_ESTABLISHED, _SYN_RECV, _FIN_WAIT2, _TIME_WAIT, _CLOSE_WAIT, _LISTEN = 1, 3, 5, 6, 8, 10
# In these states a socket without an inode waits to be accepted. In all others it has been closed
# and belongs to nobody: it holds no slot, and before Linux 6.11 ending it leaves it there for good.
_UNACCEPTED = frozenset({_ESTABLISHED, _SYN_RECV, _CLOSE_WAIT})

# No such socket, or none with this cookie: it ended by itself.
_GONE = frozenset({errno.ENOENT, errno.ESTALE})

# Answers to one batch have to fit into the socket's buffer (212,992 bytes, about 1.3 KB each).
_BATCH = 64


class Session(NamedTuple):
    """A TCP session by packed addresses (4 or 16 bytes) and ports, this host's own first."""

    local: bytes
    local_port: int
    remote: bytes
    remote_port: int


def destroy(sessions: Iterable[tuple[bytes, int, bytes, int]]) -> list[int]:
    """End these sessions (Session or plain tuples): the peer gets a reset, the server an error.

    One errno each, in order: 0 it was ended; ENOENT no socket of this network namespace has it;
    ESTALE its socket is over already (closed by the server, or in TIME_WAIT) and holds no slot; any
    other: why the kernel wouldn't. IPv4 sessions of dual-stack sockets are found by their IPv4
    addresses. Raises OSError if there is no socket to ask the kernel by.
    """
    wanted = [Session(*session) for session in sessions]
    outcomes: list[int] = []
    with _open() as diag:
        for start in range(0, len(wanted), _BATCH):
            try:
                outcomes += _destroy(diag, wanted[start : start + _BATCH])
            except OSError as failure:  # its answers can't be told apart any more
                outcomes += [failure.errno or errno.EIO] * (len(wanted) - len(outcomes))
                break
    return outcomes


def probe() -> None:
    """Whether sessions can be ended, tried on a listening socket of its own: returns if so.

    The kernel asks for permission only once it has found a socket to end. Raises NotPermitted or
    KernelError, which say what is missing.
    """
    with _open() as diag, socket.socket(socket.AF_INET) as listener:
        listener.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)  # even if lo is down
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        ours = Session(b"\x7f\0\0\1", listener.getsockname()[1], b"\x7f\0\0\1", 1)
        (found,) = _ask(diag, [_request(_SOCK_DIAG_BY_FAMILY, ours, _NO_COOKIE)])
        if isinstance(found, int):
            raise _refused(found)
        (outcome,) = _ask(diag, [_request(_SOCK_DESTROY, ours, found.cookie)])
    if outcome != 0:
        raise _refused(outcome if isinstance(outcome, int) else errno.EPROTO)


class Word(NamedTuple):
    """The last that was said in a session, and whether by this host: for how many seconds the other
    side could have answered, as far as the network's delay is known."""

    ago: float
    ours: bool


class Sockets(NamedTuple):
    """half_closed: sessions that this host has closed and the peer hasn't (FIN_WAIT2). words: the
    last word in each that is open."""

    half_closed: list[Session]
    words: dict[Session, Word]


def look(ports: Iterable[int], words: bool) -> Sockets:
    """What this host's sockets tell of the sessions to these ports.

    words: whether to ask for that, too. Raises KernelError if the kernel can't tell.
    """
    wanted, found = frozenset(ports), Sockets([], {})
    states = 1 << _FIN_WAIT2 | (1 << _ESTABLISHED if words else 0)
    with _open() as diag:
        # Of all ports at once: for each dump the kernel walks through all of its sockets.
        for family in (socket.AF_INET, socket.AF_INET6):
            for answer in _dump(diag, family, states, 1 << (_INFO - 1) if words else 0):
                session = _session(family, answer)
                if session.local_port not in wanted:
                    continue
                if answer[_STATE_AT] == _FIN_WAIT2:
                    found.half_closed.append(session)
                elif (last := _last_word(answer)) is not None:
                    found.words[session] = last
    return found


def _dump(diag: socket.socket, family: int, states: int, more: int) -> Iterator[memoryview]:
    """Each inet_diag_msg and its attributes. more: which attributes, as bits."""
    none, no_port = bytes(16), bytes(2)
    body = _REQUEST.pack(
        family, socket.IPPROTO_TCP, more, states, no_port, no_port, none, none, 0, _NO_COOKIE
    )
    flags = _NLM_F_REQUEST | NLM_F_DUMP
    diag.send(_HEADER.pack(_HEADER.size + len(body), _SOCK_DIAG_BY_FAMILY, flags, 0, 0) + body)
    while True:
        datagram = diag.recv(1 << 17)
        for start, end in messages(datagram):
            kind = _HEADER.unpack_from(datagram, start)[1]
            if kind == NLMSG_DONE:
                return
            body_at = start + _HEADER.size
            if kind == _NLMSG_ERROR:
                raise _refused(-_ERROR.unpack_from(datagram, body_at)[0])
            yield memoryview(datagram)[body_at:end]


def _session(family: int, answer: memoryview) -> Session:
    _, _, _, _, port, remote_port, local, remote, *_ = _ANSWER.unpack_from(answer)
    return Session(
        _address(family, local), int.from_bytes(port),
        _address(family, remote), int.from_bytes(remote_port),
    )  # fmt: skip


def _last_word(answer: memoryview) -> Word | None:
    """None where the kernel doesn't tell.

    It knows the times of both sides' last data in jiffies only: on a fast network they are often
    the same. But who heard an answer acknowledges it: if the peer's last packet was such an
    acknowledgement then, and not its data, the last word was ours.
    """
    at = _ANSWER.size
    while at + ATTRIBUTE.size <= len(answer):
        length, kind = ATTRIBUTE.unpack_from(answer, at)
        if kind == _INFO and length >= ATTRIBUTE.size + _LAST.size:
            sent, _, received, acknowledged, rtt = _LAST.unpack_from(answer, at + ATTRIBUTE.size)
            if sent < received or (sent == received and acknowledged < received):
                delay = min(rtt / 1e6, _SLOWEST)
                return Word(max(0.0, sent / 1e3 - delay), ours=True)
            return Word(received / 1e3, ours=False)
        if length < ATTRIBUTE.size:
            return None
        at += length + 3 & ~3
    return None


def _address(family: int, packed: bytes) -> bytes:
    """IPv4 as such also where it comes over a dual-stack socket."""
    if family == socket.AF_INET:
        return packed[:4]
    return packed[12:] if packed.startswith(_MAPPED) else packed


@dataclass(frozen=True, slots=True)
class _Socket:
    """What the kernel says of a socket: TCP state, inode (0: no process holds it), cookie."""

    state: int
    inode: int
    cookie: bytes

    def endable(self) -> bool:
        if self.state in {_LISTEN, _TIME_WAIT}:
            return False
        return self.inode != 0 or self.state in _UNACCEPTED


def _open() -> socket.socket:
    diag = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG)
    diag.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)  # errors without the request
    return diag


def _destroy(diag: socket.socket, sessions: Sequence[Session]) -> list[int]:
    questions = [_request(_SOCK_DIAG_BY_FAMILY, session, _NO_COOKIE) for session in sessions]
    found = _ask(diag, questions)
    orders = {
        index: _request(_SOCK_DESTROY, session, each.cookie)
        for index, (session, each) in enumerate(zip(sessions, found, strict=True))
        if isinstance(each, _Socket) and each.endable()
    }
    done = dict(zip(orders, _ask(diag, [*orders.values()]), strict=True))
    return [_outcome(each, done.get(index)) for index, each in enumerate(found)]


def _outcome(found: int | _Socket, done: int | _Socket | None) -> int:
    """The errno of one session: what was found for it, and what became of the order to end it."""
    if isinstance(found, int):
        return found
    if done is None:
        return errno.ENOENT if found.state == _LISTEN else errno.ESTALE
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


def _request(kind: int, session: Session, cookie: bytes) -> bytes:
    family = socket.AF_INET if len(session.local) == 4 else socket.AF_INET6
    body = _REQUEST.pack(
        family,
        socket.IPPROTO_TCP,
        0,
        0xFFFFFFFF,
        session.local_port.to_bytes(2),
        session.remote_port.to_bytes(2),
        session.local,
        session.remote,
        0,
        cookie,
    )
    flags = _NLM_F_REQUEST | (_NLM_F_ACK if kind == _SOCK_DESTROY else 0)
    return _HEADER.pack(_HEADER.size + len(body), kind, flags, 0, 0) + body


def _ask(diag: socket.socket, requests: Sequence[bytes]) -> list[int | _Socket]:
    """One answer a request, in order: an errno (0: done) or the socket."""
    if not requests:
        return []
    diag.send(b"".join(requests))
    answers: list[int | _Socket] = []
    while len(answers) < len(requests):
        answers += _answers(diag.recv(1 << 16))
    return answers


def _answers(datagram: bytes) -> Iterator[int | _Socket]:
    for start, _ in messages(datagram):
        kind, body = _HEADER.unpack_from(datagram, start)[1], start + _HEADER.size
        if kind == _NLMSG_ERROR:
            yield -_ERROR.unpack_from(datagram, body)[0]
        else:
            _, state, *_, cookie, _, _, _, _, inode = _ANSWER.unpack_from(datagram, body)
            yield _Socket(state, inode, cookie)


def _refused(failure: int) -> DpsdError:
    if failure in {errno.EPERM, errno.EACCES}:
        return NotPermitted("ending sessions needs CAP_NET_ADMIN: run as root")
    if failure == errno.EOPNOTSUPP:
        return KernelError("this kernel can't end sessions: it lacks CONFIG_INET_DIAG_DESTROY")
    if failure == errno.ENOENT:
        return KernelError("this kernel can't tell its sessions: load the module tcp_diag")
    return KernelError(f"ending sessions: {os.strerror(failure)}")
