"""What is known about one peer, as data for programs; telling.py makes a story of it for people."""

from collections.abc import Iterable, Sequence
from math import inf, log2
from typing import Any

from dpsd.cli import own
from dpsd.cli.output import moment, moment_or_none
from dpsd.config import Config
from dpsd.core import story
from dpsd.core.lists import OPERATOR, SCORE, Entry, ListName
from dpsd.core.peers import Network, PeerSize
from dpsd.core.policy import block_length
from dpsd.core.scores import NEGLIGIBLE, patience
from dpsd.store import Action, PeerRow, Recorded, Store, evidence_of

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
    "score" (slot-seconds) is what is left of it now, "scored" what it was at its last evidence, at
    "saved_at", and "limit" from which on the peer is blocked, for the deliveries to its credit
    ("trust"). "fades" tells when the score is as good as none. "evidence" has the costliest first,
    "sessions" those open at "seen_at". "blocks": how many verdicts count, and what the next is.
    "excuse": why its last session that might have been charged wasn't; "deferred_until": up to when
    it may open no new session, for the "deferrals"th time in a row; null when that is over.
    """
    size = config.peers.size
    entries = sorted(store.covering(asked, now), key=_decides_first)
    history = [each for net in {asked, *(e.peer for e in entries)} for each in store.history(net)]
    # Scores are of whole peers, also when a part of one was asked for.
    whole = asked.supernet(new_prefix=min(asked.prefixlen, size.prefix(asked.version)))
    peer = asked if own.neighbours(size).is_peer(asked) else whole
    row = store.peer(peer)
    return {
        "known": bool(entries or history or row),
        "peer": size.text(asked),
        "asked_at": moment(now),
        "list": entries[0].list.value if entries else None,
        "expires_at": moment_or_none(entries[0].expires_at) if entries else None,
        **_score_json(row or PeerRow(peer, 0.0, now, now), config, now),
        **_lenience_json(row.detail if row else {}, now),
        "saved_at": moment(row.at) if row else None,
        "seen_at": moment(row.seen_at) if row else None,
        "blocks": _blocks_json(store.history(peer), config, now),
        "release": _release_json(entries, size.text(asked), size),
        "entries": [entry_json(entry, size) for entry in entries],
        "history": [
            _history_json(each, size) for each in sorted(history, key=lambda each: -each.at)
        ],
    }


def _decides_first(entry: Entry) -> tuple[int, float]:
    """Of entries on one list it is the longest lasting that tells when a peer is released."""
    return _ORDER.index(entry.list), -(inf if entry.expires_at is None else entry.expires_at)


def _score_json(row: PeerRow, config: Config, now: float) -> Json:
    policy, detail = config.policy, row.detail
    score = row.score * _left(now - row.at, policy.half_life)
    trusted_for = now - detail.get("trusted_at", row.at)
    trust = detail.get("trust", 0.0) * _left(trusted_for, policy.trust_half_life)
    gone_at = now + policy.half_life * log2(score / NEGLIGIBLE) if score > NEGLIGIBLE else None
    return {
        "score": round(score, 3),
        "scored": round(row.score, 3),
        "limit": round(policy.block_at * patience(trust), 3),
        "trust": round(trust, 3),
        "fades": None if gone_at is None else {"below": NEGLIGIBLE, "at": moment(gone_at)},
        "evidence": _evidence_json(detail.get("evidence", [])),
        "sessions": detail.get("sessions", {}),
    }


def _lenience_json(detail: Json, now: float) -> Json:
    excuse, until = detail.get("excuse"), detail.get("deferred_until", 0.0)
    return {
        "excuse": excuse and {"kind": excuse, "story": story.excused(excuse)},
        "deferred_until": moment(until) if until > now else None,
        "deferrals": detail.get("deferrals", 0) if until > now else 0,
    }


def _left(seconds: float, half_life: float) -> float:
    return float(0.5 ** (max(0.0, seconds) / half_life))


def _evidence_json(saved: Iterable[Json]) -> list[Json]:
    return [
        {
            **each,
            "first": moment(each["first"]),
            "at": moment(each["at"]),
            "story": story.told(evidence_of(each)),
        }
        for each in sorted(saved, key=lambda each: -each["cost"])
    ]


def _blocks_json(history: Sequence[Recorded], config: Config, now: float) -> Json:
    """The verdicts that count; what an operator takes back doesn't, nor what came before it."""
    policy, count = config.policy, 0
    for each in reversed(history):
        if each.entry.list is ListName.WHITE or now - each.at > policy.black_within:
            continue
        if each.action is Action.REMOVE and each.entry.source == OPERATOR:
            count = 0
        count += each.action is Action.ADD and each.entry.source == SCORE
    black = bool(policy.black_after) and count + 1 >= policy.black_after
    length = block_length(count + 1, policy.block_for, policy.block_max)
    return {
        "count": count,
        "within": policy.black_within,
        "next": (ListName.BLACK if black else ListName.BLOCK).value,
        "next_for": policy.black_for if black else length,
    }


def _release_json(entries: Sequence[Entry], asked: str, size: PeerSize) -> Json | None:
    """When a listed network is released by itself, if ever, and which commands do it."""
    if not entries:
        return None
    first = entries[0]
    listed = size.text(first.peer)
    if first.list is ListName.WHITE:
        by = [f"dpsd disallow {listed}"]
    else:
        by = [f"dpsd unblock {listed}", f"dpsd allow {asked}"]
    return {"at": moment_or_none(first.expires_at), "by": by}


def _history_json(each: Recorded, size: PeerSize) -> Json:
    return {"at": moment(each.at), "action": each.action.value, **entry_json(each.entry, size)}
