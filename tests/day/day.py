"""An hour of a mail server with honest peers of all kinds, in all weathers; or more hours."""

from collections.abc import Callable, Iterator

from dpsd.config import Config
from tests.day import clients, servers
from tests.day.world import Acts, Weather, World

HOUR = 3600.0
HONEST = {
    each.__name__: each
    for each in (
        *(servers.single, servers.provider, servers.newsletter, servers.lists, servers.callout),
        *(servers.monitor, servers.check, servers.backup, servers.hoster, servers.big),
        *(servers.satellite, servers.failing),
        *(clients.office, clients.cgnat, clients.mobile, clients.pool),
    )
}
"""All honest kinds, by name."""
CALM = Weather("calm")
WEATHERS = (
    (CALM, 900.0),
    (Weather("busy", load=3.0, pace=25.0), 350.0),
    (CALM, 500.0),
    (Weather("slow disk", slow=True), 60.0),
    (CALM, 440.0),
    (Weather("restart"), 200.0),
    (Weather("milter", milter=30.0), 200.0),
    (CALM, 250.0),
    (Weather("greeting delay", greets=6.0), 200.0),
    (Weather("very busy", load=5.0, pace=60.0), 250.0),
    (CALM, 250.0),
)
"""What an hour has, in order, and for how many seconds."""

Folk = Callable[[World], Iterator[Acts]]


def weathers(world: World) -> Acts:
    """The weather of hour after hour."""
    while True:
        for weather, seconds in WEATHERS:
            world.server.weather = weather
            if weather.name == "restart":
                for session in [*world.server.busy]:
                    session.restarted()
            yield seconds


def day(seed: int, hours: float = 1.0, counts: bool = True, sockets: bool = True,
        config: Config | None = None, more: tuple[Folk, ...] = ()) -> World:  # fmt: skip
    """Play it. more: others beside the honest."""
    world = World(seed, config, counts, sockets=sockets)
    world.start(weathers(world))
    for folk in (*HONEST.values(), *more):
        for acts in folk(world):
            world.start(acts)
    world.run(hours * HOUR)
    return world
