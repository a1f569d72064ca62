"""A short cut of `make soak`: half an hour in some seconds."""

from pathlib import Path

from tests.soak import day


def test_half_an_hour_in_seconds(tmp_path: Path) -> None:
    assert day.run(tmp_path / "day", seed=1, speed=300.0, hours=0.5, lengths=("20m",)) == []
