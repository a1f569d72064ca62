"""Conntrack's entries of single sessions: where each really ends, and deletion."""

import errno
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from time import monotonic
from typing import NamedTuple

from dpsd.errors import KernelError, NotPermitted
from dpsd.kernel import ctnetlink
from dpsd.kernel.ctnetlink import (
    ATTRIBUTE,
    BODY,
    PROTOINFO,
    PROTOINFO_TCP,
    TCP_STATE,
    TUPLE_ORIG,
    TUPLE_REPLY,
    TYPE_MASK,
    endpoints,
    messages,
)

_NETLINK_NETFILTER, _SO_RCVBUFFORCE = 12, 33
_ID, _ZONE = 12, 18  # CTA_ID, CTA_ZONE
_BATCH = 128  # requests a datagram; an answer takes about 1 KB of the socket's buffer
_BUFFER = 4 << 20
_ANSWERS_WITHIN = 5.0  # seconds; the kernel answers within send()

_TUPLE_ZONE = 8  # bytes of CTA_TUPLE_ZONE, which is last in a tuple
_MOST_ZONES = 16
_SAMPLE = 4  # sessions that are sought in all zones, each by a walk through the kernel's table
_SEEK_EVERY = 10.0  # seconds


class Place(NamedTuple):
    """Where a session ends: the peer as the server sees it, masqueraded or not, and the server's
    real address and port, after DNAT or REDIRECT.

    key: the session's, CTA_TUPLE_ORIG; state: conntrack's, 0 without an entry; zone and id: of its
    entry (id empty without one).
    """

    key: bytes
    server: bytes
    server_port: int
    peer: bytes
    peer_port: int
    state: int = 0
    zone: int = 0
    id: bytes = b""


class Entries:
    """Asks conntrack for entries by their keys, in all zones that are in use."""

    def __init__(self) -> None:
        self._zones = [0]
        self._seek_after = 0.0

    def look(self, keys: Sequence[bytes]) -> dict[bytes, Place]:
        """The places of those sessions that have an entry. Raises KernelError, NotPermitted."""
        found: dict[bytes, Place] = {}
        with _open() as sock:
            missing = self._look(sock, keys, self._zones, found)
            if missing and monotonic() >= self._seek_after:
                self._seek_after = monotonic() + _SEEK_EVERY
                new = _zones_of(sock, missing[:_SAMPLE]) - {*self._zones}
                self._look(sock, missing, sorted(new), found)
                self._zones = [*self._zones, *new][:_MOST_ZONES]
        return found

    def forget(self, places: Iterable[Place]) -> int:
        """Delete the entries of these places, and no later ones of the same addresses and ports;
        how many were still there. Raises KernelError, NotPermitted.
        """
        requests = [
            ctnetlink.delete_request(place.key, _where(place.zone, place.id))
            for place in places
            if place.id
        ]
        with _open() as sock:
            return sum(answer == 0 for answer in _ask(sock, requests))

    @staticmethod
    def _look(
        sock: socket.socket, keys: Sequence[bytes], zones: Iterable[int], found: dict[bytes, Place]
    ) -> Sequence[bytes]:
        """Look into these zones; the keys that aren't in any of them."""
        for zone in zones:
            requests = [ctnetlink.get_request(key, _where(zone)) for key in keys]
            for key, answer in zip(keys, _ask(sock, requests), strict=True):
                if isinstance(answer, bytes) and (place := _place(key, zone, answer)) is not None:
                    found[key] = place
            keys = [key for key in keys if key not in found]
        return keys


def originals(tuples: Sequence[bytes]) -> dict[bytes, bytes]:
    """By these tuples, each in either direction of an entry's: the entry's original one, which is
    the key that dpsd knows the session by. Those without an entry, in zone 0, are left out.

    Raises KernelError, NotPermitted.
    """
    with _open() as sock:
        answers = _ask(sock, [ctnetlink.get_request(each) for each in tuples])
    return {
        each: _attributes(answer, BODY, len(answer)).get(TUPLE_ORIG, b"")
        for each, answer in zip(tuples, answers, strict=True)
        if isinstance(answer, bytes)
    }


def _where(zone: int, id_: bytes = b"") -> bytes:
    attributes = ctnetlink.attribute(_ZONE, zone.to_bytes(2, "big")) if zone else b""
    return attributes + (ctnetlink.attribute(_ID, id_) if id_ else b"")


