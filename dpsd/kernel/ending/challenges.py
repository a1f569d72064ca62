"""Ends sessions of servers that are elsewhere on the path, by challenge ACKs.

A SYN that looks like the peer's makes the server's host answer (see etc/ending.nft):

| answer          | it means                                | what is done                       |
|-----------------|-----------------------------------------|------------------------------------|
| ACK (challenge) | it has the session; a reset was sent it | ask again: is it gone now?         |
| SYN and ACK     | it has no such session                  | done: ended if it answered before  |
| RST             | the same; nobody listens there          | the same                           |
| none            | the limit of one challenge ACK in 0.5 s | ask again after PAUSE              |
|                 | for each session; a full accept queue;  |                                    |
|                 | a firewall; a host that is down         |                                    |

A session that had answered and then is silent four times in a row is gone: it would have answered.
"""

import errno
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from dpsd.errors import DpsdError, NotPermitted
from dpsd.kernel.ending.entries import Place
from dpsd.kernel.ending.outcome import ENDED, GONE, Fate, Outcome, Why, not_ended
from dpsd.kernel.ending.rule import answer, element

PAUSE = 0.6  # seconds between two SYNs: a server answers one in 0.5 s (tcp_invalid_ratelimit)
SILENCES = 4  # SYNs in a row without an answer after which there comes none
KNOCKS = 12  # SYNs for a session at most
AT_ONCE = 4096  # sessions that are being ended at a time; the sets have room for four times as many
_FIRST_LOOK, _LAST_LOOK = 0.001, 0.1  # seconds from a SYN to looks at the answers, ever longer
_LOW_PORT = 1024

Outcomes = dict[bytes, Outcome]


class Wire(Protocol):
    """What ends sessions in the kernel: see dpsd.kernel.ending.rule.Rule."""

    def add(self, places: Iterable[Place]) -> None:
        """Refuse what the servers say in these sessions."""

    def remove(self, places: Iterable[Place]) -> None:
        """Let these sessions' packets pass again."""

    def read(self) -> tuple[Mapping[bytes, int], set[bytes]]:
        """Packets met, and which sessions are gone, by element()."""

    def knock(self, place: Place) -> int:
        """Send the SYN; its errno."""

    def numbers(self) -> Mapping[bytes, tuple[int, int]]:
        """The sequence numbers of servers that answered, by answer()."""

    def reset_peer(self, place: Place, sequence: int, expected: int) -> None:
        """Tell the peer that the session is over."""


@dataclass(slots=True)
class _Pending:
    """met: packets of the server that were refused; silent: SYNs in a row without an answer."""

    place: Place
    element: bytes
    knocked_at: float = 0.0
    knocks: int = 0
    met: int = 0
    silent: int = 0


class Challenges:
    """The sessions that are being ended so. Time comes with each call, in seconds; not for two
    threads at a time.
    """

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._pending: dict[bytes, _Pending] = {}
        self._waiting: deque[Place] = deque()
        self._look_at = 0.0
        self._pause = _FIRST_LOOK

    @property
    def due(self) -> float | None:
        """When the next step is due; None: nothing is being ended."""
        return self._look_at if self._pending or self._waiting else None

    def begin(self, places: Sequence[Place], now: float) -> Outcomes:
        """Start to end these; what is settled at once. The rest comes from step()."""
        self._waiting.extend(places)
        return self.step(now)

    def step(self, now: float) -> Outcomes:
        """See what was answered, and go on; what is settled now, by the sessions' keys."""
        settled: Outcomes = {}
        again = self._answers(now, settled) if self._pending else []
        while self._waiting and len(self._pending) < AT_ONCE:
            place = self._waiting.popleft()
            each = self._pending[place.key] = _Pending(place, element(place))
            again.append(each)
        if again:
            self._knock(again, now, settled)
            self._pause = _FIRST_LOOK
        self._look_at = now + self._pause
        self._pause = min(2 * self._pause, _LAST_LOOK)
        self._take_out(settled)
        return settled

    def _answers(self, now: float, settled: Outcomes) -> list[_Pending]:
        """Settle what can be; those that are to be asked again."""
        try:
            packets, gone = self._wire.read()
        except (DpsdError, OSError) as problem:
            settled.update(dict.fromkeys(self._pending, _no_rule(problem)))
            return []
        again = []
        for key, each in self._pending.items():
            met = packets.get(each.element, 0)
            if each.element in gone:
                settled[key] = ENDED if each.met or met > 1 else GONE
            elif met > each.met:  # a reset was sent just now
                each.met, each.silent = met, 0
                again.append(each)
            elif now - each.knocked_at >= PAUSE:
                each.silent += 1
                again.append(each)
        for each in again:
            if each.silent >= SILENCES:
                settled[each.place.key] = ENDED if each.met else _because(Why.NO_ANSWER)
            elif each.knocks >= KNOCKS:
                settled[each.place.key] = _because(Why.STAYS)
        return [each for each in again if each.place.key not in settled]

    def _knock(self, pending: Sequence[_Pending], now: float, settled: Outcomes) -> None:
        try:
            self._wire.add(each.place for each in pending)
        except (DpsdError, OSError) as problem:
            settled.update((each.place.key, _no_rule(problem)) for each in pending)
            return
        for each in pending:
            each.knocks += 1
            each.knocked_at = now
            if failure := self._wire.knock(each.place):
                outcome = not_ended(failure)
                if failure == errno.EACCES and each.place.peer_port < _LOW_PORT:
                    outcome = outcome._replace(why=Why.LOW_PORT)
                settled[each.place.key] = outcome

    def _take_out(self, settled: Outcomes) -> None:
        """Of what is settled nothing stays behind; if that fails, time takes it out."""
        places = [self._pending.pop(key).place for key in settled if key in self._pending]
        try:
            self._tell([place for place in places if settled[place.key].fate is Fate.ENDED])
            self._wire.remove(places)
        except (DpsdError, OSError):
            return

    def _tell(self, ended: Sequence[Place]) -> None:
        """Tell the peers, as a server's host does that ends a session of its own."""
        numbers = self._wire.numbers() if ended else {}
        for place in ended:
            if (told := numbers.get(answer(place))) is not None:
                self._wire.reset_peer(place, *told)


def _because(why: Why, detail: str = "") -> Outcome:
    return Outcome(Fate.NOT_ENDED, why, detail)


def _no_rule(problem: DpsdError | OSError) -> Outcome:
    why = Why.NOT_PERMITTED if isinstance(problem, NotPermitted) else Why.NO_RULE
    return _because(why, str(problem))
