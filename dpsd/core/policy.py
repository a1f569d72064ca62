"""Policy: what is proper, what it costs to overstay, and what follows from a score."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dpsd.core.lists import ListName


@dataclass(frozen=True, slots=True)
class Policy:
    """The numbers that verdicts come from. Durations are seconds, costs are slot-seconds.

    proper, proper_stress: how long a session may stay in a state (ESTABLISHED: be useless) at rest
    and under full pressure. stress_at: the pressure from which on they shrink; stress_until: that
    to which the reaper makes room, ending sessions that were useless for longer than reap_after.
    calm_cost: share of an overstay's cost that counts at rest. useful_rate: bytes a second from a
    peer that are progress. closing_most: the most that a session costs while it is being closed.
    """

    slots: int
    block_at: float
    block_for: float
    block_max: float
    black_after: int
    black_within: float
    half_life: float
    stress_at: float
    stress_until: float
    reap_after: float
    crowd_cost: float
    delivered_bytes: int
    trust_half_life: float
    calm_cost: float
    closing_most: float
    proper: Mapping[int, float]
    proper_stress: Mapping[int, float]
    useful_rate: float
    churn_rate: float
    churn_burst: float
    churn_cost: float
    abort_cost: float
    empty_cost: float
    empty_bytes: int
    time_wait_allowance: int
    time_wait_cost: float

    def stress(self, pressure: float) -> float:
        """From 0 (calm) to 1 (every slot is taken), rising in between from stress_at on."""
        if pressure <= self.stress_at:
            return 0.0
        return min(1.0, (pressure - self.stress_at) / max(1.0 - self.stress_at, 1e-9))

    def proper_times(self, stress: float) -> dict[int, float]:
        """The proper times of each state at this stress (0 to 1)."""
        return {
            state: calm + (self.proper_stress.get(state, calm) - calm) * stress
            for state, calm in self.proper.items()
        }

    def overstay_cost(self, stress: float) -> float:
        """Slot-seconds a second: an overstay hardly matters while there is room."""
        return self.calm_cost + (1.0 - self.calm_cost) * stress

    def sentence(self, blocks: Sequence[float], now: float) -> tuple[ListName, float | None, int]:
        """What a peer gets that was blocked at these times before: the list, until when (None:
        for good), and which block within black_within it is."""
        rank = 1 + sum(now - at <= self.black_within for at in blocks)
        if self.black_after and rank >= self.black_after:
            return ListName.BLACK, None, rank
        return ListName.BLOCK, now + block_length(rank, self.block_for, self.block_max), rank


def block_length(rank: int, first: float, most: float) -> float:
    """How many seconds the first, second... block within a window lasts: twice as long each."""
    return min(first * 2.0 ** min(rank - 1, 30), most)