def _place(key: bytes, zone: int, message: bytes) -> Place | None:
    """None: not TCP, or laid out as no kernel does."""
    told = _attributes(message, BODY, len(message))
    reply = told.get(TUPLE_REPLY, b"")
    state = told.get(PROTOINFO, b"")
    for nested in (PROTOINFO_TCP, TCP_STATE):
        state = _attributes(state, 0, len(state)).get(nested, b"")
    try:
        ends = endpoints(reply if len(reply) in {48, 72} else reply[:-_TUPLE_ZONE])
    except ValueError:
        return None
    # The reply's source is the server, its destination the peer.
    return Place(
        key, ends.peer, ends.peer_port, ends.server, ends.server_port,
        int.from_bytes(state, "big"), zone, told.get(_ID, b""),
    )  # fmt: skip


def _attributes(data: bytes, at: int, end: int) -> dict[int, bytes]:
    """The values of the attributes from here on, none entered; up to one that can't be one."""
    values: dict[int, bytes] = {}
    while at + ATTRIBUTE.size <= end:
        length, kind = ATTRIBUTE.unpack_from(data, at)
        if length < ATTRIBUTE.size or at + length > end:
            break
        values[kind & TYPE_MASK] = data[at + ATTRIBUTE.size : at + length]
        at += length + 3 & ~3
    return values


def _zones_of(sock: socket.socket, keys: Iterable[bytes]) -> set[int]:
    """The zones in which conntrack has these sessions."""
    zones: set[int] = set()
    for key in keys:
        sock.send(ctnetlink.find_request(key))
        for message in _dumped(sock):
            if key in message:  # a kernel before 5.8 tells of all sessions
                zone = _attributes(message, BODY, len(message)).get(_ZONE, b"")
                zones.add(int.from_bytes(zone, "big"))
    return zones


def _dumped(sock: socket.socket) -> Iterator[bytes]:
    while True:
        for kind, _, message in _received(sock):
            if kind in {ctnetlink.NLMSG_DONE, ctnetlink.NLMSG_ERROR}:
                return  # what couldn't be told of is as good as not there
            yield message


def _ask(sock: socket.socket, requests: Sequence[bytes]) -> list[int | bytes]:
    """One answer each, in order: an errno (0: done), or a message."""
    answers: list[int | bytes] = []
    for start in range(0, len(requests), _BATCH):
        batch = requests[start : start + _BATCH]
        sock.send(b"".join(map(_numbered, range(len(batch)), batch)))
        told = _collect(sock, len(batch))
        answers += [told[number] for number in range(len(batch))]
    return answers


def _numbered(number: int, request: bytes) -> bytes:
    length, kind, flags, _, port = ctnetlink.HEADER.unpack_from(request)
    header = ctnetlink.HEADER.pack(length, kind, flags, number, port)
    return header + request[ctnetlink.HEADER.size :]


def _collect(sock: socket.socket, count: int) -> Mapping[int, int | bytes]:
    told: dict[int, int | bytes] = {}
    while len(told) < count:
        for kind, number, message in _received(sock):
            told[number] = message
            if kind == ctnetlink.NLMSG_ERROR:
                failure = ctnetlink.errno_of(message, ctnetlink.HEADER.size, len(message))
                if failure in {errno.EPERM, errno.EACCES}:  # one answer to the whole batch
                    raise NotPermitted("asking conntrack for a session needs CAP_NET_ADMIN")
                told[number] = failure
    return told


def _received(sock: socket.socket) -> Iterator[tuple[int, int, bytes]]:
    """Type, sequence number and bytes of each message of the next datagram."""
    try:
        datagram = sock.recv(1 << 16)
    except OSError as problem:  # TimeoutError as well
        why = problem.strerror or "no answer"
        raise KernelError(f"the connection table can't be asked: {why}") from None
    for start, end in messages(datagram):
        _, kind, _, number, _ = ctnetlink.HEADER.unpack_from(datagram, start)
        yield kind, number, datagram[start:end]


def _open() -> socket.socket:
    try:
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
    except OSError as problem:
        raise KernelError(f"this kernel has no netfilter netlink: {problem.strerror}") from None
    sock.settimeout(_ANSWERS_WITHIN)
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
    except PermissionError:
        sock.close()
        raise NotPermitted("asking conntrack for a session needs CAP_NET_ADMIN") from None
    return sock
