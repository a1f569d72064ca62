"""Every section and key of dpsd.toml: its kind, default, meaning, and whether a restart is needed.

Validation, etc/dpsd.toml and docs/configuration.md all come from here; the sections that verdicts
come from are in rules.py. A section's docstring is its explanation to the administrator. Durations
are in seconds and sizes in bytes once read.
"""

from dataclasses import dataclass, field

from dpsd.config.key import key
from dpsd.config.kinds import (
    Address,
    Choice,
    Duration,
    Flag,
    Folder,
    Integer,
    ListOf,
    Local,
    OrAuto,
    Peer,
    Prefix,
    Size,
    SqliteUrl,
    parse_local,
)
from dpsd.config.rules import Evidence, Policy, ProperTimes, Stress
from dpsd.core.peers import Network, PeerSize


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
