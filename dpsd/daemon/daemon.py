"""The daemon: wiring, signals, what recurs. What is decided is decided in dpsd.core."""

import asyncio
import ctypes
import gc
import logging
import signal
import time
from collections.abc import Awaitable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dpsd import assembly
from dpsd.config import Config, load, needs_restart
from dpsd.core.events import Endpoints, Event, Key, Word
from dpsd.core.given import SOURCES, Given, changes, may_overrule
from dpsd.core.lists import Entry, ListName, Lists
from dpsd.core.peers import Network
from dpsd.core.retries import persistent
from dpsd.daemon import accounting, logs, status
from dpsd.daemon.accounting import Accounting
from dpsd.daemon.adoption import adoptable
from dpsd.daemon.bailiff import Bailiff
from dpsd.daemon.claim import Claim
from dpsd.daemon.clock import Clock
from dpsd.daemon.control import Control
from dpsd.daemon.endings import Endings
from dpsd.daemon.guard import AGAIN, Guard
from dpsd.daemon.keeper import Keeper, News
from dpsd.daemon.leaks import MINUTE, Leaks
from dpsd.daemon.listener import Listener
from dpsd.daemon.mailserver import MailServer
from dpsd.daemon.memory import Memory
from dpsd.daemon.metrics import Metrics
from dpsd.daemon.pressers import Pressers
from dpsd.daemon.schedule import Job, Schedule
from dpsd.daemon.sockets import Sockets, session_of
from dpsd.daemon.systemd import notify, reloading, watchdog_interval
from dpsd.errors import ConfigError, DpsdError
from dpsd.kernel import host, sockdiag
from dpsd.kernel.ctnetlink import key_of
from dpsd.kernel.nftset import TableSpec
from dpsd.store import Recorded

log = logging.getLogger("dpsd")

PULSE = 0.25  # seconds between two ticks
HURRIED = 3  # ticks in that time while slots run short
POLL = PULSE  # seconds between two looks at the store: one wake-up for both
SETTLED = 200  # sessions that end before the loop sees to anything else: some 3 ms
ADOPTED_WITHIN = 1.0  # seconds of a start that wait for what the kernel holds
FLUSH = 1.0  # seconds within which scores are in the store, and what failed before is tried again


