"""The attackers. Each kind is a shape of session; an attack is many places that repeat it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import inf
from random import Random

from tests.day.gone import Gone
from tests.day.session import Peer, Session
from tests.day.ways import ipv4, ipv6
from tests.day.world import Acts, Trying, World

CONNECTS = 3.0  # seconds that an attacker waits for a handshake, as in the lab
LINGERS = 20.0  # seconds for which a closed session is left as it is


@dataclass(frozen=True)
class Attack:
    """An attack. All of it is bounded. Times in seconds.

    sources, sessions: how many there are, and of each at a time; rate: bytes a second of those that
    pay, sessions a second of those that don't stay; words: bytes of a command; waits: for a
    greeting; pause: before a session's successor; family: "4", "6", or "46" for sources of both in
    turn; rotate: addresses that a source takes in turn; block: of addresses, 0 for one of the
    attack's own; within: prefix length of the IPv6 network from which each session takes a new /64;
    after, until: when it begins and ends, since the case's attack did.
    """

    kind: str
    sources: int = 40
    sessions: int = 10
    rate: float = 0.0
    words: int = 36
    waits: float = inf
    pause: float = 1.0
    family: str = "4"
    port: int = 25
    rotate: int = 1
    block: int = 0
    within: int = 64
    rtt: float = 0.03
    after: float = 0.0
    until: float = inf


@dataclass(slots=True)
class Visit:
    """What a session's shape may know. ends: how many sessions of its place were ended for it."""

    attack: Attack
    chance: Random
    ends: int = 0

    def about(self, seconds: float) -> float:
        """So many seconds, more or less."""
        return seconds * self.chance.uniform(0.7, 1.3)


Shape = Callable[[Session, Visit], Acts]


def hold(session: Session, _visit: Visit) -> Acts:
    """HELO, then nothing."""
    yield from session.asks(12)
    yield from session.silent(inf)


def silent(session: Session, _visit: Visit) -> Acts:
    """Never a word."""
    yield from session.silent(inf)


def noop(session: Session, visit: Visit) -> Acts:
    """Speaks every few seconds, gets nowhere."""
    yield from session.asks(12)
    while True:
        yield from session.asks(6, visit.about(8.0))


def drip(session: Session, visit: Visit) -> Acts:
    """A command that never ends, a byte now and then."""
    yield from session.says(5)
    while True:
        yield from session.goes_on(1, visit.about(3.0))


def slowdata(session: Session, visit: Visit) -> Acts:
    """Begins a mail, and then takes for ever to say what is in it."""
    yield from _data(session)
    while True:
        yield from session.goes_on(6, visit.about(2.0))


def stall(session: Session, _visit: Visit) -> Acts:
    """Says much of a mail, and never the rest."""
    yield from _data(session)
    yield from session.upload(2250, 1e6)
    yield from session.silent(inf)


def shut(session: Session, _visit: Visit) -> Acts:
    """Closes its half and stays."""
    yield from session.quit("hurry", 40)


def linger(session: Session, _visit: Visit) -> Acts:
    """Lets the server close and doesn't answer its FIN."""
    yield from session.asks(18)
    session.hang_up(15)
    session.peer.notices = LINGERS
    yield from session.answers_fin()


def quits(session: Session, _visit: Visit) -> Acts:
    """A transaction that is taken back, and no QUIT."""
    yield from session.hello()
    yield from session.envelope(1, False)
    yield from session.asks(6)
    yield from session.silent(inf)


def churn(session: Session, _visit: Visit) -> Acts:
    """Comes and goes."""
    session.abandon()
    yield from ()


def reset(session: Session, _visit: Visit) -> Acts:
    """Goes with a reset."""
    yield from session.quit("abort")


def trickle(session: Session, visit: Visit) -> Acts:
    """A mail without an end, at the attack's rate."""
    yield from _data(session)
    yield from _pays(session, visit, visit.attack.rate)


def rcpt(session: Session, visit: Visit) -> Acts:
    """A valid command a second."""
    yield from session.asks(20, answer=180)
    yield from session.asks(30)
    while True:
        yield from session.asks(visit.attack.words, visit.about(1.0))


def slowdns(session: Session, visit: Visit) -> Acts:
    """Valid commands that the server answers late, since the attacker's name server is slow."""
    yield from session.asks(20, answer=180)
    yield from session.asks(30)
    while True:
        yield from session.says(visit.attack.words)
        yield from session.answers(40, visit.about(10.0))


def deaf(session: Session, _visit: Visit) -> Acts:
    """HELO, and doesn't acknowledge what the server says: it sends that again and again."""
    yield from session.says(12)
    yield from session.vanish(unanswered=True)


def far(session: Session, _visit: Visit) -> Acts:
    """A NOOP each round trip, which it makes as long as it likes, by late acknowledgements."""
    yield from session.asks(12)
    while True:
        yield from session.asks(6)


def mailhold(session: Session, _visit: Visit) -> Acts:
    """A mail, then silence."""
    yield from _mail(session, 4000)
    yield from session.silent(inf)


def slowmails(session: Session, visit: Visit) -> Acts:
    """Mail after mail, and idle in between."""
    yield from session.hello()
    while True:
        yield from session.envelope(1, False)
        yield from session.mail(2000)
        yield from session.silent(visit.about(3.0))


