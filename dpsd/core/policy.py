"""Policy: what is proper, what it costs to overstay, and what follows from a score."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dpsd.core.events import State
from dpsd.core.lists import ListName

WAITING = -1  # no state of the kernel's: ESTABLISHED, of a session that delivered before


@dataclass(frozen=True, slots=True)
class Pool:
    """How many sessions to these ports the server can hold at a time; no ports: to all of them."""

    ports: frozenset[int]
    slots: int


@dataclass(frozen=True, slots=True)
class Policy:
    """The numbers that verdicts come from. Durations are seconds, costs are slot-seconds.

    pools: the server's slots, port by port; slots: all of them together.
    proper, proper_stress: how long a session may stay in a state (ESTABLISHED: be useless) at rest
    and under full pressure; proper_at, proper_stress_at: all of them for ports that have their own.
    stress_at: the pressure from which on they shrink; stress_until: that
    to which the reaper makes room, ending sessions that were useless for longer than reap_after.
    calm_cost: share of an overstay's cost that counts at rest. useful_rate: bytes a second from a
    peer that are progress. closing_most: the most that a session costs while it is being closed.
    """

    pools: tuple[Pool, ...]
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
    proper_at: Mapping[int, Mapping[int, float]] = field(default_factory=dict)
    proper_stress_at: Mapping[int, Mapping[int, float]] = field(default_factory=dict)

    def stress(self, pressure: float) -> float:
        """From 0 (calm) to 1 (every slot is taken), rising in between from stress_at on."""
        if pressure <= self.stress_at:
            return 0.0
        return min(1.0, (pressure - self.stress_at) / max(1.0 - self.stress_at, 1e-9))

    def proper_times(self, stress: float) -> dict[int, dict[int, float]]:
        """The proper times of each state at this stress (0 to 1), by port; 0: all other ports.

        Those of a port with its own have WAITING too.
        """
        times = {0: _between(self.proper, self.proper_stress, stress)}
        for port, calm in self.proper_at.items():
            times[port] = _between(calm, self.proper_stress_at.get(port, {}), stress)
            times[port][WAITING] = calm[State.ESTABLISHED]
        return times

    def overstay_cost(self, stress: float) -> float:
        """Slot-seconds a second: an overstay hardly matters while there is room."""
        return self.calm_cost + (1.0 - self.calm_cost) * stress

    def sentence(self, blocks: Sequence[float], now: float) -> tuple[ListName, float | None, int]:
        """What a peer gets that was blocked at these times before: the list, until when (None:
        for good), and which block within black_within it is."""
        rank = 1 + sum(now - at <= self.black_within for at in blocks)
        if self.black_after and rank >= self.black_after:
            return ListName.BLACK, None, rank
        doublings = min(rank - 1, 30)
        return ListName.BLOCK, now + min(self.block_for * 2**doublings, self.block_max), rank


def _between(
    calm: Mapping[int, float], tense: Mapping[int, float], stress: float
) -> dict[int, float]:
    return {
        state: seconds + (tense.get(state, seconds) - seconds) * stress
        for state, seconds in calm.items()
    }
