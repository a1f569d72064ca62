"""The file: a pcap of netlink datagrams (LINKTYPE_NETLINK, 253), which Wireshark reads too.

It holds the conntrack messages of sessions to protected servers: addresses, ports, states and
counters, never anything that was said, nor what the host itself opened. The requests for dumps are
in it as well, so a replay sees the whole. The first datagram is no kernel's: its protocol is
NETLINK_USERSOCK, which the kernel leaves to whatever programs agree on, and it tells About the
recording. Captures of before don't have it.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import ip_network
from pathlib import Path
from typing import IO

from dpsd.core.peers import Network
from dpsd.errors import BadArgument
from dpsd.kernel.ctnetlink import ATTRIBUTE, HEADER, attribute
from dpsd.kernel.host import Host

_FILE = struct.Struct("=IHHiIII")  # pcap: magic, version, zone, accuracy, snap length, link type
_RECORD = struct.Struct("=IIII")  # seconds, nanoseconds, length in the file, length
_NANOSECONDS, _LINKTYPE_NETLINK = 0xA1B23C4D, 253
# What stands before each datagram: packet type, ARPHRD_NETLINK, unused, protocol.
_COOKED = struct.Struct(">HH10xH")
_ARPHRD_NETLINK, _NETFILTER, _USERSOCK = 824, 12, 2
MOST = 1 << 20  # bytes of one datagram
_ABOUT = 0x10  # NLMSG_MIN_TYPE, the first message type that is free


class _Told(IntEnum):
    """The attributes of About: each but ANONYMIZED is a packed address and a prefix length."""

    OWN = 1
    GATEWAY = 2
    WHITE = 3
    ANONYMIZED = 4
    NAME_SERVER = 5
    LINK = 6


@dataclass(frozen=True, slots=True)
class About:
    """What a replay has to know that no event tells.

    host: whom a verdict never lists; white: the white list of the configuration then; anonymized:
    whether all addresses, these too, stand under other names.
    """

    host: Host = Host()  # noqa: RUF009 - frozen
    white: tuple[Network, ...] = ()
    anonymized: bool = False

    def pack(self) -> bytes:
        """The datagram that tells it."""
        own = [ip_network(address) for address in sorted(self.host.own)]
        told = [
            *((_Told.OWN, each) for each in (*own, *self.host.own_prefixes)),
            *((_Told.GATEWAY, each) for each in self.host.gateways),
            *((_Told.NAME_SERVER, each) for each in self.host.name_servers),
            *((_Told.LINK, each) for each in self.host.links),
            *((_Told.WHITE, each) for each in self.white),
        ]
        body = b"".join(
            attribute(kind, each.network_address.packed + bytes([each.prefixlen]))
            for kind, each in told
        )
        if self.anonymized:
            body += attribute(_Told.ANONYMIZED, b"")
        return HEADER.pack(HEADER.size + len(body), _ABOUT, 0, 0, 0) + body

    @classmethod
    def unpack(cls, datagram: bytes) -> "About":
        """What a datagram tells; ValueError if that makes no sense."""
        found: dict[int, list[Network]] = {kind: [] for kind in _Told}
        anonymized = False
        for kind, value in _attributes(datagram):
            if kind == _Told.ANONYMIZED:
                anonymized = True
            elif kind in found:  # else it is of a later version
                if len(value) not in (5, 17):
                    raise ValueError("an attribute is no network")
                found[kind].append(ip_network((value[:-1], value[-1])))
        own = found[_Told.OWN]
        single = frozenset(
            each.network_address.packed for each in own if each.prefixlen == each.max_prefixlen
        )
        wide = tuple(each for each in own if each.prefixlen < each.max_prefixlen)
        near = tuple(found[_Told.GATEWAY]), tuple(found[_Told.NAME_SERVER])
        host = Host(single, wide, *near, tuple(found[_Told.LINK]))
        return cls(host, tuple(found[_Told.WHITE]), anonymized)


def _attributes(datagram: bytes) -> Iterator[tuple[int, bytes]]:
    at = HEADER.size
    while at < len(datagram):
        if at + ATTRIBUTE.size > len(datagram):
            raise ValueError("an attribute is cut short")
        length, kind = ATTRIBUTE.unpack_from(datagram, at)
        if length < ATTRIBUTE.size or at + length > len(datagram):
            raise ValueError("an attribute reaches outside its message")
        yield kind, datagram[at + ATTRIBUTE.size : at + length]
        at += length + 3 & ~3


class Writer:
    """Writes a capture to an open file."""

    def __init__(self, file: IO[bytes], about: About, now: int) -> None:
        """now: nanoseconds since the epoch."""
        self._file = file
        file.write(_FILE.pack(_NANOSECONDS, 2, 4, 0, 0, MOST, _LINKTYPE_NETLINK))
        self._write(_USERSOCK, about.pack(), now)

    def write(self, datagram: bytes, now: int) -> None:
        """Add one datagram of conntrack."""
        self._write(_NETFILTER, datagram, now)

    def _write(self, protocol: int, datagram: bytes, now: int) -> None:
        data = _COOKED.pack(0, _ARPHRD_NETLINK, protocol) + datagram
        self._file.write(_RECORD.pack(now // 10**9, now % 10**9, len(data), len(data)) + data)


class Capture:
    """A capture to be read; iterating gives the time and bytes of each datagram of conntrack.

    Raises BadArgument for a file that isn't a capture, is damaged or ends in the middle.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.about = About()
        for _, protocol, datagram in self._records():
            if protocol == _USERSOCK and HEADER.unpack(datagram[: HEADER.size])[1] == _ABOUT:
                try:
                    self.about = About.unpack(datagram)
                except ValueError as error:
                    raise BadArgument(f"{path}: is damaged: {error}") from None
            break

    def __iter__(self) -> Iterator[tuple[float, bytes]]:
        for at, protocol, datagram in self._records():
            if protocol == _NETFILTER:
                yield at, datagram

    def _records(self) -> Iterator[tuple[float, int, bytes]]:
        path = self.path
        with path.open("rb") as file:
            head = file.read(_FILE.size)
            if len(head) < _FILE.size or (
                _FILE.unpack(head)[::6] != (_NANOSECONDS, _LINKTYPE_NETLINK)
            ):
                raise BadArgument(
                    f"{path}: isn't a capture that `dpsd record` wrote on such a machine"
                )
            while head := file.read(_RECORD.size):
                if len(head) < _RECORD.size:
                    raise BadArgument(f"{path}: ends in the middle of a record")
                seconds, nanoseconds, length, _ = _RECORD.unpack(head)
                least = _COOKED.size + HEADER.size
                data = file.read(length) if least <= length <= MOST else b""
                if len(data) < length or not data:
                    raise BadArgument(f"{path}: ends in the middle of a record, or is damaged")
                protocol = _COOKED.unpack_from(data)[2]
                yield seconds + nanoseconds / 1e9, protocol, data[_COOKED.size :]
