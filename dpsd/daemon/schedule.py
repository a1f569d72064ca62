"""The schedule: what recurs, and what goes on beside it in the same loop."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from apscheduler.schedulers.asyncio import AsyncIOScheduler

from dpsd.errors import DpsdError

log = logging.getLogger("dpsd")

Job = tuple[Callable[[], Any], float]
"""What to call, and the seconds between two calls."""


class Schedule:
    """Runs jobs in the loop. Nothing of it runs before start(), but for what goes on beside."""

    def __init__(self) -> None:
        self._scheduler = AsyncIOScheduler()
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, jobs: Iterable[Job]) -> None:
        """Run these from now on."""
        for job, seconds in jobs:
            # A job that was held up runs once, however late.
            self._scheduler.add_job(
                job, "interval", seconds=seconds, coalesce=True, misfire_grace_time=None
            )
        # Its own lines, one for each run of each job, say nothing to an administrator.
        logging.getLogger("apscheduler").setLevel(logging.ERROR)
        self._scheduler.start()

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
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)

    async def cancel(self) -> None:
        """End what goes on beside."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
