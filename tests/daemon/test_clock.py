"""The engine's time, when somebody sets the wall clock."""

import time

import pytest

from dpsd.daemon.clock import Clock


@pytest.mark.parametrize("step", [0.0, 3600.1234, -86400.7])
def test_wall_clock_is_set(monkeypatch: pytest.MonkeyPatch, step: float) -> None:
    clock, wall = Clock(), time.time
    before = clock.now()
    monkeypatch.setattr(time, "time", lambda: wall() + step)
    assert 0 <= clock.now() - before < 1  # nobody overstays for it
    assert clock.to_wall(clock.now()) == pytest.approx(time.time(), abs=0.1)


@pytest.mark.parametrize("step", [0.0, 3600.1234, -86400.7])
def test_instants_come_back_to_the_last_bit(monkeypatch: pytest.MonkeyPatch, step: float) -> None:
    """Else an entry's end in the store would never equal the one that the daemon knows."""
    clock, wall = Clock(), time.time
    monkeypatch.setattr(time, "time", lambda: wall() + step)
    for number in range(1000):
        at = clock.now() + number * 1.2345
        assert clock.from_wall(clock.to_wall(at)) == at
