"""dpsd in the world of a day: how the engine is asked, and what is done for it.

All that the world knows of the engine's interface is here: it names the sessions that it would like
to end (`doomed`), is told what the server's sockets know of just those, and settles which of them
end and which peers' new connections are deferred.
"""

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from dpsd.core.dumps import Scope
from dpsd.core.engine import Engine
from dpsd.core.events import Event, Key, State, Word
from dpsd.core.sentences import Verdict
from dpsd.kernel.sockdiag.words import SLOWEST

if TYPE_CHECKING:
    from tests.day.session import Session
    from tests.day.world import Acts, World

TICK, TICK_HURRY = 0.25, 0.25 / 3  # seconds, of the daemon; the other while slots run short
DUMP_EVERY, DUMP_EVERY_HURRY = 5.0, 0.1
ASKED_AFTER = 0.005  # seconds from a tick until the sockets of the doomed are asked
ENDED_AFTER = 0.05  # seconds until what is to be ended is


class Daemon:
    """Ticks, dumps and looks at sockets, as the real one does.

    sockets: whether the server's sockets are on this host; enforce: whether anything is done.
    """

    def __init__(
        self, world: "World", engine: Engine, scopes: Sequence[Scope], sockets: bool, enforce: bool
    ) -> None:
        self._world = world
        self._engine = engine
        self._scopes = scopes
        self._sockets = sockets
        self._enforce = enforce
        self._dumped = -math.inf

    def acts(self) -> "Acts":
        """Its whole life."""
        world, engine = self._world, self._engine
        while True:
            world.feed()
            self._tick()
            every = DUMP_EVERY_HURRY if engine.stress > 0 else DUMP_EVERY
            if world.now - self._dumped >= every:
                self._dumped = world.now
                for scope in self._scopes:
                    self.take(world.table.dump(scope, world.now))
                    world.feed()
            world.note()
            yield TICK_HURRY if engine.stress > 0 else TICK

    def take(self, events: list[Event]) -> None:
        """Hand events to the engine."""
        self._world.hears(events)
        self._sentenced(self._engine.feed(events, self._world.now))

    def _tick(self) -> None:
        passed = self._engine.tick(self._world.now)
        self._sentenced(passed.verdicts)
        if passed.listed and self._enforce:
            self._world.start(self._end(passed.listed), ENDED_AFTER)
        if passed.doomed:
            self._world.start(self._settle(passed.doomed), ASKED_AFTER)

    def _settle(self, doomed: list[Key]) -> "Acts":
        world = self._world
        words = self._words(doomed) if self._sockets else None
        settled = self._engine.settle(doomed, words, world.now)
        self._sentenced(settled.verdicts)
        if self._enforce:
            for network, seconds in settled.deferred:
                world.defer(network, seconds)
            yield from self._end(settled.ended)

    def _words(self, keys: Iterable[Key]) -> dict[Key, Word]:
        """What the server's sockets tell of these sessions, as far as they are open."""
        world, words = self._world, {}
        for key in keys:
            session: Session | None = world.sessions.get(key)  # type: ignore[call-overload]
            if session is None or session.row.state != State.ESTABLISHED:
                continue
            if not (session.waits or session in world.server.busy):
                continue
            row, rtt = session.row, session.peer.rtt
            way = session.lost or world.now - row.answered_at < rtt
            words[key] = Word(
                ago=max(0.0, world.now - row.spoke - (min(rtt, SLOWEST) if row.by_server else 0.0)),
                by_server=row.by_server,
                said=row.words[0],
                answered=row.words[1],
                rtt=rtt,
                unread=row.words[0] if session.waits else 0,
                unacked=row.answer if way else int(not session.window),
                accepted=not session.waits,
            )
        return words

    def _end(self, keys: Sequence[Key]) -> "Acts":
        self._world.end(keys)
        yield 0.0

    def _sentenced(self, verdicts: list[Verdict]) -> None:
        for verdict in verdicts:
            self._world.listed(verdict.entry)
            if self._enforce:
                self._world.start(self._end(verdict.sessions), ENDED_AFTER)
