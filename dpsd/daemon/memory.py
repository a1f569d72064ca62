"""The memory of peers: their scores go to the store, and come back with the next start."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Iterable
from itertools import islice
from math import isfinite
from operator import attrgetter
from typing import Any

from dpsd.core.engine import Engine
from dpsd.core.events import Key, State
from dpsd.core.peers import Network
from dpsd.core.scores import MOST, Peer
from dpsd.daemon.clock import Clock
from dpsd.daemon.keeper import Keeper
from dpsd.errors import DpsdError
from dpsd.store import PeerRow, evidence_json, evidence_of

log = logging.getLogger("dpsd")

SAVED_A_FLUSH = 500  # peers' scores
LOOKED_AT = 2_000  # peers whose score changed, for that
TOGETHER = 100  # of them before the loop sees to anything else: some 1 ms
AGAIN = 10.0  # seconds after a failure, which may have kept the store's thread busy for five
AT_A_STOP = 5.0  # seconds for all of them
SESSIONS_TOLD = 1_000  # of a peer, by state
WORTH_SAVING = 1.0  # slot-seconds


class Memory:
    """Moves scores and earlier blocks between the engine and the store."""

    def __init__(self, engine: Engine, keeper: Keeper, clock: Clock) -> None:
        self._engine = engine
        self._keeper = keeper
        self._clock = clock
        self._not_before = 0.0  # of the steady clock; since it failed

    async def recall(self) -> None:
        """Take up scores and earlier blocks from the store. Raises DpsdError if it fails."""
        engine, clock = self._engine, self._clock
        now = clock.now()
        within, most = now - engine.policy.black_within, engine.policy.credit_most

        def past(at: float) -> float:  # the clock may be behind what it was when that was written
            return min(clock.from_wall(at), now)

        blocks = await self._keeper.run(lambda store: store.blocks_since(within))
        engine.sentences.blocks = {
            peer: [min(at, now) for at in times] for peer, times in blocks.items()
        }
        since = now - self._lasts()
        for row in await self._keeper.run(lambda store: store.peers(since, MOST)):
            if engine.size.is_peer(row.peer):
                evidence = [evidence_of(told, past) for told in row.detail.get("evidence", [])]
                trusted_at = row.detail.get("trusted_at", row.at)
                peer = engine.scores.restore(row.peer, row.score, past(row.at), evidence)
                if row.detail.get("listed") and engine.lists.decisive(row.peer) is None:
                    engine.scores.clear(peer.key)  # it was released while no daemon ran
                peer.credit = min(row.detail.get("trust", 0.0), most)
                peer.credited_at = past(trusted_at)
                if (mailed_at := row.detail.get("mailed_at")) is not None:
                    peer.mailed_at = past(mailed_at)
                if row.detail.get("delivers"):
                    engine.judge.has_delivered(peer)

    async def save(self) -> None:
        """Write the scores that changed lately, some of them if there are very many."""
        if time.monotonic() < self._not_before:
            return
        changed, rows = self._engine.scores.changed, list[PeerRow]()
        for _ in range(0, LOOKED_AT, TOGETHER):
            if not changed or len(rows) >= SAVED_A_FLUSH:
                break
            rows += self._rows(changed.pop() for _ in range(min(TOGETHER, len(changed))))
            await asyncio.sleep(0)
        await self._write(rows)

    async def save_all(self) -> None:
        """Write every score that changed, before a stop; what isn't written by then is given up."""
        changed, until = self._engine.scores.changed, time.monotonic() + AT_A_STOP
        while changed and time.monotonic() < until:
            before = len(changed)
            await self.save()
            if len(changed) >= before:  # it can't be written
                return

    async def save_of(self, listed: Iterable[Network]) -> None:
        """Write what these were listed for, so that `dpsd why` can tell it at once."""
        size, changed = self._engine.size, self._engine.scores.changed
        keys = [size.key(each.network_address.packed) for each in listed if size.is_peer(each)]
        changed.difference_update(keys)
        await self._write(self._rows(keys))

    async def _write(self, rows: list[PeerRow]) -> None:
        """What can't be written now counts as changed again."""
        if rows and not await self._keeper.save(rows):
            self._not_before = time.monotonic() + AGAIN
            size = self._engine.size
            changed = (size.key(row.peer.network_address.packed) for row in rows)
            self._engine.scores.changed.update(changed)

    def note(self, sessions: Iterable[Key]) -> None:
        """These were ended to make room: `dpsd why` is to tell what that means for their peers."""
        engine = self._engine
        found = (engine.sessions.get(key) for key in sessions)
        engine.scores.changed.update(each.peer.key for each in found if each is not None)

    async def forget(self, history_for: float) -> None:
        """Shorten history to so many seconds, and drop scores that don't matter any more; a
        failure is logged."""
        keep = self._lasts()
        try:
            await self._keeper.follow_clock()  # else what isn't over would be taken for it
            now = self._clock.to_wall(self._clock.now())
            more = True
            while more:  # a bounded part at a time, so that other writers get their turn
                pruned = await self._keeper.run(
                    lambda s: s.prune(now, history_for, keep, MOST, self._keeper.node)
                )
                more = pruned.more
        except DpsdError as problem:
            log.error("%s; history was not shortened", problem)

    def _lasts(self) -> float:
        """Seconds after which neither a peer's score nor its trust matters any more."""
        policy = self._engine.policy
        return max(10 * policy.half_life, 6 * policy.credit_half_life)

    def _rows(self, keys: Iterable[bytes]) -> list[PeerRow]:
        scores, now = self._engine.scores, self._clock.now()
        worth = (
            peer
            for key in keys
            if (peer := scores.get(key)) is not None
            and (
                peer.listed
                or peer.credit
                or not peer.score
                or peer.score > WORTH_SAVING
                or peer.deferred_until > now
            )
        )
        peers = {peer.key: peer for peer in islice(worth, SAVED_A_FLUSH)}
        return [self._row(peer, _states(peer), now) for peer in peers.values()]

    def _row(self, peer: Peer, states: dict[str, int], now: float) -> PeerRow:
        evidence = [evidence_json(e, self._clock.to_wall) for e in peer.evidence.values()]
        network = self._engine.size.network_of_key(peer.key)
        at, seen = self._clock.to_wall(peer.at), self._clock.to_wall(now)
        detail: dict[str, Any] = {"evidence": evidence, "sessions": states}
        detail["trust"] = round(peer.credit, 3)
        detail["trusted_at"] = self._clock.to_wall(peer.credited_at)
        if isfinite(peer.mailed_at):
            detail["mailed_at"] = self._clock.to_wall(peer.mailed_at)
        detail["delivers"] = peer.delivers
        detail["listed"] = peer.listed
        detail.update(self._lenience(peer))
        return PeerRow(network, peer.score, at, seen, detail)

    def _lenience(self, peer: Peer) -> dict[str, Any]:
        """Why it wasn't charged last, and until when it may open no new session; if there is
        anything to tell. The kernel has forgotten the latter after a start: it isn't taken up."""
        told: dict[str, Any] = {}
        if peer.excuse is not None:
            told["excuse"] = peer.excuse.name.lower()
        if isfinite(peer.deferred_until):
            told["deferred_until"] = self._clock.to_wall(peer.deferred_until)
            told["deferrals"] = peer.deferrals
        return told


def _states(peer: Peer) -> dict[str, int]:
    """How many sessions a peer has in each state; of very many, as many as are looked at."""
    some = islice(peer.sessions.values(), SESSIONS_TOLD)
    states = Counter(map(attrgetter("state"), some))
    return {State(state).name: number for state, number in states.items()}