class Daemon:
    """Everything of one running dpsd. Only the asyncio loop's own thread touches its state."""

    def __init__(self, path: Path, observe: bool) -> None:
        self._path = path
        self._observe = observe
        self._config = load(path)
        self._clock = Clock()
        self._stopped = asyncio.Event()
        self._keeper = Keeper(self._config.store.url, self._clock)
        self._routes = host.Changes()  # before the first look
        self._host = host.look()
        self._mail = MailServer()
        self._engine = assembly.engine(self._config, self._host, Lists())
        self._guard = Guard(self._spec(self._config), self._clock, self._elements)
        self._endings = Endings(self._engine.not_ended)
        self._listener: Listener | None = None
        self._schedule = Schedule()
        self._memory = Memory(self._engine, self._keeper, self._clock)
        self._bailiff = Bailiff(
            self._engine,
            self._guard,
            self._endings,
            self._keeper,
            self._memory,
            self._clock,
            self._schedule,
        )
        self._sockets = Sockets(self._engine, self._bailiff, self._clock)
        self._accounting = Accounting(self._config.kernel.accounting)
        control = Control(self._engine, self._bailiff, self._keeper, self._clock, lambda: self.mode)
        self._claim = Claim(control.may, control.answer)
        self._leaks = Leaks()
        self._pressers = Pressers()
        self._metrics = Metrics(self._config)
        self._reloading = asyncio.Lock()
        self._name_servers_at = -1  # when they were written down last
        self._swept = False  # whether no listed peer has a session left from before
        self._poll_after = 0.0
        self._counted: tuple[Mapping[Network, int], float] = {}, 0.0  # packets dropped, and when
        self._use(self._config)

    @property
    def mode(self) -> str:
        """ "enforce" or "observe"."""
        return "observe" if self._observe else self._config.enforce.mode

    async def run(self) -> None:
        """Run until told to stop. Raises DpsdError if it can't begin."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopped.set)
        loop.add_signal_handler(signal.SIGHUP, lambda: self._schedule.beside(self._reload()))
        try:
            async with self._reloading:  # a SIGHUP waits until there is something to reload
                gc.disable()  # of all that is read now nothing is garbage
                await self._begin()
                notify("READY=1", f"STATUS={self.mode}")
            log.info(
                "ready: %s, ports %s", self.mode, ", ".join(map(str, self._config.protect.ports))
            )
            await self._stopped.wait()
            notify("STOPPING=1")
        finally:
            await self._end()
        log.info("stopped; the lists stay in the kernel")

    async def _begin(self) -> None:
        await self._keeper.open()
        self._claim.take()
        self._mail.take(self._config, await self._mail.ask(self._config))
        await self._keeper.agree(self._white())
        engine = self._engine
        engine.apply(assembly.policy(self._config, self._mail.said))
        assembly.set_relays(engine, self._host, self._mail.said)
        for entry in await self._keeper.load():
            engine.lists.put(entry)
        await self._memory.recall()
        found = asyncio.ensure_future(self._adoptable())
        await asyncio.wait({found}, timeout=ADOPTED_WITHIN)
        self._keeper.adopts = not found.done() or bool(found.result())
        if found.done():
            await self._adopt(found)
        engine.look(assembly.scopes(self._config))
        await self._accounting.look()
        self._listener = Listener(
            self._config.protect.ports, self._config.kernel.event_buffer, self._take
        )
        if found.done():
            await self._guard.begin()
        else:
            log.warning("very many are blocked; the table that is there stands until all are known")
            self._schedule.beside(self._guard.begin_after(self._adopt_later(found)))
            await asyncio.sleep(0)  # so that it has the table from now on
        self._guard.watch()
        self._listener.start()
        self._metrics.open()
        await self._beat()
        self._start_jobs()
        # What there is now stays: no collection of garbage has to look through it again.
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        gc.freeze()
        gc.enable()
        # What ended makes no cycles. Only what is new is searched for them, little at a time: the
        # whole, with 100,000 sessions, takes 30 ms.
        gc.set_threshold(1_000, 1, 1_000_000_000)

    def _adoptable(self) -> Awaitable[list[Entry]]:
        return adoptable(self._engine, self._guard, self._keeper, self._clock)

    async def _adopt(self, found: Awaitable[list[Entry]]) -> None:
        """Take over what only the kernel knows. Raises DpsdError if that can't be read."""
        await self._bailiff.adopt(await found)
        self._schedule.beside(self._store_adopted())

    async def _store_adopted(self) -> None:
        await self._keeper.flush()
        self._keeper.adopts = not await self._keeper.wrote(FLUSH)

    async def _adopt_later(self, found: Awaitable[list[Entry]]) -> None:
        """As _adopt(), until it is done: the table isn't to be loaded without."""
        while True:
            try:
                await self._adopt(found)
            except DpsdError as problem:
                log.error("%s; it is tried again, and the table stays as it is", problem)
                await asyncio.sleep(AGAIN)
                found = self._adoptable()
            else:
                return

    async def _end(self) -> None:
        self._schedule.stop()
        if self._listener is not None:
            self._listener.close()
        await self._schedule.cancel()
        if self._listener is not None:  # else nothing was learned
            await self._memory.save_all()
        await asyncio.to_thread(self._metrics.close)
        await self._endings.close()
        await self._guard.close()
        self._routes.close()
        self._claim.close()
        await self._keeper.close()

    def _start_jobs(self) -> None:
        jobs: list[Job] = [
            (self._pulse, PULSE),
            (self._poll, POLL),
            (self._flush, FLUSH),
            (self._guard.count, 5.0),
            (self._accounting.look, accounting.EVERY),
            (self._look_at_host, 30.0),
            (self._count_retries, 30.0),
            (self._ask_mail_server, 300.0),
            (self._warn_of_leaks, MINUTE),
            (self._guard.reconcile, 300.0),
            (self._forget, 3600.0),
        ]
        interval = watchdog_interval()
        if interval is not None:
            jobs.append((self._alive, interval))
        self._schedule.start(jobs)

    # What comes from the kernel

    def _take(self, events: Sequence[Event]) -> None:
        self._bailiff.carry_out(self._engine.feed(events, self._clock.now()))

    async def _pulse(self) -> None:
        """Look at the table if it is time, and let time pass; more often while slots run short."""
        await self._dump()
        await self._tick()
        if self._sockets.begin_look(time.monotonic()):
            protect = self._config.protect
            self._schedule.beside(self._sockets.look(protect.ports, bool(protect.addresses)))
        for _ in range(HURRIED - 1):
            if not self._engine.stress:
                return
            await asyncio.sleep(PULSE / HURRIED)
            await self._dump()
            await self._tick()

    async def _tick(self) -> None:
        passed = self._engine.tick(self._clock.now())
        if passed.missed:
            log.warning("stood still for %.0f s: nobody is judged for it", passed.missed)
        self._bailiff.carry_out(passed.verdicts)
        self._bailiff.end_listed(passed.listed)
        self._bailiff.expire(passed.over)
        if passed.doomed:
            await self._settle(passed.doomed)

    async def _settle(self, doomed: Sequence[Key]) -> None:
        """Ask the sockets about those that are to end to make room; end those that still are."""
        words: dict[Key, Word] | None = None
        if not self._config.protect.addresses:
            try:
                found = await asyncio.to_thread(sockdiag.ask, map(session_of, doomed))
                words = {_key(session): word for session, word in found.items()}
            except DpsdError as problem:
                self._sockets.failed(problem)
        for start in range(0, len(doomed), SETTLED):
            some = doomed[start : start + SETTLED]
            self._bailiff.make_room(self._engine.settle(some, words, self._clock.now()))
            await asyncio.sleep(0)

    async def _dump(self) -> None:
        if self._listener is not None:
            if self._engine.unseen is None:
                self._engine.look(assembly.scopes(self._config))
                self._listener.dump()
            idle = not (self._engine.sessions or self._engine.blind)
            self._listener.dump_if_due(self._engine.pressed, idle)
            if not self._swept and not self._engine.blind:
                self._swept = True
                self._bailiff.sweep()

    # What comes from the store

    async def _poll(self) -> None:
        now = time.monotonic()
        if now < self._poll_after:
            return
        try:
            await self._keeper.follow_clock()
            await self._catch_up(await self._keeper.changes())
        except DpsdError as problem:
            log.error("%s; it is tried again", problem)
            self._poll_after = now + AGAIN

    async def _catch_up(self, news: News | None) -> None:
        """Follow what others changed in the store; None: start over."""
        if news is None:
            await self._start_over()
            return
        if news.records:
            await self._follow(news.records)
        before = self._keeper.applied
        self._keeper.caught_up(news)
        if self._keeper.applied != before:
            await self._beat()

    async def _catch_up_or_later(self) -> None:
        try:
            await self._catch_up(await self._keeper.missed())
        except DpsdError as problem:
            log.error("%s; it is tried again", problem)

    async def _follow(self, recorded: Sequence[Recorded]) -> None:
        await self._bailiff.follow(recorded)
        others = (record.entry.peer for record in recorded if record.entry.source not in SOURCES)
        if not self._white().entries.keys().isdisjoint(others):
            self._schedule.beside(self._agree())

    async def _start_over(self) -> None:
        """Take the lists from the store as they are there, and bring them into the kernel."""
        entries = await self._keeper.load()
        self._engine.lists.replace(entries)
        self._swept = False
        try:
            await self._guard.load()
        except DpsdError:
            self._guard.mend("the lists were read anew")
            raise
        await self._beat()
        log.warning("the lists were read anew: %d entries", len(entries))

    # What the scheduler asks for

    async def _flush(self) -> None:
        await self._keeper.flush()
        await self._memory.save()
        await self._beat()

    async def _beat(self) -> None:
        slots = status.slots(self._config, self._mail.said, self._engine, self._clock.to_wall)
        self._mail.learned(slots)
        verdicts, deferrals = self._bailiff.verdicts, self._bailiff.deferrals
        now = status.snapshot(
            *(self._engine, self._guard, self._endings, self._listener, verdicts, deferrals, slots),
            self._accounting.on,
            self._sockets.held,
        )
        for warning in self._pressers.warnings(self._engine.pressing(self._clock.now())):
            log.warning("%s", warning)
        self._metrics.tell(self.mode, now)
        await self._keeper.beat(self.mode, now)

    async def _alive(self) -> None:
        notify("WATCHDOG=1")

    async def _warn_of_leaks(self) -> None:
        for warning in self._leaks.notable(self._engine.leaks, self._clock.now()):
            log.warning("%s", warning)

    async def _forget(self) -> None:
        if not self._engine.stress:
            gc.collect()
        await self._memory.forget(self._config.store.history_for)
        await self._catch_up_or_later()  # what expired meanwhile made a revision of its own

    async def _count_retries(self) -> None:
        try:
            counted = await asyncio.to_thread(self._guard.table.counters)
        except DpsdError as problem:
            log.error("%s; nobody's retries were counted", problem)
            return
        now = {**counted[ListName.BLACK], **counted[ListName.BLOCK]}, self._clock.now()
        before, self._counted = self._counted, now
        elapsed, rate = now[1] - before[1], self._config.evidence.knock_rate
        found = await asyncio.to_thread(persistent, before[0], now[0], rate, elapsed)
        self._engine.retried(found, self._clock.now())
        self._bailiff.retried(found, self._clock.now())

    async def _look_at_host(self) -> None:
        await self._see_host()
        await self._agree()

    def _host_may_differ(self) -> bool:
        """Whether routes or name servers changed; looking costs more than that where routes are
        very many."""
        try:
            found = Path("/etc/resolv.conf").stat().st_mtime_ns
        except OSError:
            found = 0
        before, self._name_servers_at = self._name_servers_at, found
        return self._routes.any() or found != before

    async def _see_host(self) -> None:
        if not self._host_may_differ():
            return
        try:
            found = await asyncio.to_thread(host.look)  # there may be very many routes
        except DpsdError as problem:
            log.error("%s", problem)
            self._name_servers_at = -1  # so that it is tried again
            return
        if found != self._host:
            self._host = found
            self._engine.owners.immune = found.is_near
            self._engine.sessions.protects = assembly.protects(self._config, found)
            assembly.set_relays(self._engine, found, self._mail.said)

    async def _ask_mail_server(self) -> None:
        async with self._reloading:
            before = self._mail.said
            self._mail.take(self._config, await self._mail.ask(self._config))
            if self._mail.said != before:
                assembly.set_relays(self._engine, self._host, self._mail.said)
                self._engine.apply(assembly.policy(self._config, self._mail.said))

    def _white(self) -> Given:
        return assembly.white(self._config, self._host, self._mail.said)

    async def _agree(self) -> None:
        """Bring what the host and its mail server give onto the white list, if it isn't so."""
        async with self._reloading:
            wanted, lists = self._white(), self._engine.lists
            overruled = {
                peer
                for peer in wanted.entries
                for name in (ListName.BLACK, ListName.BLOCK)
                if (entry := lists.get(name, peer)) is not None and may_overrule(entry)
            }
            if not any(changes(wanted, lists.on(ListName.WHITE), overruled)):
                return
            try:
                await self._keeper.agree(wanted)
                await self._catch_up(await self._keeper.missed())
            except DpsdError as problem:
                log.error("the white list isn't as the host has it: %s", problem)

    # Beginning, and beginning anew

    async def _reload(self) -> None:
        """SIGHUP: take the new configuration as a whole, or keep the old one as a whole."""
        async with self._reloading:
            notify(*reloading())
            try:
                await self._change(load(self._path))
            except DpsdError as problem:
                log.error("the configuration was not reloaded; the old one stays: %s", problem)
            else:
                log.info("configuration reloaded: %s", self.mode)
            await self._beat()
            notify("READY=1", f"STATUS={self.mode}")

    async def _change(self, config: Config) -> None:
        fixed = needs_restart(self._config, config)
        if fixed:
            raise ConfigError(f"{', '.join(fixed)}: a change takes a restart of the daemon")
        said = await self._mail.ask(config)
        await self._see_host()
        await self._keeper.agree(assembly.white(config, self._host, said))
        try:
            await self._guard.replace(self._spec(config))
        except DpsdError:
            await self._keeper.agree(self._white())
            raise
        # From here on nothing fails: it is taken as a whole.
        ports = config.protect.ports
        before = self._config.protect
        moved = config.protect.addresses != before.addresses
        self._use(config)
        _set_level(config)
        self._mail.take(config, said)
        engine = self._engine
        engine.apply(assembly.policy(config, said))
        assembly.set_relays(engine, self._host, said)
        engine.sessions.protects = assembly.protects(config, self._host)
        engine.sessions.established_for = config.forget.established
        if (moved or ports != before.ports) and self._listener is not None:
            self._listener.watch(ports)
            engine.look(assembly.scopes(config))
            self._listener.dump()
        self._swept = False
        await self._catch_up_or_later()

    def _use(self, config: Config) -> None:
        self._config = config
        self._bailiff.black_for = config.policy.black_for
        self._bailiff.ends = self.mode == "enforce" and config.enforce.end_sessions

    def _spec(self, config: Config) -> TableSpec:
        forget = config.forget
        return TableSpec(
            ports=config.protect.ports,
            addresses=config.protect.addresses,
            size=config.peers.size,
            observe=self._observe or config.enforce.mode == "observe",
            all_ports=config.enforce.all_ports,
            timeouts={name: round(getattr(forget, name)) for name in forget.__slots__},
        )

    def _elements(self) -> dict[Any, float | None]:
        return self._engine.lists.elements()


def _key(session: sockdiag.Session) -> bytes:
    local, local_port, remote, remote_port = session
    return key_of(Endpoints(remote, local, remote_port, local_port))


def _set_level(config: Config) -> None:
    log.setLevel(config.log.level.upper())


def run(path: Path, observe: bool) -> int:
    """Run the daemon in the foreground with this configuration; its exit code.

    Raises DpsdError if it can't begin.
    """
    written = logs.begin()

    async def main() -> None:
        daemon = Daemon(path, observe)
        _set_level(daemon._config)
        await daemon.run()

    try:
        asyncio.run(main())
    finally:
        logging.getLogger().removeHandler(written)
        written.close()
    return 0
