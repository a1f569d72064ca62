"""Mail servers and probes of all honest kinds, and what they do in an hour."""

from collections.abc import Iterator
from functools import partial

from tests.day.session import Peer, Script, Session
from tests.day.ways import (
    arrivals,
    every,
    ipv4,
    ipv6,
    later,
    mails,
    manner,
    size_of,
    some,
    until_done,
)
from tests.day.world import Acts, World


def single(world: World) -> Iterator[Acts]:
    """Thousands of servers with a mail now and then."""

    def one() -> Acts:
        peer = some(world, "single", 1, world.chance.randrange(12000))
        script = mails(world, 1, world.chance.random() < 0.8, manner(world))
        yield from until_done(world, peer, script)

    yield arrivals(world, 1.4, one)


def provider(world: World) -> Iterator[Acts]:
    """A big one: dozens of addresses, sessions kept for more mails, and idle in between."""
    chance = world.chance

    def script(session: Session) -> Acts:
        yield from session.hello(True)
        for number in range(chance.choice((1, 1, 2, 3, 5, 10, 20))):
            if number and chance.random() < 0.5:
                yield from session.silent(chance.choice((2, 5, 10, 20, 30, 60, 250)))
            yield from session.envelope()
            yield from session.mail(size_of(world), 5e6)
        if chance.random() < 0.3:
            yield from session.silent(chance.choice((5, 20, 60, 299, 400)))
        yield from session.quit()

    def lane() -> Acts:
        while True:
            load = world.server.weather.load
            yield chance.expovariate(1 / 150.0) / load
            six, which = chance.random() < 0.4, chance.randrange(40)
            address = ipv6(2, which) if six else ipv4(2, which)
            peer = Peer("provider", address, chance.uniform(0.01, 0.12))
            yield from Session(world, peer).run(script)

    yield from (lane() for _ in range(36))


def newsletter(world: World) -> Iterator[Acts]:
    """One address, many mails within minutes: rejected recipients, greylisting at first."""
    chance = world.chance

    def refused(tls: bool) -> Script:
        def script(session: Session) -> Acts:
            yield from session.hello(tls)
            yield from session.envelope(1, False)
            yield from session.quit()

        return script

    def lane(peer: Peer, left: list[int], tls: bool, sent_on: int) -> Acts:
        while left[0] > 0:
            left[0] -= 1
            session = Session(world, peer)
            if left[0] > sent_on or chance.random() < 0.05:
                yield from session.run(refused(tls))
            else:
                yield from session.run(mails(world, chance.choice((1, 1, 1, 5)), tls))
            yield chance.uniform(0.05, 0.5)

    def burst(block: int, number: int, lanes: int, count: int, tls: bool, grey: int) -> Acts:
        address = ipv4(block, number) if number % 2 else ipv6(block, number)
        peer = Peer("newsletter", address, chance.uniform(0.01, 0.1))
        left = [count]
        for _ in range(lanes):
            world.start(lane(peer, left, tls, count - grey))
            yield chance.uniform(0.0, 1.0)

    for number in range(12):  # in turn: with TLS and without, greylisted and not
        plan = burst(3, number, 5 + number * 2, 400, number % 3 > 0, 150 if number % 4 < 2 else 0)
        yield later(chance.uniform(0, 3400), plan)


def lists(world: World) -> Iterator[Acts]:
    """Mailing lists: 10 to 40 sessions at once for each post."""
    chance = world.chance

    def post(number: int) -> Acts:
        address = ipv4(4, number) if number % 2 else ipv6(4, number)
        peer = Peer("list", address, chance.uniform(0.01, 0.15))
        for _ in range(chance.randint(10, 40)):
            script = mails(world, chance.choice((1, 2)), number > 1, "wait", chance.randint(1, 20))
            world.start(until_done(world, peer, script))
            yield chance.uniform(0.0, 0.5)

    for number in range(5):
        yield arrivals(world, 1 / 300, partial(post, number), busy=False)


def callout(world: World) -> Iterator[Acts]:
    """Servers that verify senders: MAIL, RCPT, and then QUIT or a reset; few bytes."""
    chance = world.chance

    def script(session: Session) -> Acts:
        yield from session.hello()
        yield from session.asks(16)  # MAIL FROM:<>
        yield from session.asks(chance.randint(28, 45))
        yield from session.quit("abort" if session.peer.address[-1] % 4 == 3 else "wait")

    def one(number: int) -> Acts:
        yield from Session(world, some(world, "callout", 5, number, number % 2)).run(script)

    # A forged newsletter in our name makes some of them ask often.
    for number, seconds in enumerate((60, 30, 20, 45, 15, 10, 8, 30, 6, 4)):
        yield arrivals(world, 1 / seconds, partial(one, number), busy=False)


