"""Honest senders: those of the lab (tests/lab/honest.py), and phones that are very slow.

A mail that isn't delivered in time has failed; so has one whose session was ended, unless that was
kept from a mail before: then the sender takes a fresh one, as in the lab.
"""

from collections import deque
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from math import ceil, inf
from random import Random

from tests.day.gone import Gone
from tests.day.session import DELAYED, Peer, Session
from tests.day.ways import ipv4, ipv6
from tests.day.world import Acts, World

LANES_FOR = 5.0  # times the lanes that are busy on average, at least: one is nearly always free
Opening = Generator[float, None, Session]

RTTS = {
    "lan": ((1.0, 0.0005),),
    "near": ((1.0, 0.04),),
    "far": ((1.0, 0.2),),
    "mixed": ((0.3, 0.0005), (0.4, 0.04), (0.25, 0.2), (0.05, 0.6)),
}
"""Seconds to the server and back, and how many senders have them."""


@dataclass(frozen=True)
class Kind:
    """As in the lab: sizes in bytes, times in seconds.

    patience: from when the mail was due; rate: bytes a second; reuse: mails in a session; keep: how
    long it is kept without one; retry: after greylisting; quits: whether it says QUIT.
    """

    port: int = 25
    size: int = 4_000
    patience: float = 8.0
    rate: float = 1e6
    reuse: int = 1
    keep: float = 5.0
    pipelining: bool = False
    tls: bool = False
    retry: float = 0.0
    quits: bool = True


KINDS = {
    "single": Kind(),
    "big": Kind(reuse=10, tls=True),
    "parallel": Kind(),
    "caching": Kind(reuse=20, keep=30.0),
    "bulk": Kind(size=20_000, reuse=5, pipelining=True),
    "newsletter": Kind(size=20_000),
    "list": Kind(size=8_000, reuse=4),
    "greylisted": Kind(patience=12.0, retry=3.0),
    "slow": Kind(size=90_000, rate=15_000.0, patience=14.0),
    "office": Kind(port=587, size=30_000, reuse=3, tls=True),
    "desk": Kind(port=465, size=30_000, reuse=3, tls=True),
    "mobile": Kind(port=587, size=8_000, rate=2_000.0, patience=14.0, tls=True),
    "probe": Kind(size=0),
    "check": Kind(size=0, quits=False),
}
ONE_SENDER = {
    **dict.fromkeys(("bulk", "desk", "probe", "check"), 0.0005),
    **dict.fromkeys(("big", "caching", "office", "list", "parallel"), 0.04),
    "newsletter": 0.2,
}
"""Round trips of the kinds that are one peer each, where senders are mixed."""
_BLOCKS = {kind: 30 + number for number, kind in enumerate(KINDS)}


@dataclass(slots=True)
class Mail:
    """A mail. at: when it is due, in seconds since the attack began; due: the same on the world's
    clock; patience: seconds after which its sender gives up; need: seconds that it needs by itself;
    took: seconds that it took, infinite if it failed.
    """

    at: float
    due: float
    kind: str
    patience: float
    need: float
    took: float = inf

    @property
    def delivered(self) -> bool:
        """Whether it was."""
        return self.took < inf

    def prompt(self, within: float) -> bool:
        """Whether it was delivered at most so much later than its sender needs."""
        return self.took <= self.need + within


class Late(Exception):
    """The sender gives up."""


class Lane:
    """Sends its mails one after another, over one session as long as that is allowed."""

    def __init__(self, world: World, kind: Kind, peer: Peer) -> None:
        self._world = world
        self._kind = kind
        self._peer = peer
        self._mails: deque[Mail] = deque()
        self._session: Session | None = None
        self._sent = 0
        self._current: Mail | None = None
        self._acts = False
        self._rests = False

    def add(self, mail: Mail) -> None:
        """A mail is due."""
        self._mails.append(mail)
        if not self._acts:
            self._acts = True
            self._world.start(self._run())
        elif self._rests:
            self._world.wake(self._task)

    def _run(self) -> Acts:
        assert self._world.current is not None
        self._task = self._world.current
        while self._mails or self._session is not None:
            if self._mails:
                yield from self._attempt(self._mails.popleft())
            else:
                yield from self._rest()
        self._acts = False

    def _attempt(self, mail: Mail) -> Acts:
        world = self._world
        left = mail.due + mail.patience - world.now
        if left <= 0:
            return
        self._current = mail
        world.start(self._gives_up(mail), left)
        used = self._session is not None
        try:
            try:
                yield from self._deliver(mail)
            except Gone:
                self._drop()
                if used and not mail.delivered:
                    yield from self._deliver(mail)
        except Gone:
            self._drop()
        except Late:
            if self._session is not None:
                self._session.abandon()
                self._session = None
        self._current = None

    def _gives_up(self, mail: Mail) -> Acts:
        if self._current is mail and not mail.delivered:
            self._world.wake(self._task, Late())
        yield 0.0

    def _deliver(self, mail: Mail) -> Acts:
        kind, world = self._kind, self._world
        if kind.retry:
            session = yield from self._open()
            yield from session.envelope(1, False)
            yield from session.quit()
            self._drop()
            yield kind.retry
        session = self._session or (yield from self._open())
        if kind.size:
            yield from session.envelope(1, kind.pipelining)
            yield from session.mail(kind.size, kind.rate)
            mail.took = world.now - mail.due
            self._sent += 1
            if self._sent < kind.reuse:
                return
        yield from session.quit("wait" if kind.quits else "close")
        if not kind.size:
            mail.took = world.now - mail.due
        self._drop()

    def _open(self) -> "Opening":
        self._session = session = Session(self._world, self._peer, self._kind.port)
        session.task = self._world.current
        self._sent = 0
        yield from session.arrive()
        yield from session.slot(inf)
        if self._kind.port != 465:  # there the client speaks first
            yield from session.greeting(inf)
        if self._kind.size:
            yield from session.hello(self._kind.tls)
        return session

    def _rest(self) -> Acts:
        """Keep the session for the next mail, for some time."""
        session, keep = self._session, self._kind.keep
        assert session is not None
        self._rests = True
        try:
            yield session.peer.rtt + DELAYED
            if not self._mails:
                session.acknowledges()
                yield keep
            self._rests = False
            if not self._mails:
                yield from session.quit()
                self._drop()
        except Gone:
            self._drop()
        self._rests = False

    def _drop(self) -> None:
        if self._session is not None:
            self._session.over()
            self._session = None


