"""When the server's own leaks are worth a warning: at once when they grow fast, then hourly."""

from collections.abc import Iterator, Mapping

from dpsd.core import story

MINUTE = 60.0  # seconds between two looks
NOTABLE = 60.0  # slot-seconds in a minute: one slot that is always lost
AGAIN = 3600.0  # seconds between two warnings about one state


class Leaks:
    """What was seen of them, and what was told, by TCP state."""

    def __init__(self) -> None:
        self._seen: dict[str, float] = {}
        self._seen_at = 0.0
        self._told_at: dict[str, float] = {}

    def notable(self, leaks: Mapping[str, float], now: float) -> Iterator[str]:
        """The warnings that are due: of what leaked (slot-seconds in all) since the last call."""
        within = now - self._seen_at if self._seen_at else MINUTE
        before, self._seen, self._seen_at = self._seen, dict(leaks), now
        for state, total in self._seen.items():
            grown = total - before.get(state, 0.0)
            told_at = self._told_at.get(state)
            if grown * MINUTE >= NOTABLE * within and (told_at is None or now - told_at >= AGAIN):
                self._told_at[state] = now
                yield story.leak(state, grown, within)
