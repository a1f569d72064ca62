"""People and programs that hand in mail, and what they do in an hour."""

from collections.abc import Iterator

from tests.day.session import Peer, Script, Session
from tests.day.ways import arrivals, ipv4, later, size_of, some, until_done
from tests.day.world import Acts, World


def person(world: World, script: Script, peer: Peer, port: int) -> Acts:
    """Somebody who presses "send" again when it went wrong."""
    yield from until_done(world, peer, script, port, again=15.0, times=5)


def submission(world: World, rate: float = 2e6, stalls: float = 0.0) -> Script:
    """A client: TLS, a mail, and perhaps the session is kept for some time."""
    chance = world.chance
    keeps = chance.choices((0, 30, 60, 180, 400), (60, 15, 10, 10, 5))[0]
    leave = chance.choices(("wait", "reset", "close", "abort"), (60, 25, 10, 5))[0]

    def script(session: Session) -> Acts:
        yield from session.hello(True)
        if chance.random() < 0.05:
            yield from session.silent(chance.uniform(5.0, 40.0))  # "remember this password?"
        yield from session.envelope()
        yield from session.mail(size_of(world), rate, stalls)
        if keeps:
            yield from session.silent(keeps * chance.uniform(0.5, 1.0))
        yield from session.quit(leave)

    return script


def office(world: World) -> Iterator[Acts]:
    """200 people behind one IPv4 address; their laptops fall asleep, some open two sessions."""
    chance = world.chance
    address = ipv4(11, 1)

    def asleep(session: Session) -> Acts:
        yield from session.hello(True)
        if chance.random() < 0.7:
            yield from session.envelope()
            yield from session.mail(size_of(world))
        yield from session.vanish()

    def second(session: Session) -> Acts:
        """Only to see whether the account is all right."""
        yield from session.hello(True)
        yield from session.silent(chance.choice((0.0, 1.0, 5.0, 15.0)))
        yield from session.quit("reset")

    def one(number: int) -> Acts:
        peer = Peer("office", address, chance.uniform(0.005, 0.03), chance.random() < 0.3)
        peer.notices = chance.choice((0.0, 0.0, 30.0, 90.0))
        port = (465, 587)[number % 2]
        if number % 5 == 0 and chance.random() < 0.1:
            yield from Session(world, peer, port).run(asleep)
            return
        if number % 4 == 0:
            world.start(Session(world, peer, port).run(second))
        yield from person(world, submission(world), peer, port)

    yield arrivals(world, 0.12, lambda: one(chance.randrange(200)))


def cgnat(world: World) -> Iterator[Acts]:
    """Hundreds of customers of a carrier behind one address, some of them slow."""
    chance = world.chance

    def one() -> Acts:
        peer = Peer("cgnat", ipv4(12, chance.randrange(2)), chance.uniform(0.03, 0.3))
        script = submission(world, chance.choice((4e3, 50e3, 1e6)), chance.choice((0, 0, 0.05)))
        if chance.random() < 0.02:
            script = lambda session: session.vanish(chance.random() < 0.5)  # noqa: E731
        yield from person(world, script, peer, 587)

    yield arrivals(world, 0.08, one)


def mobile(world: World) -> Iterator[Acts]:
    """Phones with 2 to 4 kB/s, and pauses of 20 to 60 s."""
    chance = world.chance

    def one() -> Acts:
        peer = some(world, "mobile", 13, chance.randrange(60000), 0.5)
        peer.rtt = chance.uniform(0.2, 0.8)
        script = submission(world, chance.uniform(2e3, 4e3), 0.1)
        yield from person(world, script, peer, (465, 587)[chance.randrange(2)])

    yield arrivals(world, 0.03, one, busy=False)


def pool(world: World) -> Iterator[Acts]:
    """Applications that keep a few sessions, and don't see that the server has closed them."""
    chance = world.chance

    def lane(peer: Peer) -> Acts:
        def script(session: Session) -> Acts:
            yield from session.hello(True)
            while True:
                yield from session.envelope()
                yield from session.mail(size_of(world))
                yield from session.silent(chance.choice((5, 30, 120, 280, 400, 600)))

        while True:
            peer.notices = chance.uniform(10.0, 300.0)
            yield from Session(world, peer, 587).run(script)
            yield chance.uniform(1.0, 200.0)

    for number in range(4):
        peer = Peer("pool", ipv4(15, number), 0.01)
        yield from (later(chance.uniform(0, 60), lane(peer)) for _ in range(2 + number))
