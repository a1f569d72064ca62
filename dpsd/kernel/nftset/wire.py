"""Elements of nf_tables sets as netlink messages; bytes only, no socket.

Layouts from include/uapi/linux/netfilter/{nfnetlink,nf_tables}.h. Netlink headers are in host
byte order, nf_tables' own numbers in network byte order.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from struct import Struct, pack, unpack_from
from typing import NamedTuple

HEADER = Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence number, port id
_U64 = Struct(">Q")
ATTRIBUTE = Struct("=HH")  # nlattr: length, type

NLMSG_ERROR, NLMSG_DONE = 2, 3
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP, NLM_F_CREATE = 0x1, 0x4, 0x300, 0x400

NFNL_SUBSYS_NFTABLES = 10
NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END = 16, 17
NEWRULE, GETRULE, NEWSETELEM, GETSETELEM, DELSETELEM = (
    NFNL_SUBSYS_NFTABLES << 8 | n for n in (6, 7, 12, 13, 14)
)
NFPROTO_UNSPEC, NFPROTO_INET = 0, 1

_LIST_TABLE, _LIST_SET, _LIST_ELEMENTS = 1, 2, 3  # NFTA_SET_ELEM_LIST_*
_LIST_ELEM = 1  # NFTA_LIST_ELEM
_KEY, _FLAGS, _TIMEOUT, _EXPIRATION, _EXPR, _EXPRESSIONS = 1, 3, 4, 5, 7, 11  # NFTA_SET_ELEM_*
_DATA_VALUE = 1  # NFTA_DATA_VALUE
_RULE_EXPRESSIONS = 4  # NFTA_RULE_EXPRESSIONS
_EXPR_NAME, _EXPR_DATA = 1, 2  # NFTA_EXPR_*
_COUNTER_BYTES, _COUNTER_PACKETS = 1, 2  # NFTA_COUNTER_*
_INTERVAL_END = 1  # NFT_SET_ELEM_INTERVAL_END

# An attribute's length has 16 bits; an element takes 44 bytes at most.
_ELEMENTS_A_MESSAGE = 1000


@dataclass(frozen=True, slots=True)
class Found:
    """An element that the kernel holds. until: it expires then, None: stays for good.

    lasts: seconds that it was put there for.
    """

    key: bytes
    interval_end: bool
    until: float | None
    packets: int
    lasts: float | None = None


class Traffic(NamedTuple):
    """What a counter counted."""

    packets: int
    bytes: int


def attribute(kind: int, payload: bytes) -> bytes:
    """A netlink attribute, padded to four bytes."""
    length = 4 + len(payload)
    return ATTRIBUTE.pack(length, kind) + payload + bytes(-length & 3)


def attributes(data: bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Type, start and end of each attribute's payload; stops at what can't be one."""
    while start + 4 <= end:
        length, kind = ATTRIBUTE.unpack_from(data, start)
        if length < 4 or start + length > end:
            return
        yield kind & 0x3FFF, start + 4, start + length  # without NLA_F_NESTED, NLA_F_NET_BYTEORDER
        start += (length + 3) & ~3