def helobyte(session: Session, _visit: Visit) -> Acts:
    """HELO, a byte a packet, then nothing."""
    for _ in range(14):
        yield from session.goes_on(1, 0.002)
    yield from session.answers()
    yield from session.silent(inf)


def half_hello(session: Session, _visit: Visit) -> Acts:
    """At a TLS port: half a ClientHello, then nothing."""
    yield from session.goes_on(20, session.peer.rtt)
    yield from session.silent(inf)


def buys_noops(session: Session, _visit: Visit) -> Acts:
    """A clean session of small talk, as many bytes as a mail has, for credit."""
    yield from session.asks(12)
    yield from session.asks(1200, answer=2800)  # 200 times NOOP in one go
    yield from session.quit()


def buys_mails(session: Session, _visit: Visit) -> Acts:
    """A clean session with a small mail, for credit."""
    yield from _mail(session, 1500)
    yield from session.quit()


def louder(session: Session, visit: Visit) -> Acts:
    """A mail without an end, at twice the rate of the last one that was ended."""
    yield from _data(session)
    yield from _pays(session, visit, min(16_000.0, visit.attack.rate * 2.0**visit.ends))


def shifter(session: Session, visit: Visit) -> Acts:
    """Another shape each time that a session was ended."""
    shapes = (hold, trickle, mailhold, rcpt)
    yield from shapes[visit.ends % len(shapes)](session, visit)


SHAPES: dict[str, Shape] = {
    **{each.__name__: each for each in (hold, silent, noop, drip, slowdata, stall, shut, linger)},
    **{each.__name__: each for each in (churn, reset, trickle, rcpt, slowdns, deaf, far)},
    **{each.__name__: each for each in (mailhold, slowmails)},
    **{each.__name__: each for each in (helobyte, half_hello, buys_noops, buys_mails)},
    **{each.__name__: each for each in (louder, shifter)},
    "quit": quits,
    "mover": hold,
    "no_window": silent,
}
PASSING = frozenset({"churn", "reset"})  # so many sessions a second, whatever becomes of them
UNGREETED = frozenset({"silent", "half_hello"})  # that don't wait for a greeting


def places(
    world: World, attack: Attack, number: int, chance: Random, attacked: dict[bytes, float]
) -> Iterator[tuple[Acts, float]]:
    """Each of an attack's places for a session, and when it begins.

    number: of the attack in its case; attacked: takes the addresses with a proven handshake.
    """
    for source in range(attack.sources):
        for place in range(attack.sessions):
            visits = Random(chance.random())
            begins = attack.after + visits.uniform(0.0, 1.0 if attack.kind in PASSING else 0.1)
            yield _place(world, attack, (number, source, place), visits, attacked), begins


def _place(
    world: World, attack: Attack, which: tuple[int, int, int], chance: Random,
    attacked: dict[bytes, float],
) -> Acts:  # fmt: skip
    visit = Visit(attack, chance)
    until = world.now + attack.until - attack.after
    every = attack.sources * attack.sessions / attack.rate if attack.kind in PASSING else 0.0
    moves = 0
    while world.now < until:
        peer = Peer("attack", _address(attack, which, moves, chance), attack.rtt)
        session = Session(world, peer, attack.port)
        ended = yield from _visits(session, visit, attacked)
        visit.ends += ended
        moves += int(ended or attack.kind != "mover")
        if every:
            yield every * chance.uniform(0.5, 1.5)
        else:
            yield attack.pause * chance.uniform(0.5, 1.5) + 0.001


def _visits(session: Session, visit: Visit, attacked: dict[bytes, float]) -> Trying:
    """One session; whether the server's side ended it."""
    world, attack = session.world, visit.attack
    session.task = world.current
    ended = False
    try:
        yield from session.arrive(CONNECTS)
        attacked.setdefault(session.peer.address, world.since)
        ended = True
        greeted = attack.kind not in UNGREETED and attack.kind not in PASSING
        if attack.kind in PASSING:
            world.server.enter(session)
        elif not (yield from session.slot(attack.waits if greeted else inf)):
            session.abandon()
            return False
        session.window = attack.kind != "no_window"
        if attack.port != 465 and attack.kind not in PASSING and session.window:
            yield from session.greeting(inf)
        yield from SHAPES[attack.kind](session, visit)
        ended = False
    except Gone:
        pass
    if attack.kind != "churn":
        session.over()
    return ended


def _address(attack: Attack, which: tuple[int, int, int], moves: int, chance: Random) -> bytes:
    number, source, _ = which
    block = attack.block or 70 + number
    if attack.within < 64:
        return ipv6(block, chance.randrange(1 << (64 - attack.within)))
    index = source * attack.rotate + moves % attack.rotate
    six = attack.family[source % len(attack.family)] == "6"
    return ipv6(block, index) if six else ipv4(block, index)


def _data(session: Session) -> Acts:
    yield from session.hello()
    yield from session.envelope(1, False)
    yield from session.asks(6)
    session.mail_is = "begun"


def _mail(session: Session, size: int) -> Acts:
    yield from session.hello()
    yield from session.envelope()
    yield from session.mail(size)


def _pays(session: Session, visit: Visit, rate: float) -> Acts:
    while True:
        seconds = visit.about(1.0 if rate < 1400 else 0.5)
        yield from session.goes_on(max(1, round(rate * seconds)), seconds)
