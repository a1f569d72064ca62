"""The schedule goes on, however the wall clock is set."""

import asyncio
import time
from datetime import datetime, timedelta, tzinfo
from typing import Self

import pytest

from dpsd.daemon import schedule

STEPS = [timedelta(days=-365), timedelta(hours=-1), timedelta(hours=1), timedelta(days=365)]


@pytest.mark.parametrize("step", STEPS, ids=str)
def test_wall_clock_is_set(monkeypatch: pytest.MonkeyPatch, step: timedelta) -> None:
    monkeypatch.setattr(schedule, "LOOK", 0.05)
    monkeypatch.setattr(schedule, "OFTEN", 0.0)  # so that the scheduler has it
    wall, set_by = time.time, timedelta()

    class Wall(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return super().now(tz) + set_by

    monkeypatch.setattr("apscheduler.schedulers.base.datetime", Wall)
    monkeypatch.setattr(schedule, "datetime", Wall)
    monkeypatch.setattr(time, "time", lambda: wall() + set_by.total_seconds())

    async def main() -> None:
        nonlocal set_by
        ran = asyncio.Event()

        async def job() -> None:
            ran.set()

        async def runs() -> None:
            ran.clear()
            await asyncio.wait_for(ran.wait(), 10)

        schedules = schedule.Schedule()
        schedules.start([(job, 0.02)])
        try:
            await runs()
            set_by = step
            for _ in range(4):
                await runs()
        finally:
            schedules.stop()

    asyncio.run(main())


def test_what_was_missed_is_missed() -> None:
    every, now = schedule._Every(0.25), datetime(2026, 11, 22)
    due = every.get_next_fire_time(now - timedelta(seconds=0.1), now)
    assert due == now + timedelta(seconds=0.15)
    assert every.get_next_fire_time(now - timedelta(days=365), now) == now + timedelta(seconds=0.25)
    assert every.get_next_fire_time(None, now) == now + timedelta(seconds=0.25)


def test_an_hour_that_comes_twice_makes_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the end of summer time local instants go back, and the scheduler would wait for an hour:
    so it isn't to ask for the local zone."""

    def refuse() -> tzinfo:
        raise AssertionError("local time")

    monkeypatch.setattr("apscheduler.schedulers.base.get_localzone", refuse)
    schedule.Schedule()


def test_what_recurs_often_goes_on_after_a_failure(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        runs, enough = 0, asyncio.Event()

        async def job() -> None:
            nonlocal runs
            runs += 1
            if runs in {1, 2, 4}:
                raise ValueError("not yet")
            if runs > 4:
                enough.set()

        schedules = schedule.Schedule()
        schedules.start([(job, 0.01)])
        await asyncio.wait_for(enough.wait(), 10)
        schedules.stop()
        await schedules.cancel()

    asyncio.run(main())
    assert caplog.text.count("what recurs every 0.01 s failed") == 2  # once in a row
    assert "ValueError: not yet" in caplog.text
