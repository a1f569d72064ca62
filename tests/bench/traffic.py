"""The load: TCP sessions as frames that are made beforehand, so that sending them costs little.

Run as a process of its own, it answers each line "seconds rate" (sessions a second, 0: as many as
it can) on standard input with a line "sessions seconds" when it is done. See Generator.
"""

import argparse
import ctypes
import os
import socket
import struct
import subprocess
import sys
import time
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from tests.bench.gateway import CLIENTS, GATEWAY_MACS, PORT, SERVER, Gateway
from tests.lab.net import Namespace

FIN, SYN, PSH, ACK = 0x01, 0x02, 0x08, 0x10
_ETHERNET, _IP, _TCP = 14, 20, 20
_SOL_PACKET, _PACKET_QDISC_BYPASS = 263, 20
_FIRST_PORT = 20000
_TOGETHER = 16  # sessions that go through their stages at the same time
_FIRST_SEQUENCE = {True: 1000, False: 5000}

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Stage:
    """One frame of a session: from which side, with which flags, and what it says."""

    from_client: bool
    flags: int
    words: bytes = b""


OPEN = (Stage(True, SYN), Stage(False, SYN | ACK), Stage(True, ACK))
_MAIL = b"EHLO client.example\r\nMAIL FROM:<a@client.example>\r\n".ljust(400, b".")
SMTP = (
    *OPEN,
    Stage(False, PSH | ACK, b"220 mail.example ESMTP\r\n"),
    Stage(True, PSH | ACK, _MAIL),
    Stage(True, FIN | ACK),
    Stage(False, FIN | ACK),
    Stage(True, ACK),
)
"""A short session: conntrack tells of six changes of its state, and of its end."""


class Wires:
    """The far ends of the gateway's two wires, to put frames on."""

    def __init__(self, gateway: Gateway) -> None:
        self._clients = _on_wire(gateway.clients)
        self._servers = _on_wire(gateway.servers)

    def of(self, stage: Stage) -> socket.socket:
        return self._clients if stage.from_client else self._servers


def _on_wire(space: Namespace) -> socket.socket:
    with space.entered():
        wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        wire.bind(("wire", 0))
    wire.setsockopt(_SOL_PACKET, _PACKET_QDISC_BYPASS, 1)
    return wire


class Train:
    """The frames of one stage of many sessions, ready to be sent in one system call."""

    def __init__(self, frames: bytearray, size: int) -> None:
        count = len(frames) // size
        at = ctypes.addressof(ctypes.c_char.from_buffer(frames))
        self._frames = frames
        # struct iovec: base, length
        self._vectors = array("Q", bytes(16 * count))
        self._vectors[0::2] = array("Q", range(at, at + size * count, size))
        self._vectors[1::2] = array("Q", [size]) * count
        first = self._vectors.buffer_info()[0]
        # struct mmsghdr: name, its length, vector, vectors, control, its length, flags, sent
        self._headers = array("Q", bytes(64 * count))
        self._headers[2::8] = array("Q", range(first, first + 16 * count, 16))
        self._headers[3::8] = array("Q", [1]) * count
        self._at = self._headers.buffer_info()[0]

    def send(self, wire: socket.socket, first: int, count: int) -> None:
        """Send the frames of some sessions, from the first-th on."""
        while count > 0:
            at = ctypes.c_void_p(self._at + 64 * first)
            sent = _libc.sendmmsg(wire.fileno(), at, count, 0)
            if sent < 0:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
            first, count = first + sent, count - sent


class Sessions:
    """Sessions from so many peers, one after the other, and then from their next port."""

    def __init__(
        self, wires: Wires, stages: Sequence[Stage], peers: int, ports: int = 1, first: int = 0
    ) -> None:
        self._stages = [
            (train, wires.of(stage))
            for train, stage in zip(_trains(stages, peers, ports, first), stages, strict=True)
        ]
        self._count = peers * ports
        self._next = 0

    def stage(self, number: int, session: int) -> None:
        """Send one frame of one session."""
        train, wire = self._stages[number]
        train.send(wire, session, 1)

    def some(self) -> int:
        """Send whole sessions, a few side by side; how many."""
        count = min(_TOGETHER, self._count - self._next)
        for train, wire in self._stages:
            train.send(wire, self._next, count)
        self._next = (self._next + count) % self._count
        return count

    def all(self) -> None:
        """Send every session once."""
        sent = 0
        while sent < self._count:
            sent += self.some()

    def run(self, seconds: float, rate: float) -> tuple[int, float]:
        """Send for so long, the same again after the last; how many, and in how many seconds."""
        began = time.perf_counter()
        sent = 0
        while (passed := time.perf_counter() - began) < seconds:
            if rate and sent > passed * rate:
                time.sleep(sent / rate - passed)
            else:
                sent += self.some()
        return sent, passed


