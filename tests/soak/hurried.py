"""dpsd for which time passes many times as fast: python -m tests.soak.hurried run ...

DPSD_HURRY is "SPEED:WALL:STEADY": how many times as fast, and the instants of both clocks at which
that began. The program's clocks and its event loop go so fast; and since the kernel's don't, what
is put into sets lasts as much shorter there, and what is read from there is told as much longer.
Sockets tell of times as much longer, too.
"""

import os
import selectors
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, tzinfo
from typing import Any

_speed, _wall, _steady = (float(each) for each in os.environ.get("DPSD_HURRY", "1:0:0").split(":"))
_real = time.monotonic


def steady() -> float:
    """The steady clock, which goes faster."""
    return _steady + (_real() - _steady) * _speed


def wall() -> float:
    """The wall clock, which does too."""
    return _wall + (_real() - _steady) * _speed


class _Now(datetime):
    """datetime, whose now() goes by that clock."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Any:
        return datetime.fromtimestamp(wall(), tz or UTC)


def install() -> None:
    """From now on time passes faster for this process."""
    time.monotonic, time.time = steady, wall
    _hurry_waits()

    from dpsd.core import numbers  # noqa: PLC0415 - the first of all that use it

    numbers.STOOD_STILL *= _speed

    from apscheduler.executors import base as executors  # noqa: PLC0415
    from apscheduler.schedulers import base as schedulers  # noqa: PLC0415

    from dpsd.daemon import clock, listener, schedule  # noqa: PLC0415

    for module in (executors, schedulers, schedule):
        vars(module)["datetime"] = _Now
    vars(schedule)["SET"], vars(clock)["SET"] = 0.5 * _speed, 0.05 * _speed
    vars(listener)["PATIENCE"], vars(listener)["WHOLE"] = 10.0 * _speed, 60.0 * _speed
    _hurry_sets()
    _hurry_sockets()


def _hurry_waits() -> None:
    select = selectors.EpollSelector.select

    def sooner(selector: Any, timeout: float | None = None) -> Any:
        return select(selector, timeout and timeout / _speed)

    selectors.EpollSelector.select = sooner  # type: ignore[method-assign, assignment]


def _hurry_sets() -> None:
    from dpsd.kernel.nftset import elements, table, wire  # noqa: PLC0415

    element, found, duration = wire.element, wire.found, table._duration

    def shorter(key: bytes, seconds: float | None = None) -> bytes:
        return element(key, None if seconds is None else seconds / _speed)

    def longer(data: bytes, start: int, end: int, now: float) -> Iterator[wire.Found]:
        for each in found(data, start, end, now):
            until = None if each.until is None else now + (each.until - now) * _speed
            yield replace(each, until=until, lasts=each.lasts and each.lasts * _speed)

    vars(wire)["element"], vars(wire)["found"] = shorter, longer
    vars(table)["_duration"] = lambda seconds: duration(seconds / _speed)
    vars(elements)["WHOLE"] = 60.0 * _speed
    later = table._later

    def clearly_later(a: float | None, b: float | None, tolerance: float = 2.0) -> bool:
        return later(a, b, tolerance + 0.5 * _speed)  # half a second for reading a table

    vars(table)["_later"] = clearly_later


def _hurry_sockets() -> None:
    from dpsd.kernel.sockdiag import wire, words  # noqa: PLC0415

    word = words._Reader.word

    def longer(reader: Any, data: bytes, start: int, end: int) -> Any:
        told = word(reader, data, start, end)
        return told and told._replace(ago=told.ago * _speed, rtt=told.rtt * _speed)

    words._Reader.word = longer  # type: ignore[method-assign, assignment]
    vars(wire)["WHOLE"] = 30.0 * _speed


def main() -> None:
    """Be dpsd."""
    install()
    from dpsd.cli import editing  # noqa: PLC0415
    from dpsd.cli import main as dpsd  # noqa: PLC0415

    vars(editing)["PATIENCE"] = 5.0 * _speed
    dpsd()


if __name__ == "__main__":
    main()
