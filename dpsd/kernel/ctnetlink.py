"""ctnetlink messages: bytes to events, no socket.

The kernel lays out all messages of one kind alike: with the same attributes in the same order,
every value sits at the same offset. So a message's shape is learned once by a careful walk over
its attributes; after that a message of the same length, type and flags has its attribute headers
compared and its values read, all by offset. When the headers differ, it is walked again.
Sources: include/uapi/linux/netfilter/nfnetlink_conntrack.h, net/netfilter/nf_conntrack_netlink.c.
"""

import errno
import struct
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from operator import itemgetter
from struct import Struct, calcsize
from typing import Any

from dpsd.core.events import BEGIN, DESTROY, END, ENTRY, LOST, UPDATE, Endpoints, Event, Measure

HEADER = Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port id
GENERIC = Struct("=BBH")  # struct nfgenmsg: family, version, resource id
ATTRIBUTE = Struct("=HH")  # struct nlattr: length, type
BODY = HEADER.size + GENERIC.size

NLMSG_ERROR, NLMSG_DONE, NLMSG_OVERRUN = 2, 3, 4
NLM_F_REQUEST, NLM_F_MULTI, NLM_F_ACK, NLM_F_DUMP = 0x1, 0x2, 0x4, 0x300
CT_NEW, CT_GET, CT_DELETE = 0x100, 0x101, 0x102  # NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_*
NESTED, TYPE_MASK = 0x8000, 0x3FFF

TUPLE_ORIG, TUPLE_REPLY, STATUS, PROTOINFO, TIMEOUT = 1, 2, 3, 4, 7
COUNTERS_ORIG, COUNTERS_REPLY, FILTER = 9, 10, 25
TUPLE_IP, TUPLE_PROTO = 1, 2
PROTO_NUM, PROTO_SRC_PORT, PROTO_DST_PORT = 1, 2, 3
PROTOINFO_TCP, TCP_STATE, TCP_FLAGS_ORIGINAL, TCP_FLAGS_REPLY = 1, 1, 4, 5
COUNTER_PACKETS, COUNTER_BYTES = 1, 2
TCP, AF_INET, AF_INET6 = 6, 2, 10

Path = tuple[int, ...]
Layout = dict[Path, tuple[int, int]]

# The values that an event is made of, by the path of attributes to each.
_KEY = (TUPLE_ORIG,)
_STATUS = (STATUS,)
_STATE = (PROTOINFO, PROTOINFO_TCP, TCP_STATE)
_FLAGS = (
    (PROTOINFO, PROTOINFO_TCP, TCP_FLAGS_ORIGINAL),
    (PROTOINFO, PROTOINFO_TCP, TCP_FLAGS_REPLY),
)
_TIMEOUT = (TIMEOUT,)
_COUNTERS = (
    (COUNTERS_ORIG, COUNTER_PACKETS),
    (COUNTERS_ORIG, COUNTER_BYTES),
    (COUNTERS_REPLY, COUNTER_PACKETS),
    (COUNTERS_REPLY, COUNTER_BYTES),
)
# How each is read: of the status and the flags only the one byte whose bits are of use.
_FORMATS: dict[Path, str] = {_STATUS: "3xB", _STATE: "B", _TIMEOUT: "I"}
_FORMATS |= dict.fromkeys(_FLAGS, "B") | dict.fromkeys(_COUNTERS, "Q")
_DEPTH = 3
_WANTED: dict[int, tuple[Path, ...]] = {
    UPDATE: (_STATUS, _STATE, *_FLAGS),
    ENTRY: (_STATUS, _STATE, *_FLAGS, _TIMEOUT, *_COUNTERS),
    DESTROY: (_STATUS, _STATE, *_COUNTERS),
}
# Absent counters: accounting is off; absent protoinfo in a DESTROY: a kernel before 5.10.
_OPTIONAL: dict[int, set[Path]] = {
    UPDATE: set(),
    ENTRY: {_TIMEOUT, *_COUNTERS},
    DESTROY: {_STATE, *_COUNTERS},
}
# CTA_TUPLE_ORIG of an IPv4 and an IPv6 TCP connection, by its length without its own header.
_TUPLES = {
    48: Struct(">8x4s4x4s16xH6xH2x"),
    72: Struct(">8x16s4x16s16xH6xH2x"),
}
# The rest of it, which is alike in all: (offset, length).
_FIXED = {
    48: ((0, 8), (12, 4), (20, 16), (38, 6), (46, 2)),
    72: ((0, 8), (24, 4), (44, 16), (62, 6), (70, 2)),
}
_ERRNO, _ALIKE = Struct("=i"), Struct("=Q")  # _ALIKE: a header's length, type and flags
# CTA_FILTER_F_CTA_IP_* and _PROTO_* in nf_conntrack_netlink.c
_BY_SRC, _BY_DST, _BY_NUM, _BY_SRC_PORT, _BY_DST_PORT = 1 << 0, 1 << 1, 1 << 3, 1 << 4, 1 << 5
_MOST_ALIKE, _MOST_KINDS = (
    4,
    256,
)  # shapes by length, type and flags; and of these: some 20 are real


