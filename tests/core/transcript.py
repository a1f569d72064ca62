"""A stage for the engine: what a kernel would tell, written as one reads it.

    0    10.0.0.1   SYN_RECV ESTABLISHED
    10   10.0.0.1   FIN_WAIT/server CLOSE_WAIT
    90   10.0.0.1   LAST_ACK TIME_WAIT GONE

A line is a time in seconds, who, and what becomes of that session, one word an event. Between the
lines the engine is ticked at every whole second, and the table is dumped as often as asked for.

who: a peer's address; `#2` its second session, `@587` to another port, `>address` to another
server than 192.0.2.25 (or 2001:db8::25).

| word              | what happens                                                              |
|-------------------|---------------------------------------------------------------------------|
| ESTABLISHED …     | the session enters the state; after SYN_RECV, ESTABLISHED is ASSURED      |
| FIN_WAIT/peer     | … and the peer (or the server) sent the first FIN                         |
| ESTABLISHED/loose | picked up in the middle: not ASSURED                                      |
| says=100          | the peer says so many bytes (no event, only counters)                     |
| hears=100         | the server says so many                                                   |
| unanswered        | the server never said anything, not even its greeting                     |
| GONE              | the kernel forgets the session: DESTROY                                   |
| !FIN_WAIT …       | the event is lost: only a dump can tell                                   |

who may also be `kernel`, and then the word is LOST (it dropped events), `dump`, or `dump-fails`.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from typing import Any

from dpsd import assembly
from dpsd.config import Config
from dpsd.core.engine import Engine
from dpsd.core.events import (
    ASSURED,
    BEGIN,
    CLOSE_INIT,
    DESTROY,
    END,
    ENTRY,
    LOST,
    UPDATE,
    Endpoints,
    Event,
    Measure,
    State,
    Word,
)
from dpsd.core.lists import Entry, ListName, Lists
from dpsd.core.peers import Network, PeerSize
from dpsd.core.policy import Pool
from dpsd.core.sentences import Verdict

SIZE = PeerSize()
SERVERS = {4: "192.0.2.25", 6: "2001:db8::25"}
PORTS = (25, 465, 587)
FORGET_AFTER = 1200  # seconds that the kernel remembers a silent session

Key = tuple[str, int, str, int]

PLAIN = replace(
    assembly.policy(Config()),
    pools=(Pool(frozenset(), 1000),),
    block_at=60.0,
    block_for=600.0,
    block_max=86400.0,
    black_after=3,
    black_within=86400.0 * 30,
    half_life=1e9,  # scores don't fade, unless that is the matter
    stress_at=0.8,
    stress_until=0.8,
    calm_cost=1.0,
    overstay_most=1e9,
    proper={
        State.ESTABLISHED: 300.0,
        State.FIN_WAIT: 60.0,
        State.CLOSE_WAIT: 60.0,
        State.LAST_ACK: 30.0,
    },
    proper_stress={
        State.FIN_WAIT: 10.0,
        State.CLOSE_WAIT: 10.0,
        State.LAST_ACK: 5.0,
    },
    churn_rate=1.0,
    churn_burst=10.0,
    churn_cost=1.0,
    churn_flood=0.0,
    idle_rate=0.0,
    idle_burst=0.0,
    abort_cost=2.0,
    empty_cost=1.0,
    empty_bytes=200,
    time_wait_allowance=5,
    time_wait_cost=0.5,
)
"""Numbers that are easy to count with: an overstay costs 1 a second, other things 1 or 2 each."""

GRACE, DEFER, STRESS_LASTS = PLAIN.grace, PLAIN.defer_for, PLAIN.stress_lasts
CREDIT_MOST = PLAIN.credit_most


def endpoints(key: Any) -> Endpoints:
    """What a stage's keys mean."""
    peer, port, server, server_port = key
    return Endpoints(ip_address(peer).packed, ip_address(server).packed, port, server_port)


def peers(keys: Iterable[Any]) -> set[str]:
    """Whose sessions these are."""
    return {key[0] for key in keys}


