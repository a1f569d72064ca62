"""How long the loop stands still at most: the worst call with very much of everything.

No kernel: what it would tell is fed as it comes, events by the batch, a dump by the datagram.
Measured is the processor time of each call, so that other programs count as little as can be.
"""

import gc
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from ipaddress import ip_network
from itertools import islice
from statistics import median
from typing import TypeVar

from dpsd import assembly
from dpsd.config import Config
from dpsd.core.events import (
    ASSURED,
    BEGIN,
    CLOSE_INIT,
    END,
    ENTRY,
    UPDATE,
    Endpoints,
    Event,
    Measure,
    State,
    Word,
)
from dpsd.core.lists import SCORE, Entry, ListName, Lists
from dpsd.core.policy import Pool
from dpsd.daemon.clock import Clock
from dpsd.daemon.daemon import SETTLED
from dpsd.daemon.keeper import Keeper
from dpsd.daemon.memory import TOGETHER, Memory
from dpsd.kernel.conntrack import BATCH
from dpsd.kernel.ctnetlink import key_of
from dpsd.kernel.host import Host
from tests.bench.measure import Row

NUMBERS = (1_000, 10_000, 100_000)
ROUNDS = 3
AIM = "5 ms"
NOTHING = 0.1  # ms
DATAGRAM = 140  # entries of a dump in 32 KiB
SLOTS = 100
STRESSED, CALM = 1 / 12, 1 / 4  # seconds between two ticks

T = TypeVar("T")
SERVER = bytes((192, 0, 2, 25))
SERVER6 = bytes((0x20, 0x01, 0x0D, 0xB8, *bytes(11), 0x25))
GREETED = Measure(300, 3, 164, 3, 300)
WORD = Word(3.0, True, 0, 60, 0.01, 0, 0, True)


class Scene:
    """An engine, its time, and the worst of each kind of call (seconds)."""

    def __init__(self, slots: int = SLOTS) -> None:
        config = Config()
        self.engine = assembly.engine(config, Host(), Lists())
        self.engine.sessions.protects = lambda _, port: port == 25
        self.engine.apply(replace(self.engine.policy, pools=(Pool(frozenset(), slots),)))
        self.engine.look([(25, 4), (25, 6)])
        self.now = 1e6
        self.worst: dict[str, float] = defaultdict(float)
        self.dump(())

    def timed(self, kind: str, call: Callable[[], T]) -> T:
        """What the call returns; how long it took is kept if nothing took longer."""
        began = time.thread_time()
        found = call()
        self.worst[kind] = max(self.worst[kind], time.thread_time() - began)
        return found

    def feed(self, events: Iterable[Event]) -> None:
        """Events, by the batch."""
        rest = iter(events)
        while batch := list(islice(rest, BATCH)):
            self.now += 1e-3  # no two arrive at the same instant
            self.timed("feed", partial(self.engine.feed, batch, self.now))

    def dump(self, keys: Sequence[bytes], measure: Measure = GREETED, state: int = 3) -> None:
        """Both dumps, by the datagram."""
        flags = (0, CLOSE_INIT if state != State.ESTABLISHED else 0)
        for version, size in ((4, 48), (6, 72)):
            self.engine.feed([(BEGIN, None, 0, 0, 25, version)], self.now)
            rest = (k for k in keys if len(k) == size)
            while some := list(islice(rest, DATAGRAM)):
                events: list[Event] = [(ENTRY, k, ASSURED, state, flags, measure) for k in some]
                self.timed("dump", partial(self.engine.feed, events, self.now))
            end: list[Event] = [(END, None, 0, 0, 0, 0)]
            self.timed("dump", partial(self.engine.feed, end, self.now))

    def pass_by(self, seconds: float, every: float, ends: bool = True) -> None:
        """Let time pass: ticks, and who is doomed ends."""
        until = self.now + seconds
        while self.now < until:
            self.now += every
            passed = self.timed("tick", partial(self.engine.tick, self.now))
            words = dict.fromkeys(passed.doomed, WORD)
            ended = [*passed.listed, *(key for each in passed.verdicts for key in each.sessions)]
            for start in range(0, len(passed.doomed), SETTLED):
                some = passed.doomed[start : start + SETTLED]
                settled = self.timed("settle", partial(self.engine.settle, some, words, self.now))
                ended += settled.ended
            if ends:
                self.feed(_events(dict.fromkeys(ended), State.CLOSE))


def _events(
    keys: Iterable[object], state: int = State.ESTABLISHED, closer: int = 0
) -> Iterator[Event]:
    """One after another: a list of all would be garbage to look through."""
    return ((UPDATE, key, ASSURED, state, 0, closer) for key in keys)


def v4(number: int, port: int = 1) -> bytes:
    """A session of the n-th peer."""
    return key_of(Endpoints((0x0A000000 + number).to_bytes(4, "big"), SERVER, 1024 + port, 25))


