"""Policy: what is proper, what it costs to overstay, and what follows from a score."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from dpsd.core.lists import ListName


class Known(Enum):
    """Who says how many slots there are: the configuration, the mail server, or nobody."""

    TOLD = 0
    ASKED = 1
    ASSUMED = 2


@dataclass(frozen=True, slots=True)
class Pool:
    """So many slots for the sessions to these ports together (none: to all protected ones)."""

    ports: frozenset[int]
    slots: int
    known: Known = field(default=Known.TOLD, compare=False)


@dataclass(frozen=True, slots=True)
class Policy:
    """The numbers that verdicts come from. Durations are seconds, costs are slot-seconds.

    proper, proper_stress: how long a session may stay in a state (ESTABLISHED: be of no use) at
    rest and, while it is being closed, under full pressure; proper_at, proper_stress_at: all of
    them for ports that have their own. stress_at: the pressure from which on they shrink;
    stress_until: that to which room is made; stress_lasts: seconds that stress outlasts its
    cause. grace: seconds of its own time that a session gets when every slot is taken.
    few_share: of the slots, up to which a peer holds few. defer_for: seconds for which a peer
    may open no session after some of no use were ended. credit_most: mails that count to a
    peer's credit. calm_cost: share of an overstay's cost that counts at rest. useful_rate:
    bytes a second from a peer that are progress. overstay_most: the most that a session's
    overstays cost. idle_rate, idle_burst: sessions of no use a second and at once that cost a
    peer nothing. churn_flood: new sessions a second, from everybody and for each slot, that are
    a flood, churn_mild: up to which they cost nothing; flood 0: churn costs the same at rest.
    knock_rate: dropped packets a second that are knocking.
    """

    pools: tuple[Pool, ...]
    block_at: float
    block_for: float
    block_max: float
    black_after: int
    black_within: float
    half_life: float
    stress_at: float
    stress_until: float
    stress_lasts: float
    grace: float
    few_share: float
    defer_for: float
    credit_most: float
    crowd_cost: float
    delivered_bytes: int
    credit_half_life: float
    calm_cost: float
    overstay_most: float
    proper: Mapping[int, float]
    proper_stress: Mapping[int, float]
    useful_rate: float
    churn_rate: float
    churn_burst: float
    churn_cost: float
    churn_flood: float
    churn_mild: float
    abort_cost: float
    empty_cost: float
    empty_bytes: int
    idle_rate: float
    idle_burst: float
    knock_rate: float
    time_wait_allowance: int
    time_wait_cost: float
    proper_at: Mapping[int, Mapping[int, float]] = field(default_factory=dict)
    proper_stress_at: Mapping[int, Mapping[int, float]] = field(default_factory=dict)

    @property
    def slots(self) -> int:
        """All slots together."""
        return sum(pool.slots for pool in self.pools)

    @property
    def few(self) -> int:
        """Up to how many open sessions are few for a peer, where slots are scarcest: their stalling
        may be its network's, and many such peers may be one attacker."""
        return max(1, int(min(pool.slots for pool in self.pools) * self.few_share))

    @property
    def ample(self) -> float:
        """Seconds of its own time after which nobody was ended in haste; a server that takes longer
        for its replies is slow."""
        return 2.0 * self.grace

    def flood(self, opened: float) -> float:
        """From 0 to 1: how much of a flood so many new sessions a second from everybody are."""
        full, mild = self.churn_flood, self.churn_mild
        if not full:
            return 1.0
        return min(1.0, max(0.0, (opened / self.slots - mild) / max(full - mild, 1e-9)))

    def stress(self, pressure: float) -> float:
        """From 0 (calm) to 1 (every slot is taken), rising in between from stress_at on."""
        if pressure <= self.stress_at:
            return 0.0
        return min(1.0, (pressure - self.stress_at) / max(1.0 - self.stress_at, 1e-9))

    def proper_times(self, stress: float) -> dict[int, dict[int, float]]:
        """The proper times of each state at this stress (0 to 1), by port; 0: all other ports."""
        times = {0: _between(self.proper, self.proper_stress, stress)}
        for port, calm in self.proper_at.items():
            times[port] = _between(calm, self.proper_stress_at.get(port, {}), stress)
        return times

    def overstay_cost(self, stress: float, is_open: bool = True) -> float:
        """Slot-seconds a second: an overstay hardly matters while there is room, and even less that
        of a session which is being closed, since it keeps no slot."""
        calm = self.calm_cost if is_open else self.calm_cost**2
        return calm + (1.0 - calm) * stress

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


def _between(
    calm: Mapping[int, float], tense: Mapping[int, float], stress: float
) -> dict[int, float]:
    return {
        state: seconds + (tense.get(state, seconds) - seconds) * stress
        for state, seconds in calm.items()
    }
