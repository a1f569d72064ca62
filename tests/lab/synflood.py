"""SYNs from forged sources: raw packets, so no kernel stands behind the addresses."""

import random
import socket
import struct
import time
from ipaddress import IPv4Address, IPv6Address

from tests.lab.net import MAIL4, MAIL6

_TCP = socket.IPPROTO_TCP
_SYN = 0x02
_MSS_OPTION = struct.pack("!BBH", 2, 4, 1460)


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071) of an even number of bytes."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def packet(source: str, source_port: int, port: int, sequence: int) -> bytes:
    """A whole IP packet with a SYN from `source` to the mail host."""
    six = ":" in source
    here = (IPv6Address if six else IPv4Address)(source).packed
    there = (MAIL6 if six else MAIL4).packed
    length = 20 + len(_MSS_OPTION)

    def segment(check: int) -> bytes:
        return (
            struct.pack(
                "!HHIIBBHHH",
                source_port,
                port,
                sequence,
                0,
                (length // 4) << 4,
                _SYN,
                64240,
                check,
                0,
            )
            + _MSS_OPTION
        )

    tcp = segment(checksum(here + there + struct.pack("!HH", _TCP, length) + segment(0)))
    if six:
        return struct.pack("!IHBB", 0x60000000, length, _TCP, 64) + here + there + tcp
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + length, 0, 0x4000, 64, _TCP, 0)
    return head + here + there + tcp  # the kernel fills in the header's checksum


def run(
    sources: list[str], port: int, *, start: float, seconds: float, rate: float, seed: int
) -> None:
    """Send about `rate` SYNs a second for `seconds` from Unix time `start` on."""
    chance = random.Random(seed)
    targets = {False: (str(MAIL4), 0), True: (str(MAIL6), 0)}
    with (
        socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as four,
        socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW) as six,
    ):
        time.sleep(max(0.0, start - time.time()))
        began = time.monotonic()
        sent = 0
        while (passed := time.monotonic() - began) < seconds:
            if sent >= passed * rate:
                time.sleep(0.005)  # paces the flood
                continue
            source = chance.choice(sources)
            data = packet(source, chance.randint(1024, 65535), port, chance.getrandbits(32))
            (six if ":" in source else four).sendto(data, targets[":" in source])
            sent += 1
