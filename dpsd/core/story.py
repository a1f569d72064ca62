"""The story of a verdict: what the evidence says, in words that an administrator can act on.

The same words stand in an entry's reason, so in the log, in `dpsd list` and in a replay, and in
`dpsd why`. What the sessions did is told by the rule that charged for it.
"""

from collections.abc import Iterable

from dpsd.core.evidence import RULES, Evidence, Excuse, Kind

_UNITS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))

# What the server's own overstays mean, by TCP state, and what to look at.
LEAKS = {
    "FIN_WAIT": "peers closed, and this host doesn't even acknowledge it; look whether a firewall"
    " drops what it sends, and at its load",
    "CLOSE_WAIT": "peers closed, and the mail server didn't; look what its processes wait for:"
    " milters, policy services, DNS, a full disk",
    "LAST_ACK": "the server closed first, and the last ACK never came from it; look whether a"
    " firewall drops what it sends",
}


def span(seconds: float) -> str:
    """A duration (s) in words, its two largest units: "41 s", "8 min 3 s", "30 d"."""
    whole = round(seconds)
    for index, (unit, size) in enumerate(_UNITS):
        if whole >= size:
            number, rest = divmod(whole, size)
            smaller, part = _UNITS[min(index + 1, len(_UNITS) - 1)]
            more = f" {rest // part} {smaller}" if rest // part else ""
            return f"{number} {unit}{more}"
    return "0 s"


def told(evidence: Evidence) -> str:
    """What one piece of evidence says, without its cost."""
    rule = RULES.get(evidence.kind)  # None: of another version
    did = rule.did.get(evidence.state) if rule else None
    if did is None:
        did = f"{{were}} charged for {evidence.kind}" + (evidence.state and f" in {evidence.state}")
    words = did.format(were="was" if evidence.count == 1 else "were")
    return f"{number_of(evidence.count)}{_to(evidence.ports)} {words}{_how(evidence)}"


def excused(name: str) -> str:
    """Why a session wasn't charged, by the name of the Excuse in small letters."""
    known = Excuse.__members__.get(name.upper())  # None: of another version
    return name.replace("_", " ") if known is None else known.value


def verdict(score: float, limit: float, evidence: Iterable[Evidence]) -> str:
    """A verdict's reason on one line: the score, what it may be, and its parts, costliest first."""
    parts = "; ".join(f"{told(each)}: {each.cost:.0f}" for each in costliest_first(evidence))
    return f"{score:.0f} slot-seconds, the limit is {limit:.0f}" + (parts and f": {parts}")


def costliest_first(evidence: Iterable[Evidence]) -> list[Evidence]:
    """The evidence in the order in which it is told."""
    return sorted(evidence, key=lambda each: -each.cost)


def short(reason: str, width: int = 78) -> str:
    """A reason for a table: as much of it as fits, cut between two words."""
    if len(reason) <= width:
        return reason
    return reason[: width - 1].rpartition(" ")[0].rstrip(",;:") + " …"


def leak(state: str, slot_seconds: float, within: float) -> str:
    """A warning that the server itself keeps slots busy."""
    meaning = LEAKS.get(state, "its own sessions overstay")
    cost = f"{slot_seconds:.0f} slot-seconds in {span(within)}"
    return f"the server itself holds sessions in {state} too long, {cost}: {meaning}"


def number_of(sessions: int) -> str:
    """So many sessions."""
    return "1 session" if sessions == 1 else f"{sessions} sessions"


def _to(ports: tuple[int, ...]) -> str:
    if not ports:
        return ""
    return f" to port{'s' if len(ports) > 1 else ''} {', '.join(map(str, sorted(ports)))}"


def _how(evidence: Evidence) -> str:
    """How long or how many, and what would have been proper."""
    most, proper = evidence.most, evidence.proper
    match evidence.kind:
        case Kind.CHURN if most:
            return f": up to {most} within a second (allowed: {proper:g})"
        case Kind.TIME_WAIT if most:
            return f": up to {most} at a time (allowed: {proper:g})"
        case Kind.CROWD if evidence.longest:
            held = f", when it held {most} in all" if most else ""
            under = "," * bool(evidence.stress) + _under(evidence)
            return f", of no use for up to {span(evidence.longest)}{held}{under}"
    if not evidence.longest:
        return ""
    return f" for up to {span(evidence.longest)}, where {span(proper)} was proper{_under(evidence)}"


def _under(evidence: Evidence) -> str:
    if evidence.stress <= 0:
        return ""
    return f" under {'full' if evidence.stress >= 1 else f'{evidence.stress:.0%}'} stress"


def told_by_sockets(sockets: int, unseen: int) -> str:
    """How many of the sessions conntrack knows, and what may keep it from the others."""
    return (
        f"conntrack knows {max(0, sockets - unseen)} of {sockets} sessions to the mail ports: the"
        " others began before it tracked them, or its table was flushed, or a notrack rule keeps"
        " them from it; they are followed by their sockets"
    )
