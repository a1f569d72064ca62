"""Every section and key of dpsd.toml: its kind, default, meaning, and whether a restart is needed.

This is the one place: validation, etc/dpsd.toml and docs/configuration.md all come from here. A
section's docstring is its explanation to the administrator. Durations are in seconds and sizes in
bytes once read.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from dpsd.config.kinds import (
    Address,
    Choice,
    Duration,
    Flag,
    Folder,
    Integer,
    Kind,
    ListOf,
    Local,
    Number,
    OrAuto,
    Peer,
    Prefix,
    Size,
    SqliteUrl,
    parse_local,
)
from dpsd.core.peers import Network, PeerSize

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Key:
    """What is said about one key."""

    kind: Kind[object]
    default: object  # as written in TOML
    doc: str
    restart: bool = False  # whether a change takes effect only when the daemon is restarted

    def terms(self) -> str:
        """What may be written, and whether a reload is enough: a sentence."""
        terms = self.kind.describe() + ("; a change needs a restart" if self.restart else "")
        return f"{terms[0].upper()}{terms[1:]}."


def key(kind: Kind[T], default: object, doc: str, *, restart: bool = False) -> T:
    """A dataclass field that carries its Key; the default is given as it is written in TOML."""
    about = Key(kind, default, doc, restart)
    value: T = field(default=kind.read(default), metadata={"key": about})
    return value


@dataclass(frozen=True, slots=True)
class Protect:
    """What is protected. Only sessions to these ports count, and only packets to them are dropped;
    what this host opens outward never counts.
    """

    ports: tuple[int, ...] = key(
        ListOf(Integer(1, 65535), 1, 16), [25, 465, 587], "The TCP ports of the mail server."
    )
    addresses: tuple[Network, ...] = key(
        ListOf(Prefix()),
        [],
        "The servers' addresses, when dpsd runs on a gateway before them. Empty: this host's own.",
    )
    slots: int | None = key(
        OrAuto(Integer(1, 1_000_000, "sessions")),
        "auto",
        "How many sessions the mail server can hold at a time, over all ports together. What is"
        ' open, as a share of it, is the pressure. "auto": the mail server of this host is asked,'
        " which with Postfix gives a number for each of its services; `dpsd status` shows them."
        " Where nobody can tell, it is 100 until a full server shows what it holds: new sessions"
        " wait for their greeting, while as many as ever are open. A number from the mail server"
        " that is too high is corrected likewise; one that is set here holds.",
    )
    postfix: str = key(
        Folder(),
        "/etc/postfix",
        "The configuration of the Postfix that serves the ports: its process limits are the slots,"
        " and its mynetworks are white. Empty: it isn't asked.",
    )


@dataclass(frozen=True, slots=True)
class Peers:
    """Who is judged: one address, or all addresses that share a prefix. Make these shorter only
    when attackers change addresses within a prefix, since all of its users are judged together.
    """

    ipv4_prefix: int = key(
        Integer(8, 32, step=8), 32, "Length of the prefix that makes one IPv4 peer.", restart=True
    )
    ipv6_prefix: int = key(
        Integer(40, 128, step=8),
        64,
        "The same for IPv6. A /64 is the least that one customer gets.",
        restart=True,
    )

    @property
    def size(self) -> PeerSize:
        """The two as the core knows them."""
        return PeerSize(self.ipv4_prefix, self.ipv6_prefix)


@dataclass(frozen=True, slots=True)
class Store:
    """Where the lists and their history are kept. The dpsd command reads and writes them here, so
    its users need the right to write this file and its folder.
    """

    url: str = key(
        SqliteUrl(), "sqlite:////var/lib/dpsd/dpsd.db", "The SQLite database.", restart=True
    )
    history_for: float = key(
        Duration("1h"),
        "90d",
        "How long it is remembered who was listed, why and by whom. Entries in force stay.",
    )


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
    trust_half_life: float = key(
        Duration(),
        "14d",
        "Peers that delivered mail have credit for up to six mails: their limit is up to 3.8 times"
        " block_at, and each useless session that is ended spends the credit of one mail. Credit"
        " falls to half in this time.",
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


@dataclass(frozen=True, slots=True)
class Enforce:
    """What is done about a listed peer."""

    mode: str = key(
        Choice(("enforce", "observe")),
        "enforce",
        '"observe": everything is judged, listed and logged, but no packet is dropped and no'
        " session ended. `dpsd run --observe` does the same.",
    )
    all_ports: bool = key(
        Flag(),
        False,
        "Drop a listed peer's packets to every port, ssh among them, not only the protected ones."
        " What a listed peer answers to this host's own sessions is dropped as well: this host"
        " can't send mail to it then, nor reach any other service of it.",
    )
    end_sessions: bool = key(
        Flag(),
        True,
        "End sessions: those of a peer that gets listed, and to make room, where their peers then"
        " wait some seconds before they may open new ones. Otherwise each keeps its slot until the"
        " mail server gives up on it.",
    )


@dataclass(frozen=True, slots=True)
class Kernel:
    """How dpsd listens to the kernel."""

    event_buffer: int = key(
        Size("256KiB", "1GiB"),
        "128MiB",
        "Room for events that dpsd hasn't read yet. The kernel takes memory only for what waits.",
        restart=True,
    )
    accounting: bool = key(
        Flag(),
        True,
        "Switch conntrack's byte counters on (net.netfilter.nf_conntrack_acct) whenever they are"
        " off and dpsd may. Without them, talk that leads nowhere can't be told from mail.",
        restart=True,
    )


@dataclass(frozen=True, slots=True)
class Forget:
    """When the kernel's connection table forgets a session to a protected port that is silent, so
    that a flood can't fill the table. Each has to be longer than the proper time of that state,
    or else the session is forgotten before it overstays.
    """

    syn_sent: float = key(Duration(high="20d"), "30s", "A first packet was seen, no answer.")
    syn_recv: float = key(Duration(high="20d"), "30s", "The server answered, the peer did not.")
    established: float = key(Duration(high="20d"), "20m", "An open session.")
    fin_wait: float = key(Duration(high="20d"), "2m", "As in [proper_times].")
    close_wait: float = key(Duration(high="20d"), "2m", "As in [proper_times].")
    last_ack: float = key(Duration(high="20d"), "1m", "As in [proper_times].")
    time_wait: float = key(Duration(high="20d"), "10s", "Both sides have closed.")
    close: float = key(Duration(high="20d"), "10s", "The session was reset.")


@dataclass(frozen=True, slots=True)
class Lists:
    """Entries that come from here. They are put on the list when the daemon starts or reloads,
    and taken off when they are gone from here. This host's addresses, its gateways and name
    servers and Postfix's mynetworks are white besides, while they are so.
    """

    white: tuple[str, ...] = key(
        ListOf(Peer()),
        ["127.0.0.0/8", "::1"],
        "Peers that are never blocked. A bare address means its whole peer, as in [peers].",
    )


@dataclass(frozen=True, slots=True)
class Log:
    """What the daemon tells on standard error, and so in the journal."""

    level: str = key(
        Choice(("debug", "info", "warning", "error")), "info", "The least that is told."
    )


@dataclass(frozen=True, slots=True)
class Metrics:
    """What a monitoring system may read: numbers only, nobody's address."""

    listen: str = key(
        Local(),
        "",
        "Where metrics are served for Prometheus. Empty: nowhere. A Unix socket is for the daemon's"
        " user and group.",
        restart=True,
    )

    @property
    def address(self) -> Address | None:
        """The same, to be listened on."""
        return parse_local(self.listen)


@dataclass(frozen=True, slots=True)
class Config:
    """The whole configuration, each section by its name. Config() has every default."""

    protect: Protect = field(default_factory=Protect)
    peers: Peers = field(default_factory=Peers)
    store: Store = field(default_factory=Store)
    policy: Policy = field(default_factory=Policy)
    proper_times: ProperTimes = field(default_factory=ProperTimes)
    stress: Stress = field(default_factory=Stress)
    evidence: Evidence = field(default_factory=Evidence)
    enforce: Enforce = field(default_factory=Enforce)
    kernel: Kernel = field(default_factory=Kernel)
    forget: Forget = field(default_factory=Forget)
    lists: Lists = field(default_factory=Lists)
    log: Log = field(default_factory=Log)
    metrics: Metrics = field(default_factory=Metrics)

    @property
    def white(self) -> tuple[Network, ...]:
        """lists.white as networks."""
        return tuple(map(self.peers.size.parse, self.lists.white))
