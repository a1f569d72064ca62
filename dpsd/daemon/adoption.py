"""Adoption: after a crash the kernel may block peers that the store has never heard of.

What is in the kernel may as well be somebody's copy of an old ruleset, loaded at boot: that is
never more than the store knows, unless the store itself is new.
"""

import asyncio

from dpsd.core.engine import Engine
from dpsd.core.lists import OPERATOR, SCORE, Element, Entry, ListName
from dpsd.daemon.clock import Clock
from dpsd.daemon.guard import Guard
from dpsd.daemon.keeper import Before, Keeper
from dpsd.store import Action, Recorded

SAME = 2.0  # seconds by which two blocks of the same length may differ
LOST, CRASHED = "found in the kernel, the store was lost", "found in the kernel after a crash"


async def adoptable(engine: Engine, guard: Guard, keeper: Keeper, clock: Clock) -> list[Entry]:
    """Entries for what the kernel holds and the store doesn't know. Raises DpsdError if either
    can't be read.

    With a store that is new: all of it. After a crash: whole peers that are blocked, for prefixes
    and white entries are an operator's, and so in the store before the kernel. After a stop, and
    after a boot, whose table can only be a copy: nothing. The kernel takes 4 s to tell 250,000
    (nft_rhash_walk goes on from the start each time).
    """
    if keeper.before in {Before.STOPPED, Before.BOOT}:
        return []
    is_lost = keeper.before is Before.NOTHING
    known, now, table = engine.lists.elements(), clock.now(), guard.table
    names = tuple(ListName) if is_lost else (ListName.BLACK, ListName.BLOCK)
    found = await asyncio.to_thread(table.adoptable, known, now, names)
    peers = {peer for _, peer in found}
    last = await keeper.run(lambda store: store.last(peers)) if peers else {}
    size, is_near, lasts = engine.size, engine.owners.immune, table.lasts

    def entries() -> list[Entry]:
        # In the store's order: written in the kernel's, each part would touch most of its pages.
        order = sorted(found.items(), key=lambda each: str(each[0][1]))
        return [
            _entry(element, until, now, is_lost)
            for element, until in order
            if (is_lost or size.is_whole(element[1]))
            and element not in known
            and not _is_known(last.get(element), lasts.get(element))
            and (element[0] is ListName.WHITE or not is_near(element[1]))
        ]

    adopted = await asyncio.to_thread(entries)
    table.lasts = {}
    return adopted


def _entry(element: Element, until: float | None, now: float, is_lost: bool) -> Entry:
    name, peer = element
    source = OPERATOR if name is ListName.WHITE else SCORE
    return Entry(name, peer, LOST if is_lost else CRASHED, source, now, until)


def _is_known(last: Recorded | None, lasts: float | None) -> bool:
    """Whether the store knows better: it was taken off, or this is the block that is over."""
    if last is None:
        return False
    if last.action is Action.EXPIRE or (last.action is Action.ADD and lasts is not None):
        ends, began = last.entry.expires_at, last.entry.created_at
        return lasts is None or ends is None or abs(ends - began - lasts) < SAME or lasts < SAME
    return True
