"""When the store is asked whether somebody wrote to it."""

import time

import pytest

from dpsd.daemon import keeper
from dpsd.daemon.clock import Clock
from dpsd.daemon.keeper import COARSE, LOOKED, Keeper


class Watched:
    """A keeper whose files tell what the test says, at the time that it says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.files: tuple[object, ...] | None = ("as they were",)
        self.now = 1000.0
        self._keeper = Keeper("sqlite://", Clock())
        monkeypatch.setattr(self._keeper, "_written", lambda: self.files)
        monkeypatch.setattr(keeper, "time", self)
        self.time = time.time

    def monotonic(self) -> float:
        """In place of the clock's."""
        return self.now

    def asks(self, after: float) -> bool:
        """Whether the store is asked so many seconds after the last time."""
        self.now += after
        return self._keeper._may_differ()


def test_while_nobody_writes_the_store_is_asked_now_and_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watched = Watched(monkeypatch)
    watched.asks(0.0)
    assert watched.asks(COARSE)  # its times may not tell two writes apart
    assert not watched.asks(LOOKED - 0.1)
    assert watched.asks(0.2)
    assert not watched.asks(0.2)


def test_a_write_is_asked_for_at_once_and_for_a_moment_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watched = Watched(monkeypatch)
    watched.asks(0.0)
    assert not watched.asks(2 * COARSE)
    watched.files = ("written to",)
    assert watched.asks(0.25)
    assert watched.asks(0.25)
    assert not watched.asks(COARSE)


def test_what_nobody_can_look_at_is_asked_always(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch)
    watched.files = None
    assert all(watched.asks(3 * COARSE) for _ in range(3))
