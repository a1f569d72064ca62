"""The ender: sessions in, and for each whether it was ended, was gone already, or why not."""

import errno
from collections.abc import Iterable, Mapping, Sequence
from functools import cache

from dpsd.core.events import State
from dpsd.errors import DpsdError, KernelError, NotPermitted
from dpsd.kernel import sockdiag
from dpsd.kernel.ctnetlink import endpoints
from dpsd.kernel.ending.challenges import Challenges, Outcomes
from dpsd.kernel.ending.entries import Entries, Place
from dpsd.kernel.ending.outcome import ENDED, GONE, Fate, Outcome, Why, not_ended
from dpsd.kernel.ending.routes import is_local
from dpsd.kernel.ending.rule import Rule

_OVER = frozenset({State.TIME_WAIT, State.CLOSE})  # both sides are done with it


class Ender:
    """Ends sessions wherever the server is: its own sockets by SOCK_DESTROY, all others by
    challenge ACKs.

    Time is that of the steady clock, in seconds. Nothing raises for a session that can't be ended:
    its outcome tells. Entries of the connection table are deleted of what is really over only.
    Not for two threads at a time.
    """

    def __init__(self) -> None:
        self._entries = Entries()
        self._rule = Rule()
        self._challenges = Challenges(self._rule)
        self._elsewhere: dict[bytes, Place] = {}  # those that are being ended

    @property
    def due(self) -> float | None:
        """When step() is to be called next; None: nothing is left to be ended."""
        return self._challenges.due

    def begin(self, keys: Iterable[bytes], now: float) -> Outcomes:
        """Start to end these sessions, by their keys; the outcomes of those that are settled at
        once. The others come from step().
        """
        wanted = [key for key in dict.fromkeys(keys) if key not in self._elsewhere]
        try:
            places = self._places(wanted)
            settled, elsewhere = self._end_local(places)
        except (DpsdError, OSError) as problem:
            return dict.fromkeys(wanted, _failed(problem))
        self._forget(settled, {place.key: place for place in places})
        if elsewhere:
            self._elsewhere.update((place.key, place) for place in elsewhere)
            settled |= self._settle(self._challenges.begin(elsewhere, now))
        return settled

    def step(self, now: float) -> Outcomes:
        """Go on with the others; the outcomes of those that are settled now."""
        return self._settle(self._challenges.step(now))

    def close(self) -> None:
        """Leave nothing in the kernel."""
        self._rule.close()

    def _settle(self, settled: Outcomes) -> Outcomes:
        self._forget(settled, self._elsewhere)
        for key in settled:
            del self._elsewhere[key]
        return settled

    def _places(self, keys: Sequence[bytes]) -> list[Place]:
        """Where they end; those without an entry as if there were no NAT."""
        found = self._entries.look(keys)
        return [found[key] if key in found else _plain(key) for key in keys]

    @staticmethod
    def _end_local(places: Sequence[Place]) -> tuple[Outcomes, list[Place]]:
        """End those that are sockets of this namespace; what is settled, and the others."""
        settled: Outcomes = {}
        elsewhere: list[Place] = []
        near = cache(_without_socket)
        ends = [(p.server, p.server_port, p.peer, p.peer_port) for p in places]
        for place, failure in zip(places, sockdiag.destroy(ends), strict=True):
            if failure == 0:
                settled[place.key] = ENDED
            elif failure == errno.ESTALE:
                settled[place.key] = GONE
            elif failure != errno.ENOENT:
                settled[place.key] = not_ended(failure)
            elif not place.id or place.state in _OVER:
                settled[place.key] = GONE
            elif (outcome := near(place.server)) is not None:
                settled[place.key] = outcome
            else:
                elsewhere.append(place)
        return settled, elsewhere

    def _forget(self, settled: Outcomes, places: Mapping[bytes, Place]) -> None:
        over = [
            places[key] for key, outcome in settled.items() if outcome.fate is not Fate.NOT_ENDED
        ]
        try:
            self._entries.forget(over)
        except (DpsdError, OSError) as problem:
            # They are over all the same; the kernel forgets them in its own time.
            for place in over:
                settled[place.key] = settled[place.key]._replace(detail=str(problem))


def _without_socket(server: bytes) -> Outcome | None:
    """Of a session that has no socket here: it was the server's own, or can't be reached; None: the
    server is elsewhere."""
    try:
        local = is_local(server)
    except KernelError as problem:
        return _failed(problem)
    if local is None:
        return not_ended(errno.EHOSTUNREACH)
    return GONE if local else None


def _plain(key: bytes) -> Place:
    ends = endpoints(key)
    return Place(key, ends.server, ends.server_port, ends.peer, ends.peer_port)


def _failed(problem: DpsdError | OSError) -> Outcome:
    why = Why.NOT_PERMITTED if isinstance(problem, NotPermitted) else Why.REFUSED
    return Outcome(Fate.NOT_ENDED, why, str(problem))
