"""Comparing: what two policies make of the same capture."""

from collections import defaultdict
from datetime import datetime
from pathlib import Path
from typing import Any

from dpsd.capture.replaying import replay
from dpsd.config import Config, changed

Json = dict[str, Any]

_OF_NO_MATTER = ("store.", "log.", "kernel.", "enforce.")  # to a replay


def compare(config: Config, against: Config, path: Path) -> Json:
    """Whom a capture lists by one configuration, by another one and by both, in order of time.

    "keys" names the keys of a policy that differ. Each of "peers" has its verdicts by either,
    "listed_by" ("both", "policy" or "against"), and how many seconds "later" the first one by the
    other comes (negative: earlier; None unless both list it). Raises BadArgument like replay().
    """
    peers: dict[str, dict[str, list[Json]]] = defaultdict(lambda: {"policy": [], "against": []})
    for name, each in (("policy", config), ("against", against)):
        for verdict in replay(each, path):
            peer = verdict.pop("peer")
            peers[peer][name].append(verdict)
    told = [_peer(peer, **verdicts) for peer, verdicts in peers.items()]
    told.sort(key=lambda each: min(v["at"] for v in (*each["policy"], *each["against"])))
    names = ("both", "policy", "against")
    return {
        "keys": [key for key in changed(config, against) if not key.startswith(_OF_NO_MATTER)],
        "summary": {name: sum(each["listed_by"] == name for each in told) for name in names},
        "peers": told,
    }


def _peer(peer: str, policy: list[Json], against: list[Json]) -> Json:
    later = None
    if policy and against:
        first, other = (datetime.fromisoformat(verdicts[0]["at"]) for verdicts in (policy, against))
        later = round((other - first).total_seconds(), 3)
    return {
        "peer": peer,
        "listed_by": "against" if not policy else "both" if against else "policy",
        "later": later,
        "policy": policy,
        "against": against,
    }