class Malformed(ValueError):
    """A message that isn't what its header says; it is counted and skipped."""


def walk(message: bytes) -> Layout:
    """Where each attribute's value of one message lies: path to (offset, length).

    Nests are entered as deep as anything of use lies. Raises Malformed when an attribute doesn't
    lie within its surroundings.
    """
    layout: Layout = {}
    _walk(message, BODY, int(HEADER.unpack_from(message)[0]), (), layout)
    return layout


def _walk(message: bytes, start: int, end: int, path: Path, layout: Layout) -> None:
    if end > len(message):
        raise Malformed("the message is longer than what was received")
    while start + ATTRIBUTE.size <= end:
        length, kind = ATTRIBUTE.unpack_from(message, start)
        if length < ATTRIBUTE.size or start + length > end:
            raise Malformed("an attribute reaches outside its surroundings")
        here = (*path, kind & TYPE_MASK)
        layout.setdefault(here, (start + ATTRIBUTE.size, length - ATTRIBUTE.size))
        if kind & NESTED and len(here) < _DEPTH:
            _walk(message, start + ATTRIBUTE.size, start + length, here, layout)
        start += length + 3 & ~3


@dataclass(slots=True, frozen=True)
class Shape:
    """Offsets of one layout.

    `values` reads the key and the wanted values in the order in which they lie; `pick` brings
    them into the order of an event (None: they lie so already), with None, put behind them, for
    what is absent. `headers` reads what all messages of the shape have alike, their length, type
    and flags, the headers of the attributes and nests that the values stand in and all of the key
    but its addresses and ports; it must equal `fixed`.
    """

    kind: int
    size: int
    values: Struct
    pick: Callable[[tuple[Any, ...]], tuple[Any, ...]] | None
    headers: Struct
    fixed: tuple[bytes, ...]

    def event(self, buffer: bytes | bytearray, at: int) -> Event:
        """The event that the message at this offset is."""
        found = self.values.unpack_from(buffer, at)
        if self.pick is not None:
            found = self.pick((*found, None))
        if self.kind == UPDATE:
            return (UPDATE, *found)
        if self.kind == ENTRY:
            key, status, state, flags, server_flags, *_ = found
            measure = tuple.__new__(Measure, found[5:])
            return (ENTRY, key, status, state, (flags, server_flags), measure)
        key, status, state, *counters = found
        measure = tuple.__new__(Measure, (None, *counters))
        return (DESTROY, key, status, state or 0, None, measure)


_NEVER = Shape(UPDATE, -1, Struct(""), None, Struct(""), ())


def learn(message: bytes, kind: int) -> Shape | None:
    """The shape of a message; None for one that can't be an event (not TCP, or incomplete, or
    with addresses and ports laid out in another way than the kernel's).

    Raises Malformed like walk().
    """
    layout = walk(message)
    wanted: tuple[Path, ...] = (_KEY, *_WANTED[kind])
    absent = {path for path in wanted if path not in layout}
    if absent - _OPTIONAL[kind] or not _has_key(message, layout):
        return None
    present = sorted((*layout[path], path) for path in wanted if path not in absent)
    if any(calcsize(">" + _FORMATS[path]) > size for _, size, path in present if path != _KEY):
        raise Malformed("an attribute's value is shorter than its kind")
    order = [path for _, _, path in present]
    headers = _struct(_headers(layout, order))
    return Shape(
        kind=kind,
        size=HEADER.unpack_from(message)[0],
        values=_struct((at, _FORMATS.get(path, f"{size}s")) for at, size, path in present),
        pick=None if order == [*wanted] else itemgetter(*_positions(order, wanted)),
        headers=headers,
        fixed=headers.unpack_from(message),
    )


def _has_key(message: bytes, layout: Layout) -> bool:
    """Whether the key is one of TCP, every byte of it where the kernel puts it."""
    at, size = layout[_KEY]
    key = message[at : at + size]
    return size in _TUPLES and key == key_of(endpoints(key))


def _positions(order: list[Path], wanted: Iterable[Path]) -> Iterator[int]:
    for path in wanted:
        yield order.index(path) if path in order else len(order)


