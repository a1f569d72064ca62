"""The engine's time: seconds since the epoch as of the start, then as steady as the kernel's own.

When somebody sets the wall clock, sessions don't overstay for it, and the kernel's set elements
keep their time too. So the engine counts on, and instants that others see are translated.
"""

import time

SET = 0.05  # seconds; less than that is no setting of the clock, but the time between two calls
GRAIN = 1024  # parts of a second: so steps add to and come off an instant without a rest


class Clock:
    """Runs from its creation on."""

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()
        self._known_step = 0.0

    def now(self) -> float:
        """The engine's time."""
        return self._offset + time.monotonic()

    def step(self) -> float:
        """How far the wall clock was set forward since; the same number until it's set again.

        So an instant that goes out and comes back is the same, to the last bit.
        """
        before, wall, after = self.now(), time.time(), self.now()
        # Between two calls there may be a while: then nobody knows.
        if after - before < SET and abs(wall - before - self._known_step) > SET:
            self._known_step = round((wall - before) * GRAIN) / GRAIN
        return self._known_step

    def to_wall(self, at: float) -> float:
        """An instant of the engine as the wall clock tells it."""
        return at + self.step()

    def from_wall(self, at: float) -> float:
        """An instant of the wall clock as the engine counts it."""
        return at - self.step()
