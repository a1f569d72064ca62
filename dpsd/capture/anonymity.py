"""Addresses under other names, with their prefixes kept.

Two addresses that share exactly k leading bits share exactly k leading bits afterwards too: a bit
is flipped or not as a keyed hash of the bits before it says. So a /64 stays a /64, neighbours stay
neighbours, and a replay judges as before, while nobody can tell whose addresses they were. The
property is that of Crypto-PAn (Xu, Fan, Ammar, Moon: Prefix-Preserving IP Address Anonymization,
2002), which uses a cipher for it.
"""

import secrets
from functools import lru_cache
from hashlib import blake2b
from ipaddress import ip_network

from dpsd.capture.file import About
from dpsd.core.peers import Network
from dpsd.kernel import ctnetlink
from dpsd.kernel.ctnetlink import ATTRIBUTE, BODY, CT_DELETE, CT_NEW, HEADER, walk
from dpsd.kernel.host import Host

_CACHED = 1 << 16  # addresses, and prefixes
_TUPLES = (ctnetlink.TUPLE_ORIG, ctnetlink.TUPLE_REPLY)
# All that a replay needs. What else the kernel may tell (marks, labels, security contexts, ids) is
# left out rather than looked through.
_KEPT = {
    *_TUPLES,
    *(ctnetlink.STATUS, ctnetlink.PROTOINFO, ctnetlink.TIMEOUT),
    *(ctnetlink.COUNTERS_ORIG, ctnetlink.COUNTERS_REPLY),
}


class Pseudonyms:
    """One permutation of all addresses of each IP version, by a key that nobody else gets."""

    def __init__(self, key: bytes | None = None) -> None:
        """key: up to 64 bytes, for tests; a random one of 32 unless given."""
        self._key = secrets.token_bytes(32) if key is None else key
        self.address = lru_cache(_CACHED)(self._address)
        self._flips = lru_cache(_CACHED)(self._hashed)

    def _address(self, packed: bytes) -> bytes:
        """The other name of a packed address (4 or 16 bytes)."""
        return bytes(
            _flipped(byte, self._flips(packed[:at], len(packed))) for at, byte in enumerate(packed)
        )

    def _hashed(self, before: bytes, size: int) -> bytes:
        """The flips of the next byte's bits, given the bytes before it: a bit for each node of the
        tree of its prefixes. size: of the whole address, so that both IP versions differ."""
        return blake2b(before, digest_size=32, key=self._key, person=bytes([size])).digest()

    def network(self, network: Network) -> Network:
        """The other name of a prefix: that of all its addresses."""
        address = self.address(network.network_address.packed)
        return ip_network((address, network.prefixlen), strict=False)

    def about(self, about: About) -> About:
        """The same of a recording, in other names."""
        host = Host(
            frozenset(map(self.address, about.host.own)),
            tuple(map(self.network, about.host.own_prefixes)),
            tuple(map(self.network, about.host.gateways)),
            tuple(map(self.network, about.host.name_servers)),
            tuple(map(self.network, about.host.links)),
        )
        return About(host, tuple(map(self.network, about.white)), anonymized=True)

    def message(self, message: bytes) -> bytes:
        """One message of conntrack, in other names; requests and their answers have none."""
        _, kind, flags, sequence, port = HEADER.unpack_from(message)
        if kind not in (CT_NEW, CT_DELETE):
            return message
        layout, renamed = walk(message), bytearray(message)
        for path, (at, size) in layout.items():
            if len(path) == 3 and path[0] in _TUPLES and path[1] == ctnetlink.TUPLE_IP:
                renamed[at : at + size] = self.address(message[at : at + size])
        body = b"".join(
            renamed[at - ATTRIBUTE.size : at + (size + 3 & ~3)]
            for path, (at, size) in layout.items()
            if len(path) == 1 and path[0] in _KEPT
        )
        head = HEADER.pack(BODY + len(body), kind, flags, sequence, port)
        return head + message[HEADER.size : BODY] + body


def _flipped(byte: int, flips: bytes) -> int:
    node, flipped = 1, 0  # the root of the tree: no bit of the byte is known yet
    for shift in range(7, -1, -1):
        bit = byte >> shift & 1
        flipped = flipped << 1 | bit ^ flips[node >> 3] >> (node & 7) & 1
        node = node << 1 | bit
    return flipped
