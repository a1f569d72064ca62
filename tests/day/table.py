"""The kernel's table of connections: packets go in, the events that it would send come out.

As in nf_conntrack_proto_tcp.c, for packets that are valid: the state changes with the flags of each
packet from either side, and each packet sets the time anew after which the entry is forgotten.
"""

from collections.abc import Iterator
from itertools import count
from random import Random

from dpsd.core.events import (
    ASSURED,
    BEGIN,
    CLOSE_INIT,
    DESTROY,
    END,
    ENTRY,
    UPDATE,
    Endpoints,
    Event,
    Measure,
    State,
)
from dpsd.kernel.ctnetlink import endpoints, key_of

PEER, SERVER = 0, 1
SYN, ACK, FIN, RST = range(4)  # ACK: whatever has only that flag, with data or without

SEEN, USUAL = 10, 35  # status bits of a confirmed entry; flags of both sides once they have spoken
LATE = 60.0  # seconds after which the kernel's collector has surely come round
S = State

# From which state to which; where nothing is said it stays.
_NEXT: dict[tuple[int, int], dict[State, State]] = {
    (PEER, SYN): {S.NONE: S.SYN_SENT},
    (SERVER, SYN): {S.SYN_SENT: S.SYN_RECV},
    (PEER, ACK): {
        S.SYN_RECV: S.ESTABLISHED,
        S.FIN_WAIT: S.CLOSE_WAIT,
        S.LAST_ACK: S.TIME_WAIT,
    },
    (SERVER, ACK): {S.FIN_WAIT: S.CLOSE_WAIT, S.LAST_ACK: S.TIME_WAIT},
    (PEER, FIN): {
        S.SYN_RECV: S.FIN_WAIT,
        S.ESTABLISHED: S.FIN_WAIT,
        S.FIN_WAIT: S.LAST_ACK,  # of the other side, or sent once more
        S.CLOSE_WAIT: S.LAST_ACK,
    },
    (SERVER, FIN): {
        S.ESTABLISHED: S.FIN_WAIT,
        S.FIN_WAIT: S.LAST_ACK,
        S.CLOSE_WAIT: S.LAST_ACK,
    },
    (PEER, RST): dict.fromkeys(S, S.CLOSE),
    (SERVER, RST): dict.fromkeys(S, S.CLOSE),
}


class Row:
    """An entry: a connection as the kernel sees it. header: bytes of IP and TCP in a packet.

    Also what the sockets know of it: words: bytes from either side; spoke, by_server: when the last
    of them came, and whether from the server; answer, answered_at: the server's last, and when.
    """

    __slots__ = (
        *("answer", "answered_at", "by_server", "flags", "header", "key", "late", "octets"),
        *("packets", "spoke", "state", "status", "until", "words"),
    )

    def __init__(self, key: bytes, header: int) -> None:
        self.key = key
        self.header = header
        self.state = S.NONE
        self.status = SEEN
        self.flags = (USUAL, USUAL)
        self.packets = [0, 0]
        self.octets = [0, 0]
        self.words = [0, 0]
        self.spoke, self.by_server = 0.0, True
        self.answer, self.answered_at = 0, 0.0
        self.until = 0.0
        self.late = 0.0


class Table:
    """All entries, and `told`: the events since it was last taken.

    forget: seconds after which a silent entry is forgotten, by state; counts: nf_conntrack_acct.
    """

    def __init__(self, forget: dict[State, float], counts: bool, chance: Random) -> None:
        self.told: list[Event] = []
        self.counts = counts
        self._forget = forget
        self._chance = chance
        self._rows: dict[tuple[int, int], dict[bytes, Row]] = {}
        self._over: list[tuple[float, int, tuple[int, int], Row]] = []
        self._serial = count()

    def open(self, ends: Endpoints, header: int) -> Row:
        """An entry for a connection; the table has it from its first SYN on."""
        return Row(key_of(ends), header)

    def packet(
        self, row: Row, side: int, kind: int, now: float, words: int = 0, packets: int = 1
    ) -> None:
        """Packets from one side: what they carry beside headers, and how many they are."""
        row.packets[side] += packets
        row.octets[side] += words + packets * row.header + (8 if kind == SYN else 0)
        if words:
            row.words[side] += words
            row.spoke, row.by_server = now, side == SERVER
            if side == SERVER:
                row.answer, row.answered_at = words, now
        was = row.state
        state = row.state = _NEXT[side, kind].get(was, was)
        row.until = now + self._forget[state]
        if state == was:
            return
        if state == S.ESTABLISHED:
            row.status |= ASSURED
            if not row.spoke:  # a socket's times begin with the handshake
                row.spoke, row.by_server = now, False
        elif state == S.FIN_WAIT:
            peer, server = row.flags
            both = (peer | CLOSE_INIT, server), (peer, server | CLOSE_INIT)
            row.flags = both[side]
        if state == S.SYN_SENT:  # a filter keeps that from dpsd
            self._rows.setdefault(_scope(endpoints(row.key)), {})[row.key] = row
        else:
            self.told.append((UPDATE, row.key, row.status, int(state), *row.flags))

    def delete(self, key: bytes) -> None:
        """Forget an entry at once, as dpsd asks for when it ended a session."""
        row = self._rows.get(_scope(endpoints(key)), {}).pop(key, None)
        if row is not None:
            self._destroyed(row)

    def dump(self, scope: tuple[int, int], now: float) -> list[Event]:
        """What a dump says. The kernel collects the entries over which it comes."""
        return [(BEGIN, None, 0, 0, *scope), *self._entries(scope, now), (END, None, 0, 0, 0, 0)]

    def _entries(self, scope: tuple[int, int], now: float) -> Iterator[Event]:
        rows = self._rows.setdefault(scope, {})
        over = []
        counts = self.counts
        for key, row in rows.items():
            left = row.until - now
            if left > 0:
                counters = (*row_counters(row),) if counts else (None,) * 4
                measure = Measure(int(left), *counters)
                yield (ENTRY, key, row.status, int(row.state), row.flags, measure)
            else:
                over.append(row)
        for row in over:
            # The dump collects them, or leaves it to the collector, which may take its time.
            row.late = row.late or now + (LATE * self._chance.random() ** 8)
            if row.late - now < 1.0:
                del rows[row.key]
                self._destroyed(row)

    def _destroyed(self, row: Row) -> None:
        counters = row_counters(row) if self.counts else (None,) * 4
        measure = Measure(None, *counters)
        self.told.append((DESTROY, row.key, row.status, int(row.state), None, measure))


def row_counters(row: Row) -> tuple[int, int, int, int]:
    """Packets and octets of the peer, and of the server."""
    return row.packets[PEER], row.octets[PEER], row.packets[SERVER], row.octets[SERVER]


def _scope(ends: Endpoints) -> tuple[int, int]:
    return ends.server_port, 4 if len(ends.peer) == 4 else 6
