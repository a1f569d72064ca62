"""A short cut of `make soak`: an hour in some seconds."""

from pathlib import Path

from tests.soak import day


def test_an_hour_in_seconds(tmp_path: Path) -> None:
    assert day.run(tmp_path / "day", seed=1, speed=300.0, hours=1.0, lengths=("30m",)) == []
