"""The keys of the rules: [policy], [proper_times], [stress] and [evidence]. See keys.py."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from dpsd.config.key import key
from dpsd.config.kinds import Duration, Integer, Number


@dataclass(frozen=True, slots=True)
class Policy:
    """When a peer is blocked, and for how long. A peer's score is in slot-seconds: for how long it
    kept one of the server's slots busy to no purpose.
    """

    block_at: float = key(
        Number(1, 1_000_000, "slot-seconds"), 60, "The score at which a peer is blocked."
    )
    block_for: float = key(
        Duration(),
        "10m",
        "How long the first block lasts; each further one lasts twice as long as the one before."
        " Also what `dpsd block` takes when it is given no duration.",
    )
    block_max: float = key(Duration(), "7d", "The longest that a block by the score lasts.")
    black_after: int = key(
        Integer(0, 1000, "blocks"),
        5,
        "So many blocks within black_within put the peer on the black list. 0: nobody is put there"
        " by the score.",
    )
    black_for: float = key(
        Duration("1d"),
        "365d",
        "How long the black list keeps a peer that the score put there. Who still sends to the mail"
        " ports when that is over stays for as long again. What an operator puts there stays"
        " for good.",
    )
    black_within: float = key(Duration(), "30d", "For how long a block counts towards black_after.")
    half_life: float = key(
        Duration(), "5m", "A score without new evidence falls to half of it in this time."
    )
    trust_most: float = key(
        Number(0, 1000, "mails"),
        6,
        "Peers that delivered mail have credit for up to so many mails: with six their limit is 3.8"
        " times block_at. Each useless session that is ended spends the credit of one mail.",
    )
    trust_half_life: float = key(Duration(), "14d", "Credit falls to half in this time.")
    defer_for: float = key(
        Duration(),
        "5s",
        "For how long a peer may open no session, after some of no use were ended to make room;"
        " three times as long each time that it comes back for no use, up to block_for. An honest"
        " peer's system tries again by itself after 1, 3 and 7 seconds.",
    )


STATES = ("established", "fin_wait", "close_wait", "last_ack")
"""The states with proper times: keys of [proper_times], [stress] and their tables of ports."""


RETIRED: Mapping[tuple[str, str], str] = {
    ("stress", "established"): "open sessions are ended by what they make of their slots",
    ("stress", "reap_after"): "open sessions are ended by what they make of their slots",
    ("stress", "useful_rate"): "what a slot has to be worth follows the demand",
}
"""Keys of earlier versions, by section and name, and why they are no more: they are ignored."""


def at_ports() -> Mapping[int, Mapping[str, float]]:
    """A field for tables like [proper_times.587]: what each has of STATES, by port."""
    made: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    return made


@dataclass(frozen=True, slots=True)
class ProperTimes:
    """How long a session may properly stay in a state while the server has slots to spare. Each
    second beyond costs its peer evidence.calm_cost. A protected port may have its own in a table
    such as [proper_times.587]; what isn't in that is as for all. While slots run short, an open
    session is ended by what it makes of its slot, however long it may stay here.
    """

    established: float = key(
        Duration(high="1d"),
        "5m",
        "How long it may be the peer's turn in an open session without progress. RFC 5321"
        " (4.5.3.2) asks for 5 minutes.",
    )
    fin_wait: float = key(
        Duration(high="1d"), "110s", "FIN_WAIT: one side has closed, the other hasn't confirmed it."
    )
    close_wait: float = key(
        Duration(high="1d"), "110s", "CLOSE_WAIT: the other side has confirmed it, but not closed."
    )
    last_ack: float = key(
        Duration(high="1d"), "50s", "LAST_ACK: both have closed, the last confirmation is missing."
    )
    at_ports: Mapping[int, Mapping[str, float]] = at_ports()


@dataclass(frozen=True, slots=True)
class Stress:
    """When slots run short, and how long a session that is being closed may then stay in a state.
    The proper times shrink to these step by step until every slot is taken, and each second beyond
    costs more and more, up to one slot-second. The three times may also be set for one protected
    port, in a table such as [stress.587].
    """

    at: float = key(
        Number(0.1, 1, "of the slots"), 0.8, "Slots run short from where this share is taken."
    )
    until: float = key(
        Number(0, 1, "of the slots"),
        0.5,
        "Then the sessions that make least of their slots are ended, down to this share of the"
        " slots.",
    )
    lasts: float = key(
        Duration(), "30s", "For how long that goes on when no slots are short: attackers come back."
    )
    grace: float = key(
        Number(0.1, 60, "seconds"),
        0.6,
        "So long it may be the peer's turn in a session when every slot is taken, before that has"
        " to be worth its slot. Longer while slots only begin to run short, shorter when many wait."
        " Honest clients answer within a round trip.",
    )
    few: float = key(
        Number(0, 1, "of the slots"),
        0.0625,
        "A peer that holds no more than this share of the slots holds few sessions: its network may"
        " have failed, with all of them.",
    )
    fin_wait: float = key(Duration(high="1d"), "10s", "As in [proper_times].")
    close_wait: float = key(Duration(high="1d"), "3s", "As in [proper_times].")
    last_ack: float = key(Duration(high="1d"), "5s", "As in [proper_times].")
    at_ports: Mapping[int, Mapping[str, float]] = at_ports()


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the doings of a peer cost. A cost of 0 leaves that kind of evidence out."""

    calm_cost: float = key(
        Number(0, 1, "slot-seconds a second"),
        0.25,
        "What a second beyond the proper time costs while there are slots to spare. It rises to 1"
        " as they run out. Of a session that is being closed, its square: that keeps no slot.",
    )
    overstay_most: float = key(
        Number(0, 1000, "slot-seconds"),
        20,
        "The most that the overstays of one session cost: a peer whose network fails with a few"
        " open sessions is no attacker.",
    )
    useful_rate: float = key(
        Number(1, 100_000, "bytes a second"),
        32,
        "A session that gets less than this from its peer makes no progress: its time without"
        " progress goes on, only slower. It is also the least that a session has to make of its"
        " slot while slots run short; that rises with the demand.",
    )
    churn_rate: float = key(
        Number(0.1, 100_000, "sessions a second"),
        10,
        "How fast a peer may open sessions in the long run.",
    )
    churn_burst: int = key(
        Integer(1, 1_000_000, "sessions"), 100, "How many it may open at once beyond that."
    )
    churn_cost: float = key(
        Number(0, 1000, "slot-seconds"),
        0.5,
        "What each session costs that is beyond both, while slots run short or new sessions flood"
        " in. It is less the less of both there is.",
    )
    churn_flood: float = key(
        Number(0, 10_000, "sessions a second"),
        1.5,
        "So many new sessions for each slot, from everybody together, are a flood."
        " 0: churn costs the same at any time.",
    )
    churn_mild: float = key(
        Number(0, 10_000, "sessions a second"),
        0.5,
        "So many for each slot a server bears well: up to here they cost nothing, and from here to"
        " a flood more and more.",
    )
    idle_rate: float = key(
        Number(0, 100_000, "sessions a second"),
        1,
        "How often a peer may come for nothing, free of cost: a monitoring probe does.",
    )
    idle_burst: int = key(
        Integer(0, 1_000_000, "sessions"), 30, "How many of these may come at once beyond that."
    )
    abort_cost: float = key(
        Number(0, 1000, "slot-seconds"),
        2,
        "What a session beyond these costs that the peer resets unused, while slots run short or"
        " new sessions flood in. It is less the less of both there is.",
    )
    empty_cost: float = key(
        Number(0, 1000, "slot-seconds"),
        1,
        "The same for one that is closed without any use.",
    )
    empty_bytes: int = key(
        Integer(0, 1_000_000, "bytes"),
        64,
        "A closed session was of no use if the peer sent no more than this, headers not counted.",
    )
    crowd_cost: float = key(
        Number(0, 1000, "slot-seconds"),
        35,
        "What a session costs that was ended to make room, if its peer came back with it, or came"
        " when slots ran short. Nothing if it had delivered mail, or the server may owe it a reply;"
        " less if its peer holds few sessions and waited before it came back.",
    )
    delivered_bytes: int = key(
        Integer(1, 1_000_000, "bytes"),
        1000,
        "A session delivered something if its peer sent at least this much, headers not counted;"
        " in TLS, as the length of the server's answers shows, 1,000 more, for the handshake.",
    )
    knock_rate: float = key(
        Number(0.1, 100_000, "packets a second"),
        5,
        "A blocked peer that still sends more than this when its block ends is blocked at once"
        " again, for twice as long.",
    )
    time_wait_allowance: int = key(
        Integer(0, 1_000_000, "sessions"),
        500,
        "How many of a peer's sessions may be in TIME_WAIT at a time.",
    )
    time_wait_cost: float = key(
        Number(0, 1000, "slot-seconds"),
        0.01,
        "What each session costs that enters TIME_WAIT beyond the allowance.",
    )
