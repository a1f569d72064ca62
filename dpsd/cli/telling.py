"""What why.py found about a peer, told as a story, line by line."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from dpsd.cli.output import counts
from dpsd.config import Config
from dpsd.core.lists import OPERATOR, SCORE, ListName
from dpsd.core.story import span
from dpsd.store import Action

Json = dict[str, Any]

_BY = {SCORE: "its score", "config": "the configuration", OPERATOR: "an operator"}


def tell(known: Json, config: Config) -> Iterator[str]:
    """Where the peer is, why, since when and until when, what it has open, what releases it."""
    entries = known["entries"]
    yield _where(known)
    if entries and entries[0]["source"] == SCORE and known["evidence"]:
        yield f"Why: {known['scored']:.0f} slot-seconds, {_limit(known, config)}:"
        yield from map(_evidence, known["evidence"])
    else:
        if entries and entries[0]["reason"]:
            yield f"Why: {entries[0]['reason']}"
        yield from _score(known, config)
    if not entries:
        yield from _lenience(known)
    for other in entries[1:]:
        yield f"It comes before: {_entry(other)}."
    yield from _blocks(known, config)
    if known["seen_at"]:
        yield f"Sessions open at {known['seen_at']}: {counts(known['sessions']) or 'none'}."
    if known["release"]:
        yield _release(known)
    if known["history"]:
        yield "History, the latest first:"
        told = entries[0]["reason"] if entries else ""
        yield from (_event(each, told) for each in known["history"])


def _where(known: Json) -> str:
    if not known["entries"]:
        return f"{known['peer']} is on no list; its packets pass."
    first = known["entries"][0]
    place = f"on the {first['list']} list"
    if first["peer"] != known["peer"]:
        place += f", as part of {first['peer']},"
    left = (
        f" (in {_between(known['asked_at'], first['expires_at'])})" if known["expires_at"] else ""
    )
    put = f"put there by {_BY.get(first['source'], first['source'])} at {first['created_at']}"
    passes = "; it passes, whatever it does" if first["list"] == ListName.WHITE else ""
    return f"{known['peer']} is {place} {_until(first)}{left}, {put}{passes}."


def _limit(known: Json, config: Config) -> str:
    """What its score may be, and by which rule."""
    limit, trust, usual = known["limit"], known["trust"], config.policy.block_at
    rule = "policy.block_at; no mail delivered lately"
    if trust >= 0.05:
        rule = (
            f"policy.block_at, {usual:g}, times {limit / usual:.1f}"
            f" for {trust:.1f} deliveries to its credit"
        )
    return f"its limit is {limit:.0f} ({rule})"


def _score(known: Json, config: Config) -> Iterator[str]:
    """The score of a peer that isn't listed for it."""
    if not known["seen_at"]:
        return
    fades = "."
    if known["fades"]:
        left = _between(known["asked_at"], known["fades"]["at"])
        fades = f"; it halves every {span(config.policy.half_life)}, so in {left} it is forgotten."
    yield f"Score: {known['score']:.1f} slot-seconds now, {_limit(known, config)}{fades}"
    yield from map(_evidence, known["evidence"])


def _lenience(known: Json) -> Iterator[str]:
    """Why it wasn't charged last, and whether it may open new sessions."""
    if known["excuse"]:
        yield f"Its last session wasn't charged: {known['excuse']['story']}."
    if known["deferred_until"]:
        left = _between(known["asked_at"], known["deferred_until"])
        row = f", the {_ordinal(known['deferrals'])} time in a row" * (known["deferrals"] > 1)
        yield f"Deferred: it may open no new session for {left} more{row}."


def _ordinal(number: int) -> str:
    last = 0 if 10 <= number % 100 <= 20 else number % 10
    return f"{number}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(last, 'th') }"


def _evidence(each: Json) -> str:
    cost = f"{each['cost']:.1f} slot-seconds ({each['kind']})"
    return f"  {each['story']}: {cost}, last at {each['at']}"


def _blocks(known: Json, config: Config) -> Iterator[str]:
    """Which block it is, or how many there were, and what comes next."""
    count, policy = known["blocks"]["count"], config.policy
    if not count:
        return
    within = f"within {span(policy.black_within)}"
    listed = known["entries"] and known["entries"][0]["source"] == SCORE
    yield f"This is block {count} {within}." if listed else f"Blocks {within}: {count}."
    if known["list"] == ListName.BLACK:
        return
    length, black = span(known["blocks"]["next_for"]), span(policy.black_for)
    if known["blocks"]["next"] == ListName.BLACK:
        yield f"The next would last {length}, on the black list."
    elif policy.black_after:
        last = f"number {policy.black_after} {black} on the black list"
        yield f"The next would last {length}, {last}."
    else:
        yield f"The next would last {length}."


def _release(known: Json) -> str:
    release, peer = known["release"], known["peer"]
    if known["list"] == ListName.WHITE:
        return f"To end it: {release['by'][0]}"
    unblock, allow = release["by"]
    when = f"It is released at {release['at']} by itself, or" if release["at"] else "It is released"
    wide = "" if known["entries"][0]["peer"] == peer else ", with all the others there"
    return f"{when} by: {unblock}{wide}. To never block it: {allow}"


def _between(start: str, end: str) -> str:
    return span((datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds())


def _until(entry: Json) -> str:
    return f"until {entry['expires_at']}" if entry["expires_at"] else "for good"


def _because(entry: Json) -> str:
    return f": {entry['reason']}" if entry["reason"] else ""


def _entry(entry: Json) -> str:
    where = f"{entry['peer']} on the {entry['list']} list {_until(entry)}"
    return f"{where}, by {entry['source']} at {entry['created_at']}{_because(entry)}"


def _event(each: Json, told: str) -> str:
    """One line of history; the reason that was told above isn't told again."""
    what = {
        Action.ADD: f"put on the {each['list']} list {_until(each)} by {each['source']}",
        Action.REMOVE: f"taken off the {each['list']} list by {each['source']}",
        Action.EXPIRE: f"off the {each['list']} list, its time was over",
    }[Action(each["action"])]
    return (
        f"  {each['at']}  {each['peer']} {what}{'' if each['reason'] == told else _because(each)}"
    )
