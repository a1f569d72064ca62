"""The daemon: wiring, signals, the scheduler. What is decided is decided in dpsd.core."""

import asyncio
import gc
import logging
import signal
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from apscheduler.schedulers.asyncio import AsyncIOScheduler

from dpsd import assembly
from dpsd.config import Config, format_duration, load, needs_restart
from dpsd.core.engine import Verdict
from dpsd.core.events import BEGIN, END, Event, Key
from dpsd.core.given import SOURCES, Given, changes, may_overrule
from dpsd.core.lists import Change, Drop, Entry, ListName, Lists, Put
from dpsd.core.peers import Network
from dpsd.core.scores import Peer
from dpsd.daemon.clock import Clock
from dpsd.daemon.guard import AGAIN, Guard
from dpsd.daemon.keeper import Keeper, News
from dpsd.daemon.leaks import MINUTE, Leaks
from dpsd.daemon.listener import Listener
from dpsd.daemon.mailserver import MailServer
from dpsd.daemon.metrics import Metrics
from dpsd.daemon.systemd import notify, reloading, watchdog_interval
from dpsd.errors import ConfigError, DpsdError
from dpsd.kernel import conntrack, host
from dpsd.kernel.nftset import TableSpec
from dpsd.store import OPERATOR, Action, PeerRow, Recorded, evidence_json, evidence_of

log = logging.getLogger("dpsd")

TICK = 0.25  # seconds
LATE = 60.0  # seconds that elements of a very big load may outstay their entries
POLL = 0.2  # seconds between two looks at the store
FLUSH = 1.0  # seconds within which a verdict is in the store
SAVED_A_FLUSH = 500  # peers' scores
WORTH_SAVING = 1.0  # slot-seconds


