"""The guard of the kernel's table: brings changes into it, and mends what others did to it."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from dpsd.core.lists import Change, Element
from dpsd.core.peers import Network
from dpsd.daemon.clock import Clock
from dpsd.errors import DpsdError, KernelError
from dpsd.kernel.nftset import Crashed, Table, TableSpec, Traffic, Watch

T = TypeVar("T")
W = TypeVar("W")
log = logging.getLogger("dpsd")

LOOKS = 3  # at the table, before what differs is mended
AT_ONCE = 500  # peers that are deferred before the loop sees to anything else: about 2 ms
FEW = 100  # single peers that are changed at once, which takes 10 ms at most
SELDOM = 60.0  # seconds between two tries, at most
AGAIN = 1.0  # seconds before a failed repair, or one that somebody undoes, is tried again


class Guard:
    """Owns the table. `wanted` tells at any time what has to be in it.

    repairs: how often the table had to be loaded again; dropped: what the table kept out since it
    was loaded, deferred: the SYNs that it held up, both as of the last count().
    """

    def __init__(
        self, spec: TableSpec, clock: Clock, wanted: Callable[[], Mapping[Element, float | None]]
    ) -> None:
        self.table = Table(spec)
        self.repairs = 0
        self.problem: str | None = None  # why the table can't be loaded
        self.dropped = self.deferred = Traffic(0, 0)
        self._clock = clock
        self._wanted = wanted
        self._thread = ThreadPoolExecutor(1, "kernel")
        self._watch: Watch | None = None
        self._lock = asyncio.Lock()  # one load at a time
        self._loading = False
        self._stands = False  # the table that was found, as it is
        self._failures = 0  # of loads
        self._broken = False
        self._defer_fails = self._count_fails = False  # and that was told
        self._meanwhile: list[Change] = []
        self._repair: asyncio.Task[None] | None = None
        self._comparing: asyncio.Task[None] | None = None

    async def load(self) -> None:
        """Bring the whole table into the kernel at once. KernelError, NotPermitted."""
        async with self._lock:
            await self._load()

    async def begin(self) -> None:
        """As load(), but when libnftables dies of somebody's table, go on with the one that is
        there: its prefixes as they are, hosts as wanted. KernelError, NotPermitted."""
        async with self._lock:
            await self._begin()

    async def _begin(self) -> None:
        try:
            await self._load()
        except Crashed as problem:
            await self._run(self.table.take_over, dict(self._wanted()))
            self.mend(str(problem))

    async def begin_after(self, known: Awaitable[None]) -> None:
        """As begin(), once it is known what the table holds; up to then the one that is there
        stands. Single peers are changed in it meanwhile, and all else waits."""
        async with self._lock:
            self._stands = True
            try:
                await known
            finally:
                self._stands = False
            try:
                await self._begin()
            except DpsdError as problem:
                self.mend(str(problem))

    async def _load(self) -> None:
        self._loading = True
        self._look_away()
        try:
            await self._run(self.table.load, dict(self._wanted()))
            while self._meanwhile:
                late, self._meanwhile = self._meanwhile, []
                try:
                    await self._run(self.table.apply, late)
                except KernelError:  # as when a set is full: what is wanted by now knows of that
                    await self._run(self.table.load, dict(self._wanted()))
        except DpsdError:
            self._failures += 1
            raise
        finally:
            self._loading = False
            self._meanwhile = []  # after a failure the next load has them
            self._look_back()

    def watch(self) -> None:
        """From now on notice what others do to the table, and mend it."""
        self._watch = Watch()
        self._look_back()

    def _look_away(self) -> None:
        """While the table is loaded: libnftables may do that over a new socket, which nobody knows
        as ours before it is done."""
        if self._watch is not None:
            asyncio.get_running_loop().remove_reader(self._watch.fileno())

    def _look_back(self) -> None:
        if self._watch is not None:
            asyncio.get_running_loop().add_reader(self._watch.fileno(), self._noticed)

    async def replace(self, spec: TableSpec) -> None:
        """Go on with a table of another configuration."""
        async with self._lock:
            if spec == self.table.spec:
                return
            old, self.table = self.table, Table(spec)
            if self._watch is not None:
                self._watch.learn()  # that the new table's sockets are our own
            try:
                await self._load()
            except DpsdError:
                self.table.close()
                self.table = old
                self.mend("another configuration of it failed")
                raise
            old.close()

    def put(self, changes: Sequence[Change]) -> None:
        """Bring changes of single peers into the kernel now: about 0.1 ms.

        What fails is logged and mended by a repair.
        """
        if self._must_wait(changes):
            self._meanwhile += changes
            return
        try:
            self.table.apply(changes, self._clock.now())
        except DpsdError as problem:
            log.error("%s", problem)
            self.mend("a change failed")

    def _must_wait(self, changes: Sequence[Change]) -> bool:
        return self._loading or (self._stands and not self._are_single(changes))

    def _are_single(self, changes: Sequence[Change]) -> bool:
        """Whether they are all of single peers, which no libnftables is needed for."""
        return all(self.table.spec.size.is_whole(change.peer) for change in changes)

    def defer(self, peers: Mapping[Network, float]) -> None:
        """Let these peers open no new session for so many seconds: about 0.1 ms for a few.

        Many are deferred a part at a time. It is lost when the table is loaded, and nobody is
        deferred meanwhile. What fails is logged once, until it works again.
        """
        if self._loading or not peers:
            return
        some = list(peers.items())
        if len(some) > AT_ONCE:
            asyncio.get_running_loop().call_soon(self.defer, dict(some[AT_ONCE:]))
        try:
            left = self.table.defer(dict(some[:AT_ONCE]))
        except DpsdError as problem:
            self._tell_once(f"{problem}; nobody is deferred")
        else:
            if left:
                self._tell_once(f"no room to defer {left} more peers")
            else:
                self._defer_fails = False

    def _tell_once(self, problem: str) -> None:
        if not self._defer_fails:
            log.error("%s", problem)
        self._defer_fails = True

    async def undefer(self, peers: Sequence[Network]) -> None:
        """Let these peers open sessions again. KernelError, NotPermitted."""
        await self._run(lambda freed, _: self.table.undefer(freed), peers)

    async def apply(self, changes: Sequence[Change]) -> None:
        """Bring any changes into the kernel; prefixes may take long.

        What the kernel refuses, as when a set is full, is tried with the whole table. KernelError,
        and a repair.
        """
        if self._must_wait(changes):
            self._meanwhile += changes
            failures = self._failures
            async with self._lock:
                if self._failures != failures:
                    raise KernelError("table inet dpsd could not be loaded")
            return
        try:
            if len(changes) <= FEW and self._are_single(changes):
                self.table.apply(changes, self._clock.now())  # no verdict comes between
            else:
                await self._run(self.table.apply, changes)
        except DpsdError as problem:
            if await self._run(partial(self.table.leaves_out, changes), dict(self._wanted())):
                log.warning("%s; what lasts shortest isn't in it", problem)
                return
            log.error("%s; loading the whole table", problem)
            try:
                await self.load()
            except DpsdError:
                self.mend("a change failed")
                raise

    async def reconcile(self) -> None:
        """Compare the kernel with what is wanted, and mend what differs."""
        try:
            async with self._lock:
                found = await self._differences()
                wanted = dict(self._wanted())
                for told in await self._run(self.table.nearly_full, wanted):
                    log.warning("%s; what lasts shortest isn't dropped beyond that", told)
        except DpsdError as problem:
            log.error("%s", problem)
            return
        if found:
            self.mend(f"{len(found)} differences, {found[0]} first")

    async def _differences(self) -> list[str]:
        """What each of several looks tells.

        One alone may tell of what was listed meanwhile; and the kernel's dump goes on by position,
        so that it leaves out others while elements expire (nft_rhash_walk in
        net/netfilter/nft_set_hash.c).
        """
        found = await self._look()
        for _ in range(LOOKS - 1):
            if found:
                again = set(await self._look())
                found = [each for each in found if each in again]
        return found

    async def _look(self) -> list[str]:
        return await self._run(self.table.differences, dict(self._wanted()))

    async def count(self) -> None:
        """Look how much was dropped; what can't be read stays as it was, and that is told once."""
        try:
            self.dropped = await asyncio.to_thread(self.table.dropped)
            self.deferred = await asyncio.to_thread(self.table.deferred)
        except DpsdError as problem:
            if not self._count_fails:
                log.error("%s; what is dropped isn't counted", problem)
            self._count_fails = True
        else:
            self._count_fails = False

    def mend(self, why: str) -> None:
        """Load the table again in the background, until it is as it should be."""
        self._broken = True
        if self._repair is None or self._repair.done():
            log.warning("table inet dpsd: %s; loading it again", why)
            self._repair = asyncio.get_running_loop().create_task(self._mend())

    async def close(self) -> None:
        """Stop watching; the table stays in the kernel as it is."""
        self._look_away()
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.close()
        for task in (self._repair, self._comparing):
            if task is not None:
                task.cancel()
        self.table.stop()
        self._thread.shutdown()
        self.table.close()

    async def _run(self, work: Callable[[W, float], T], what: W) -> T:
        """In the kernel's thread, with the time when it is its turn."""
        return await asyncio.get_running_loop().run_in_executor(
            self._thread, lambda: work(what, self._clock.now())
        )

    def _noticed(self) -> None:
        if self._watch is None:
            return
        if self._watch.foreign():
            self.mend("somebody else changed it")
        elif self._watch.lost and (self._comparing is None or self._comparing.done()):
            self._watch.lost = False
            log.warning("table inet dpsd: too many changes at once to see whose; comparing it")
            self._comparing = asyncio.get_running_loop().create_task(self.reconcile())

    async def _mend(self) -> None:
        failed = 0
        while self._broken:
            self._broken = False
            try:
                await self.load()
            except DpsdError as problem:
                self.problem = str(problem)
                log.error("%s; trying again", problem)
                self._broken = True
                failed += 1
            else:
                self.problem, failed = None, 0
                self.repairs += 1
                log.warning("table inet dpsd is as it should be")
            # Whoever undoes it every time gets one repair a second, not all of the CPU.
            await asyncio.sleep(min(AGAIN * 2**failed, SELDOM) if failed else AGAIN)