def v6(number: int, wide: int) -> bytes:
    """A session of the n-th /64, in so many /48s."""
    peer = (0x20010DB80000 + number % wide) << 80 | (number // wide) << 64 | 1
    return key_of(Endpoints(peer.to_bytes(16, "big"), SERVER6, 1025, 25))


def idle(number: int, each: int) -> Scene:
    """Sessions of no use while slots run short, so many of each peer."""
    scene = Scene()
    keys = [v4(n // each, n % each % 60_000) for n in range(number)]
    keys = list(dict.fromkeys(keys))
    scene.feed(_events(keys))
    for _ in range(5):
        scene.dump(keys)
        scene.pass_by(1.0, STRESSED)
        keys = [key for key in keys if scene.engine.sessions.get(key) is not None]
    return scene


def half_closed(number: int) -> Scene:
    """Sessions that the server has closed and their peers don't."""
    scene = Scene(slots=1_000_000)
    keys = [v4(n) for n in range(number)]
    scene.feed(_events(keys))
    scene.feed(_events(keys, State.FIN_WAIT, CLOSE_INIT))
    for _ in range(300):
        scene.pass_by(1.0, CALM)
    return scene


def lingering(number: int) -> Scene:
    """Half-closed sessions that only the sockets know."""
    scene = Scene(slots=1_000_000)
    keys = [v4(n) for n in range(number)]
    for _ in range(150):
        scene.timed("sockets", partial(scene.engine.linger, keys, scene.now))
        scene.pass_by(1.0, CALM)
    scene.timed("sockets", partial(scene.engine.linger, (), scene.now))
    return scene


def prefixes(number: int) -> Scene:
    """A half-closed session of each of so many /64s in ten /48s, while slots run short."""
    scene = Scene()
    keys = [v6(n, 10) for n in range(number)]
    scene.feed(_events(keys))
    scene.feed(_events(keys, State.FIN_WAIT, CLOSE_INIT))
    scene.pass_by(60.0, STRESSED)
    return scene


def expiry(number: int) -> Scene:
    """2,000 blocks that end together, with so many wide prefixes remembered."""
    scene = Scene()
    engine = scene.engine
    for n in range(number):
        engine.judge.prefixes.charge(v6(n, max(10, number // 10))[12:20], 1.0, 1e9, scene.now)
    for n in range(2_000):
        peer = ip_network(f"10.9.{n // 256}.{n % 256}" if n % 2 else f"2001:db8:{n:x}::/48")
        engine.lists.put(Entry(ListName.BLOCK, peer, "", SCORE, 0.0, scene.now + 1.0))
    scene.pass_by(5.0, CALM)
    return scene


def verdicts(number: int, each: int) -> Scene:
    """Peers that open sessions too fast, all at once."""
    scene = Scene()
    scene.engine._stress.flood = 1.0
    keys = [v4(n // each, n % each % 60_000) for n in range(number)]
    scene.feed(_events(keys))
    scene.pass_by(5.0, STRESSED)
    return scene


def forgotten(number: int) -> Scene:
    """Peers of whom nothing matters any more."""
    scene = Scene()
    for n in range(number):
        scene.engine.scores.peer(n.to_bytes(4, "big"), 0.0)
    scene.pass_by(10.0, CALM)
    return scene


def flush(number: int) -> Scene:
    """Peers whose scores changed, to be saved; half of them not worth it."""
    scene = Scene()
    memory = Memory(scene.engine, Keeper("sqlite://", Clock()), Clock())
    for n in range(number):
        scene.engine.scores.peer(n.to_bytes(4, "big"), scene.now).score = 5.0 * (n % 2) + 0.1
        scene.engine.scores.changed.add(n.to_bytes(4, "big"))
    changed = scene.engine.scores.changed
    for _ in range(number // TOGETHER):
        some = [changed.pop() for _ in range(TOGETHER)]
        scene.timed("flush", partial(memory._rows, some))
    return scene


def entries(number: int) -> Scene:
    """Entries on the lists, which the table is compared with every five minutes."""
    scene = Scene()
    for n in range(number):
        peer = ip_network((0x0A000000 + n, 32))
        scene.engine.lists.put(Entry(ListName.BLOCK, peer, "", SCORE, 0.0, scene.now + 1e5))
    scene.timed("elements", scene.engine.lists.elements)
    return scene


CASES: dict[str, Callable[[int], Scene]] = {
    "idle sessions, one a peer": lambda n: idle(n, 1),
    "idle sessions, 50 a peer": lambda n: idle(n, 50),
    "idle sessions, all of one peer": lambda n: idle(n, n),
    "half-closed sessions": half_closed,
    "half-closed sessions that only sockets know": lingering,
    "half-closed sessions of /64s in ten /48s": prefixes,
    "2,000 blocks that end, among wide prefixes": expiry,
    "too fast, all of one peer": lambda n: verdicts(n, n),
    "too fast, 200 a peer": lambda n: verdicts(n, 200),
    "peers to forget": forgotten,
    "peers to save": flush,
    "entries on the lists": entries,
}


def measured(case: Callable[[int], Scene], number: int, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of the worst call of each kind, in each round."""
    found: dict[str, list[float]] = defaultdict(list)
    for _ in range(rounds):
        gc.collect()
        gc.freeze()
        scene = case(number)
        for kind, worst in scene.worst.items():
            found[kind].append(1e3 * worst)
        gc.unfreeze()
    return found


def rows(rounds: int = ROUNDS) -> Iterator[Row]:
    """Of each case and kind of call the worst: the median of some rounds, and the most of them."""
    thresholds = gc.get_threshold()
    gc.set_threshold(1_000, 1, 1_000_000_000)  # as the daemon has it
    yield "The worst call with 1,000, 10,000 and 100,000", "", ""
    for name, case in CASES.items():
        found = [measured(case, number, rounds) for number in NUMBERS]
        yield f"  {name}", "", ""
        for kind in found[0]:
            if max(found[-1][kind]) >= NOTHING:
                worst = (f"{median(each[kind]):.1f} ({max(each[kind]):.1f})" for each in found)
                yield f"    {kind}", ", ".join(worst) + " ms", AIM
    gc.set_threshold(*thresholds)
