"""The auction: which sessions to end while slots run short, those that make least of theirs first.

A slot is worth what those who compete for it would give. A session's bid is what it makes of its
slot: bytes for each second of its own time (see turn.py), divided by how many sessions its peer
holds. Whoever bids less than the price is ended, the lowest bid first, until there is room. The
price rises with the demand (sessions that keep a slot or wait for one), and goes on rising while
sessions that pay it keep more slots than there is room for. So there is no fixed rate that could be
paid, and an honest sender, who says a mail within a second, outbids whoever only wants the slot.

Nobody pays for the server's slowness: while a reply is due, own time stands still. Sessions in
doubt (the reply is late; see turn.py) are ended only when nothing else makes room, the youngest
first, and never the last of them whose peers hold few.

Bids are taken as looks at the table come in, so a tick costs what is ended, not what exists. Each
look is at one scope, and replaces the bids of the look before at that one.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from heapq import heappop, heappush
from math import inf
from operator import itemgetter
from typing import NamedTuple

from dpsd.core.dumps import EVERYTHING, Scope
from dpsd.core.events import State
from dpsd.core.numbers import DEMAND, DOUBLING, IDLE, REPLY_FACTOR, REPLY_SLACK, SPARED
from dpsd.core.policy import Policy, Pool
from dpsd.core.session import Session
from dpsd.core.turn import BOTH, DOUBT, GREETING, PEER, UNFINISHED

MOST = 300  # sessions that are ended together, a dozen times a second: to find them takes some 3 ms
TRIES = 4 * MOST  # bids that are looked at for that
HIGHEST = 1e6  # bytes a second: no session is worth more
LOOK = 0.3  # seconds until the next look
RETURNED = 1e6  # goes before any wait

Spared = Callable[[Session], bool]
Bid = tuple[float, int, Session]


class Grace(NamedTuple):
    """Seconds of its own time that a session gets, and why so many."""

    seconds: float
    why: str


class Look:
    """What one look at a scope told: bids and doubts, the lowest first, and who returned."""

    __slots__ = ("bids", "doubts", "returned")

    def __init__(self) -> None:
        self.bids: list[Bid] = []
        self.doubts: list[Bid] = []
        self.returned: list[Session] = []


class Auction:
    """For one pool of slots. demand: sessions that keep a slot or wait for one, for each slot;
    price: bytes a second.
    """

    def __init__(self) -> None:
        self.demand = 0.0
        self.price = 0.0
        self._surge = 1.0  # by what payers have driven the price up
        self._priced_at = 0.0
        self._payers = 0  # sessions past their grace that pay it, as the last looks told
        self._counting = 0
        self._short_at, self._few = 0.8, 1  # policy.stress_at, few
        self._grace, self._ample = 0.6, 1.2  # policy.grace, ample
        self._looks: dict[Scope, Look] = defaultdict(Look)
        self._serial = 0
        self._looked_at: set[Scope] = set()  # while payers are counted

    def grace(self, session: Session) -> Grace:
        """What of its own time a session gets before it has to be worth its slot."""
        if self.demand > 1.0:
            seconds, why = self._grace / self.demand, "others wait for a slot"
        else:
            scarce = (self.demand - self._short_at) / max(1.0 - self._short_at, 1e-9)
            seconds, why = self._grace / max(0.05, scarce), "slots begin to run short"
        if session.progress is not None and not session.progress.exact:
            seconds, why = seconds * REPLY_FACTOR, f"{why}; no socket tells whose turn it is"
        if self._has_returned(session) and seconds > self._ample:
            return Grace(self._ample, "its peer came back after one of no use was ended")
        return Grace(seconds, why)

    def overdue(self, session: Session, now: float) -> float | None:
        """Seconds of its own time by which a session has had its grace; None: it hasn't, or it may
        wait for the server.

        One that has delivered and is idle has had it sooner: its peer loses nothing when it ends.
        """
        progress = session.progress
        if progress is None:
            return None
        own = progress.own_by(now)
        if progress.turn == PEER and progress.mails:
            own = max(own, progress.present(now) / IDLE)
        elif progress.turn not in (PEER, UNFINISHED, BOTH):
            goes_on = progress.goes_on and now - progress.since < REPLY_SLACK
            own = own if goes_on else 0.0
        return own if own >= self.grace(session).seconds else None

    def begin_look(self, scopes: Iterable[Scope]) -> None:
        """Dumps of these begin: bids of the looks before at them count no more."""
        for scope in scopes:
            if scope == EVERYTHING:
                self._looks.clear()
            self._looks.pop(scope, None)
            if scope in self._looked_at:
                self._looked_at.clear()
                self._payers, self._counting = self._counting, 0
            self._looked_at.add(scope)

    def bid(self, session: Session, scope: Scope, now: float) -> None:
        """Take the bid of an open session that was looked at. scope: the one that shows it."""
        progress = session.progress
        if progress is None or session.doomed or session.state != State.ESTABLISHED:
            return
        if progress.turn == GREETING:
            return
        look = self._looks[scope]
        if progress.turn == DOUBT:
            waited = (now - progress.since) / session.peer.rivals
            self._push(look.doubts, waited - RETURNED * _is_back(session), session)
        elif progress.turn == PEER or progress.own_by(now) + LOOK >= self.grace(session).seconds:
            if self._has_returned(session):
                look.returned.append(session)
            worth = progress.value / session.peer.rivals
            self._counting += worth >= self.price
            self._push(look.bids, worth, session)

    def _push(self, heap: list[Bid], order: float, session: Session) -> None:
        self._serial += 1
        heappush(heap, (order, self._serial, session))

    def set_price(self, policy: Policy, pool: Pool, taken: int, silent: bool, now: float) -> None:
        """As the demand is now. taken: sessions that keep a slot or wait for one; silent: whether
        the server answers nobody: then the price doesn't rise for it."""
        self.demand, self._short_at = taken / pool.slots, policy.stress_at
        self._few, self._grace, self._ample = policy.few, policy.grace, policy.ample
        passed, self._priced_at = min(1.0, now - self._priced_at), now
        payers = max(self._payers, self._counting)
        if self.demand > 1.0 and payers > SPARED * pool.slots and not silent:
            self._surge *= 2.0 ** (passed / DOUBLING)
        else:
            self._surge = max(1.0, self._surge * 0.5 ** (passed / (5 * DOUBLING)))
        self._surge = min(self._surge, HIGHEST)
        self.price = min(
            HIGHEST, policy.useful_rate * max(1.0, self.demand) ** DEMAND * self._surge
        )

    def take(
        self, room: int, spared: int, few: int, is_spared: Spared, now: float
    ) -> list[Session]:
        """Up to `room` sessions that have to go, those of the lowest bids; at most MOST.

        spared: how many doubtful ones stay in any case, of peers that hold few.
        """
        room = min(room, MOST)
        found: list[Session] = []
        held: dict[bytes, int] = {}
        heaps = [look.bids for look in self._looks.values()]
        for _ in range(TRIES):
            heap = _lowest(heaps)
            if len(found) >= room or heap is None:
                break
            bid, _, session = heappop(heap)
            if session.doomed or session.state != State.ESTABLISHED or session.progress is None:
                continue
            left = held.get(session.peer.key, session.peer.rivals)
            worth = session.progress.value / max(1, left)
            if worth > bid * 1.01 + 1e-9:  # its peer holds fewer by now
                other = _lowest(heaps)
                if other is not None and worth > other[0][0]:
                    self._push(heap, worth, session)
                    continue
            if worth >= self.price:
                break
            if self.overdue(session, now) is None or is_spared(session):
                continue
            held[session.peer.key] = left - 1
            found.append(session)
        return found + self._doubtful(room - len(found), spared, few, is_spared)

    def _has_returned(self, session: Session) -> bool:
        """Whether a stranger, which held several sessions and was deferred, came back with one."""
        return session.peer.held > self._few and _is_back(session)

    def returned(self, is_spared: Spared, now: float) -> list[Session]:
        """Sessions of peers that came back after one of no use was ended, and that are of no use
        again; also while there is room, as long as stress lasts."""
        some: list[Session] = []
        for look in self._looks.values():
            some += look.returned[: MOST - len(some)]
            look.returned = []
        return [
            session
            for session in some
            if not session.doomed
            and session.state == State.ESTABLISHED
            and self.overdue(session, now) is not None
            and not is_spared(session)
        ]

    def _doubtful(self, room: int, spared: int, few: int, is_spared: Spared) -> list[Session]:
        """Up to `room` sessions in doubt: those of peers that hold many first, and who waits least.
        Of those that hold few, `spared` stay."""
        found: list[Session] = []
        heaps = [look.doubts for look in self._looks.values()]
        left = sum(map(len, heaps))
        while len(found) < room and (heap := _lowest(heaps)) is not None:
            if left <= spared and heap[0][2].peer.rivals <= few:
                break
            session = heappop(heap)[2]
            left -= 1
            if not (session.doomed or session.state != State.ESTABLISHED or is_spared(session)):
                found.append(session)
        return found


def _lowest(heaps: Iterable[list[Bid]]) -> list[Bid] | None:
    """The one with the lowest bid; None: there is none left."""
    return min(filter(None, heaps), key=itemgetter(0), default=None)


def _is_back(session: Session) -> bool:
    """Whether a session was opened after one of no use of its peer was ended, which never delivered
    mail."""
    peer = session.peer
    return peer.deferrals > 0 and session.since > peer.ended_at and peer.mailed_at == -inf
