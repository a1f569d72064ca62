"""Those who have to be listed, wherever they hide: so that a day can tell them from the honest."""

from collections.abc import Iterator
from math import inf

from tests.day.session import Peer, Script, Session
from tests.day.ways import ipv4, ipv6, later
from tests.day.world import Acts, World

SIEGES = (300.0, 1000.0, 1760.0, 2300.0, 2500.0, 2990.0, 3200.0)  # one in each weather
BUSY = 1000.0  # seconds from the hour's start; by then there is stress


def _silent(session: Session) -> Acts:
    yield from session.says(12)
    yield from session.answers()
    yield from session.silent(1e6)


def _again(world: World, peer: Peer, script: Script, until: float = inf) -> Acts:
    """One session after the other, until so many seconds after the day's beginning."""
    while world.since < until:
        yield from Session(world, peer).run(script)
        yield 1.0


def hold(world: World) -> Iterator[Acts]:
    """Ten sessions from one source while slots run short, silent but for a HELO; and again."""
    for address in (ipv4(66, 1), ipv6(66, 1)):
        peer = Peer("hold", address, 0.03)
        yield from (later(BUSY + number, _again(world, peer, _silent)) for number in range(10))


def churn(world: World) -> Iterator[Acts]:
    """Thirty sessions a second from one source, closed as soon as they are greeted."""

    def close(session: Session) -> Acts:
        yield from session.quit("close")

    def many(address: bytes) -> Acts:
        while True:
            world.start(Session(world, Peer("churn", address, 0.01)).run(close))
            yield 1 / 30

    for number, address in enumerate((ipv4(67, 1), ipv6(67, 1))):
        yield later(200.0 + 800 * number, many(address))  # one in calm, one under stress


def noop(world: World) -> Iterator[Acts]:
    """Twelve sessions from one source with a NOOP every 8 seconds while slots run short."""

    def talk(session: Session) -> Acts:
        yield from session.hello()
        while True:
            yield from session.asks(6, 8.0)

    for address in (ipv4(68, 1), ipv6(68, 1)):
        peer = Peer("noop", address, 0.03)
        yield from (later(BUSY + number, _again(world, peer, talk)) for number in range(12))


ATTACKERS = (hold, churn, noop)


def stalls(world: World) -> Iterator[Acts]:
    """The same, but each session begins a mail first."""

    def stall(session: Session) -> Acts:
        yield from session.hello()
        yield from session.envelope()
        yield from session.asks(6)
        yield from session.upload(2000, 1e6)
        yield from session.silent(1e6)

    yield from sieges(world, stall)


def swarms(world: World) -> Iterator[Acts]:
    """The same number of sessions, each from a source of its own."""
    yield from sieges(world, _silent, 400, 1)


def sieges(
    world: World, script: Script = _silent, sources: int = 40, sessions: int = 10
) -> Iterator[Acts]:
    """Now and then forty sources with ten silent sessions each, for a minute."""

    for number, at in enumerate(SIEGES):
        for source in range(sources):
            block = 70 + number
            address = ipv4(block, source) if source % 2 else ipv6(block, source)
            peer = Peer("siege", address, 0.03)
            for each in range(sessions):
                yield later(at + 0.01 * each, _again(world, peer, script, until=at + 60.0))
