"""The world of a day: its clock, the mail server, the kernel's table, and dpsd that watches it.

Whoever acts is a task: a generator that yields for how many seconds it waits. Everything comes
from one seeded chance, so a day can be had again.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush
from ipaddress import ip_address, ip_network
from itertools import count
from random import Random
from typing import TYPE_CHECKING, Any

from dpsd import assembly
from dpsd.config import Config
from dpsd.core.events import Endpoints, Event, State
from dpsd.core.lists import Entry, ListName, Lists
from dpsd.core.peers import Network
from dpsd.kernel.host import Host
from tests.day.daemon import TICK_HURRY, Daemon
from tests.day.gone import Gone
from tests.day.session import SYNS
from tests.day.table import Table

if TYPE_CHECKING:
    from tests.day.session import Session

BATCH = 0.003  # seconds that events gather
SERVERS = {4: ip_address("192.0.2.25").packed, 6: ip_address("2001:db8::25").packed}

Acts = Generator[float, None, None]
Trying = Generator[float, None, bool]  # ... and in the end whether it went well


def within(inner: Network, outer: Network) -> bool:
    """Whether one network lies in the other."""
    return inner.version == outer.version and inner.subnet_of(outer)  # type: ignore[arg-type]


class Task:
    """Somebody who acts. token: of its next turn; an older one is void."""

    __slots__ = ("acts", "token")

    def __init__(self, acts: "Acts | Trying") -> None:
        self.acts = acts
        self.token = 0


@dataclass(frozen=True)
class Weather:
    """What a part of the hour is like.

    load: how much more than usual comes in; pace: how much longer than usual the server takes to
    answer; slow: whether its disk takes 20 to 60 s; milter: seconds before a mail is taken;
    greets: seconds before a greeting.
    """

    name: str
    load: float = 1.0
    pace: float = 1.0
    slow: bool = False
    milter: float = 0.0
    greets: float = 0.0


class Server:
    """A mail server with so many slots. Whoever finds none waits in its queue, ungreeted."""

    greeted = 40  # bytes that it greets with
    backlog = 128  # connections that may wait
    timeout = 300.0  # seconds that it waits for a peer's next word
    # Whether who is ended in the queue leaves it at once. On Linux (6.18) its socket is there until
    # it is accepted, and takes a place of the backlog.
    leaves_queue = False

    def __init__(self, world: "World", slots: int) -> None:
        self.slots = slots
        self.weather = Weather("calm")
        self.busy: dict[Session, None] = {}
        self.waiting: dict[Session, None] = {}
        self._world = world
        self._chance = world.chance

    def listens(self) -> bool:
        """Whether another connection can wait."""
        return len(self.waiting) < self.backlog

    def enter(self, session: "Session") -> bool:
        """Whether there is a slot; else the session's task is woken when there is."""
        if len(self.busy) < self.slots:
            self.busy[session] = None
            return True
        self.waiting[session] = None
        return False

    def leave(self, session: "Session") -> None:
        """The session's slot, if it has one, goes to the next."""
        if self.leaves_queue:
            self.waiting.pop(session, None)
        if session not in self.busy:
            return
        del self.busy[session]
        while self.waiting:
            following = next(iter(self.waiting))
            del self.waiting[following]
            if following.waits and following.task is not None:
                self.busy[following] = None
                self._world.wake(following.task)
                return

    def everybody(self) -> "Iterator[Session]":
        """Who has a slot, and who waits for one."""
        yield from self.busy
        yield from self.waiting

    def greeting(self) -> float:
        """Seconds until it greets."""
        return self.weather.greets or self.pause()

    def pause(self) -> float:
        """Seconds until it answers a command."""
        if self.weather.slow:
            return self._chance.uniform(20.0, 60.0)
        return self._chance.lognormvariate(-4.6, 0.8) * self.weather.pace

    def taking(self) -> float:
        """Seconds until it has taken a mail."""
        return self.weather.milter or self._chance.lognormvariate(-2.0, 0.8) + self.pause()


@dataclass
class Listing:
    """Somebody was listed: when, in which weather, what kind of peers it is, and why."""

    at: float
    weather: str
    stress: float
    peer: str
    kinds: list[str]
    reason: str

    def __str__(self) -> str:
        return (
            f"{self.at:7.1f} s, {self.weather}, stress {self.stress:.2f}: {self.peer}"
            f" ({', '.join(self.kinds)}): {self.reason}"
        )


@dataclass
class Seen:
    """What a day was like. Peers and sessions by kind, and seconds by what dpsd felt."""

    peers: dict[str, set[bytes]] = field(default_factory=lambda: defaultdict(set))
    sessions: Counter[str] = field(default_factory=Counter)
    events: int = 0
    ended: Counter[str] = field(default_factory=Counter)
    versions: Counter[int] = field(default_factory=Counter)
    stressed: float = 0.0
    ungreeted: int = 0
    refused: Counter[tuple[str, str]] = field(default_factory=Counter)  # SYNs, by kind and why
    pressures: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    listings: list[Listing] = field(default_factory=list)


