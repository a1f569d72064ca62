"""Room: while slots run short, which sessions have to go, and which of them do in the end.

    looks -> bids -> auction of their pool -> doomed -> (the sockets are asked) -> ended, deferred

That takes two steps, since to ask takes a while: doom() names the sessions, settle() ends those
that are still of no use by what their sockets say.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice

from dpsd.core.auction import MOST, Auction
from dpsd.core.dumps import Scope
from dpsd.core.events import Key, Word
from dpsd.core.evidence import Excuse
from dpsd.core.judge import Guilty, Judge
from dpsd.core.numbers import SPARED
from dpsd.core.owners import Owners
from dpsd.core.peers import Network
from dpsd.core.policy import Policy, Pool
from dpsd.core.scores import Peer
from dpsd.core.session import ESTABLISHED, LOOKED, OPENED, Noted, Session
from dpsd.core.sessions import Sessions
from dpsd.core.turn import DOUBT, GREETING

WAITING = 2_000  # sessions of deferred peers that are looked at together: some 3 ms


class Room:
    """Holds an auction for each pool of slots."""

    def __init__(self, policy: Policy, sessions: Sessions, judge: Judge, owners: Owners) -> None:
        self.policy = policy
        self._sessions = sessions
        self._judge = judge
        self._owners = owners
        self._auctions: dict[frozenset[int], Auction] = defaultdict(Auction)  # by a pool's ports
        self._unwelcome: list[Session] = []  # of deferred peers, since the last tick

    @property
    def price(self) -> float:
        """Bytes a second that a session has to be worth, where slots are scarcest."""
        return max((auction.price for auction in self._auctions.values()), default=0.0)

    def begin_look(self, scopes: Iterable[Scope]) -> None:
        """Dumps of these begin."""
        for auction in self._auctions.values():
            auction.begin_look(scopes)

    def bid(self, notes: Sequence[Noted], now: float) -> None:
        """Take bids of the sessions that were looked at, and note new ones of peers that may open
        none."""
        for note, session, _ in notes:
            if note == LOOKED and session.keeps:
                scope = session.port, self._sessions.version(session)
                for pool in self.policy.pools:
                    if not pool.ports or session.port in pool.ports:
                        self._auctions[pool.ports].bid(session, scope, now)
            elif note == OPENED and session.peer.deferred_until > now:
                self._unwelcome.append(session)

    def skip(self) -> list[Key]:
        """Nobody has to go now."""
        self._unwelcome = []
        return []

    def doom(self, now: float) -> list[Key]:
        """Who should leave."""
        self._owners.look_again(now)
        unwelcome, self._unwelcome = self._unwelcome, []
        spares, sessions = self._owners.is_spared, self._sessions
        doomed = [s for s in unwelcome if s.state == ESTABLISHED and not spares(s)]
        for pool in self.policy.pools:
            auction, taken = self._auctions[pool.ports], sessions.occupying(pool.ports)
            auction.set_price(self.policy, pool, taken, sessions.server.is_silent(now), now)
            if auction.demand > self.policy.stress_at:
                going = sessions.going(pool.ports) + len(doomed)
                room = taken - going - int(self.policy.stress_until * pool.slots)
                spared = int(SPARED * pool.slots)
                doomed += auction.take(room, spared, self.policy.few, spares, now)
                doomed += self._late(pool, now)
            else:
                doomed += auction.returned(spares, now)
        # Since it was looked at one may be over, without a word.
        doomed = [session for session in doomed if sessions.get(session.key) is session]
        for session in doomed:
            sessions.doom(session, True)
        return [session.key for session in doomed]

    def _late(self, pool: Pool, now: float) -> list[Session]:
        """Sessions whose greeting is late, of MOST of the oldest: their sockets tell whether it
        finds no window. Who speaks first, or was found out, has a bid instead."""
        late = 2.0 * self._sessions.server.talk.limit
        return [
            session
            for session in islice(self._sessions.ungreeted, MOST)
            if now - session.since > late
            and (not pool.ports or session.port in pool.ports)
            and (session.progress is None or session.progress.turn == GREETING)
            and not (session.doomed or self._owners.is_spared(session))
        ]

    def settle(
        self, doomed: Iterable[Key], words: Mapping[Key, Word] | None, guilty: Guilty, now: float
    ) -> tuple[list[Key], list[tuple[Network, float]]]:
        """End those of the doomed sessions that are still of no use, and charge their peers; these,
        and who may open no new session for how many seconds.

        words: what the sockets say; None: there are none to be asked here.
        """
        self._owners.look_again(now)
        scores, ended = self._judge.scores, list[Key]()
        deferred: dict[bytes, float] = {}
        barred: dict[bytes, Peer] = {}
        for key in doomed:
            session = self._sessions.get(key)
            if session is None:
                continue
            self._sessions.doom(session, False)
            if session.state != ESTABLISHED or scores.is_barred(session.peer):
                continue
            own = self._own(session, words, now)
            if own is None:
                continue
            ended += self._end(session)
            if session.peer.relay:  # listing or deferring it would cost others
                self._owners.pressers[session.peer.key] = now
                continue
            demand = self._auction_of(session).demand
            seconds = self._judge.crowded(session, own, demand, guilty, now)
            if seconds > 0:
                peer = session.peer
                deferred[peer.key] = max(seconds, deferred.get(peer.key, 0.0))
                if peer.excuse not in (Excuse.DELIVERED, Excuse.MAILED):
                    barred[peer.key] = peer
        ended += self._end_waiting(barred.values())
        network_of = scores.size.network_of_key
        return ended, [(network_of(key), seconds) for key, seconds in deferred.items()]

    def not_ended(self, keys: Iterable[Key]) -> None:
        """These sessions could not be ended: they keep their slots."""
        for key in keys:
            session = self._sessions.get(key)
            if session is not None:
                self._sessions.doom(session, False)
                self._judge.ended.discard(key)

    def _own(self, session: Session, words: Mapping[Key, Word] | None, now: float) -> float | None:
        """Seconds of its own time that a doomed session let pass, or for which its reply is due; 0
        if its peer may have no new one now; None: it isn't to end after all."""
        progress = session.progress
        if session.peer.deferred_until > now and (progress is None or progress.turn == GREETING):
            return 0.0
        in_doubt = progress is not None and progress.turn == DOUBT
        if words is not None:
            word = words.get(session.key)
            if word is None and progress is not None and progress.exact:  # its socket is gone
                return None
            if word is not None:
                if not word.accepted and session.peer.deferred_until <= now:
                    return None
                progress = self._sessions.told(session, word, now)
        if progress is not None and progress.turn == DOUBT:
            return now - progress.since if in_doubt else None  # first it bids as such
        return self._auction_of(session).overdue(session, now)

    def _auction_of(self, session: Session) -> Auction:
        """Where its slot is scarcest."""
        if len(self._auctions) == 1:
            return next(iter(self._auctions.values()))
        pools = (p.ports for p in self.policy.pools if not p.ports or session.port in p.ports)
        return max((self._auctions[ports] for ports in pools), key=lambda each: each.demand)

    def _end_waiting(self, barred: Iterable[Peer]) -> list[Key]:
        """End the sessions of these peers that the server hasn't greeted yet; of WAITING."""
        ended: list[Key] = []
        theirs = (session for peer in barred for session in peer.sessions.values())
        for each in list(islice(theirs, WAITING)):
            if each.progress is None or each.progress.turn == GREETING:
                ended += [] if self._owners.is_spared(each) else self._end(each)
        return ended

    def _end(self, session: Session) -> list[Key]:
        if session.doomed or session.state != ESTABLISHED:
            return []
        self._sessions.doom(session, True)
        self._judge.ended.add(session.key)
        return [session.key]
