"""The store's keeper: the one thread of the daemon that reads and writes it.

A slow disk delays the keeper, never an event. What can't be written is kept and tried again.
"""

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

from dpsd.core.given import Given, changes, may_overrule
from dpsd.core.lists import Entry, ListName
from dpsd.core.peers import Network
from dpsd.daemon.clock import Clock
from dpsd.errors import DpsdError, StoreDamaged, StoreError
from dpsd.store import Action, Node, PeerRow, Record, Recorded, Store, path_of

T = TypeVar("T")
log = logging.getLogger("dpsd")

JUST_NOW = 1.0  # seconds within which it is noticed that the clock was set
AHEAD = 5.0  # seconds; an entry made by so much later than now was made by another clock
# What a node tells of its daemon; ADOPTS: it runs, and not all that the kernel held is stored.
RUNS, ADOPTS, CLEAN = "runs", "adopts", "stopped"
WRITTEN_AT_ONCE = 5_000  # records a transaction: about 0.2 s, in which nothing else is read
COARSE = 1.0  # seconds after a write in which the files' times may not tell another
LOOKED = 10.0  # seconds after which the store is asked whatever they tell
MOST_WAITING = 100_000  # records; more than that, with a store that fails, are given up


class Before(Enum):
    """How the daemon before this one ended, by what the store has of it."""

    NOTHING = "nothing is known of one"
    STOPPED = "it stopped, and had written everything"
    BOOT = "the machine went down since"
    CRASHED = "it crashed"


@dataclass(frozen=True, slots=True)
class News:
    """What others changed in the store, and the revision that one has come to with it."""

    records: list[Recorded]
    revision: int