class World:
    """One day, and dpsd in it, by its configuration.

    counts: whether the kernel counts bytes; enforce: whether dpsd acts, or only observes; hears:
    takes the kernel's events as well.
    """

    def __init__(
        self,
        seed: int,
        config: Config | None = None,
        counts: bool = True,
        enforce: bool = True,
        sockets: bool = True,
        hears: Callable[[list[Event]], object] = lambda _: None,
    ) -> None:
        self.enforce = enforce
        self.config = config = config or Config()
        self.hears = hears
        self.chance = Random(seed)
        self.now = 1000.0
        self.seen = Seen()
        self.sessions: dict[bytes, Session] = {}
        self.syns: tuple[float, ...] = SYNS
        self.kinds: dict[bytes, set[str]] = defaultdict(set)
        self.server = Server(self, config.protect.slots or 100)
        forget = dict.fromkeys(State, 30.0)
        for state in State:
            forget[state] = getattr(config.forget, state.name.lower(), 30.0)
        self.table = Table(forget, counts, self.chance)
        white = [Entry(ListName.WHITE, peer, "", "config", 0.0) for peer in config.white]
        self.engine = assembly.engine(config, Host(), Lists(white))
        ports = frozenset(config.protect.ports)
        self.engine.sessions.protects = lambda _, port: port in ports
        scopes = assembly.scopes(config)
        self.engine.look(scopes)
        self.daemon = Daemon(self, self.engine, scopes, sockets, enforce)
        self._began = self.now
        self._heap: list[tuple[float, int, Task, int, Exception | None]] = []
        self._serial = count()
        self.current: Task | None = None
        self._batch = math.inf
        self._ports: Counter[bytes] = Counter()
        self._deferred: dict[Network, float] = {}  # until when
        self._wider: set[Network] = set()  # of them, those that are no peer alone

    @property
    def since(self) -> float:
        """Seconds since the day began."""
        return self.now - self._began

    def drops(self, address: bytes) -> bool:
        """Whether packets from here are dropped, because it is listed."""
        if not self.enforce or not self.seen.listings:
            return False
        entry = self.engine.lists.decisive(ip_network(address))
        return entry is not None and entry.list != ListName.WHITE

    def refuses(self, address: bytes) -> str:
        """Why a SYN from here is dropped: "full", "listed", "deferred", or "" when it isn't."""
        if not self.server.listens():
            return "full"
        if self.drops(address):
            return "listed"
        return "deferred" if self._deferred and self._defers(address) else ""

    def _defers(self, address: bytes) -> bool:
        peer = self.config.peers.size.network(address)
        if self._deferred.get(peer, 0.0) > self.now:
            return True
        return any(self._deferred[each] > self.now for each in self._wider if within(peer, each))

    def ending(self, session: "Session") -> None:
        """A session is about to be ended; for whoever counts such."""

    def start(self, acts: "Acts | Trying", after: float = 0.0) -> None:
        """Let somebody act."""
        self._push(Task(acts), after)

    def wake(self, task: Task, problem: Exception | None = None) -> None:
        """Let a task that waits go on now."""
        task.token += 1
        self._push(task, 0.0, problem)

    def ends(self, address: bytes, port: int) -> Endpoints:
        """A new connection's, from this address."""
        self._ports[address] += 1
        version = 4 if len(address) == 4 else 6
        source = 20000 + self._ports[address] * 7 % 40000
        return Endpoints(address, SERVERS[version], source, port)

    def run(self, seconds: float) -> Seen:
        """Let so much time pass."""
        if self.now == self._began:
            self.start(self.daemon.acts())
        until = self.now + seconds
        heap, told = self._heap, self.table.told
        while heap and heap[0][0] <= until:
            at, _, task, token, problem = heappop(heap)
            if told and at > self._batch:
                self.feed()
            self.now = at
            if token != task.token:
                continue
            self.current = task
            try:
                delay = task.acts.throw(problem) if problem else task.acts.send(None)
            except (StopIteration, Gone):
                pass
            else:
                if token == task.token:
                    heappush(heap, (at + delay, next(self._serial), task, token, None))
            if told and self._batch == math.inf:
                self._batch = at + BATCH
        self.feed()
        return self.seen

    def _push(self, task: Task, after: float, problem: Exception | None = None) -> None:
        heappush(self._heap, (self.now + after, next(self._serial), task, task.token, problem))

    # dpsd

    def feed(self) -> None:
        """Let dpsd take the events that have gathered."""
        told = self.table.told
        self._batch = math.inf
        if told:
            self.seen.events += len(told)
            self.daemon.take(told)
            told.clear()

    def note(self) -> None:
        """Take note of what dpsd feels at a tick."""
        seen = self.seen
        seen.pressures[self.server.weather.name].append(self.engine.pressure)
        seen.stressed += TICK_HURRY * (self.engine.stress > 0)
        seen.ungreeted = max(seen.ungreeted, sum(s.waits for s in self.server.waiting))

    def end(self, keys: Iterable[Any]) -> None:
        """Destroy the server's sockets of these sessions, and forget them in the table."""
        for key in keys:
            session = self.sessions.get(key)
            if session is not None:
                self.seen.ended[session.peer.kind] += 1
                self.ending(session)
                session.end()
            self.table.delete(key)

    def defer(self, network: Network, seconds: float) -> None:
        """Drop this network's new connections for so long; open sessions go on."""
        self._deferred[network] = self.now + seconds
        if not self.config.peers.size.is_peer(network):
            self._wider.add(network)

    def listed(self, entry: Entry) -> None:
        """Somebody is listed."""
        size, network = self.config.peers.size, entry.peer
        if size.is_peer(network):
            kinds = set(self.kinds.get(size.key(network.network_address.packed), ()))
        else:
            kinds = {
                kind
                for key, kinds in self.kinds.items()
                if within(size.network_of_key(key), network)
                for kind in kinds
            }
        self.seen.listings.append(
            Listing(
                self.since,
                self.server.weather.name,
                self.engine.stress,
                size.text(network),
                sorted(kinds),
                entry.reason,
            )
        )
