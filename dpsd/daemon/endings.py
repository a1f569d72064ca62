"""Sessions that are to be ended: carried out in a thread of its own, counted, and told."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from dpsd.core.events import Key
from dpsd.kernel.ending.challenges import Outcomes
from dpsd.kernel.ending.ender import Ender
from dpsd.kernel.ending.outcome import WORDS, Fate, Outcome, Why

T = TypeVar("T")
log = logging.getLogger("dpsd")

AT_A_TIME = 250  # sessions: about 10 ms for those elsewhere, until the first of them is ended
TELL_EVERY = 60.0  # seconds between two warnings for the same reason

NotEnded = Callable[[Mapping[Key, Why]], None]


class Endings:
    """Ends sessions. Very many take long, and neither the loop nor the lists wait for it.

    ended: sessions that the server lost; gone: those that were over already; not_ended: the others,
    by reason. `failed` is called on the loop with those of a batch that weren't ended: they keep
    their slots, and have to go on counting.
    """

    def __init__(self, failed: NotEnded = lambda _: None) -> None:
        self.ended = 0
        self.gone = 0
        self.not_ended = Counter[Why]()
        self._failed = failed
        self._ender = Ender()
        self._thread = ThreadPoolExecutor(1, "ender")
        self._going_on = False
        self._warnings = Warnings()

    async def end(self, keys: Iterable[Key]) -> None:
        """End these sessions. Those that take longer may be left to a call that still goes on."""
        tuples = [key for key in keys if isinstance(key, bytes)]
        for start in range(0, len(tuples), AT_A_TIME):
            some = tuples[start : start + AT_A_TIME]
            self._settled(await self._run(partial(self._begin, some)))
        if self._going_on:
            return
        self._going_on = True
        try:
            while (due := self._ender.due) is not None:
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                self._settled(await self._run(lambda: self._ender.step(time.monotonic())))
        finally:
            self._going_on = False

    def _begin(self, keys: Iterable[bytes]) -> Outcomes:
        return self._ender.begin(keys, time.monotonic())

    async def close(self) -> None:
        """End nothing more, and leave nothing of it in the kernel."""
        await self._run(self._ender.close)
        self._thread.shutdown()

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _settled(self, outcomes: Mapping[bytes, Outcome]) -> None:
        fates = Counter(outcome.fate for outcome in outcomes.values())
        self.ended += fates[Fate.ENDED]
        self.gone += fates[Fate.GONE]
        if fates[Fate.ENDED]:
            gone = f"; {fates[Fate.GONE]} were over already" if fates[Fate.GONE] else ""
            log.info("ended %d sessions%s", fates[Fate.ENDED], gone)
        failed: dict[Key, Why] = {}
        for key, outcome in outcomes.items():
            if outcome.why is not None:
                failed[key] = outcome.why
            elif outcome.detail:
                self._warnings.tell("ended, but still in the connection table", outcome)
        if failed:
            self.not_ended.update(failed.values())
            for why, number in Counter(failed.values()).items():
                one = next(o for o in outcomes.values() if o.why is why)
                self._warnings.tell(f"not ended: {WORDS[why]}", one, number)
            self._failed(failed)


class Warnings:
    """Warns of a reason at once, then at most once in TELL_EVERY, with how many there were."""

    def __init__(self) -> None:
        self._untold = Counter[str]()
        self._after: dict[str, float] = {}

    def tell(self, what: str, outcome: Outcome, number: int = 1) -> None:
        """So many sessions had this outcome."""
        self._untold[what] += number
        now = time.monotonic()
        if now < self._after.get(what, float("-inf")):
            return
        detail = f" ({outcome.detail})" if outcome.detail else ""
        log.warning("%d sessions %s%s", self._untold.pop(what), what, detail)
        self._after[what] = now + TELL_EVERY