def _headers(layout: Layout, order: Iterable[Path]) -> Iterator[tuple[int, str]]:
    """(offset, format) of all that messages of one shape have alike, but for what isn't read.

    That is length, type and flags, the headers of the given attributes and of the nests around
    them, and the whole key without its addresses and ports.
    """
    paths = {path[:depth] for path in order for depth in range(1, len(path) + 1)}
    spans = [(layout[path][0] - ATTRIBUTE.size, layout[path][0]) for path in paths]
    spans.append((0, _ALIKE.size))
    at, size = layout[_KEY]
    for gap, length in _FIXED[size]:
        spans.append((at + gap, at + gap + length))
    begin, end = min(spans)
    for start, stop in sorted(spans):
        if start not in (begin, end):
            yield begin, f"{end - begin}s"
            begin = start
        end = stop
    yield begin, f"{end - begin}s"


def _struct(fields: Iterable[tuple[int, str]]) -> Struct:
    """A struct that reads (offset, format) fields; big-endian, as netfilter writes values."""
    text, at = ">", 0
    for start, form in fields:
        text += f"{start - at}x{form}"
        at = start + calcsize(">" + form)
    return Struct(text)


class Decoder:
    """Turns received bytes into events. `skipped` counts the messages that made no sense."""

    def __init__(self) -> None:
        self.skipped = 0
        self._shapes: dict[tuple[int], list[Shape]] = {}
        self._usual = _NEVER  # the shape of most messages: tried first, at less cost

    def decode(self, buffer: bytes | bytearray, spans: Iterable[tuple[int, int]]) -> list[Event]:
        """The events in the datagrams that lie at the given (start, end) of the buffer.

        Whatever is truncated, foreign or nonsensical is counted in `skipped`, never raised.
        """
        events: list[Event] = []
        shapes = self._shapes
        size, fixed = self._usual.size, self._usual.fixed
        headers, values = self._usual.headers.unpack_from, self._usual.values.unpack_from
        last: Shape | None = None  # of the message before: a dump's are alike
        for start, end in spans:
            if end - start == size and headers(buffer, start) == fixed:
                events.append((UPDATE, *values(buffer, start)))
                continue
            at = start
            while at + HEADER.size <= end:
                if (
                    last is not None
                    and at + last.size <= end
                    and last.headers.unpack_from(buffer, at) == last.fixed
                ):
                    events.append(last.event(buffer, at))
                    at += last.size + 3 & ~3
                    continue
                # Whatever has length, type and flags alike almost surely has one shape.
                for shape in shapes.get(_ALIKE.unpack_from(buffer, at), ()):
                    if at + shape.size <= end and (
                        shape.headers.unpack_from(buffer, at) == shape.fixed
                    ):
                        events.append(shape.event(buffer, at))
                        last = shape
                        if shape.kind == UPDATE and shape.pick is None:
                            self._usual = shape
                        at += shape.size + 3 & ~3
                        break
                else:
                    at = self._unfamiliar(buffer, at, end, events)
            if at < end:
                self.skipped += 1  # too short for a message
        return events

    def _unfamiliar(self, buffer: bytes | bytearray, at: int, end: int, events: list[Event]) -> int:
        """Take one message of no known shape; where the next one starts."""
        length, kind, flags, _, _ = HEADER.unpack_from(buffer, at)
        if length < HEADER.size or at + length > end:
            self.skipped += 1
            return end
        message = bytes(buffer[at : at + length])
        try:
            event = self._control(message, kind, flags) or self._learnt(message, kind, flags)
        except (Malformed, struct.error):
            event = None
        if event is None:
            self.skipped += 1
        else:
            events.append(event)
        return at + (int(length) + 3 & ~3)

    def _learnt(self, message: bytes, kind: int, flags: int) -> Event | None:
        if kind not in (CT_NEW, CT_DELETE):
            return None
        kind = DESTROY if kind == CT_DELETE else ENTRY if flags & NLM_F_MULTI else UPDATE
        shape = learn(message, kind)
        if shape is None:
            return None
        if len(self._shapes) >= _MOST_KINDS:  # no kernel has as many: a damaged capture, say
            self._shapes.clear()
        alike = self._shapes.setdefault(_ALIKE.unpack_from(message), [])
        alike.insert(0, shape)
        del alike[_MOST_ALIKE:]
        return shape.event(message, 0)

    @staticmethod
    def _control(message: bytes, kind: int, flags: int) -> Event | None:
        if kind == NLMSG_OVERRUN:
            return (LOST, None, 0, 0, 0, 0)
        if kind in (NLMSG_DONE, NLMSG_ERROR):
            (number,) = _ERRNO.unpack_from(message, HEADER.size)
            return (END, None, 0, 0, -number, 0)
        if kind == CT_GET and flags & NLM_F_DUMP == NLM_F_DUMP:
            return (BEGIN, None, 0, 0, *_dump_scope(message))
        return None