def protects(server: bytes, port: int) -> bool:
    """The servers of the stage."""
    return port in PORTS and str(ip_address(server)) in SERVERS.values()


def network(peer: str) -> Network:
    """The peer that an address belongs to, or a prefix."""
    return SIZE.parse(peer)


@dataclass
class Row:
    """A session in the kernel's table."""

    state: State = State.NONE
    status: int = 0
    flags: tuple[int, int] = (0, 0)
    packets: int = 3  # the last acknowledges the greeting
    octets: int = 164  # 52 each, and 8 more for the SYN
    answers: int = 2
    answered: int = 300  # the server greeted: with 188 bytes
    heard: float = 0.0


@dataclass
class Stage:
    """An engine, the table of the kernel that it hears of, and what came of it.

    rules: what of PLAIN is different; counts: nf_conntrack_acct; dumps: seconds between two, 0 for
    none but the first; white, immune: peers.
    """

    rules: dict[str, Any] = field(default_factory=dict)
    counts: bool = True
    dumps: float = 0.0
    white: tuple[str, ...] = ()
    immune: Callable[[Network], bool] = lambda _: False
    scopes: tuple[tuple[int, int], ...] = tuple((port, ip) for port in PORTS for ip in (4, 6))
    see: bool = True  # whether the first dump comes at once
    sockets: Callable[[Any, float], Word | None] | None = None  # what a session's socket tells
    kills: bool = True  # whether sessions end that are to

    def __post_init__(self) -> None:
        white = [Entry(ListName.WHITE, network(peer), "", "operator", 0.0) for peer in self.white]
        if slots := self.rules.pop("slots", 0):
            self.rules["pools"] = (Pool(frozenset(), slots),)
        self.engine = Engine(
            replace(PLAIN, **self.rules), SIZE, Lists(white), endpoints, protects, self.immune
        )
        self.engine.sessions.established_for = float(FORGET_AFTER)
        self.table: dict[Key, Row] = {}
        self.said: list[tuple[float, Verdict]] = []
        self.over: list[tuple[float, Entry]] = []
        self.doomed: list[Any] = []
        self.ended: list[Any] = []
        self.deferred: list[tuple[float, Network, float]] = []
        self.now = 0.0
        self._dumped = 0.0
        self.engine.look(self.scopes)
        if self.see:
            self._dump()

    # What happens

    def play(self, script: str) -> "Stage":
        """Let it happen."""
        for line in script.splitlines():
            if line.strip():
                at, who, *words = line.split()
                self.until(float(at))
                for word in words:
                    self._kernel(word) if who == "kernel" else self._session(who, word)
        return self

    def until(self, at: float) -> "Stage":
        """Let time pass."""
        while self.now < at:
            self.now = min(at, float(int(self.now) + 1))
            if self.dumps and self.now - self._dumped >= self.dumps:
                self._dump()
            if self.now == int(self.now):
                self._tick()
        return self

    def key(self, who: str) -> Key:
        """The key of a session by its name in a script."""
        who, _, server = who.partition(">")
        who, _, port = who.partition("@")
        peer, _, number = who.partition("#")
        server = server or SERVERS[6 if ":" in peer else 4]
        return peer, 40000 + int(number or 1), server, int(port or 25)

    def feed(self, *events: Event) -> None:
        """Let the engine take events now."""
        self.said += [(self.now, verdict) for verdict in self.engine.feed(events, self.now)]

    def _session(self, who: str, word: str) -> None:
        self._event(self.key(who), word.removeprefix("!"), lost=word.startswith("!"))

    def _event(self, key: Any, word: str, lost: bool = False) -> None:
        row = self.table.setdefault(key, Row())
        row.heard = self.now
        if word.startswith("says="):
            row.packets += 1
            row.octets += 52 + int(word.removeprefix("says="))
            return
        if word.startswith("hears="):
            row.answers += 1
            row.answered += 52 + int(word.removeprefix("hears="))
            return
        if word == "unanswered":
            row.answers, row.answered = 1, 60  # its half of the handshake
            return
        if word == "GONE":
            del self.table[key]
            measure = self._measure(row)._replace(remaining=None)
            event: Event = (DESTROY, key, row.status, row.state, None, measure)
        else:
            name, _, how = word.partition("/")
            if name == "ESTABLISHED" and how != "loose":
                row.status |= ASSURED
            if how in ("peer", "server"):
                row.flags = (CLOSE_INIT, 0) if how == "peer" else (0, CLOSE_INIT)
            row.state = State[name]
            event = (UPDATE, key, row.status, row.state, *row.flags)
        if not lost:
            self.feed(event)

    def _kernel(self, word: str) -> None:
        if word == "LOST":
            self.feed((LOST, None, 0, 0, 0, 0))
        else:
            self._dump(0 if word == "dump" else 5)

    def _dump(self, errno: int = 0) -> None:
        self._dumped = self.now
        for scope in self.scopes:
            self.feed(*self.dump_of(scope, errno))

    def dump_of(self, scope: tuple[int, int], errno: int = 0) -> list[Event]:
        """The events of one dump."""
        return [
            (BEGIN, None, 0, 0, *scope),
            *self._entries(scope),
            (END, None, 0, 0, errno, 0),
        ]

    def _entries(self, scope: tuple[int, int]) -> Iterator[Event]:
        for key, row in self.table.items():
            version = 6 if ":" in key[0] else 4
            if scope == (key[3], version):
                yield (ENTRY, key, row.status, row.state, row.flags, self._measure(row))

    def _measure(self, row: Row) -> Measure:
        remaining = max(0, int(FORGET_AFTER - (self.now - row.heard)))
        if not self.counts:
            return Measure(remaining)
        return Measure(remaining, row.packets, row.octets, row.answers, row.answered)

    def _tick(self) -> None:
        """Both phases: who is doomed, and, when the sockets were asked, who ends."""
        passed = self.engine.tick(self.now)
        self.said += [(self.now, verdict) for verdict in passed.verdicts]
        self.over += [(self.now, entry) for entry in passed.over]
        self.doomed += passed.doomed
        words = None if self.sockets is None else self._words(passed.doomed)
        settled = self.engine.settle(passed.doomed, words, self.now)
        self.said += [(self.now, verdict) for verdict in settled.verdicts]
        self.deferred += [(self.now, *each) for each in settled.deferred]
        for key in [*passed.listed, *settled.ended]:
            self.ended.append(key)
            if self.kills and key in self.table:
                self._event(key, "CLOSE")

    def _words(self, doomed: Iterable[Any]) -> dict[Any, Word]:
        assert self.sockets is not None
        found = ((key, self.sockets(key, self.now)) for key in doomed)
        return {key: word for key, word in found if word is not None}

    # What came of it

    def evidence(self, peer: str) -> dict[str, float]:
        """What a peer is charged with: kind, with the TCP state if it matters, and cost."""
        found = self.engine.scores.get(SIZE.key(ip_address(peer).packed))
        if found is None:
            return {}
        return {f"{e.kind} {e.state}".strip(): round(e.cost, 6) for e in found.evidence.values()}

    def score(self, peer: str) -> float:
        """A peer's score now."""
        found = self.engine.scores.get(SIZE.key(ip_address(peer).packed))
        return 0.0 if found is None else self.engine.scores.score(found, self.now)

    def open(self, peer: str) -> int:
        """How many open sessions a peer is thought to have."""
        found = self.engine.scores.get(SIZE.key(ip_address(peer).packed))
        return 0 if found is None else found.open

    @property
    def states(self) -> dict[str, int]:
        """Sessions by state."""
        return self.engine.sessions.by_state()

    @property
    def verdicts(self) -> list[tuple[float, str, str, float | None]]:
        """Each verdict: when, which list, whom, until when."""
        return [
            (at, v.entry.list.value, SIZE.text(v.entry.peer), v.entry.expires_at)
            for at, v in self.said
        ]

    @property
    def listed(self) -> list[str]:
        """Who was listed, in order."""
        return [peer for _, _, peer, _ in self.verdicts]


def address_key(peer: str) -> bytes:
    """The key of the peer that an address belongs to."""
    return SIZE.key(ip_address(peer).packed)
