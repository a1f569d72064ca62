"""What `status` tells; nothing here changes anything."""

from collections.abc import Iterator
from typing import Any

from dpsd.cli.output import counts, moment, moment_or_none
from dpsd.core.story import told_by_sockets
from dpsd.kernel.ending.outcome import WORDS
from dpsd.store import Node, Store

Json = dict[str, Any]

UNSEEN = 3  # sessions that conntrack may not know since they have just begun


def status(store: Store, now: float) -> Json:
    """The daemon's last word, if it runs, and what is in the store."""
    running = store.claimed()
    node = latest_node(store) if running else None
    told: Json = {
        "running": running,
        "mode": None,
        "pressure": None,
        "slots": [],
        "events": {"received": 0, "lost": 0},
        "sessions": {"open": 0, "by_state": {}},
        "peers": 0,
    }
    if node is not None:
        about = {"pid": node.pid, "started_at": moment(node.started_at), "mode": node.mode}
        told = _merged(_merged(told, node.status), about)
    count, oldest = store.black_by_score(now)
    return {
        **told,
        "black_by_score": {"count": count, "oldest": moment_or_none(oldest)},
        "lists": {name.value: size for name, size in store.sizes(now).items()},
        "revision": {"stored": store.revision(), "applied": node.applied if node else None},
    }


def latest_node(store: Store) -> Node | None:
    """The daemon that told something last: the one that runs, if one does."""
    return max(store.nodes(), key=lambda node: node.updated_at, default=None)


def _merged(under: Json, over: Json) -> Json:
    """Two objects as one, also inside; `over` wins."""
    both = {
        name: _merged(under[name], over[name])
        for name in under.keys() & over.keys()
        if isinstance(under[name], dict) and isinstance(over[name], dict)
    }
    return {**under, **over, **both}


def summary(told: Json) -> Iterator[tuple[str, str]]:
    """The same for people: a head and a line each."""
    if told["running"]:
        since = f", pid {told['pid']} since {told['started_at']}" if "pid" in told else ", starting"
        yield "daemon", f"runs{since}"
        yield "mode", str(told["mode"])
    else:
        yield "daemon", "doesn't run"
    events, sessions, revision = told["events"], told["sessions"], told["revision"]
    if told["running"]:
        pressure = told["pressure"]
        yield "pressure", "unknown" if pressure is None else f"{pressure:.0%} of the slots"
        if told.get("price"):
            yield "price", f"{told['price']:.0f} bytes a second have to be said to keep a slot"
        for each in told["slots"]:
            yield "slots", slots_line(each)
        blind = "; some are missing, so nobody is judged by them" if told.get("blind") else ""
        yield "events", f"received {events['received']}, lost {events['lost']}{blind}"
        if told.get("accounting") is False:
            yield "kernel", "counts no bytes of sessions: talk isn't told from mail"
        by_state = f" ({counts(sessions['by_state'])})" if sessions["by_state"] else ""
        yield "sessions", f"open {sessions['open']}{by_state}"
        yield from _witnessed(sessions)
        if "not_ended_why" in told:
            yield from _endings(told)
        yield "peers", str(told["peers"])
        for each in told.get("pressing", ()):
            yield "", f"{each['peer']} keeps {each['sessions']} sessions: {each['why']}"
        if (deferred := told.get("deferred", {"times": 0}))["times"]:
            packets = deferred["packets"]
            yield "deferred", f"peers {deferred['times']} times, {packets} of their packets dropped"
        if told.get("server_leaks"):
            leaks = counts(told["server_leaks"])
            yield "server", f"slot-seconds that its own overstays cost: {leaks}"
    if told["running"] and told.get("table_problem"):
        yield "table", told["table_problem"]
    yield "lists", ", ".join(f"{name} {size}" for name, size in told["lists"].items())
    if (black := told["black_by_score"])["count"]:
        yield "", f"black by its score {black['count']}, the oldest since {black['oldest']}"
    applied = "none" if revision["applied"] is None else revision["applied"]
    yield "revision", f"stored {revision['stored']}, applied {applied}"


def slots_line(told: Json) -> str:
    """A pool of slots as the daemon tells it, in one line."""
    return f"{told['slots']} for {', '.join(map(str, told['ports']))}: {told['source']}"


def _witnessed(sessions: Json) -> Iterator[tuple[str, str]]:
    """What the server's sockets tell that conntrack doesn't."""
    if unseen := sessions.get("unseen"):
        yield "", told_by_sockets(sessions["sockets"], unseen)
    if never_had := sessions.get("never_had"):
        yield "", f"{never_had} of them the server never had: its accept queue is full"


def _endings(told: Json) -> Iterator[tuple[str, str]]:
    """How many sessions were ended, and how many weren't: a line for each reason."""
    yield "ended", f"{told['ended']} sessions"
    for why, number in told["not_ended_why"].items():
        yield "not ended", f"{number} times: {WORDS.get(why, why)}"
