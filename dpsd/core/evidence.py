"""Evidence: what a peer's sessions did, what each costs it, and who doesn't pay.

The two tables here are the rules. The judge decides by their rows, `dpsd why` and the log speak
with their words, and the table in docs/detection.md is written from them.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from dpsd.core.numbers import FEW_AT_ONCE, FEW_LATER, WHO_DELIVERED


class Kind(StrEnum):
    """What a peer did."""

    OVERSTAY = "overstay"
    CHURN = "churn"
    ABORT = "abort"
    EMPTY = "empty"
    CROWD = "crowd"
    TIME_WAIT = "time_wait"


class Excuse(StrEnum):
    """Why a session isn't charged to its peer."""

    DELIVERED = "it had delivered mail, and waited for the next"
    REPLY_DUE = "the server may have owed it a reply"
    UNREACHED = "the server's words hadn't reached it yet"
    MOVING = "it had just gone on, and the server was slow"
    CREDIT = "mail that its peer delivered lately paid for it"
    MAILED = "its peer delivered mail in the last minutes"
    UNCOUNTED = "conntrack counts no bytes, so nobody knows what was of use"
    FIRST = "its peer had no such session ended before it was opened"
    ENDED = "it was ended by this host"
    NEVER_SERVED = "the server never greeted it"
    FREE = "it was within what is free"
    LISTED = "its peer is listed already"
    BLIND = "events were lost, so it may have been over"


@dataclass(frozen=True, slots=True)
class Rule:
    """One kind of evidence. trigger, free and cost are for the reader: what brings it about, what
    is free ("" for nothing), and what it costs in slot-seconds, by the keys of the configuration.
    did: the words of a verdict, by TCP state ("" where none matters); {were} is "was" for a single
    session. excuses: who doesn't pay.
    """

    trigger: str
    free: str
    cost: str
    did: dict[str, str]
    excuses: tuple[Excuse, ...] = ()


RULES: dict[Kind, Rule] = {
    Kind.OVERSTAY: Rule(
        "a session stays in a state beyond its proper time, and it is the peer's turn to act",
        "the proper time (`proper_times`, `stress`)",
        "`evidence.calm_cost` (0.25) a second at rest, up to 1 under full stress; its square for a"
        " session that is being closed; at most `evidence.overstay_most` (20) a session",
        {
            "ESTABLISHED": "{were} open and got nowhere",
            "FIN_WAIT": "left the server's FIN unanswered",
            "CLOSE_WAIT": "acknowledged the server's FIN but didn't close",
            "LAST_ACK": "closed but never sent the last ACK",
        },
        (Excuse.REPLY_DUE, Excuse.ENDED, Excuse.LISTED, Excuse.BLIND),
    ),
    Kind.CROWD: Rule(
        "a session is ended to make room, since it made least of its slot",
        "",
        f"`evidence.crowd_cost` (35) times the stress; times {FEW_LATER:g} if its peer holds few"
        f" sessions, or {FEW_AT_ONCE:g} if that came back at once, of which half where no socket"
        f" told; else less if it had less than twice `stress.grace` (0.6 s) of its own, and for all"
        f" that are ended before it comes back no more than for one (for as many as times in a row,"
        f" if it held more), or for {WHO_DELIVERED:g} of it if that ever delivered mail",
        {"": "{were} ended to make room"},
        (
            *(Excuse.UNCOUNTED, Excuse.NEVER_SERVED, Excuse.REPLY_DUE, Excuse.DELIVERED),
            *(Excuse.UNREACHED, Excuse.MOVING, Excuse.CREDIT, Excuse.MAILED),
            *(Excuse.FIRST, Excuse.LISTED),
        ),
    ),
    Kind.CHURN: Rule(
        "sessions are opened too fast, while slots run short or new sessions flood in",
        "`evidence.churn_rate` (10) a second, and `evidence.churn_burst` (100) at once",
        "`evidence.churn_cost` (0.5) each, times the stress or the flood, whichever is more",
        {"": "came beyond the allowed rate"},
        (Excuse.MAILED, Excuse.LISTED),
    ),
    Kind.ABORT: Rule(
        "a session is greeted and then reset, after at most `evidence.empty_bytes` (64) bytes",
        "`evidence.idle_rate` (1) a second, and `evidence.idle_burst` (30) at once",
        "`evidence.abort_cost` (2) each, times the flood, or the stress if its peer holds more than"
        " few",
        {"": "{were} reset before any use"},
        (Excuse.NEVER_SERVED, Excuse.ENDED, Excuse.FREE, Excuse.LISTED),
    ),
    Kind.EMPTY: Rule(
        "a session is greeted and then closed, after at most `evidence.empty_bytes` (64) bytes",
        "the same",
        "`evidence.empty_cost` (1) each, as for `abort`",
        {"": "{were} closed without any use"},
        (Excuse.NEVER_SERVED, Excuse.ENDED, Excuse.FREE, Excuse.LISTED),
    ),
    Kind.TIME_WAIT: Rule(
        "a session enters TIME_WAIT while its peer has very many there",
        "`evidence.time_wait_allowance` (500) at a time",
        "`evidence.time_wait_cost` (0.01) each",
        {"": "{were} left in TIME_WAIT beyond the allowed number"},
        (Excuse.LISTED,),
    ),
}


@dataclass(slots=True)
class Evidence:
    """Everything of one kind in one TCP state ("" where none matters) since a peer was clean.

    cost: slot-seconds as charged, not faded; count: sessions; first, at: when it began
    and was last added to, seconds since the epoch; ports: of the servers. longest: seconds, the
    longest that one session stayed, and stress: how scarce slots were then (0 to 1). most: how
    many there were at a time (churn: opened within a second). proper: what would have been proper
    then, seconds where it is about a time, else a number. 0 where there is nothing to tell.
    """

    kind: Kind
    state: str
    cost: float
    count: int
    first: float
    at: float
    longest: float = 0.0
    most: int = 0
    proper: float = 0.0
    stress: float = 0.0
    ports: tuple[int, ...] = ()

    def note(self, seen: "Seen") -> None:
        """Keep what is the most remarkable of all that was seen."""
        if seen.longest > self.longest or (not seen.longest and seen.most > self.most):
            self.proper, self.stress = seen.proper, seen.stress
            self.longest = seen.longest
        self.most = max(self.most, seen.most)
        if seen.port and seen.port not in self.ports:
            self.ports = (*self.ports, seen.port)


class Seen(NamedTuple):
    """What was seen of the session that a charge is about; as in Evidence."""

    port: int = 0
    longest: float = 0.0
    most: int = 0
    proper: float = 0.0
    stress: float = 0.0