def _trains(stages: Sequence[Stage], peers: int, ports: int, first: int) -> list[Train]:
    """The frames of each stage. They differ in address, port and checksums, written by columns."""
    addresses = [int(CLIENTS[1 + first + peer]) for peer in range(peers)] * ports
    numbers = [_FIRST_PORT + port for port in range(ports) for _ in range(peers)]
    halves = [(address >> 16) + (address & 0xFFFF) for address in addresses]
    sums = [half + number for half, number in zip(halves, numbers, strict=True)]
    sequence = dict(_FIRST_SEQUENCE)
    made = []
    for stage in stages:
        side = stage.from_client
        template = _template(stage, sequence[side], sequence[not side] * bool(stage.flags & ACK))
        sequence[side] += len(stage.words) + bool(stage.flags & (SYN | FIN))
        size, tcp = len(template), _ETHERNET + _IP
        pseudo = SERVER.packed + struct.pack("!HH", socket.IPPROTO_TCP, size - tcp)
        head, body = _sum(template[_ETHERNET:tcp]), _sum(template[tcp:]) + _sum(pseudo)
        frames = bytearray(template * len(addresses))
        _column(frames, size, _ETHERNET + 10, 2, [_checksum(head + half) for half in halves])
        _column(frames, size, _ETHERNET + (12 if side else 16), 4, addresses)
        _column(frames, size, tcp + (0 if side else 2), 2, numbers)
        _column(frames, size, tcp + 16, 2, [_checksum(body + part) for part in sums])
        made.append(Train(frames, size))
    return made


def _template(stage: Stage, sequence: int, acknowledged: int) -> bytes:
    """A frame with 0 for the client's address and port and for the checksums."""
    wire = GATEWAY_MACS["clients" if stage.from_client else "servers"]
    ethernet = bytes.fromhex(wire.replace(":", "")) + bytes.fromhex("0200000000fe0800")
    nobody, server = bytes(4), SERVER.packed
    pair = nobody + server if stage.from_client else server + nobody
    length = _IP + _TCP + len(stage.words)
    ip = struct.pack("!BBHHHBBH", 0x45, 0, length, 0, 0x4000, 64, socket.IPPROTO_TCP, 0) + pair
    ends = (0, PORT) if stage.from_client else (PORT, 0)
    tcp = struct.pack("!HHIIBBHHH", *ends, sequence, acknowledged, 5 << 4, stage.flags, 64240, 0, 0)
    return ethernet + ip + tcp + stage.words


def _column(frames: bytearray, size: int, at: int, width: int, values: Sequence[int]) -> None:
    """Write one big-endian number into each frame, at the same place."""
    for byte in range(width):
        shift = 8 * (width - 1 - byte)
        frames[at + byte :: size] = bytes([value >> shift & 0xFF for value in values])


def _sum(data: bytes) -> int:
    data += bytes(len(data) % 2)
    return sum(struct.unpack(f"!{len(data) // 2}H", data))


def _checksum(total: int) -> int:
    total = (total & 0xFFFF) + (total >> 16)
    return ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF


class Generator:
    """Short SMTP sessions from a process of its own, on the first processor alone."""

    def __init__(self, peers: int, ports: int) -> None:
        command = [sys.executable, "-m", __name__, str(peers), str(ports)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._answer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def start(self, seconds: float, rate: float) -> None:
        """Begin to send, at so many sessions a second (0: as many as it can)."""
        assert self._process.stdin is not None
        print(seconds, rate, file=self._process.stdin, flush=True)

    def finish(self) -> tuple[int, float]:
        """Wait until it is done: how many sessions, and how many a second."""
        sessions, seconds = self._answer().split()
        return int(sessions), int(sessions) / float(seconds)

    def run(self, seconds: float, rate: float) -> tuple[int, float]:
        """start() and finish()."""
        self.start(seconds, rate)
        return self.finish()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the load generator died")
        return line


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("peers", type=int)
    parser.add_argument("ports", type=int)
    given = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    sessions = Sessions(Wires(Gateway()), SMTP, given.peers, given.ports)
    print("ready", flush=True)
    for line in sys.stdin:
        seconds, rate = map(float, line.split())
        print(*sessions.run(seconds, rate), flush=True)


if __name__ == "__main__":
    main()
