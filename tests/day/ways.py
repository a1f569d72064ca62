"""What kinds of peers have in common: addresses, how they arrive, and mails."""

from collections.abc import Callable
from ipaddress import IPv6Address

from tests.day.session import Peer, Script, Session
from tests.day.world import Acts, Trying, World

Make = Callable[[], Acts | Trying]


def ipv4(block: int, number: int) -> bytes:
    """An address; each kind has a block of its own."""
    return bytes((10, block, number >> 8 & 255, number & 255))


def ipv6(block: int, number: int, host: int = 0x19) -> bytes:
    """An address in the number's /64."""
    return IPv6Address((0x20010DB8 << 96) + (block << 80) + (number << 64) + host).packed


def some(world: World, kind: str, block: int, number: int, six: float = 0.25) -> Peer:
    """A peer somewhere on the Internet. six: how likely it comes by IPv6."""
    chance = world.chance
    address = ipv6(block, number) if chance.random() < six else ipv4(block, number)
    rtt = min(1.0, chance.lognormvariate(-2.8, 0.7))
    return Peer(kind, address, rtt, stamps=chance.random() < 0.8)


def arrivals(world: World, rate: float, make: Make, busy: bool = True) -> Acts:
    """So many a second, as they come. busy: more of them when much comes in."""
    while True:
        yield world.chance.expovariate(rate * (world.server.weather.load if busy else 1.0))
        world.start(make())


def every(world: World, seconds: float, make: Make) -> Acts:
    """One after another, as a clock has it."""
    yield world.chance.uniform(0, seconds)
    while True:
        world.start(make())
        yield seconds


def until_done(world: World, peer: Peer, script: Script, port: int = 25, again: float = 300.0,
               times: int = 4) -> Acts:  # fmt: skip
    """Try until it went well."""
    for _ in range(times):
        if (yield from Session(world, peer, port).run(script)):
            return
        yield world.chance.uniform(0.5, 1.5) * again


def size_of(world: World) -> int:
    """Bytes of a mail: most are small."""
    return int(min(3e6, world.chance.lognormvariate(9.6, 1.2))) + 800


def mails(world: World, number: int = 1, tls: bool = True, manner: str = "wait",
          recipients: int = 1) -> Script:  # fmt: skip
    """A session with so many mails."""

    def script(session: Session) -> Acts:
        yield from session.hello(tls)
        for _ in range(number):
            yield from session.envelope(recipients, world.chance.random() < 0.7)
            yield from session.mail(size_of(world))
        yield from session.quit(manner)

    return script


def manner(world: World) -> str:
    """How a mail server takes leave."""
    return world.chance.choices(("wait", "hurry", "reset", "close"), (75, 15, 6, 4))[0]


def later(seconds: float, acts: Acts) -> Acts:
    """The same after some time."""
    yield seconds
    yield from acts
