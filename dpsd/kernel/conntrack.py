"""Conntrack sockets: the events as they come, and dumps of the table."""

import ctypes
import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator, Sequence
from operator import add
from pathlib import Path

from dpsd.core.events import State
from dpsd.errors import KernelError, NotPermitted
from dpsd.kernel import ctnetlink

NETLINK_NETFILTER = 12
NEW, UPDATE, DESTROY = 1, 2, 4  # the groups NF_NETLINK_CONNTRACK_NEW …, as a bit mask
SO_RCVBUFFORCE = 33
SO_ATTACH_FILTER = 26
MSG_DONTWAIT = socket.MSG_DONTWAIT

ACCOUNTING = Path("/proc/sys/net/netfilter/nf_conntrack_acct")
EVENTS = Path("/proc/sys/net/netfilter/nf_conntrack_events")

BATCH = 384  # datagrams a call: what is done with them takes up to 4 ms
SLOT = 1024  # bytes a datagram; the longest event seen is 308, security contexts add some
DUMP_BUFFER = 64 * 1024  # the kernel fills up to 32 KiB of it a datagram

_PATIENCE = 10.0  # seconds for an answer
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_ANSWER = struct.Struct("=IHHIIi")  # nlmsghdr, and the errno of these two
_HEAD = ctnetlink.HEADER.size

_UNREAD = "the connection table can't be read"

Spans = list[tuple[int, int]]


class LostEvents(Exception):  # what is known must be taken anew
    """The kernel dropped events because the socket's buffer was full (ENOBUFS)."""


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("len", ctypes.c_size_t))


class _Msghdr(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_void_p),
        ("namelen", ctypes.c_uint),
        ("iov", ctypes.POINTER(_Iovec)),
        ("iovlen", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("controllen", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _Mmsghdr(ctypes.Structure):
    _fields_ = (("hdr", _Msghdr), ("len", ctypes.c_uint))


_libc = ctypes.CDLL(None, use_errno=True)


class Events:
    """The socket that conntrack's events arrive on. `buffer` holds the last batch.

    The kernel passes on only what concerns TCP to the given ports and is more than half open
    (see _port_filter). `room`: bytes that may wait to be read; beyond the system's limit
    (net.core.rmem_max) with CAP_NET_ADMIN.
    """

    def __init__(self, ports: Sequence[int], room: int) -> None:
        self._socket = _netfilter_socket()
        try:
            _enlarge(self._socket, room)
            self.watch(ports)
            _bind(self._socket, NEW | UPDATE | DESTROY)
        except BaseException:
            self.close()
            raise
        self.buffer = bytearray(BATCH * SLOT)
        self._headers = (_Mmsghdr * BATCH)()
        self._vectors = (_Iovec * BATCH)()
        memory = ctypes.addressof(ctypes.c_char.from_buffer(self.buffer))
        for i, (header, vector) in enumerate(zip(self._headers, self._vectors, strict=True)):
            vector.base, vector.len = memory + i * SLOT, SLOT
            header.hdr.iov, header.hdr.iovlen = ctypes.pointer(vector), 1
        words = memoryview(self._headers).cast("B").cast("I")
        # The length of each received datagram, read as one column of the array of headers.
        self._lengths = words[_Mmsghdr.len.offset // 4 :: ctypes.sizeof(_Mmsghdr) // 4]
        self._starts = range(0, BATCH * SLOT, SLOT)

    def fileno(self) -> int:
        """For select() and the like."""
        return self._socket.fileno()

    def watch(self, ports: Sequence[int]) -> None:
        """Let the kernel pass on the events of these ports, from now on."""
        program = _port_filter(ports)
        code = ctypes.create_string_buffer(b"".join(program))
        fprog = struct.pack("HxxxxxxP", len(program), ctypes.addressof(code))
        self._socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, fprog)

    def receive(self) -> Spans:
        """Where the waiting datagrams, up to BATCH, now lie in `buffer`; none: an empty list.

        Raises LostEvents once for each time that the buffer was full, KernelError for the rest.
        """
        count = _libc.recvmmsg(self.fileno(), self._headers, BATCH, MSG_DONTWAIT, None)
        if count < 0:
            number = ctypes.get_errno()
            if number in (errno.EAGAIN, errno.EINTR):
                return []
            if number == errno.ENOBUFS:
                raise LostEvents
            raise KernelError(f"conntrack events can't be received: {os.strerror(number)}")
        ends = map(add, self._starts, self._lengths[:count].tolist())
        return list(zip(self._starts, ends, strict=False))

    def close(self) -> None:
        """Stop receiving."""
        self._socket.close()


class Dump:
    """Dumps of the connection table, one request after the other, on a socket of their own."""

    def __init__(self) -> None:
        self._socket = _netfilter_socket()
        try:
            _enlarge(self._socket, 4 << 20)
            _bind(self._socket, 0)
        except BaseException:
            self.close()
            raise
        self._requests: Iterator[bytes] = iter(())
        self.buffer = bytearray(DUMP_BUFFER)
        self.running = False

    def fileno(self) -> int:
        """For select() and the like."""
        return self._socket.fileno()

    def start(self, ports: Iterable[int]) -> bytes | None:
        """Begin to ask for the sessions to these ports of both families; the first request.

        None if a dump is still running. KernelError as for advance().
        """
        if self.running:
            return None
        self._requests = iter(
            [ctnetlink.dump_request(port, version) for port in ports for version in (4, 6)]
        )
        return self.advance()

    def advance(self) -> bytes | None:
        """Send the next request once the one before is answered; None: that was the last.

        KernelError: it can't be sent.
        """
        request = next(self._requests, None)
        self.running = request is not None
        if request is not None:
            try:
                self._socket.send(request)
            except OSError as problem:
                self.running = False
                raise KernelError(f"{_UNREAD}: {problem.strerror}") from None
        return request

    def receive(self) -> Spans:
        """Where the next datagram of the answer lies in `buffer`; none yet: an empty list."""
        try:
            length = self._socket.recv_into(self.buffer, 0, MSG_DONTWAIT)
        except BlockingIOError:
            return []
        except OSError as problem:
            self.running = False
            raise KernelError(f"{_UNREAD}: {problem.strerror}") from None
        if failure := self._failure(length):
            self.running = False
            raise KernelError(f"{_UNREAD}: {os.strerror(failure)}")
        return [(0, length)]

    def _failure(self, length: int) -> int:
        """The errno that the answer of this length ends with; 0: none."""
        if length < _ANSWER.size:
            return 0
        if _ANSWER.unpack_from(self.buffer, 0)[1] == _NLMSG_ERROR:
            return ctnetlink.errno_of(self.buffer, _HEAD, length)
        last = length - _ANSWER.size
        size, kind, _, _, _, number = _ANSWER.unpack_from(self.buffer, last)
        if (size, kind) == (_ANSWER.size, _NLMSG_DONE) and number < 0:
            return ctnetlink.errno_of(self.buffer, last + _HEAD, length)
        return 0

    def close(self) -> None:
        """Stop asking."""
        self._socket.close()


def counts_bytes() -> bool:
    """Whether conntrack counts the bytes of sessions that begin now, as far as it can be read."""
    try:
        return ACCOUNTING.read_text().strip() != "0"
    except OSError:
        return False


def count_bytes() -> bool:
    """Let conntrack count the bytes of sessions that begin from now on; whether it does."""
    try:
        ACCOUNTING.write_text("1")
    except OSError:
        return False
    return counts_bytes()


def tells_events() -> bool:
    """Whether conntrack tells of sessions that begin now, as far as it can be read."""
    try:
        return EVENTS.read_text().strip() != "0"
    except OSError:
        return True


def tell_events() -> bool:
    """Let conntrack tell of sessions that begin from now on; whether it does."""
    try:
        EVENTS.write_text("2")
    except OSError:
        return False
    return tells_events()


def _netfilter_socket() -> socket.socket:
    try:
        return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
    except OSError as problem:
        raise KernelError(f"this kernel has no netfilter netlink: {problem.strerror}") from None


def _bind(sock: socket.socket, groups: int) -> None:
    try:
        sock.bind((0, groups))
    except PermissionError:
        raise NotPermitted("conntrack events need CAP_NET_ADMIN: run as root") from None
    except OSError as problem:
        raise KernelError(f"can't subscribe to conntrack: {problem.strerror}") from None


def _enlarge(sock: socket.socket, room: int) -> None:
    half = room // 2  # the kernel doubles the number for its own bookkeeping
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, half)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, half)