def monitor(world: World) -> Iterator[Acts]:
    """Probes that say QUIT, every 10 to 60 s from a few addresses."""

    def script(session: Session) -> Acts:
        if session.peer.address[-1] % 2:
            yield from session.asks(20)
        yield from session.quit()

    def one(number: int) -> Acts:
        peer = Peer("monitor", ipv4(6, number), 0.03)
        yield from Session(world, peer, (25, 587)[number % 2]).run(script, 10.0)

    for number, seconds in enumerate((10, 15, 20, 30, 30, 60)):
        yield every(world, seconds, partial(one, number))


def check(world: World) -> Iterator[Acts]:
    """A load balancer's TCP checks: connect, and close or reset at once."""

    def script(session: Session) -> Acts:
        yield from session.quit("abort" if session.peer.address[-1] % 2 else "close")

    def one(number: int) -> Acts:
        session = Session(world, Peer("check", ipv4(7, number), 0.0005))
        session.knocks = True
        yield from session.run(script)

    for number, seconds in enumerate((5, 5, 2, 3)):
        yield every(world, seconds, partial(one, number))


def backup(world: World) -> Iterator[Acts]:
    """A backup MX: what it took comes in tens of sessions; and it verifies recipients."""
    chance = world.chance
    peer = Peer("backup", ipv4(8, 1), 0.02)

    def flush() -> Acts:
        for _ in range(10):
            world.start(until_done(world, peer, mails(world, chance.randint(1, 10))))
            yield 0.05

    def verify(session: Session) -> Acts:
        yield from session.hello()
        yield from session.envelope(1, False)
        yield from session.asks(6)
        yield from session.quit()

    yield arrivals(world, 1 / 900, flush, busy=False)
    yield arrivals(world, 1 / 30, lambda: Session(world, peer).run(verify))


def hoster(world: World) -> Iterator[Acts]:
    """Servers with addresses of their own in one /64."""
    chance = world.chance

    def one() -> Acts:
        address = ipv6(9, chance.randrange(2), chance.randrange(200))
        peer = Peer("hoster", address, chance.uniform(0.01, 0.05))
        yield from until_done(world, peer, mails(world, 1, chance.random() < 0.8))

    yield arrivals(world, 0.2, one)


def big(world: World) -> Iterator[Acts]:
    """Mails of 25 MB that take many minutes."""
    chance = world.chance

    def script(session: Session) -> Acts:
        yield from session.hello(True)
        yield from session.envelope()
        yield from session.mail(25_000_000, chance.choice((30e3, 60e3, 200e3, 1e6)))
        yield from session.quit()

    def one() -> Acts:
        peer = some(world, "big", 10, chance.randrange(60000))
        yield from until_done(world, peer, script, (25, 587)[chance.randrange(2)])

    yield arrivals(world, 1 / 400, one, busy=False)


def satellite(world: World) -> Iterator[Acts]:
    """A second or two to the server and back."""
    chance = world.chance

    def one() -> Acts:
        peer = some(world, "satellite", 14, chance.randrange(40))
        peer.rtt = chance.uniform(1.0, 2.0)
        yield from until_done(world, peer, mails(world, 1, chance.random() < 0.8), again=60.0)

    yield arrivals(world, 0.05, one, busy=False)


def failing(world: World) -> Iterator[Acts]:
    """Peers whose network fails in the middle of a session."""
    chance = world.chance

    def script(session: Session) -> Acts:
        where = chance.randrange(6)
        if where:
            yield from session.hello(chance.random() < 0.8)
        if where > 1:
            yield from session.envelope()
        if where == 3:
            yield from session.asks(6)
            yield from session.upload(chance.randint(2000, 200_000), 50e3)
        if where == 4:
            yield from session.mail(size_of(world))
        if where == 5:
            yield from session.mail(size_of(world))
            yield from session.vanish_closing()
            return
        yield from session.vanish(chance.random() < 0.5)

    def one() -> Acts:
        peer = some(world, "failing", 16, chance.randrange(60000))
        yield from Session(world, peer).run(script)
        yield chance.uniform(100.0, 600.0)  # it is back
        yield from until_done(world, peer, mails(world))

    def site() -> Acts:
        """A site with several sessions loses its line."""
        address = ipv4(17, chance.randrange(60000))
        for _ in range(chance.randint(2, 6)):
            peer = Peer("site", address, 0.04)
            world.start(Session(world, peer).run(script))
            yield chance.uniform(0.0, 2.0)

    yield arrivals(world, 0.015, one, busy=False)
    yield arrivals(world, 1 / 500, site, busy=False)
