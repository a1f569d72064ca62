"""sock_diag's requests and answers, and the netlink socket that carries them.

Layouts from include/uapi/linux/inet_diag.h.
"""

import errno
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from struct import Struct, pack
from time import monotonic
from typing import NamedTuple, TypeVar

from dpsd.errors import DpsdError, KernelError, NotPermitted
from dpsd.kernel.ctnetlink import ATTRIBUTE, NLM_F_DUMP, NLMSG_DONE, errno_of, messages

T = TypeVar("T")

TCPDIAG_GETSOCK, SOCK_DIAG_BY_FAMILY, SOCK_DESTROY = 18, 20, 21
# include/net/tcp_states.h
ESTABLISHED, SYN_RECV, FIN_WAIT2, TIME_WAIT, CLOSE_WAIT, LISTEN = 1, 3, 5, 6, 8, 10
ANY_STATE = 0xFFFFFFFF
PATIENCE, WHOLE = 5.0, 30.0  # seconds for each part of a dump, and for all of it
NO_COOKIE = b"\xff" * 8

_NETLINK_SOCK_DIAG = 4
_SOL_NETLINK, _NETLINK_CAP_ACK = 270, 10
_NLMSG_ERROR = 2
_NLM_F_REQUEST, _NLM_F_ACK = 1, 4
_HEADER = Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence number, port id
# inet_diag_req_v2: family, protocol, extensions, padding, states; inet_diag_sockid: ports,
# addresses (network byte order), interface, cookie.
_REQUEST = Struct("=BBBxI2s2s16s16sI8s")
_LEAST = 72  # bytes of an inet_diag_msg
# inet_diag_req: family, lengths, extensions; the same inet_diag_sockid; states, dbs.
_REQUEST_ALL = Struct("=B3x2s2s16s16sI8sII")
_BYTECODE = 1  # INET_DIAG_REQ_BYTECODE

# Answers to one batch have to fit into the socket's buffer (212,992 bytes, about 1.3 KB each).
_BATCH = 64
_ANSWER_SIZE, _DUMP_SIZE = 1 << 12, 1 << 17  # bytes of a datagram at most


class Session(NamedTuple):
    """A TCP session by packed addresses (4 or 16 bytes) and ports, this host's own first."""

    local: bytes
    local_port: int
    remote: bytes
    remote_port: int


@contextmanager
def opened() -> Iterator[socket.socket]:
    """A socket for questions to sock_diag. What fails on it is raised as KernelError."""
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as diag:
            diag.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)  # errors without the request
            microseconds = divmod(round(PATIENCE * 1e6), 1_000_000)
            diag.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, pack("ll", *microseconds))
            yield diag
    except BlockingIOError as error:
        raise KernelError("the sockets of sessions: the kernel gives no answer") from error
    except OSError as error:
        raise refused(error.errno or errno.EIO) from error


def request(kind: int, session: Session, extensions: int = 0, cookie: bytes = NO_COOKIE) -> bytes:
    """What asks for a session's socket (SOCK_DIAG_BY_FAMILY) or ends it (SOCK_DESTROY).

    extensions: bits of the attributes that are wanted in the answer.
    """
    local, local_port, remote, remote_port = session
    body = _REQUEST.pack(
        socket.AF_INET if len(local) == 4 else socket.AF_INET6,
        socket.IPPROTO_TCP, extensions, ANY_STATE,
        local_port.to_bytes(2), remote_port.to_bytes(2), local, remote, 0, cookie,
    )  # fmt: skip
    flags = _NLM_F_REQUEST | (_NLM_F_ACK if kind == SOCK_DESTROY else 0)
    return _HEADER.pack(_HEADER.size + len(body), kind, flags, 0, 0) + body


def answers(
    diag: socket.socket, requests: Sequence[bytes], read: Callable[[bytes, int, int], T]
) -> list[int | T]:
    """One answer a request, in order: an errno (0: done), or what `read` makes of the socket.

    read: gets a datagram, and where an inet_diag_msg with its attributes begins and ends in it.
    Raises KernelError if the kernel doesn't answer every request.
    """
    found: list[int | T] = []
    for start in range(0, len(requests), _BATCH):
        batch = requests[start : start + _BATCH]
        diag.send(b"".join(batch))
        # The kernel worked through all of it within send(), and has queued its answers.
        while len(found) < start + len(batch):
            datagram = diag.recv(_ANSWER_SIZE, socket.MSG_DONTWAIT)
            for kind, body, end in _told(datagram):
                if kind == _NLMSG_ERROR:
                    found.append(errno_of(datagram, body, end))
                elif kind == NLMSG_DONE:
                    raise OSError(errno.EPROTO, "the end of a dump that nobody asked for")
                else:
                    found.append(read(datagram, body, end))
        if len(found) > start + len(batch):
            raise OSError(errno.EPROTO, "more answers than questions")
    return found


def dump_all(diag: socket.socket, states: int, program: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Each TCP socket of both IP versions in one of these states (bits) that a bytecode program
    takes: a datagram, and where an inet_diag_msg with its attributes begins and ends in it.

    By the older request, in which no family means all: one walk through the sockets, not two.
    """
    none, no_port = bytes(16), bytes(2)
    body = _REQUEST_ALL.pack(
        socket.AF_UNSPEC, no_port, no_port, none, none, 0, NO_COOKIE, states, 0
    )  # fmt: skip
    body += ATTRIBUTE.pack(ATTRIBUTE.size + len(program), _BYTECODE) + program
    flags = _NLM_F_REQUEST | NLM_F_DUMP
    diag.send(_HEADER.pack(_HEADER.size + len(body), TCPDIAG_GETSOCK, flags, 0, 0) + body)
    until = monotonic() + WHOLE
    while monotonic() < until:
        datagram = diag.recv(_DUMP_SIZE)
        for kind, start, end in _told(datagram):
            if kind == NLMSG_DONE:
                return
            if kind == _NLMSG_ERROR:
                raise refused(errno_of(datagram, start, end))
            yield datagram, start, end
    raise KernelError(
        f"the sockets of sessions: the kernel's answer goes on for over {WHOLE:.0f} s"
    )


def _told(datagram: bytes) -> Iterator[tuple[int, int, int]]:
    """Type, start and end of the payload of each message; OSError for one that is too short."""
    for at, end in messages(datagram):
        kind = int(_HEADER.unpack_from(datagram, at)[1])
        body = at + _HEADER.size
        if end - body < _LEAST and kind not in {_NLMSG_ERROR, NLMSG_DONE}:
            raise OSError(errno.EPROTO, "an answer is too short")
        yield kind, body, end


def refused(failure: int) -> DpsdError:
    """What an errno of the kernel's means to whoever asked for sessions or ended them."""
    if failure in {errno.EPERM, errno.EACCES}:
        return NotPermitted("ending sessions needs CAP_NET_ADMIN: run as root")
    if failure == errno.EOPNOTSUPP:
        return KernelError("this kernel can't end sessions: it lacks CONFIG_INET_DIAG_DESTROY")
    if failure == errno.ENOENT:
        return KernelError("this kernel can't tell its sessions: load the module tcp_diag")
    return KernelError(f"the sockets of sessions: {os.strerror(failure)}")