def _port_filter(ports: Sequence[int]) -> list[bytes]:
    """A classic BPF program that passes TCP events to these ports, but none of half-open sessions.

    A session matters once its peer is proven, so SYN_SENT and SYN_RECV would be two events in
    seven for nothing, and a flood of forged SYNs costs no event at all. What isn't laid out as
    expected passes: the decoder judges it.
    The kernel's net/core/filter.c finds the attributes (SKF_AD_NLATTR and SKF_AD_NLATTR_NEST).
    """
    ld_imm, ldx_imm, ld_byte = 0x00, 0x01, 0x30
    ld_byte_x, ld_half_x, store, load, tax = 0x50, 0x48, 0x02, 0x60, 0x07
    equal, greater, ret = 0x15, 0x25, 0x06
    find, find_nested = 0xFFFFF000 + 12, 0xFFFFF000 + 16
    value = ctnetlink.ATTRIBUTE.size

    def op(code: int, k: int = 0, then: int = 0, other: int = 0) -> bytes:
        return struct.pack("HBBI", code, then, other, k)

    def seek(kind: int, how: int = find_nested) -> list[bytes]:
        return [op(ldx_imm, kind), op(ld_byte, how)]

    pass_if_absent = [op(equal, 0, 0, 1), op(ret, 0xFFFFFFFF)]
    state = [
        *[op(ld_imm, ctnetlink.BODY), *seek(ctnetlink.PROTOINFO, find)],
        op(equal, 0, 10, 0),  # a DESTROY of an old kernel has none: go on with the tuple
        *[*seek(ctnetlink.PROTOINFO_TCP), op(equal, 0, 7, 0)],
        *[*seek(ctnetlink.TCP_STATE), op(equal, 0, 4, 0)],
        *[op(tax), op(ld_byte_x, value), op(greater, State.SYN_RECV, 1, 0), op(ret, 0)],
    ]
    proto = [
        *[op(ld_imm, ctnetlink.BODY), *seek(ctnetlink.TUPLE_ORIG, find), *pass_if_absent],
        *[*seek(ctnetlink.TUPLE_PROTO), *pass_if_absent, op(store, 0)],
        *[*seek(ctnetlink.PROTO_NUM), op(tax), op(ld_byte_x, value)],
        *[op(equal, ctnetlink.TCP, 1, 0), op(ret, 0)],
        *[op(load, 0), *seek(ctnetlink.PROTO_DST_PORT), op(tax), op(ld_half_x, value)],
    ]
    wanted = [op(equal, port, len(ports) - i, 0) for i, port in enumerate(ports)]
    return [*state, *proto, *wanted, op(ret, 0), op(ret, 0xFFFFFFFF)]
