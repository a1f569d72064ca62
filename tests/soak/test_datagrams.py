"""A short cut of `make soak`: some damaged datagrams."""

from tests.soak.datagrams import work


def test_nothing_brings_down_the_decoder() -> None:
    done, events, _, wrong = work(seed=1, datagrams=100_000)
    assert wrong == ""
    assert events > 0
    assert done >= 100_000
