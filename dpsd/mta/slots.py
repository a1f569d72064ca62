"""Slots: how many sessions the mail server can hold at a time, and who says so."""

from collections.abc import Iterable
from dataclasses import dataclass

from dpsd.core.policy import Known, Pool

ASSUMED = 100  # sessions; what Postfix allows each service unless it is told otherwise


@dataclass(frozen=True, slots=True)
class Slots:
    """A pool of slots, and where its number came from, in words."""

    pool: Pool
    source: str

    def words(self, ports: Iterable[int]) -> str:
        """One line about it; `ports` are all that are protected."""
        named = ", ".join(map(str, sorted(self.pool.ports or ports)))
        return f"{self.pool.slots} for {named}: {self.source}"


def assumed(why: str, ports: Iterable[int] = ()) -> Slots:
    """What is taken when nobody tells; no ports: all protected ones share it."""
    return Slots(Pool(frozenset(ports), ASSUMED, Known.ASSUMED), f"assumed, because {why}")