class Daemon:
    """Everything of one running dpsd. Only the asyncio loop's own thread touches its state."""

    def __init__(self, path: Path, observe: bool) -> None:
        self._path = path
        self._observe = observe
        self._config = load(path)
        self._clock = Clock()
        self._stopped = asyncio.Event()
        self._keeper = Keeper(self._config.store.url, self._clock)
        self._host = host.look()
        self._mail = MailServer()
        self._engine = assembly.engine(self._config, self._host, Lists())
        self._guard = Guard(self._spec(self._config), self._clock, self._elements)
        self._listener: Listener | None = None
        self._leaks = Leaks()
        self._metrics = Metrics(self._config)
        self._verdicts = Counter[ListName]()
        self._scheduler = AsyncIOScheduler()
        self._tasks: set[asyncio.Task[None]] = set()
        self._reloading = asyncio.Lock()
        self._swept = False  # whether no listed peer has a session left from before
        self._poll_after = 0.0

    @property
    def mode(self) -> str:
        """ "enforce" or "observe"."""
        return "observe" if self._observe else self._config.enforce.mode

    async def run(self) -> None:
        """Run until told to stop. Raises DpsdError if it can't begin."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopped.set)
        loop.add_signal_handler(signal.SIGHUP, lambda: self._start(self._reload()))
        try:
            async with self._reloading:  # a SIGHUP waits until there is something to reload
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
        self._guard.claim()
        self._mail.take(self._config, await self._mail.ask(self._config))
        await self._keeper.agree(self._white())
        engine = self._engine
        engine.apply(assembly.policy(self._config, self._mail.said))
        for entry in await self._keeper.load():
            engine.lists.put(entry)
        await self._remember()
        await self._adopt()
        engine.look(assembly.scopes(self._config))
        if self._config.kernel.accounting and not conntrack.count_bytes():
            log.warning(
                "conntrack counts no bytes: talk that leads nowhere can't be told from mail"
            )
        self._listener = Listener(
            self._config.protect.ports, self._config.kernel.event_buffer, self._take
        )
        await self._guard.load()
        self._guard.watch()
        self._listener.start()
        self._metrics.open()
        await self._beat()
        self._schedule()
        # What there is now stays: no collection of garbage has to look through it again.
        gc.collect()
        gc.freeze()

    async def _end(self) -> None:
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)
        if self._listener is not None:
            self._listener.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.to_thread(self._metrics.close)
        await self._guard.close()
        await self._keeper.close()

    def _schedule(self) -> None:
        jobs: list[tuple[Callable[[], Any], float]] = [
            (self._tick, TICK),
            (self._dump, TICK),
            (self._poll, POLL),
            (self._flush, FLUSH),
            (self._guard.count, 5.0),
            (self._look_at_host, 30.0),
            (self._count_knocks, 30.0),
            (self._prune, 60.0),
            (self._ask_mail_server, 300.0),
            (self._warn_of_leaks, MINUTE),
            (self._guard.reconcile, 300.0),
            (self._forget, 3600.0),
        ]
        interval = watchdog_interval()
        if interval is not None:
            jobs.append((self._alive, interval))
        for job, seconds in jobs:
            # A job that was held up runs once, however late.
            self._scheduler.add_job(
                job, "interval", seconds=seconds, coalesce=True, misfire_grace_time=None
            )
        # Its own lines, one for each run of each job, say nothing to an administrator.
        logging.getLogger("apscheduler").setLevel(logging.ERROR)
        self._scheduler.start()

    # What comes from the kernel

    def _take(self, events: Sequence[Event]) -> None:
        self._carry_out(self._engine.feed(events, self._clock.now()))

    async def _tick(self) -> None:
        passed = self._engine.tick(self._clock.now())
        self._carry_out(passed.verdicts)
        if passed.ended:
            log.info("ended %d useless sessions: slots run short", len(passed.ended))
            self._end_sessions(passed.ended)
        if passed.over:
            self._keeper.write(Action.EXPIRE, passed.over)
            for entry in passed.over:
                if entry.list is ListName.WHITE:  # it may have stood before a block
                    self._end_sessions(self._doomed(self._engine.sessions_of(entry.peer)))
                log.info("%s off %s: its time is over", self._name(entry.peer), entry.list)

    async def _dump(self) -> None:
        if self._listener is not None:
            if self._engine.unseen is None:
                self._engine.look(assembly.scopes(self._config))
                self._listener.dump()
            self._listener.dump_if_due(hurry=self._engine.stress > 0)
            if not self._swept and not self._engine.blind:
                self._swept = True
                self._end_sessions(self._doomed(each.key for each in self._engine.sessions))

    def _carry_out(self, verdicts: Sequence[Verdict]) -> None:
        """The kernel first, then its sessions, then the store, then the log."""
        if not verdicts:
            return
        entries = [verdict.entry for verdict in verdicts]
        self._guard.put([Put(e.list, e.peer, e.expires_at) for e in entries])
        self._end_sessions(self._doomed(key for each in verdicts for key in each.sessions))
        self._keeper.write(Action.ADD, entries)
        self._start(self._keeper.flush())  # before an operator has another say on the same peer
        self._verdicts.update(entry.list for entry in entries)
        for entry in entries:
            log.warning("%s", self._told(entry))

    def _end_sessions(self, keys: Sequence[Any]) -> None:
        if keys and self.mode == "enforce" and self._config.enforce.end_sessions:
            self._start(self._guard.end(keys))

    # What comes from the store

    async def _poll(self) -> None:
        now = time.monotonic()
        if now < self._poll_after:
            return
        try:
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

    async def _follow(self, recorded: Sequence[Recorded]) -> None:
        """Do to the lists and the kernel what was done to the store."""
        engine, changes = self._engine, list[Change]()
        for record in recorded:
            entry = record.entry
            if record.action is Action.ADD:
                changes.append(engine.lists.put(entry))
            else:
                engine.lists.drop(entry.list, entry.peer)
                changes.append(Drop(entry.list, entry.peer))  # also when this is done once more
        await self._guard.apply(changes)
        for record in recorded:
            entry, added = record.entry, record.action is Action.ADD
            if added is not (entry.list is ListName.WHITE):  # its packets may be dropped now
                self._end_sessions(self._doomed(engine.sessions_of(entry.peer)))
            if not added and entry.list is not ListName.WHITE:
                # What a program lifts has ended as by its time.
                (engine.forgive if entry.source == OPERATOR else engine.release)(entry.peer)
            log.info("%s", self._told(entry, record.action))
        others = (record.entry.peer for record in recorded if record.entry.source not in SOURCES)
        if not self._white().entries.keys().isdisjoint(others):
            self._start(self._agree())

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

    async def _start_over(self) -> None:
        """Take the lists from the store as they are there, and bring them into the kernel."""
        entries = await self._keeper.load()
        self._engine.lists = Lists(entries)
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
        rows = self._rows()
        if rows:
            await self._keeper.save(rows)
        await self._beat()

    async def _beat(self) -> None:
        status = self._status()
        self._metrics.tell(self.mode, status)
        await self._keeper.beat(self.mode, status)

    async def _alive(self) -> None:
        notify("WATCHDOG=1")

    async def _prune(self) -> None:
        self._engine.prune(self._clock.now())

    async def _warn_of_leaks(self) -> None:
        for warning in self._leaks.notable(self._engine.leaks, self._clock.now()):
            log.warning("%s", warning)

    async def _forget(self) -> None:
        store = self._config.store
        keep = self._remembered()
        now = self._clock.to_wall(self._clock.now())
        try:
            more = True
            while more:  # a bounded part at a time, so that other writers get their turn
                pruned = await self._keeper.run(
                    lambda s: s.prune(now, store.history_for, keep, self._keeper.node)
                )
                more = pruned.more
        except DpsdError as problem:
            log.error("%s; history was not shortened", problem)

    def _remembered(self) -> float:
        """Seconds after which neither a peer's score nor its trust matters any more."""
        policy = self._config.policy
        return max(10 * policy.half_life, 6 * policy.trust_half_life)

    async def _count_knocks(self) -> None:
        try:
            counted = await asyncio.to_thread(self._guard.table.counters)
        except DpsdError as problem:
            log.error("%s; nobody's knocking was counted", problem)
            return
        self._engine.knocked(counted[ListName.BLOCK], self._clock.now())

    async def _look_at_host(self) -> None:
        self._see_host()
        await self._agree()

    def _see_host(self) -> None:
        try:
            found = host.look()
        except DpsdError as problem:
            log.error("%s", problem)
            return
        if found != self._host:
            self._host = found
            self._engine.immune = found.is_near
            self._engine.sessions.protects = assembly.protects(self._config, found)

    async def _ask_mail_server(self) -> None:
        async with self._reloading:
            before = self._mail.said
            self._mail.take(self._config, await self._mail.ask(self._config))
            if self._mail.said != before:
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

    async def _remember(self) -> None:
        """Take up scores and earlier blocks from the store."""
        engine, clock = self._engine, self._clock
        now = clock.now()
        within = now - self._config.policy.black_within
        engine.blocks = await self._keeper.run(lambda store: store.blocks_since(within))
        since = now - self._remembered()
        for row in await self._keeper.run(lambda store: store.peers(since)):
            if self._config.peers.size.is_peer(row.peer):
                evidence = [
                    evidence_of(told, clock.from_wall) for told in row.detail.get("evidence", [])
                ]
                at, trusted_at = clock.from_wall(row.at), row.detail.get("trusted_at", row.at)
                peer = engine.scores.restore(row.peer, row.score, at, evidence)
                if row.detail.get("listed") and engine.lists.decisive(row.peer) is None:
                    engine.scores.clear(peer.key)  # it was released while no daemon ran
                peer.trust = row.detail.get("trust", 0.0)
                peer.trusted_at = clock.from_wall(trusted_at)

    async def _adopt(self) -> None:
        """Take over what the kernel blocks and the store doesn't know, after a crash.

        Only whole peers: prefixes are an operator's, and so in the store before the kernel.
        """
        lists, now = self._engine.lists, self._clock.now()
        is_peer = self._config.peers.size.is_peer
        found = await asyncio.to_thread(self._guard.table.adoptable, lists.elements(), now)
        entries = [
            Entry(name, peer, "found in the kernel after a crash", "score", now, until)
            for (name, peer), until in found.items()
            if is_peer(peer)
            and not self._is_only_late(name, peer, until)
            and not self._engine.immune(peer)
            and not await self._taken_off(name, peer, until)
        ]
        for entry in entries:
            lists.put(entry)
            log.warning("adopted: %s", self._told(entry))
        self._keeper.write(Action.ADD, entries)

    def _is_only_late(self, name: ListName, peer: Network, until: float | None) -> bool:
        """Whether the store has the entry; a big load keeps elements for some seconds longer."""
        known = self._engine.lists.get(name, peer)
        if known is None or known.expires_at is None or until is None:
            return known is not None
        return until - known.expires_at < LATE

    async def _taken_off(self, name: ListName, peer: Network, until: float | None) -> bool:
        """Whether the store knows better: the entry was removed while no daemon ran."""
        history = await self._keeper.run(lambda store: store.history(peer, 10))
        last = next((each for each in history if each.entry.list is name), None)
        if last is None:
            return False
        if last.action is Action.EXPIRE and until is not None:  # it was blocked once more since
            return until <= self._clock.from_wall(last.at) + 2.0
        return True

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
        self._see_host()
        await self._keeper.agree(assembly.white(config, self._host, said))
        try:
            await self._guard.replace(self._spec(config))
        except DpsdError:
            await self._keeper.agree(self._white())
            raise
        finally:
            await self._catch_up(await self._keeper.missed())
        ports, old_ports = config.protect.ports, self._config.protect.ports
        self._config = config
        _set_level(config)
        self._mail.take(config, said)
        engine = self._engine
        engine.apply(assembly.policy(config, said))
        engine.sessions.protects = assembly.protects(config, self._host)
        engine.sessions.established_for = config.forget.established
        if ports != old_ports and self._listener is not None:
            self._listener.watch(ports)
            for port in set(old_ports) - set(ports):  # no events will tell how those sessions end
                self._take([(BEGIN, None, 0, 0, port, 0), (END, None, 0, 0, 0, 0)])
            engine.look(assembly.scopes(config))
            self._listener.dump()
        self._swept = False

    # Words and rows

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

    def _status(self) -> dict[str, Any]:
        engine = self._engine
        listener = self._listener
        return {
            "pressure": round(engine.pressure, 3),
            "slots": self._slots(),
            "blind": engine.blind,
            "events": {
                "received": 0 if listener is None else listener.received,
                "lost": engine.lost,
                "skipped": 0 if listener is None else listener.decoder.skipped,
            },
            "sessions": {
                "open": len(engine.sessions),
                "half_open": engine.sessions.half_open,
                "by_state": engine.sessions.by_state(),
            },
            "peers": len(engine.scores),
            "lists": {name.value: engine.lists.size(name) for name in ListName},
            "verdicts": {n.value: self._verdicts[n] for n in (ListName.BLACK, ListName.BLOCK)},
            "ended": self._guard.ended,
            "dropped": self._guard.dropped._asdict(),
            "server_leaks": {state: round(s) for state, s in engine.leaks.items()},
            "repairs": self._guard.repairs,
        }

    def _slots(self) -> list[dict[str, Any]]:
        config = self._config
        return [
            {
                "ports": sorted(each.pool.ports or config.protect.ports),
                "slots": each.pool.slots,
                "source": each.source,
            }
            for each in assembly.slots(config, self._mail.said)
        ]

    def _rows(self) -> list[PeerRow]:
        """The peers whose scores changed most lately, some of them if there are very many."""
        scores, now = self._engine.scores, self._clock.now()
        peers: dict[bytes, Peer] = {}
        while scores.changed and len(peers) < SAVED_A_FLUSH:
            peer = scores.get(scores.changed.pop())
            if peer is not None and (peer.listed or not peer.score or peer.score > WORTH_SAVING):
                peers[peer.key] = peer
        states = self._engine.sessions.states_of(peers) if peers else {}
        return [self._row(peer, states[key], now) for key, peer in peers.items()]

    def _row(self, peer: Peer, states: dict[str, int], now: float) -> PeerRow:
        evidence = [evidence_json(e, self._clock.to_wall) for e in peer.evidence.values()]
        network = self._config.peers.size.network_of_key(peer.key)
        at, seen = self._clock.to_wall(peer.at), self._clock.to_wall(now)
        detail = {"evidence": evidence, "sessions": states, "trust": round(peer.trust, 3)}
        detail["trusted_at"] = self._clock.to_wall(peer.trusted_at)
        detail["listed"] = peer.listed
        return PeerRow(network, peer.score, at, seen, detail)

    def _name(self, network: Network) -> str:
        return self._config.peers.size.text(network)

    def _told(self, entry: Entry, action: Action = Action.ADD) -> str:
        """One line about a change of the lists: peer, list, until when, by whom, why."""
        what = f"{self._name(entry.peer)} {'' if action is Action.ADD else 'off '}{entry.list}"
        if action is Action.ADD:
            left = entry.expires_at and format_duration(entry.expires_at - self._clock.now())
            what += f" for {left}" if left else " for good"
        because = f": {entry.reason}" if entry.reason else ""
        return f"{what}, by {entry.source}{because}"

    def _start(self, work: Awaitable[None]) -> None:
        """Let something go on beside; what it raises is logged."""

        async def guarded() -> None:
            try:
                await work
            except DpsdError as problem:
                log.error("%s", problem)

        task = asyncio.get_running_loop().create_task(guarded())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _set_level(config: Config) -> None:
    log.setLevel(config.log.level.upper())


def run(path: Path, observe: bool) -> int:
    """Run the daemon in the foreground with this configuration; its exit code.

    Raises DpsdError if it can't begin.
    """
    logging.basicConfig(stream=sys.stderr, format="%(levelname)s %(message)s")

    async def main() -> None:
        daemon = Daemon(path, observe)
        _set_level(daemon._config)
        await daemon.run()

    asyncio.run(main())
    return 0