def messages(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Type, port id, start and end of the payload of each message of a datagram."""
    start = 0
    while start + HEADER.size <= len(data):
        length, kind, _, _, port = HEADER.unpack_from(data, start)
        if length < HEADER.size or start + length > len(data):
            return
        yield kind, port, start + HEADER.size, start + length
        start += (length + 3) & ~3


def message(kind: int, flags: int, family: int, payload: bytes = b"", resource: int = 0) -> bytes:
    """A nfnetlink message: netlink header, nfgenmsg, attributes."""
    body = pack(">BBH", family, 0, resource) + payload
    return HEADER.pack(HEADER.size + len(body), kind, flags | NLM_F_REQUEST, 0, 0) + body


def element(key: bytes, seconds: float | None = None) -> bytes:
    """A set element; seconds: the time it stays, None: for good."""
    value = attribute(_KEY, attribute(_DATA_VALUE, key))
    if seconds is not None:
        value += attribute(_TIMEOUT, pack(">Q", max(1, round(seconds * 1000))))
    return attribute(_LIST_ELEM, value)


def change(kind: int, table: str, set_name: str, elements: Iterable[bytes]) -> Iterator[bytes]:
    """Messages that add (NEWSETELEM) or delete (DELSETELEM) these elements of a set.

    Adding one that is there changes nothing (from Linux 6.12 on: nothing but its time), deleting
    one that isn't fails with ENOENT.
    """
    where = _where(table, set_name)
    flags = NLM_F_CREATE if kind == NEWSETELEM else 0
    packed = list(elements)
    for start in range(0, len(packed), _ELEMENTS_A_MESSAGE):
        chunk = b"".join(packed[start : start + _ELEMENTS_A_MESSAGE])
        yield message(kind, flags, NFPROTO_INET, where + attribute(_LIST_ELEMENTS, chunk))


def batch(changes: Iterable[bytes]) -> bytes:
    """One transaction: all of these messages take effect, or none.

    The kernel answers with an error for each message that fails, and acknowledges the last one.
    """
    begin, end = (
        message(kind, 0, NFPROTO_UNSPEC, resource=NFNL_SUBSYS_NFTABLES)
        for kind in (NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END)
    )
    *before, last = changes
    length, kind, flags, _, _ = HEADER.unpack_from(last)
    last = HEADER.pack(length, kind, flags | NLM_F_ACK, 0, 0) + last[HEADER.size :]
    return b"".join((begin, *before, last, end))


def dump(table: str, set_name: str) -> bytes:
    """The request for all elements of a set."""
    return message(GETSETELEM, NLM_F_DUMP, NFPROTO_INET, _where(table, set_name))


def dump_rules(table: str, chain: str) -> bytes:
    """The request for all rules of a chain."""
    return message(GETRULE, NLM_F_DUMP, NFPROTO_INET, _where(table, chain))


def traffic(data: bytes, start: int, end: int) -> Iterator[Traffic]:
    """The counters of the rule in one answer to dump_rules()."""
    for kind, first, last in attributes(data, start + 4, end):
        if kind == _RULE_EXPRESSIONS:
            for _, expression, expression_end in attributes(data, first, last):
                parts = {k: (a, z) for k, a, z in attributes(data, expression, expression_end)}
                if data[slice(*parts.get(_EXPR_NAME, (0, 0)))] == b"counter\0":
                    yield _traffic(data, expression, expression_end)


def found(data: bytes, start: int, end: int, now: float) -> Iterator[Found]:
    """The elements in the payload of one answer to dump(), which was told now. struct.error
    for what no kernel says."""
    for kind, elements, elements_end in attributes(data, start + 4, end):
        if kind == _LIST_ELEMENTS:
            shape: _Shape | None = None
            for _, first, last in attributes(data, elements, elements_end):
                if shape is None or not shape.fits(data, first, last):
                    shape = _Shape(data, first, last)
                yield shape.read(data, first, now) or _found(data, first, last, now)


class _Shape:
    """How one element is laid out; most of a set are alike, and 250,000 come this way."""

    def __init__(self, data: bytes, start: int, end: int) -> None:
        self._size = end - start
        self._heads: list[tuple[int, int, bytes]] = []
        at = {kind: (first, last) for kind, first, last in self._noted(data, start, end, start)}
        self._key = at.get(_KEY)
        # What is told twice, or in another way, is read with care.
        known = at.keys() <= {_KEY, _TIMEOUT, _EXPIRATION, _EXPR}
        self._is_plain = known and len(at) == len(self._heads)
        self._timeout = at[_TIMEOUT][0] if _TIMEOUT in at else None
        self._left = at[_EXPIRATION][0] if _EXPIRATION in at else None
        self._packets = self._counter(data, start, at) if _EXPR in at else None

    def _noted(
        self, data: bytes, first: int, last: int, start: int
    ) -> list[tuple[int, int, int]]:  # fmt: skip
        """Attributes, relative to the element; their headers are to be the same in others."""
        found = list(attributes(data, first, last))
        self._heads += [(a - 4 - start, a - start, data[a - 4 : a]) for _, a, _ in found]
        return [(kind, a - start, z - start) for kind, a, z in found]

    def _counter(self, data: bytes, start: int, at: Mapping[int, tuple[int, int]]) -> int | None:
        """Where the packets of a counter are counted."""
        first, last = at[_EXPR]
        for kind, a, z in self._noted(data, start + first, start + last, start):
            if kind == _EXPR_NAME and data[start + a : start + z] != b"counter\0":
                self._is_plain = False
            if kind == _EXPR_DATA:
                counted = self._noted(data, start + a, start + z, start)
                return next((a for what, a, _ in counted if what == _COUNTER_PACKETS), None)
        return None

    def fits(self, data: bytes, start: int, end: int) -> bool:
        """Whether another element is laid out the same."""
        return end - start == self._size and all(
            data[start + first : start + last] == head for first, last, head in self._heads
        )

    def read(self, data: bytes, start: int, now: float) -> Found | None:
        """The element; None: it has more to it than a key and times."""
        if not self._is_plain or self._key is None:
            return None
        key = data[start + self._key[0] + 4 : start + self._key[1]]
        until = lasts = None
        if self._timeout is not None and self._left is not None:
            lasts = _U64.unpack_from(data, start + self._timeout)[0] / 1000
            if lasts:
                until = now + _U64.unpack_from(data, start + self._left)[0] / 1000
        packets = 0
        if self._packets is not None:
            packets = _U64.unpack_from(data, start + self._packets)[0]
        return Found(key, False, until, packets, lasts or None)


def _found(data: bytes, start: int, end: int, now: float) -> Found:
    key, flags, timeout, left, packets = b"", 0, None, None, 0
    for kind, first, last in attributes(data, start, end):
        if kind == _KEY:
            key = data[first + 4 : last]
        elif kind == _FLAGS:
            (flags,) = unpack_from(">I", data, first)
        elif kind == _TIMEOUT:
            (timeout,) = unpack_from(">Q", data, first)
        elif kind == _EXPIRATION:
            (left,) = unpack_from(">Q", data, first)
        elif kind == _EXPR:
            packets = _traffic(data, first, last).packets
        elif kind == _EXPRESSIONS:
            for _, expression, expression_end in attributes(data, first, last):
                packets = _traffic(data, expression, expression_end).packets
    until = None if not timeout or left is None else now + left / 1000
    lasts = timeout / 1000 if timeout else None
    return Found(key, bool(flags & _INTERVAL_END), until, packets, lasts)


def _traffic(data: bytes, start: int, end: int) -> Traffic:
    """What a counter expression counted."""
    counted = {_COUNTER_PACKETS: 0, _COUNTER_BYTES: 0}
    for kind, first, last in attributes(data, start, end):
        if kind == _EXPR_DATA:
            for what, value, _ in attributes(data, first, last):
                if what in counted:
                    (counted[what],) = unpack_from(">Q", data, value)
    return Traffic(counted[_COUNTER_PACKETS], counted[_COUNTER_BYTES])


def _where(table: str, name: str) -> bytes:
    """A table, and what is meant of it: NFTA_RULE_TABLE and _CHAIN have the numbers of these."""
    return attribute(_LIST_TABLE, table.encode() + b"\0") + attribute(
        _LIST_SET, name.encode() + b"\0"
    )
