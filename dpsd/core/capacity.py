"""Capacity: how many sessions the server holds, learned from what shows from outside.

A full server lets new connections wait without a greeting. So when several wait that nobody opened
later than has been passed by, while as many as ever are open and greeted, that is its number:

    served    98  98  98  98      sessions that are open and greeted, at their ceiling
    waiting    3   7  12  19      ungreeted for longer than it takes, all newer than the greeted

What else might look so, and why it isn't taken for it:

- A server that greets slowly: who waits there waits with room to spare, below the ceiling. Then the
  wait that counts is doubled, and what was learned by the shorter one is forgotten.
- A server that lets some peers wait (a tarpit, postscreen): others that came later are greeted.
- A queue that lost the handshake: such sessions wait for nothing (Session.keeps).

Nobody can teach it a number below what it was seen to serve at once, nor below LEAST: to bring the
ceiling down takes hours without mail, and a lesson is gone when more are served, or after a day
without another. A number that is too low makes the sessions of least use leave early; one that is
too high leaves the server full for good.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import NamedTuple

from dpsd.core.policy import Known, Pool
from dpsd.core.session import ESTABLISHED, Session
from dpsd.core.sessions import IMPLICIT_TLS, Sessions

LEAST = 8  # sessions; of fewer nothing is learned
WAITING = 3  # sessions that have to wait, of at least PEERS
PEERS = 2
WAIT, WAIT_MOST = 2.0, 64.0  # seconds without a greeting that count, at first and at most
FADE = 3600.0  # seconds in which the ceiling falls to half, and the wait
LASTS = 86400.0  # seconds after which a lesson is forgotten that came no second time
NEAR = 0.9  # of what the server said: a lesson above that contradicts nobody
LOOKED_AT = 4_000  # waiting sessions that are looked at together


class Lesson(NamedTuple):
    """A port's server was full with so many sessions, the last time at that instant."""

    port: int
    slots: int
    at: float


@dataclass(slots=True)
class _Port:
    """ceiling: the most sessions served at once lately; there, under: when about as many were
    served the last time, and when fewer; wait: seconds that count; at: the last look; seen: the
    ceiling, as it was told last; slots, full_at: the lesson, 0 for none."""

    ceiling: float = 0.0
    wait: float = WAIT
    there: float = 0.0
    under: float = 0.0
    at: float = 0.0
    seen: int = 0
    slots: int = 0
    full_at: float = 0.0


class Capacity:
    """What was learned of each port on which the server speaks first."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._ports: dict[int, _Port] = {}

    @property
    def lessons(self) -> list[Lesson]:
        """What was learned, by port."""
        found = sorted(self._ports.items())
        return [Lesson(port, each.slots, each.full_at) for port, each in found if each.slots]

    def pools(self, given: Iterable[Pool]) -> tuple[Pool, ...]:
        """The pools of slots by what was learned. An explicit number stays, and one that the server
        told unless it is too high."""
        pools: list[Pool] = []
        for pool in given:
            lessons = [e for e in self.lessons if not pool.ports or e.port in pool.ports]
            if pool.known is Known.TOLD or not lessons:
                pools.append(pool)
            elif pool.known is Known.ASKED:
                low = [e.slots for e in lessons if e.slots < NEAR * pool.slots]
                pools.append(replace(pool, slots=min(low, default=pool.slots)))
            else:
                pools += [replace(pool, ports=frozenset([e.port]), slots=e.slots) for e in lessons]
                rest = pool.ports - {e.port for e in lessons}
                pools += [] if pool.ports and not rest else [replace(pool, ports=rest)]
        return tuple(self._at_least(pool) for pool in pools)

    def _at_least(self, pool: Pool) -> Pool:
        """What is only assumed isn't less than what was seen served at once."""
        if pool.known is not Known.ASSUMED:
            return pool
        ports = pool.ports or self._ports.keys()
        seen = sum(each.seen for port, each in self._ports.items() if port in ports)
        return replace(pool, slots=max(pool.slots, seen))

    def look(self, now: float) -> bool:
        """See whether a server is full; whether something was learned, or is no longer so."""
        before = self._state()
        for port in self._sessions.greeted:
            if port not in IMPLICIT_TLS:
                self._look(port, self._ports.setdefault(port, _Port(at=now, there=now)), now)
        return before != self._state()

    def _state(self) -> list[tuple[int, int, int]]:
        return [(port, each.slots, each.seen) for port, each in self._ports.items()]

    def _look(self, port: int, each: _Port, now: float) -> None:
        served = self._sessions.served(frozenset([port]))
        fade = 2.0 ** ((each.at - now) / FADE)
        each.at = now
        each.ceiling = max(float(served), each.ceiling * fade)
        each.wait = max(WAIT, each.wait * fade)
        if served < each.ceiling - max(3.0, each.ceiling / 10):
            each.under = now
        else:
            each.there = now
        if not each.ceiling * 0.95 <= each.seen <= each.ceiling * 2:
            each.seen = int(each.ceiling)
        if each.slots and served > each.slots:
            each.slots = served
        if each.slots and now - each.full_at > LASTS:
            each.slots = 0
        if self._waits(self._waiting(port), each.wait):
            if now - each.there >= each.wait:  # with room to spare: it greets slowly
                each.wait, each.slots, each.there = min(WAIT_MOST, 2 * each.wait), 0, now
            elif now - each.under >= each.wait and served >= LEAST:
                each.slots, each.full_at = max(served, int(each.ceiling)), now

    def _waiting(self, port: int) -> list[Session]:
        """The sessions that wait for a greeting and are newer than those that had one."""
        sessions, found = self._sessions, list[Session]()
        for session in islice(reversed(sessions.ungreeted), LOOKED_AT):
            if session.port == port:
                if session.since <= sessions.greeted[port]:
                    break
                found.append(session)
        return found

    @staticmethod
    def _waits(waiting: Sequence[Session], wait: float) -> bool:
        """Whether enough of them have been seen to wait for so long."""
        long = [
            session
            for session in waiting
            if session.state == ESTABLISHED
            and session.keeps
            and session.progress is not None
            and session.progress.at - session.since >= wait
        ]
        return len(long) >= WAITING and len({each.peer.key for each in long}) >= PEERS
