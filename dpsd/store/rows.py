"""Records as table rows and back; which records of a commit have an effect."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dpsd.core.evidence import Evidence, Kind
from dpsd.core.lists import Entry, ListName
from dpsd.store.records import Action, PeerRow, Record, Recorded, network

Row = Any  # of SQLAlchemy: a column is an attribute
Key = tuple[str, str]  # the list and the peer of an entry, as stored

_ENTRY = ("list", "peer", "reason", "source", "created_at", "expires_at")


def key_of(entry: Entry) -> Key:
    """What identifies an entry in the store."""
    return entry.list.value, str(entry.peer)


@dataclass
class Effect:
    """What a commit does: the records that change something, and the entries as they are after."""

    done: list[tuple[Key, Record]] = field(default_factory=list)
    after: dict[Key, Entry | None] = field(default_factory=dict)  # None: gone


def effect(keyed: Iterable[tuple[Key, Record]], stored: Mapping[Key, float | None]) -> Effect:
    """Go through the records in order; `stored` has the expiries of the entries they meet."""
    expiries = dict(stored)
    result = Effect()
    for key, record in keyed:
        entry = record.entry
        if record.action is Action.ADD:
            expiries[key] = entry.expires_at
            result.after[key] = entry
        elif key not in expiries or (
            record.action is Action.EXPIRE and expiries[key] != entry.expires_at
        ):
            continue
        else:
            del expiries[key]
            result.after[key] = None
        result.done.append((key, record))
    return result


def entry_values(key: Key, entry: Entry) -> dict[str, Any]:
    """A row of entries; history has the same columns, and more."""
    values = (*key, entry.reason, entry.source, entry.created_at, entry.expires_at)
    return dict(zip(_ENTRY, values, strict=True))


def history_values(key: Key, record: Record, revision: int, node: str) -> dict[str, Any]:
    """A row of history."""
    return entry_values(key, record.entry) | {
        "action": record.action.value,
        "at": record.at,
        "revision": revision,
        "node": node,
    }


def peer_values(peer: str, row: PeerRow) -> dict[str, Any]:
    """A row of peers."""
    return {
        "peer": peer,
        "score": row.score,
        "at": row.at,
        "seen_at": row.seen_at,
        "detail": row.detail,
    }


def to_entry(row: Iterable[Any]) -> Entry:
    """The entry in a row of entries; ValueError if dpsd can't have written it."""
    name, peer, *rest = row  # the columns are in the order of Entry; 100,000 rows come this way
    return Entry(ListName(name), network(peer), *rest)


def to_recorded(row: Row) -> Recorded:
    """The record in a row of history; ValueError as above."""
    entry = to_entry(getattr(row, column) for column in _ENTRY)
    return Recorded(Action(row.action), entry, row.at, row.revision, row.node)


def to_peer(row: Row) -> PeerRow:
    """The peer in a row of peers; ValueError as above."""
    return PeerRow(network(row.peer), row.score, row.at, row.seen_at, row.detail)


def evidence_json(evidence: Evidence, to_wall: Callable[[float], float]) -> dict[str, Any]:
    """Evidence as a peer's row keeps it in its detail, with the wall clock's times."""
    return {
        "kind": evidence.kind.value,
        "state": evidence.state,
        "cost": round(evidence.cost, 3),
        "count": evidence.count,
        "first": to_wall(evidence.first),
        "at": to_wall(evidence.at),
        "longest": round(evidence.longest, 3),
        "most": evidence.most,
        "proper": round(evidence.proper, 3),
        "stress": round(evidence.stress, 3),
        "ports": sorted(evidence.ports),
    }


def evidence_of(
    told: Mapping[str, Any], from_wall: Callable[[float], float] = lambda at: at
) -> Evidence:
    """The evidence that evidence_json() told; ValueError for a kind that isn't known."""
    times = {key: from_wall(told[key]) for key in ("first", "at")}
    kind, ports = Kind(told["kind"]), tuple(told["ports"])
    return Evidence(**{**told, **times, "kind": kind, "ports": ports})