class Senders:
    """All of them. rtt: a name of RTTS; takes: seconds that the server takes for each mail."""

    def __init__(self, world: World, rtt: str, takes: float) -> None:
        self.mails: list[Mail] = []
        self.patience = max(kind.patience for kind in KINDS.values()) + takes
        self._world = world
        self._rtts = RTTS[rtt]
        self._takes = takes
        self._lanes: dict[tuple[str, int, int], Lane] = {}

    def plan(self, chance: Random, peace: float, seconds: float, scale: float) -> None:
        """Draw every mail. scale: how many times the lab's mail comes."""
        rtts = Random(chance.random())
        places: dict[tuple[str, int], Peer] = {}
        plan = _plan(chance, peace + seconds, scale, self._takes)
        for at, kind, number, lane in sorted(plan):
            if (kind, number) not in places:
                places[kind, number] = self._peer(kind, number, rtts)
            self._add(at, peace, kind, places[kind, number], (kind, number, lane))

    def _peer(self, kind: str, number: int, rtts: Random) -> Peer:
        shares, seconds = zip(*self._rtts, strict=True)
        block = _BLOCKS[kind]
        six = kind in ("bulk", "newsletter", "list") or (kind == "single" and rtts.random() < 0.4)
        address = ipv6(block, number) if six else ipv4(block, number)
        rtt = rtts.choices(seconds, shares)[0]
        if len(seconds) > 1:  # of who sends much it isn't left to chance
            rtt = ONE_SENDER.get(kind, rtt)
        return Peer(kind, address, rtt, rtts.random() < 0.8)

    def _add(
        self, at: float, peace: float, kind: str, peer: Peer, key: tuple[str, int, int]
    ) -> None:
        how, world = KINDS[kind], self._world
        trips = 9 + 4 * how.tls + 6 * bool(how.retry)
        extra = peer.rtt * trips + self._takes * bool(how.size)
        need = how.size / how.rate + how.retry + extra
        mail = Mail(at - peace, world.now + at, kind, how.patience + extra, need)
        self.mails.append(mail)
        if key not in self._lanes:
            self._lanes[key] = Lane(world, how, peer)
        lane = self._lanes[key]

        def due() -> Acts:
            lane.add(mail)
            yield 0.0

        world.start(due(), at)


Planned = tuple[float, str, int, int]  # when a mail is due, its kind, the sender, and its lane


def _plan(chance: Random, seconds: float, scale: float, takes: float) -> Iterator[Planned]:
    """Every mail; about eleven a second at scale 1.

    takes: seconds that the server takes for each; senders have lanes enough for it.
    """
    for kind, rate, lanes in (
        *(("single", 3.0, 0), ("greylisted", 0.3, 0), ("slow", 0.1, 0), ("mobile", 0.1, 0)),
        *(("big", 1.5, 6), ("bulk", 0.5, 2), ("caching", 0.4, 4), ("office", 0.8, 16)),
        *(("desk", 0.2, 4), ("check", 0.2, 0)),
    ):
        for number, at in enumerate(_arrivals(chance, rate * scale, seconds)):
            if kind == "check":
                yield at, kind, 1, number
            elif lanes:
                needed = LANES_FOR * rate * scale * (takes + 1.0)
                yield at, kind, 1, number % ceil(max(lanes * scale, needed))
            else:
                yield at, kind, number, 0
    for number in range(int(seconds)):
        yield number + 0.5, "probe", 1, number
    for number in range(round(30 * scale)):  # halfway, each on a session of its own
        yield seconds / 2 + number * 0.1 / scale, "newsletter", 1, number
    for number in range(round(50 * scale)):  # all at once
        yield seconds / 3, "parallel", 1, number
    many = ceil(8 * scale)
    lanes = ceil(2 * scale) if takes < 1.0 else many * (1 + ceil(takes / 12))
    for each in range(many * int(seconds / 12)):
        at = 4 + 12 * (each // many) + 0.8 * (each % many) / many
        yield at, "list", 1, each % lanes


def _arrivals(chance: Random, rate: float, seconds: float) -> Iterator[float]:
    at = chance.expovariate(rate)
    while at < seconds:
        yield at
        at += chance.expovariate(rate)
