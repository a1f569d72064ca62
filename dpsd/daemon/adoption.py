"""Adoption: after a crash the kernel may block peers that the store has never heard of."""

import asyncio

from dpsd.core.engine import Engine
from dpsd.core.lists import SCORE, Entry, ListName
from dpsd.core.peers import Network
from dpsd.daemon.clock import Clock
from dpsd.daemon.guard import Guard
from dpsd.daemon.keeper import Keeper
from dpsd.store import Action

LATE = 60.0  # seconds that elements of a very big load may outstay their entries


async def adoptable(engine: Engine, guard: Guard, keeper: Keeper, clock: Clock) -> list[Entry]:
    """Entries for what the kernel blocks and the store doesn't know. Raises DpsdError if either
    can't be read.

    Only whole peers: prefixes are an operator's, and so in the store before the kernel.
    """
    lists, now = engine.lists, clock.now()
    is_peer = engine.size.is_peer
    found = await asyncio.to_thread(guard.table.adoptable, lists.elements(), now)
    return [
        Entry(name, peer, "found in the kernel after a crash", SCORE, now, until)
        for (name, peer), until in found.items()
        if is_peer(peer)
        and not _is_only_late(lists.get(name, peer), until)
        and not engine.immune(peer)
        and not await _taken_off(keeper, clock, name, peer, until)
    ]


def _is_only_late(known: Entry | None, until: float | None) -> bool:
    """Whether the store has the entry; a big load keeps elements for some seconds longer."""
    if known is None or known.expires_at is None or until is None:
        return known is not None
    return until - known.expires_at < LATE


async def _taken_off(
    keeper: Keeper, clock: Clock, name: ListName, peer: Network, until: float | None
) -> bool:
    """Whether the store knows better: the entry was removed while no daemon ran."""
    history = await keeper.run(lambda store: store.history(peer, 10))
    last = next((each for each in history if each.entry.list is name), None)
    if last is None:
        return False
    if last.action is Action.EXPIRE and until is not None:  # it was blocked once more since
        return until <= clock.from_wall(last.at) + 2.0
    return True
