"""The server's sockets, looked at again and again beside conntrack: what only they know."""

import asyncio
import logging
import time
from collections.abc import Collection, Mapping, Sequence
from itertools import islice
from typing import Any, cast

from dpsd.core.engine import Engine
from dpsd.core.events import Key, Word
from dpsd.core.halfclosed import MOST
from dpsd.core.story import told_by_sockets
from dpsd.daemon.bailiff import Bailiff
from dpsd.daemon.clock import Clock
from dpsd.errors import DpsdError
from dpsd.kernel import sockdiag, witness
from dpsd.kernel.ctnetlink import endpoints
from dpsd.kernel.ending.entries import Entries
from dpsd.kernel.sockdiag import wire

log = logging.getLogger("dpsd")

EVERY, EVERY_HURRY = 5.0, 1.0  # seconds between two looks, at least
EVERY_PRESSED = 0.25  # while slots run short, and some sessions are known by their sockets only
SHARE, SHARE_HURRY = 0.001, 0.05  # of a processor, at most
SLICE = 5_000  # sockets that are compared with the sessions at a time: some 2 ms
ASKED = 2_000  # sockets that are asked for their words at a look
AGAIN = 3600.0  # seconds between two warnings
FEW = 3  # sessions without an entry that aren't worth one
HOLD = frozenset({wire.ESTABLISHED, wire.CLOSE_WAIT})


class Sockets:
    """Looks at them at a pace that costs next to nothing at rest. For one call at a time.

    held: how many sessions have a socket here that keeps a slot, or waits for one.
    """

    def __init__(self, engine: Engine, bailiff: Bailiff, clock: Clock) -> None:
        self.held = 0
        self._engine = engine
        self._bailiff = bailiff
        self._clock = clock
        self._entries = Entries()
        self._looking = self._hurries = False
        self._cost = 0.0  # processor seconds of the last look
        self._due = 0.0
        self._asked_last = 0
        self._failing = False  # and that was told
        self._told_at = float("-inf")

    def begin_look(self, now: float) -> bool:
        """Whether it is time for a look, by the steady clock; then look() has to follow."""
        engine = self._engine
        every = EVERY_HURRY if self._hurries or engine.stress else EVERY
        if engine.stress and len(engine.witness):
            every = EVERY_PRESSED
        due = self._due + max(every, self._cost / (SHARE if every == EVERY else SHARE_HURRY))
        if self._looking or now < due:
            return False
        self._looking, self._due = True, now
        return True

    async def look(self, ports: Sequence[int], elsewhere: bool) -> None:
        """Take what they tell of sessions to these ports. elsewhere: the servers aren't here."""
        try:
            if elsewhere:
                self._take({}, (), {})
            else:
                await self._look(ports)
        except DpsdError as problem:
            self.failed(problem)
            self._take({}, (), {})
        else:
            self._failing = False
        finally:
            self._looking = False

    def failed(self, problem: DpsdError) -> None:
        """The sockets can't be asked: tell it once."""
        if not self._failing:
            log.warning("%s; conntrack alone tells of the sessions", problem)
        self._failing = True

    async def _look(self, ports: Sequence[int]) -> None:
        began = self._clock.now()
        sockets, cost = await asyncio.to_thread(_timed, sockdiag.held, ports)
        # One look may be dear by chance; the first one always is.
        self._cost = min(cost, max(2 * self._cost, EVERY * SHARE))
        holding = [key for key, state in sockets.items() if state in HOLD]
        untold: list[Any] = []
        for start in range(0, len(holding), SLICE):
            untold += self._engine.witness.unseen(holding[start : start + SLICE])
            await asyncio.sleep(0)
        unseen: Sequence[Key] = ()
        words: Mapping[Key, Word | None] = {}
        if untold:
            unseen = await asyncio.to_thread(witness.without_entry, untold, ports)
            words = await asyncio.to_thread(_words, self._some(unseen), sockets)
        await self._suspect(sockets, began)
        self.held = len(holding)
        self._take(sockets, unseen, words)
        self._tell(len(unseen))

    def _some(self, unseen: Sequence[Key]) -> list[Key]:
        """Those whose turn it is to be asked, when they are too many for one look."""
        if len(unseen) <= ASKED:
            return [*unseen]
        self._asked_last = (self._asked_last + ASKED) % len(unseen)
        turned = [*unseen[self._asked_last :], *unseen[: self._asked_last]]
        return turned[:ASKED]

    async def _suspect(self, sockets: Mapping[bytes, int], began: float) -> None:
        """Find the sessions that the server never had."""
        engine = self._engine
        suspects = engine.witness.suspects(cast(Any, sockets), began)
        here: Sequence[Key] = ()
        if suspects:
            here = await asyncio.to_thread(witness.never_had, cast(Any, suspects), self._entries)
        engine.witness.lose(suspects, here)

    def _take(
        self, sockets: Mapping[bytes, int], unseen: Collection[Key],
        words: Mapping[Key, Word | None],
    ) -> None:  # fmt: skip
        engine, now = self._engine, self._clock.now()
        half_closed = list(islice(sockdiag.closed(sockets), MOST))
        if not engine.blind:  # else what is unseen may have been missed
            self._bailiff.carry_out(engine.see(cast(Any, sockets), unseen, words, now))
        self._bailiff.carry_out(engine.linger(half_closed, now))
        self._hurries = bool(half_closed or unseen)

    def _tell(self, unseen: int) -> None:
        now = time.monotonic()
        if unseen > FEW and now - self._told_at > AGAIN and not self._engine.blind:
            self._told_at = now
            log.warning("%s", told_by_sockets(self.held, unseen))


def session_of(key: Key) -> sockdiag.Session:
    """A session as its socket has it."""
    ends = endpoints(cast(bytes, key))
    return sockdiag.Session(ends.server, ends.server_port, ends.peer, ends.peer_port)


def _words(keys: Sequence[Key], sockets: Mapping[Any, int]) -> dict[Key, Word | None]:
    """What these tell; None of those whose peers have closed."""
    wanted = {key: session_of(key) for key in keys if sockets[key] == wire.ESTABLISHED}
    found = sockdiag.ask(wanted.values())
    told: dict[Key, Word | None] = {
        key: found[session] for key, session in wanted.items() if session in found
    }
    return told | {key: None for key in keys if sockets[key] == wire.CLOSE_WAIT}


def _timed(look: Any, ports: Sequence[int]) -> tuple[dict[bytes, int], float]:
    began = time.thread_time()
    return look(ports), time.thread_time() - began