def messages(datagram: bytes) -> Iterator[tuple[int, int]]:
    """(start, end) of each whole message in a datagram, with its padding."""
    at = 0
    while at + HEADER.size <= len(datagram):
        length = HEADER.unpack_from(datagram, at)[0]
        if length < HEADER.size or at + length > len(datagram):
            return
        end = min(at + (length + 3 & ~3), len(datagram))
        yield at, end
        at = end


def errno_of(data: bytes | bytearray, at: int, end: int) -> int:
    """The errno in an error or in a dump's end (0: none); EPROTO for what isn't one."""
    told = -int(_ERRNO.unpack_from(data, at)[0]) if end - at >= _ERRNO.size else -1
    return told if 0 <= told < 4096 else errno.EPROTO


def endpoints(key: bytes) -> Endpoints:
    """What a session's key says. Raises ValueError for bytes that are no key."""
    if len(key) not in _TUPLES:
        raise ValueError(f"{len(key)} bytes are no connection's addresses and ports")
    return tuple.__new__(Endpoints, _TUPLES[len(key)].unpack(key))


def key_of(ends: Endpoints) -> bytes:
    """The key of the session between these endpoints: CTA_TUPLE_ORIG as the kernel writes it."""
    source, destination = (1, 2) if len(ends.peer) == 4 else (3, 4)
    return nest(TUPLE_IP, attribute(source, ends.peer) + attribute(destination, ends.server)) + (
        nest(
            TUPLE_PROTO,
            attribute(PROTO_NUM, bytes([TCP]))
            + attribute(PROTO_SRC_PORT, ends.peer_port.to_bytes(2, "big"))
            + attribute(PROTO_DST_PORT, ends.server_port.to_bytes(2, "big")),
        )
    )


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded to four bytes."""
    return ATTRIBUTE.pack(ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def nest(kind: int, attributes: bytes) -> bytes:
    """An attribute that holds attributes."""
    return attribute(kind | NESTED, attributes)


def message(kind: int, flags: int, family: int, attributes: bytes = b"") -> bytes:
    """One conntrack request for the kernel."""
    length = BODY + len(attributes)
    return HEADER.pack(length, kind, flags, 0, 0) + GENERIC.pack(family, 0, 0) + attributes


def dump_request(port: int, version: int) -> bytes:
    """Asks for the connections of one IP version (4 or 6) to a TCP port, filtered by the kernel.

    A kernel before 5.8 ignores the filter (CTA_FILTER) and sends the whole table.
    """
    family = AF_INET if version == 4 else AF_INET6
    number = attribute(PROTO_NUM, bytes([TCP]))
    wanted = nest(TUPLE_PROTO, number + attribute(PROTO_DST_PORT, port.to_bytes(2, "big")))
    by = attribute(1, (_BY_NUM | _BY_DST_PORT).to_bytes(4, sys.byteorder)) + attribute(2, bytes(4))
    request = nest(TUPLE_ORIG, wanted) + nest(FILTER, by)
    return message(CT_GET, NLM_F_REQUEST | NLM_F_DUMP, family, request)


def get_request(key: bytes, more: bytes = b"") -> bytes:
    """Asks for one session's entry; answered by it, or by an errno (ENOENT: there is none).

    more: further attributes, such as the zone.
    """
    return message(CT_GET, NLM_F_REQUEST, _family(key), nest(TUPLE_ORIG, key) + more)


def delete_request(key: bytes, more: bytes = b"") -> bytes:
    """Asks the kernel to forget one session; answered by an errno (0: done, ENOENT: gone)."""
    flags = NLM_F_REQUEST | NLM_F_ACK
    return message(CT_DELETE, flags, _family(key), nest(TUPLE_ORIG, key) + more)


def find_request(key: bytes) -> bytes:
    """Asks for one session's entries in all zones, by a walk through the whole table."""
    exact = _BY_SRC | _BY_DST | _BY_NUM | _BY_SRC_PORT | _BY_DST_PORT
    by = attribute(1, exact.to_bytes(4, sys.byteorder)) + attribute(2, bytes(4))
    request = nest(TUPLE_ORIG, key) + nest(FILTER, by)
    return message(CT_GET, NLM_F_REQUEST | NLM_F_DUMP, _family(key), request)


def _family(key: bytes) -> int:
    return AF_INET if len(key) == min(_TUPLES) else AF_INET6


def _dump_scope(message: bytes) -> tuple[int, int]:
    """The port and IP version that a dump request of ours asks for."""
    family, _, _ = GENERIC.unpack_from(message, HEADER.size)
    at, size = walk(message).get((TUPLE_ORIG, TUPLE_PROTO, PROTO_DST_PORT), (0, 0))
    version = {AF_INET: 4, AF_INET6: 6}.get(family, 0)
    return int.from_bytes(message[at : at + size], "big"), version