class Keeper:
    """The daemon's hand on the store. Entries go in and come out in the engine's time."""

    def __init__(self, url: str, clock: Clock) -> None:
        # "" is the command line's: an operator's change would be taken for the daemon's own.
        self.node = socket.gethostname() or "localhost"
        self.applied = 0  # the revision that the engine and the kernel have
        self.path = path_of(url)  # None: no file
        self.before = Before.NOTHING
        self.adopts = False  # what the kernel held isn't all stored yet
        self._url = url
        self._clock = clock
        self._thread = ThreadPoolExecutor(1, "store")
        self._store: Store | None = None
        self._waiting: list[Record] = []
        self._shortened: dict[Entry, Entry] = {}  # what _inward() made of which entry of the store
        self._started_at = time.time()
        self._failing: set[str] = set()  # what has been told to fail
        self._file: tuple[int, int] | None = None
        self._behind = False  # there is news that isn't applied yet
        self._files: tuple[object, ...] | None = None  # as they were seen last
        self._changed_at = self._asked_at = 0.0  # when they differed, and when the store was asked
        self._flushing = set[asyncio.Future[None]]()
        self._step = 0.0  # by which the wall clock was set, as the store's entries have it
        self._step_at = 0.0  # when that was noticed first
        self._following = asyncio.Lock()
        self._last_beat: tuple[str, int, dict[str, Any], str] | None = None

    async def run(self, work: Callable[[Store], T]) -> T:
        """Do something with the store in its thread. Raises what it raises."""
        return await asyncio.get_running_loop().run_in_executor(
            self._thread, lambda: work(self._opened())
        )

    async def open(self) -> None:
        """Open and claim the store, bringing it up to date; StoreError, NotPermitted.

        One that is damaged is put aside, and an empty one takes its place.
        """

        def opened() -> Store:
            known = self.path is not None and Path(f"{self.path}.lock").exists()
            try:
                return _whole(self._url)
            except StoreDamaged as problem:
                if not known:
                    raise
                aside = Store.put_aside(self._url, f"damaged-{time.strftime('%Y%m%dT%H%M%S')}")
                log.error(
                    "%s; it is %s now, and an empty one takes its place: what the kernel holds is"
                    " adopted, history and scores are lost unless you restore a copy",
                    problem,
                    aside,
                )
                return _whole(self._url)

        loop = asyncio.get_running_loop()
        self._store = await loop.run_in_executor(self._thread, opened)
        self._file = _identity(self._store.path)
        nodes = await self.run(Store.nodes)
        mine = next((node for node in nodes if node.node == self.node), None)
        self.before = Before.NOTHING if not nodes else _before(mine)

    async def close(self) -> None:
        """Write what is waiting, and give up the claim."""
        if self._store is not None:
            await self.flush()
            if not self._waiting and not self.adopts and self._last_beat is not None:
                mode, _, status, _ = self._last_beat
                await self._write_beat(mode, status, CLEAN)
            await self.run(Store.close)
        self._thread.shutdown()

    async def load(self) -> list[Entry]:
        """Every entry in force, what waits to be written too; and remember which revision it is."""
        self.applied = await self.run(Store.revision)
        entries = await self.run(lambda store: store.entries(time.time()))
        self._behind = False
        lists = {(entry.list, entry.peer): entry for entry in entries}
        for record in self._waiting:
            lists.pop((record.entry.list, record.entry.peer), None)
            if record.action is Action.ADD:
                lists[record.entry.list, record.entry.peer] = record.entry
        return [self._inward(entry) for entry in lists.values()]

    async def agree(self, wanted: Given) -> None:
        """Make the entries that are given by the configuration and others those, and no more."""

        def due(store: Store, now: float) -> list[Record]:
            overruled = {
                peer
                for peer in wanted.entries
                if any(e.peer == peer and may_overrule(e) for e in store.covering(peer, now))
            }
            gone, new = changes(wanted, store.entries(now, ListName.WHITE), overruled)
            records = [Record(Action.REMOVE, each, now) for each in gone]
            return records + [
                Record(Action.ADD, replace(each, created_at=now), now) for each in new
            ]

        def work(store: Store) -> None:
            now = time.time()
            if due(store, now):  # a store that can't be written to is no obstacle to what is so
                with store.editing():
                    store.commit(due(store, now))

        await self.run(work)

    async def changes(self) -> News | None:
        """What others changed and isn't applied yet; None: read everything again.

        It comes again with each call until caught_up() is told of it. Costs next to nothing while
        nobody writes: the store is asked when its file or the log beside it was written to, and for
        COARSE seconds after that.
        """
        if not self._behind and not (self._may_differ() and await self.run(Store.changed)):
            return News([], self.applied)
        return await self.missed()

    def _may_differ(self) -> bool:
        """Whether somebody may have written since this was asked last."""
        files, now = self._written(), time.monotonic()
        if files is None or files != self._files:
            self._files, self._changed_at = files, now
        if now - self._changed_at > COARSE and now - self._asked_at < LOOKED:
            return False
        self._asked_at = now
        return True

    def _written(self) -> tuple[object, ...] | None:
        """When the store's file and its log were written to last, and which they are; None: that
        can't be known."""
        if self.path is None:
            return None
        found = list[tuple[int, int, int]]()
        for path in (self.path, f"{self.path}-wal"):
            try:
                told = os.stat(path)
            except OSError:
                return None
            found.append((told.st_ino, told.st_mtime_ns, told.st_size))
        return tuple(found)

    async def missed(self) -> News | None:
        """What others changed since `applied`; None: read everything again."""
        self._behind = True
        number = self.applied
        recorded = await self.run(lambda store: store.since(number))
        if recorded is None:
            return None
        others = [replace(r, entry=self._inward(r.entry)) for r in recorded if r.node != self.node]
        return News(others, recorded[-1].revision if recorded else number)

    def caught_up(self, news: News) -> None:
        """The engine and the kernel have it."""
        self.applied = max(self.applied, news.revision)
        self._behind = False

    async def follow_clock(self) -> None:
        """When somebody set the wall clock, let what is in the store last as long as it was meant
        to: else it would end there at another time than in the kernel.

        Raises StoreError, NotPermitted; then call it again.
        """
        async with self._following:  # what is due at once must not follow twice
            step = self._clock.step()
            if seconds := step - self._step:
                self._step_at = self._step_at or time.time()
                await self._shift(seconds, self._step_at - JUST_NOW)
                self._step = step
            self._step_at = 0.0

    async def _shift(self, seconds: float, since: float) -> None:
        """since: what was made later goes by the clock as it is now."""
        await self.run(lambda store: store.shift(seconds, since, time.time() + JUST_NOW))

        def moved(entry: Entry) -> Entry:
            return _moved(entry, lambda at: at + seconds)

        self._waiting = [
            each if each.at >= since else replace(each, entry=moved(each.entry))
            for each in self._waiting
        ]
        self._shortened = {inner: moved(outer) for inner, outer in self._shortened.items()}
        log.warning("the clock was set by %.1f s: what is listed ends as much later", seconds)

    def write(self, action: Action, entries: Iterable[Entry]) -> None:
        """Let entries be written with the next flush; now is when it happened."""
        now = time.time()
        self._waiting += [Record(action, self._outward(entry), now) for entry in entries]

    def supersede(self, peers: Collection[Network]) -> None:
        """Somebody else's word on these peers is taken over now: what waits comes before it."""
        self._waiting = [
            each
            for each in self._waiting
            if each.action is not Action.ADD or each.entry.peer not in peers
        ]

    async def flush(self) -> None:
        """Write what is waiting, a part at a time; a failure is logged and tried again with the
        next flush."""
        while self._waiting and await self._flush_some():
            pass

    async def _flush_some(self) -> bool:
        """Whether the part that waits for longest could be written."""
        records = self._waiting[:WRITTEN_AT_ONCE]
        del self._waiting[:WRITTEN_AT_ONCE]
        known = self.applied
        commit = self._thread.submit(lambda: self._opened().record(records, self.node, known))
        try:
            done = await asyncio.wrap_future(commit)
        except DpsdError as problem:
            self._waiting = (records + self._waiting)[-MOST_WAITING:]
            self._complain("flush", f"{problem}; {len(self._waiting)} verdicts only in the kernel")
            return False
        except asyncio.CancelledError:
            if commit.cancelled():  # before the store's thread came to it
                self._waiting = records + self._waiting
            raise
        self._failing.discard("flush")
        for record in done.refused:
            log.info("%s: somebody else changed it first; that holds", record.entry.peer)
        if done.made and done.revision == self.applied + 1:
            self.applied = done.revision
        return True

    async def wrote(self, within: float) -> bool:
        """Whether everything is in the store by so many seconds from now; else it is tried on."""
        flushing = asyncio.ensure_future(self.flush())
        self._flushing.add(flushing)
        flushing.add_done_callback(self._flushing.discard)
        done, _ = await asyncio.wait({flushing}, timeout=within)
        return bool(done) and not self._waiting

    async def save(self, rows: list[PeerRow]) -> bool:
        """Write peers' scores; whether that could be done. A failure is logged once."""
        try:
            await self.run(lambda store: store.save_peers(rows))
        except DpsdError as problem:
            self._complain("save", f"{problem}; scores are not saved, which is tried again")
            return False
        self._failing.discard("save")
        return True

    async def beat(self, mode: str, status: dict[str, Any]) -> None:
        """Tell how things stand, if that changed since the last time."""
        state = ADOPTS if self.adopts and self.before is Before.NOTHING else RUNS
        beat = (mode, self.applied, status, state)
        if beat == self._last_beat or not await self._write_beat(mode, status, state):
            return
        self._last_beat = beat
        if _identity(self._opened().path) != self._file:
            path = self._opened().path
            self._complain("file", f"store {path}: moved away or replaced; restart dpsd to use it")

    async def _write_beat(self, mode: str, status: dict[str, Any], state: str) -> bool:
        """Whether it could be written how things stand."""
        told = {**status, "boot": _boot_id(), "daemon": state}
        node = Node(self.node, os.getpid(), mode, self._started_at, time.time(), self.applied, told)
        try:
            await self.run(lambda store: store.beat(node))
        except DpsdError as problem:
            self._complain("beat", f"{problem}; the status is not saved")
            return False
        self._failing.discard("beat")
        return True

    def _complain(self, what: str, told: str) -> None:
        """Log what doesn't work, once until it worked again."""
        if what not in self._failing:
            log.error("%s", told)
            self._failing.add(what)

    def _opened(self) -> Store:
        if self._store is None:
            raise StoreError("the store isn't open")
        return self._store

    def _inward(self, entry: Entry) -> Entry:
        """In the engine's time. Made when the clock was ahead, it lasts as long as it was meant."""
        moved, now = _moved(entry, self._clock.from_wall), self._clock.now()
        if moved.expires_at is None or moved.created_at <= now + AHEAD:
            return moved
        shorter = replace(moved, expires_at=now + moved.expires_at - moved.created_at)
        self._shortened[shorter] = entry
        return shorter

    def _outward(self, entry: Entry) -> Entry:
        stored = self._shortened.pop(entry, None)  # else the store wouldn't know it again
        return stored or _moved(entry, self._clock.to_wall)


def _whole(url: str) -> Store:
    """The opened and claimed store; StoreDamaged if not all of it can be read."""
    store = Store.open(url, upgrade=True, claim=True)
    try:
        store.examine()
    except BaseException:
        store.close()
        raise
    return store


def _before(mine: Node | None) -> Before:
    told = {} if mine is None else mine.status
    if told.get("daemon") == CLEAN:
        return Before.STOPPED
    if told.get("daemon") == ADOPTS:
        return Before.NOTHING
    return Before.BOOT if told.get("boot", _boot_id()) != _boot_id() else Before.CRASHED


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _identity(path: Path | None) -> tuple[int, int] | None:
    """Which file is there now; None: there is none."""
    try:
        found = None if path is None else path.stat()
    except OSError:
        return None
    return None if found is None else (found.st_dev, found.st_ino)


def _moved(entry: Entry, to: Callable[[float], float]) -> Entry:
    until = None if entry.expires_at is None else to(entry.expires_at)
    return replace(entry, created_at=to(entry.created_at), expires_at=until)
