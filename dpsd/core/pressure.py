"""Stress: how much many sessions matter just now, since slots run short or sessions flood in."""

from dpsd.core.policy import Policy

OPENED_OVER = 2.0  # seconds over which the rate of new sessions is smoothed


class Stress:
    """Felt with each tick. level: how scarce slots are, from 0 to 1; flood: how much of a flood the
    new sessions are, from 0 to 1; opened: sessions since the last tick, counted by the judge.
    """

    def __init__(self) -> None:
        self.level = 0.0
        self.began_at = float("inf")
        self.flood = 0.0
        self.opened = 0
        self._rate = 0.0  # of new sessions a second, from everybody
        self._felt_at = 0.0
        self._risen_at = 0.0

    @property
    def hurry(self) -> float:
        """How much many sessions matter, from 0 to 1: slots run short, or sessions flood in."""
        return max(self.level, self.flood)

    def apply(self, policy: Policy) -> None:
        """Go on with another policy."""
        self.flood = policy.flood(self._rate)

    def feel(self, policy: Policy, pressure: float, now: float) -> None:
        """Set the level: it rises at once with the pressure, and stays for a while behind it."""
        passed = now - self._felt_at
        if passed > 0:
            share = min(1.0, passed / OPENED_OVER)
            self._rate += (self.opened / passed - self._rate) * share
            self._felt_at, self.opened = now, 0
            self.flood = policy.flood(self._rate)
        level = policy.stress(pressure)
        if level and not self.level:
            self.began_at = now
        if level >= self.level or now - self._risen_at > policy.stress_lasts:
            self.level = level
        if level >= self.level:
            self._risen_at = now
