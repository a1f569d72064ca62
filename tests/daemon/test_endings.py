"""What the daemon makes of sessions that were ended, or not, with an ender that is made up."""

import asyncio
from collections.abc import Iterable, Mapping
from typing import ClassVar

import pytest

from dpsd.core.events import Key
from dpsd.daemon import endings
from dpsd.daemon.endings import Endings
from dpsd.kernel.ending.challenges import Outcomes
from dpsd.kernel.ending.outcome import ENDED, GONE, Fate, Outcome, Why

DOWN = Outcome(Fate.NOT_ENDED, Why.NO_ANSWER)


class Ender:
    """Settles at once what `now` tells, and in the next step the rest."""

    now: ClassVar[Outcomes] = {}
    later: ClassVar[Outcomes] = {}

    def __init__(self) -> None:
        self.due: float | None = None

    def begin(self, keys: Iterable[bytes], now: float) -> Outcomes:
        self._left = {key: self.later[key] for key in keys if key not in self.now}
        self.due = now if self._left else None
        return {key: self.now[key] for key in keys if key in self.now}

    def step(self, _: float) -> Outcomes:
        self.due = None
        return self._left

    def close(self) -> None:
        """Nothing to close."""


@pytest.fixture
def ender(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endings, "Ender", Ender)
    monkeypatch.setattr(Ender, "now", {b"a": ENDED, b"b": GONE, b"c": DOWN})
    monkeypatch.setattr(Ender, "later", {b"d": ENDED, b"e": DOWN})


def ended(*batches: list[Key]) -> tuple[Endings, list[Mapping[Key, Why]]]:
    failed: list[Mapping[Key, Why]] = []

    async def go() -> Endings:
        ending = Endings(failed.append)
        for keys in batches:
            await ending.end(keys)
        await ending.close()
        return ending

    return asyncio.run(go()), failed


@pytest.mark.usefixtures("ender")
def test_each_fate_has_its_own_count(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "dpsd")
    ending, failed = ended([b"a", b"b", b"c", b"d", b"e", ("no", "kernel's", "key")])
    assert (ending.ended, ending.gone, dict(ending.not_ended)) == (2, 1, {Why.NO_ANSWER: 2})
    assert failed == [{b"c": Why.NO_ANSWER}, {b"e": Why.NO_ANSWER}]
    assert "ended 1 sessions; 1 were over already" in caplog.text


@pytest.mark.usefixtures("ender")
def test_the_log_is_not_flooded(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended([b"c"], [b"c"], [b"c"])
    (first,) = caplog.messages
    assert first.startswith("1 sessions not ended: the server's host doesn't answer")
    caplog.clear()
    monkeypatch.setattr(endings, "TELL_EVERY", 0.0)
    ended([b"c"], [b"c"])
    assert len(caplog.messages) == 2


@pytest.mark.usefixtures("ender")
def test_an_entry_that_stays_is_told(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ender, "now", {b"a": ENDED._replace(detail="no more memory")})
    ending, failed = ended([b"a"])
    assert (ending.ended, failed) == (1, [])
    assert caplog.messages == [
        "1 sessions ended, but still in the connection table (no more memory)"
    ]
