"""The bailiff: carries out what was decided. The kernel first, then the peer's sessions, then the
store, then the log."""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from ipaddress import ip_network
from math import inf

from dpsd.config import format_duration
from dpsd.core.engine import Engine, Settled
from dpsd.core.events import Key
from dpsd.core.lists import OPERATOR, SCORE, Change, Drop, Entry, ListName, Put
from dpsd.core.peers import Network
from dpsd.core.retries import Retries
from dpsd.core.sentences import Verdict
from dpsd.daemon.clock import Clock
from dpsd.daemon.endings import Endings
from dpsd.daemon.guard import Guard
from dpsd.daemon.keeper import Keeper
from dpsd.daemon.memory import Memory
from dpsd.daemon.schedule import Schedule
from dpsd.store import Action, Recorded

log = logging.getLogger("dpsd")

TOLD = 20  # changes of one moment that have a line each in the log


class Bailiff:
    """Knows whom the lists meet. verdicts: how many were carried out, by list; deferrals: how often
    a peer was told to wait with new sessions; ends: whether sessions are ended at all; black_for:
    seconds for which the score puts a peer on the black list.
    """

    def __init__(
        self, engine: Engine, guard: Guard, endings: Endings, keeper: Keeper, memory: Memory,
        clock: Clock, schedule: Schedule,
    ) -> None:  # fmt: skip
        self.verdicts = Counter[ListName]()
        self.deferrals = 0
        self.ends = False
        self.black_for = inf
        self._retries = Retries()  # of black peers
        self._engine = engine
        self._guard = guard
        self._endings = endings
        self._keeper = keeper
        self._memory = memory
        self._clock = clock
        self._schedule = schedule

    def carry_out(self, verdicts: Sequence[Verdict]) -> None:
        """List these peers, and end their sessions."""
        if not verdicts:
            return
        entries = [self._lasting(verdict.entry) for verdict in verdicts]
        self._guard.put([Put(e.list, e.peer, e.expires_at) for e in entries])
        self._end_doomed(key for each in verdicts for key in each.sessions)
        self._keeper.write(Action.ADD, entries)
        # At once, before an operator has another say on the same peer.
        self._schedule.beside(self._written(entries))
        self.verdicts.update(entry.list for entry in entries)
        self._tell(logging.WARNING, [(entry, Action.ADD) for entry in entries])

    def _lasting(self, entry: Entry) -> Entry:
        """A verdict as it is carried out: the black list isn't for good."""
        if entry.list is not ListName.BLACK or entry.expires_at is not None:
            return entry
        shorter = replace(entry, expires_at=entry.created_at + self.black_for)
        self._engine.lists.put(shorter)
        return shorter

    def retried(self, persistent: Mapping[Network, int], now: float) -> None:
        """Take which listed peers went on sending, and how many of their packets were dropped."""
        self._retries.take(persistent, now)

    def _renew(self, over: Iterable[Entry]) -> None:
        """Black peers whose time is over, and which never stopped: they stay for as long again."""
        engine, now = self._engine, self._clock.now()
        entries = [
            replace(
                entry,
                reason=f"went on while it was listed: {packets} packets dropped",
                created_at=now,
                expires_at=now + self.black_for,
            )
            for entry in over
            if entry.list is ListName.BLACK
            and entry.source == SCORE
            and (packets := self._retries.by(entry.peer, now))
            and engine.lists.decisive(entry.peer) is None
        ]
        if entries:
            self._guard.put([engine.lists.put(entry) for entry in entries])
            self._keeper.write(Action.ADD, entries)
            self._tell(logging.WARNING, [(entry, Action.ADD) for entry in entries])

    async def _written(self, entries: Iterable[Entry]) -> None:
        await self._memory.save_of(entry.peer for entry in entries)
        await self._keeper.flush()

    def adopt(self, entries: Sequence[Entry]) -> None:
        """Take over what only the kernel knew."""
        for entry in entries:
            self._engine.lists.put(entry)
        self._tell(logging.WARNING, [(entry, Action.ADD) for entry in entries], "adopted: ")
        self._keeper.write(Action.ADD, entries)

    def expire(self, entries: Sequence[Entry]) -> None:
        """The time of these entries is over, which the kernel knows by itself."""
        if not entries:
            return
        self._keeper.write(Action.EXPIRE, entries)
        for entry in entries:
            if entry.list is ListName.WHITE:  # it may have stood before a block
                self._end_doomed(self._engine.sessions_of(entry.peer))
        self._renew(entries)
        if len(entries) > TOLD:
            log.info("the time of %d entries is over", len(entries))
            return
        for entry in entries:
            log.info("%s off %s: its time is over", self._engine.size.text(entry.peer), entry.list)

    async def follow(self, recorded: Sequence[Recorded]) -> None:
        """Do to the lists and the kernel what was done to the store. Raises DpsdError."""
        engine, changes = self._engine, list[Change]()
        self._keeper.supersede({record.entry.peer for record in recorded})
        for record in recorded:
            entry = record.entry
            if record.action is Action.ADD:
                changes.append(engine.lists.put(entry))
            else:
                engine.lists.drop(entry.list, entry.peer)
                changes.append(Drop(entry.list, entry.peer))  # also when this is done once more
        await self._guard.apply(changes)
        freed = [
            record.entry.peer
            for record in recorded
            if (record.action is Action.ADD) is (record.entry.list is ListName.WHITE)
        ]
        await self._guard.undefer(freed)
        for record in recorded:
            entry, added = record.entry, record.action is Action.ADD
            if added is not (entry.list is ListName.WHITE):  # its packets may be dropped now
                self._end_doomed(engine.sessions_of(entry.peer))
            if not added and entry.list is not ListName.WHITE:
                # What a program lifts has ended as by its time.
                (engine.forgive if entry.source == OPERATOR else engine.release)(entry.peer)
        self._tell(logging.INFO, [(record.entry, record.action) for record in recorded])

    def sweep(self) -> None:
        """End what listed peers have left from before."""
        self._engine.search([ip_network("0.0.0.0/0"), ip_network("::/0")])

    def make_room(self, settled: Settled) -> None:
        """End sessions that made least of their slots, and let their peers wait with new ones."""
        # The kernel can't keep up with one that shares its /64 (PeerSize.alone).
        deferred = {n: s for n, s in settled.deferred if self._engine.size.is_whole(n)}
        if deferred and self.ends:
            self._guard.defer(deferred)
            self.deferrals += len(deferred)
        self._memory.note(settled.ended)
        self.end(settled.ended)
        if settled.ended:
            log.info(
                "ended %d sessions of least use: slots run short; %d peers may open no new one yet",
                len(settled.ended), len(settled.deferred),
            )  # fmt: skip
        self.carry_out(settled.verdicts)

    def end_listed(self, keys: Sequence[Key]) -> None:
        """End those of these sessions whose peer's packets are dropped by now."""
        self._end_doomed(keys)

    def end(self, keys: Sequence[Key]) -> None:
        """End these sessions, if sessions are ended at all."""
        if keys and self.ends:
            self._schedule.beside(self._endings.end(keys))

    def _end_doomed(self, keys: Iterable[Key]) -> None:
        self.end(self._doomed(keys))

    def _doomed(self, keys: Iterable[Key]) -> list[Key]:
        """Those of these sessions whose peer's packets are dropped."""
        engine, known = self._engine, dict[bytes, bool]()
        doomed: list[Key] = []
        for key in keys:
            address = engine.sessions.endpoints(key).peer
            if (dropped := known.get(address)) is None:
                entry = engine.lists.decisive(ip_network(address))
                dropped = entry is not None and entry.list is not ListName.WHITE
                known[address] = dropped
            if dropped:
                doomed.append(key)
        return doomed

    def _tell(
        self, level: int, changed: Sequence[tuple[Entry, Action]], head: str = ""
    ) -> None:  # fmt: skip
        """Log changes of the lists: a line each, or one line for many."""
        if len(changed) <= TOLD:
            for entry, action in changed:
                log.log(level, "%s%s", head, self._told(entry, action))
            return
        how = Counter(f"{'' if action is Action.ADD else 'off '}{e.list}" for e, action in changed)
        counts = ", ".join(f"{count} {what}" for what, count in how.items())
        first = ", ".join(self._engine.size.text(entry.peer) for entry, _ in changed[:TOLD])
        log.log(level, "%s%s at once; `dpsd list` has why: %s, …", head, counts, first)

    def _told(self, entry: Entry, action: Action = Action.ADD) -> str:
        """One line about a change of the lists: peer, list, until when, by whom, why."""
        peer = self._engine.size.text(entry.peer)
        what = f"{peer} {'' if action is Action.ADD else 'off '}{entry.list}"
        if action is Action.ADD:
            left = entry.expires_at and format_duration(entry.expires_at - self._clock.now())
            what += f" for {left}" if left else " for good"
        because = f": {entry.reason}" if entry.reason else ""
        return f"{what}, by {entry.source}{because}"
