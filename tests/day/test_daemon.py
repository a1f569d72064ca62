"""What the daemon of a day does for an engine that settles in a second step whom it ends."""

from ipaddress import ip_network
from types import SimpleNamespace
from typing import Any

from dpsd.core.events import Key
from tests.day.daemon import Daemon
from tests.day.session import Peer, Session
from tests.day.world import Acts, World

PEER = bytes((10, 99, 0, 1))


class Engine:
    """Would like to end everybody once, and settles as it is told. asked, heard: what it was told.

    spares: whom it doesn't end after all.
    """

    stress = pressure = 1.0

    def __init__(self, world: World, at: float, deferred: float = 0.0) -> None:
        self.asked: dict[Key, Any] | None = {}
        self.heard_of: dict[Key, Any] = {}
        self.spares: list[bytes] = []
        self._world = world
        self._at = world.now + at
        self._deferred = deferred

    def feed(self, *_: object) -> list[Any]:
        return []

    def tick(self, now: float) -> object:
        doomed = [*self._world.sessions] if now >= self._at else []
        self._at = 1e9 if doomed else self._at
        return SimpleNamespace(verdicts=[], over=[], missed=0.0, doomed=doomed, listed=[])

    def settle(self, *given: Any) -> object:
        *_, self.asked, _ = given
        ended = [key for key in self._world.sessions if key not in self.spares]
        deferred = [(ip_network(PEER), self._deferred)] if self._deferred else []
        return SimpleNamespace(verdicts=[], ended=ended, deferred=deferred)

    def heard(self, words: dict[Key, Any], _now: float) -> None:
        self.heard_of = words


def world(at: float, deferred: float = 0.0, sockets: bool = True) -> tuple[World, Engine]:
    made = World(1)
    engine: Any = Engine(made, at, deferred)
    made.daemon = Daemon(made, engine, [], sockets, True)
    return made, engine


def silent(session: Session) -> Acts:
    yield from session.asks(12)
    yield from session.silent(100.0)


def test_only_who_is_settled_on_is_ended() -> None:
    made, engine = world(2.0)
    one, other = (Session(made, Peer("one", PEER)) for _ in range(2))
    engine.spares.append(other.row.key)
    made.start(one.run(silent))
    made.start(other.run(silent))
    made.run(3.0)
    assert made.sessions == {other.row.key: other}
    assert engine.asked is not None
    assert engine.asked.keys() == {one.row.key, other.row.key}


def test_the_sockets_tell_what_was_said() -> None:
    made, engine = world(2.0)
    session = Session(made, Peer("one", PEER, rtt=0.1))
    made.start(session.run(silent))
    made.run(2.1)
    assert engine.asked is not None
    word = engine.asked[session.row.key]
    assert (word.said, word.answered) == (12, made.server.greeted + 40)
    assert word.by_server
    assert word.accepted
    assert 1.0 < word.ago < 2.0
    assert (word.rtt, word.unread, word.unacked) == (0.1, 0, 0)


def test_where_there_are_no_sockets_nobody_is_asked() -> None:
    made, engine = world(2.0, sockets=False)
    made.start(Session(made, Peer("one", PEER)).run(silent))
    made.run(3.0)
    assert engine.asked is None
    assert engine.heard_of == {}


def test_who_waits_was_not_accepted_and_its_words_are_unread() -> None:
    made, engine = world(3.0)
    made.server.slots = 1
    made.start(Session(made, Peer("one", PEER)).run(silent))
    waits = Session(made, Peer("other", PEER))

    def early(session: Session) -> Acts:
        session.task = made.current
        yield from session.arrive()
        yield from session.goes_on(20, 0.0)
        yield from session.slot(100.0)

    made.start(early(waits), 1.0)
    made.run(3.1)
    assert engine.asked is not None
    word = engine.asked[waits.row.key]
    assert not word.accepted
    assert (word.said, word.unread, word.answered) == (20, 20, 0)


def test_who_is_ended_in_the_queue_keeps_its_place_until_it_is_accepted() -> None:
    made, engine = world(3.0)
    made.server.slots = 1
    one, waits, late = (Session(made, Peer("one", PEER)) for _ in range(3))
    engine.spares += [one.row.key, late.row.key]
    for number, session in enumerate((one, waits, late)):
        made.start(session.run(silent), number * 0.5)
    made.run(4.0)
    assert waits.row.key not in made.sessions
    assert [*made.server.waiting] == [waits, late]
    made.end([one.row.key])
    made.run(0.1)
    assert [*made.server.busy] == [late]


def test_a_peer_that_is_put_off_connects_some_seconds_later() -> None:
    made, _ = world(2.0, deferred=2.5)
    made.start(Session(made, Peer("one", PEER)).run(silent))
    late = Session(made, Peer("one", PEER))
    other = Session(made, Peer("other", bytes((10, 99, 0, 2))))
    made.start(late.run(silent), 2.5)
    made.start(other.run(silent), 2.5)
    made.run(3.0)
    assert other in made.server.busy
    assert late not in made.server.busy
    made.run(3.0)  # its SYN is sent again after 1 and after 3 s
    assert late in made.server.busy
    assert made.seen.refused == {("one", "deferred"): 2}
