"""The engine's time: seconds since the epoch as of the start, then as steady as the kernel's own.

When somebody sets the wall clock, sessions don't overstay for it, and the kernel's set elements
keep their time too. So the engine counts on, and instants that others see are translated.
"""

import time


class Clock:
    """Runs from its creation on."""

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()

    def now(self) -> float:
        """The engine's time."""
        return self._offset + time.monotonic()

    def _step(self) -> float:
        """How far the wall clock was set forward since."""
        return time.time() - self.now()

    def to_wall(self, at: float) -> float:
        """An instant of the engine as the wall clock tells it."""
        return at + self._step()

    def from_wall(self, at: float) -> float:
        """An instant of the wall clock as the engine counts it."""
        return at - self._step()
