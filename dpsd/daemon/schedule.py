"""The schedule: what recurs, and what goes on beside it in the same loop."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from dpsd.daemon.scheduler import AsyncIOScheduler, BaseTrigger
from dpsd.errors import DpsdError

log = logging.getLogger("dpsd")

Job = tuple[Callable[[], Any], float]
"""What to call, and the seconds between two calls."""

OFTEN = 1.0  # seconds; what recurs as often isn't the scheduler's, each run of which costs 0.3 ms
LOOK = 1.0  # seconds between two looks at whether somebody set the clock
SET = 0.5  # seconds; the scheduler doesn't mind less than that


class _Every(BaseTrigger):  # type: ignore[misc] # APScheduler has no types
    """In steps; what was missed, while the loop or the clock jumped, is missed.

    APScheduler's own interval makes a list of all that was missed first: of a year it is endless.
    """

    def __init__(self, seconds: float) -> None:
        self._step = timedelta(seconds=seconds)

    def get_next_fire_time(self, previous: datetime | None, now: datetime) -> datetime:
        due = (previous or now) + self._step
        return due if due > now else now + self._step


async def _again_and_again(job: Callable[[], Any], seconds: float) -> None:
    """Run a job so often by the steady clock; what was missed is missed. A failure is logged once,
    until it works again."""
    loop = asyncio.get_running_loop()
    due, fails = loop.time(), False
    while True:
        due = max(due + seconds, loop.time())
        await asyncio.sleep(due - loop.time())
        try:
            await job()
            fails = False
        except Exception as problem:
            if not fails:
                log.exception("what recurs every %g s failed; it goes on: %s", seconds, problem)
            fails = True


class Schedule:
    """Runs jobs in the loop. Nothing of it runs before start(), but for what goes on beside."""

    def __init__(self) -> None:
        self._scheduler = AsyncIOScheduler(timezone=UTC)  # a local day may have an hour twice
        self._tasks: set[asyncio.Task[None]] = set()
        self._ahead = 0.0  # of the steady clock is the wall clock by so many seconds
        self._looking: asyncio.TimerHandle | None = None

    def start(self, jobs: Iterable[Job]) -> None:
        """Run these from now on."""
        for job, seconds in jobs:
            if seconds <= OFTEN:
                self.beside(_again_and_again(job, seconds))
                continue
            # A job that was held up runs once, however late.
            self._scheduler.add_job(job, _Every(seconds), coalesce=True, misfire_grace_time=None)
        # Its own lines, one for each run of each job, say nothing to an administrator.
        logging.getLogger("apscheduler").setLevel(logging.ERROR)
        self._scheduler.start()
        self._ahead = time.time() - time.monotonic()
        self._look_at_clock()

    def _look_at_clock(self) -> None:
        """The scheduler goes by the wall clock. When that is set, every job is due: after a step
        back none would be until it is as late as it was before."""
        before, self._ahead = self._ahead, time.time() - time.monotonic()
        if abs(self._ahead - before) > SET:
            for job in self._scheduler.get_jobs():
                job.modify(next_run_time=datetime.now(UTC))
        self._looking = asyncio.get_running_loop().call_later(LOOK, self._look_at_clock)

    def beside(self, work: Awaitable[None]) -> None:
        """Let something go on beside; what it raises is logged."""

        async def guarded() -> None:
            try:
                await work
            except DpsdError as problem:
                log.error("%s", problem)

        task = asyncio.get_running_loop().create_task(guarded())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def stop(self) -> None:
        """Begin no job any more."""
        if self._looking is not None:
            self._looking.cancel()
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)

    async def cancel(self) -> None:
        """End what goes on beside."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
