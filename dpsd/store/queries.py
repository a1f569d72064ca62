"""Parts of queries: what is in force, whose entries expire when, what is written, and forgotten."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from math import inf
from typing import Any, TypeVar

from sqlalchemy import bindparam, delete, func, insert, or_, select, update
from sqlalchemy.engine import Connection

from dpsd.core.lists import SCORE, Entry, ListName
from dpsd.store.records import Action, Record
from dpsd.store.rows import Key, entry_values
from dpsd.store.schema import entries, history, peers, revision

BATCH = 2_000  # rows a transaction where there may be very many; some 50 ms
CHUNK = 500  # values of one IN (...); SQLite's limit was 999 for long

_T = TypeVar("_T")


def in_force(now: float) -> Any:
    """The condition that an entry is in force."""
    return or_(entries.c.expires_at.is_(None), entries.c.expires_at > now)


def is_verdict(record: Record) -> bool:
    """Whether a record puts somebody on a list by the score."""
    return record.action is Action.ADD and record.entry.source == SCORE


def changed_by_others(db: Connection, since: int, node: str) -> set[str]:
    """The peers that somebody else than a node changed after a revision."""
    newer = select(history.c.peer).where(history.c.revision > since, history.c.node != node)
    return {row.peer for row in db.execute(newer)}


def expiries(db: Connection, keyed: Sequence[tuple[Key, Record]]) -> dict[Key, float | None]:
    """When the entries expire that records want to take off, as far as there are such entries."""
    named = {key[1] for key, record in keyed if record.action is not Action.ADD}
    found: dict[Key, float | None] = {}
    for chunk in batches(named, CHUNK):
        query = select(entries.c.list, entries.c.peer, entries.c.expires_at).where(
            entries.c.list.in_([name.value for name in ListName]),  # so that the key serves
            entries.c.peer.in_(chunk),
        )
        found |= {(row.list, row.peer): row.expires_at for row in db.execute(query)}
    return found


def write_entries(db: Connection, after: Mapping[Key, Entry | None]) -> None:
    """Replace entries: delete and insert is what every database understands alike."""
    db.execute(
        delete(entries).where(
            entries.c.list == bindparam("in_list"), entries.c.peer == bindparam("for_peer")
        ),
        [{"in_list": key[0], "for_peer": key[1]} for key in after],
    )
    rows = [entry_values(key, entry) for key, entry in after.items() if entry is not None]
    if rows:
        db.execute(insert(entries), rows)


def forget_history(db: Connection, before: float) -> int:
    """Forget the oldest records before an instant, a batch of them; how many."""
    old = select(history.c.id).where(history.c.at < before).order_by(history.c.at, history.c.id)
    chosen = history.c.id.in_(old.limit(BATCH))
    reaches = db.execute(select(func.max(history.c.revision)).where(chosen)).scalar()
    if reaches is None:
        return 0
    db.execute(update(revision).where(revision.c.reaches < reaches).values(reaches=reaches))
    return int(db.execute(delete(history).where(chosen)).rowcount)


def seen_before(db: Connection, most: int | None) -> float:
    """When those peers were seen last that are more than so many."""
    if most is None:
        return -inf
    newest = select(peers.c.seen_at).order_by(peers.c.seen_at.desc())
    at = db.execute(newest.offset(most - 1).limit(1)).scalar()
    return -inf if at is None else float(at)


def forget_peers(db: Connection, before: float) -> int:
    """Forget peers that were seen last before an instant, a batch of them; how many."""
    old = select(peers.c.peer).where(peers.c.seen_at < before).limit(BATCH)
    return int(db.execute(delete(peers).where(peers.c.peer.in_(old))).rowcount)


def batches(items: Iterable[_T], size: int) -> Iterator[list[_T]]:
    """The items, so many at a time."""
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch
