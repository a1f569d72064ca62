"""Replaying: a capture into an engine, as fast as it goes."""

from collections import deque
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dpsd import assembly
from dpsd.capture.file import About, Capture
from dpsd.config import Config
from dpsd.core.engine import Engine
from dpsd.core.lists import Entry, ListName, Lists
from dpsd.core.sentences import Verdict
from dpsd.errors import BadArgument
from dpsd.kernel.ctnetlink import CT_DELETE, HEADER, Decoder, messages

Json = dict[str, Any]

TICK = 0.25  # seconds, of the daemon
LONGEST_GAP = 86400.0  # seconds between two datagrams; while one records there are dumps
AHEAD = 2.0  # seconds; the kernel forgets what dpsd ended sooner after its reset


def replay(config: Config, path: Path) -> list[Json]:
    """The verdicts that a capture gives under this configuration, in order.

    Every server in the capture counts as protected. Never listed are the recording host's own
    addresses, gateways and name servers, and the configuration's white list; in an anonymized
    capture, where that means nothing, the white list of the recording. Raises BadArgument for a
    file that isn't a capture, is damaged or ends in the middle.
    """
    capture = Capture(path)
    engine = _engine(config, capture.about)
    decoder = Decoder()
    found: list[Json] = []
    ticked = 0.0
    for at, datagram in _ends_first(engine, _steady(capture)):
        ticked = ticked or at
        while ticked + TICK <= at:
            ticked += TICK
            passed = engine.tick(ticked)
            settled = engine.settle(passed.doomed, None, ticked)
            found += _told(config, [*passed.verdicts, *settled.verdicts])
        events = decoder.decode(datagram, [(0, len(datagram))])
        found += _told(config, engine.feed(events, at))
    return found


def moment(at: float) -> str:
    """An instant (s since the epoch) in RFC 3339 and UTC, with milliseconds."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _engine(config: Config, about: About) -> Engine:
    white = about.white if about.anonymized else config.white
    entries = [Entry(ListName.WHITE, peer, "", "config", 0.0) for peer in white]
    engine = assembly.engine(config, about.host, Lists(entries))
    ports = frozenset(config.protect.ports)
    engine.sessions.protects = lambda _, port: port in ports
    engine.look(assembly.scopes(config))
    return engine


def _steady(capture: Capture) -> Iterator[tuple[float, bytes]]:
    """The datagrams, as long as their time goes on as it should."""
    last = 0.0
    for at, datagram in capture:
        last = last or at
        if not 0 <= at - last <= LONGEST_GAP:
            raise BadArgument(
                f"{capture.path}: is damaged: its time leaps from {last:.3f} to {at:.3f}"
            )
        last = at
        yield at, datagram


def _ends_first(
    engine: Engine, datagrams: Iterable[tuple[float, bytes]]
) -> Iterator[tuple[float, bytes]]:
    """The same, but the engine hears of sessions that the host ended before it hears how.

    The kernel's word that a session is gone has the port id of whoever asked for it, and 0 when
    nobody did; its reset comes a little before. So dpsd's own doing, and that of conntrack(8), is
    no abort of the peer.
    """
    waiting: deque[tuple[float, bytes]] = deque()
    decoder = Decoder()
    for at, datagram in datagrams:
        engine.was_ended(_ended(datagram, decoder))
        waiting.append((at, datagram))
        while waiting[0][0] < at - AHEAD:
            yield waiting.popleft()
    yield from waiting


def _ended(datagram: bytes, decoder: Decoder) -> Iterator[bytes]:
    """The keys of sessions that somebody took from the table, as this datagram says."""
    for start, end in messages(datagram):
        _, kind, _, _, asked_by = HEADER.unpack_from(datagram, start)
        if kind == CT_DELETE and asked_by:
            yield from (event[1] for event in decoder.decode(datagram, [(start, end)]))


def _told(config: Config, verdicts: Iterable[Verdict]) -> Iterator[Json]:
    for verdict in verdicts:
        entry = verdict.entry
        yield {
            "at": moment(entry.created_at),
            "list": entry.list.value,
            "peer": config.peers.size.text(entry.peer),
            "expires_at": None if entry.expires_at is None else moment(entry.expires_at),
            "reason": entry.reason,
        }
