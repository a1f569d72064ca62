"""Captures: what the kernel told, kept in a file, and what a policy makes of it.

A capture is a pcap file of netlink datagrams (LINKTYPE_NETLINK, 253), which Wireshark reads too.
It holds the conntrack messages of sessions to protected servers: addresses, ports, states and
counters, never anything that was said, nor what the host itself opened. The requests for dumps are
in it as well, so a replay sees the whole.
"""

import asyncio
import struct
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from dpsd import assembly
from dpsd.config import Config
from dpsd.core.engine import Engine, Verdict
from dpsd.core.events import LOST
from dpsd.core.lists import Entry, ListName, Lists
from dpsd.daemon.listener import Listener
from dpsd.errors import BadArgument
from dpsd.kernel import host
from dpsd.kernel.ctnetlink import Decoder, endpoints, messages
from dpsd.kernel.host import Host

_FILE = struct.Struct("=IHHiIII")  # pcap: magic, version, zone, accuracy, snap length, link type
_RECORD = struct.Struct("=IIII")  # seconds, nanoseconds, length in the file, length
_NANOSECONDS, _LINKTYPE_NETLINK = 0xA1B23C4D, 253
# What stands before each datagram: packet type, ARPHRD_NETLINK, unused, NETLINK_NETFILTER.
_COOKED = struct.pack(">HH10xH", 0, 824, 12)
_OVERRUN = struct.pack("=IHHII", 16, 4, 0, 0, 0)  # NLMSG_OVERRUN stands for events that were lost
MOST = 1 << 20  # bytes of one datagram
TICK = 1.0  # seconds
LONGEST_GAP = 86400.0  # seconds between two datagrams; while one records there are dumps


def record(config: Config, path: Path, seconds: float) -> None:
    """Write what the kernel tells of the protected ports for so long to a new file.

    It needs a ruleset with conntrack in it, such as dpsd's own. Raises OSError for the file,
    KernelError and NotPermitted for the kernel.
    """
    with path.open("xb") as file:
        file.write(_FILE.pack(_NANOSECONDS, 2, 4, 0, 0, MOST, _LINKTYPE_NETLINK))
        asyncio.run(_record(config, file, seconds))


async def _record(config: Config, file: IO[bytes], seconds: float) -> None:
    began = time.time_ns() - time.monotonic_ns()  # nobody's setting of the clock moves sessions
    decoder, protected = Decoder(), assembly.protects(config, host.look())

    def keep(datagram: bytes) -> None:
        now = began + time.monotonic_ns()
        datagram = _without_others(datagram, decoder, protected)
        if datagram:
            length = len(_COOKED) + len(datagram)
            file.write(_RECORD.pack(now // 10**9, now % 10**9, length, length) + _COOKED + datagram)

    def take(events: Any) -> None:
        if any(event[0] == LOST for event in events):
            keep(_OVERRUN)

    listener = Listener(config.protect.ports, config.kernel.event_buffer, take, keep)
    listener.start()
    try:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            await asyncio.sleep(min(left, TICK))
            listener.dump_if_due()
    finally:
        listener.close()


def _without_others(
    datagram: bytes, decoder: Decoder, protected: Callable[[bytes, int], bool]
) -> bytes:
    """The messages of a datagram that are about sessions to protected servers, or about none."""
    kept = []
    for start, end in messages(datagram):
        for _, key, *_ in decoder.decode(datagram, [(start, end)]):
            if key is None or protected(*endpoints(key)[1::2]):
                kept.append(datagram[start:end])
    return b"".join(kept)


def replay(config: Config, path: Path) -> list[dict[str, Any]]:
    """The verdicts that a capture gives under this configuration, in order.

    Every server in the capture counts as protected, and the white list is the configuration's.
    Raises BadArgument for a file that isn't a capture, is damaged or ends in the middle.
    """
    engine = _engine(config)
    decoder = Decoder()
    found: list[dict[str, Any]] = []
    ticked = last = 0.0
    for at, datagram in _datagrams(path):
        ticked, last = ticked or at, last or at
        if not 0 <= at - last <= LONGEST_GAP:
            raise BadArgument(f"{path}: is damaged: its time leaps from {last:.3f} to {at:.3f}")
        last = at
        while ticked + TICK <= at:
            ticked += TICK
            found += _told(config, engine.tick(ticked).verdicts)
        events = decoder.decode(datagram, [(0, len(datagram))])
        found += _told(config, engine.feed(events, at))
    return found


def _engine(config: Config) -> Engine:
    entries = [Entry(ListName.WHITE, peer, "", "config", 0.0) for peer in config.white]
    engine = assembly.engine(config, Host(), Lists(entries))
    ports = frozenset(config.protect.ports)
    engine.sessions.protects = lambda _, port: port in ports
    engine.look(assembly.scopes(config))
    return engine


def _told(config: Config, verdicts: list[Verdict]) -> Iterator[dict[str, Any]]:
    for verdict in verdicts:
        entry = verdict.entry
        yield {
            "at": _moment(entry.created_at),
            "list": entry.list.value,
            "peer": config.peers.size.text(entry.peer),
            "expires_at": None if entry.expires_at is None else _moment(entry.expires_at),
            "reason": entry.reason,
        }


def _moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _datagrams(path: Path) -> Iterator[tuple[float, bytes]]:
    """The time and bytes of each datagram of a capture."""
    with path.open("rb") as file:
        head = file.read(_FILE.size)
        if len(head) < _FILE.size or _FILE.unpack(head)[::6] != (_NANOSECONDS, _LINKTYPE_NETLINK):
            raise BadArgument(f"{path}: isn't a capture that `dpsd record` wrote on such a machine")
        while head := file.read(_RECORD.size):
            if len(head) < _RECORD.size:
                raise BadArgument(f"{path}: ends in the middle of a record")
            seconds, nanoseconds, length, _ = _RECORD.unpack(head)
            data = file.read(length) if len(_COOKED) <= length <= MOST else b""
            if len(data) < length or not data:
                raise BadArgument(f"{path}: ends in the middle of a record, or is damaged")
            yield seconds + nanoseconds / 1e9, data[len(_COOKED) :]
