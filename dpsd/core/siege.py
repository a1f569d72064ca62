"""Siege: what the sessions that had to be ended tell of an attack on one pool of slots.

Who fills all slots with sessions of no use has more of them waiting. So after a whole wave of them
peers with several sessions get less time for a while, and after a swarm all do: every wave costs
honest mail the time that it is borne with.
"""

from dataclasses import dataclass

from dpsd.core.stress import LASTS

WAVE = 0.4  # share of the slots that such a wave takes
TOGETHER = 1.0  # seconds after which half of what was ended counts as of the same wave


@dataclass(slots=True)
class Siege:
    """wave: the sessions that were ended together, fading; until, swarm_until: up to when a siege
    or a swarm is reckoned with.
    """

    until: float = float("-inf")
    swarm_until: float = float("-inf")
    wave: float = 0.0
    at: float = 0.0

    def take(self, ended: int, slots: int, is_swarm: bool, now: float) -> None:
        """So many sessions were ended now; whether they were a swarm's."""
        self.wave = ended + self.wave * 2.0 ** ((self.at - now) / TOGETHER)
        self.at = now
        if self.wave >= WAVE * slots:
            self.until = now + LASTS
        if is_swarm:
            self.swarm_until = now + LASTS
