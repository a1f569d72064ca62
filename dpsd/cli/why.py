"""What is known about one peer: as data for programs, and as a story for people."""

from collections.abc import Iterator
from math import inf
from typing import Any

from dpsd.cli.output import counts, moment, moment_or_none
from dpsd.config import Config, format_duration
from dpsd.core.lists import Entry, ListName
from dpsd.core.peers import Network, PeerSize
from dpsd.store import Action, PeerRow, Recorded, Store

Json = dict[str, Any]

_ORDER = list(ListName)  # white decides before black, black before block


def entry_json(entry: Entry, size: PeerSize) -> Json:
    """An entry as `list --json` shows it."""
    return {
        "list": entry.list.value,
        "peer": size.text(entry.peer),
        "reason": entry.reason,
        "source": entry.source,
        "created_at": moment(entry.created_at),
        "expires_at": moment_or_none(entry.expires_at),
    }


def why(store: Store, config: Config, asked: Network, now: float) -> Json:
    """What is known about a network at an instant; "known" is false when that is nothing.

    "list" and "expires_at" are those of the entry that decides, which comes first in "entries".
    "score" (slot-seconds) is what is left of it now; "evidence" and "sessions" are as the daemon
    last saved them, at "saved_at".
    """
    size = config.peers.size
    entries = sorted(store.covering(asked, now), key=_decides_first)
    history = [each for net in {asked, *(e.peer for e in entries)} for each in store.history(net)]
    # Scores are of whole peers, also when a part of one was asked for.
    whole = min(asked.prefixlen, size.prefix(asked.version))
    row = store.peer(asked.supernet(new_prefix=whole))
    return {
        "known": bool(entries or history or row),
        "peer": size.text(asked),
        "list": entries[0].list.value if entries else None,
        "expires_at": moment_or_none(entries[0].expires_at) if entries else None,
        **_score_json(row, config.policy.half_life, now),
        "entries": [entry_json(entry, size) for entry in entries],
        "history": [
            _history_json(each, size) for each in sorted(history, key=lambda each: -each.at)
        ],
    }


def _decides_first(entry: Entry) -> tuple[int, float]:
    """Of entries on one list it is the longest lasting that tells when a peer is released."""
    return _ORDER.index(entry.list), -(inf if entry.expires_at is None else entry.expires_at)


def _score_json(row: PeerRow | None, half_life: float, now: float) -> Json:
    if row is None:
        return {"score": 0.0, "saved_at": None, "seen_at": None, "evidence": [], "sessions": {}}
    return {
        "score": round(row.score * 0.5 ** (max(0.0, now - row.at) / half_life), 3),
        "saved_at": moment(row.at),
        "seen_at": moment(row.seen_at),
        "evidence": [
            {**each, **{key: moment(each[key]) for key in ("first", "at") if key in each}}
            for each in row.detail.get("evidence", [])
        ],
        "sessions": row.detail.get("sessions", {}),
    }


def _history_json(each: Recorded, size: PeerSize) -> Json:
    return {"at": moment(each.at), "action": each.action.value, **entry_json(each.entry, size)}


def story(known: Json, config: Config) -> Iterator[str]:
    """The same in words, line by line."""
    yield from _verdict(known)
    half_life = format_duration(config.policy.half_life)
    yield (
        f"Score: {known['score']:.1f} slot-seconds. A peer is blocked at"
        f" {config.policy.block_at:g}; a score halves in {half_life}."
    )
    if known["sessions"]:
        yield f"Sessions: {counts(known['sessions'])}."
    if known["evidence"]:
        yield "Evidence, the latest first:"
        yield from map(_evidence, sorted(known["evidence"], key=lambda e: e["at"], reverse=True))
    if known["history"]:
        yield "History, the latest first:"
        yield from map(_event, known["history"])


def _verdict(known: Json) -> Iterator[str]:
    peer = known["peer"]
    if not known["entries"]:
        yield f"{peer} is on no list; its packets pass."
        return
    first, *others = known["entries"]
    white = first["list"] == ListName.WHITE
    yield f"{peer} {'passes' if white else 'is blocked'} {_until(first)}."
    yield f"This decides: {_entry(first)}."
    for other in others:
        yield f"It comes before: {_entry(other)}."
    if white:
        yield f"To end it: dpsd disallow {first['peer']}"
    elif first["peer"] == peer:
        yield f"To release it: dpsd unblock {peer}"
    else:
        yield f"To release it: dpsd allow {peer}, or for all of them dpsd unblock {first['peer']}"


def _until(entry: Json) -> str:
    return f"until {entry['expires_at']}" if entry["expires_at"] else "for good"


def _because(entry: Json) -> str:
    return f": {entry['reason']}" if entry["reason"] else ""


def _entry(entry: Json) -> str:
    where = f"{entry['peer']} on the {entry['list']} list {_until(entry)}"
    return f"{where}, by {entry['source']} at {entry['created_at']}{_because(entry)}"


def _evidence(each: Json) -> str:
    what = f"{each['kind']} in {each['state']}" if each.get("state") else each["kind"]
    sessions = "1 session" if each["count"] == 1 else f"{each['count']} sessions"
    return f"  {each['at']}  {what}, {sessions}: {each['cost']:.1f} slot-seconds"


def _event(each: Json) -> str:
    what = {
        Action.ADD: f"put on the {each['list']} list {_until(each)} by {each['source']}",
        Action.REMOVE: f"taken off the {each['list']} list by {each['source']}",
        Action.EXPIRE: f"off the {each['list']} list, its time was over",
    }[Action(each["action"])]
    return f"  {each['at']}  {each['peer']} {what}{_because(each)}"
