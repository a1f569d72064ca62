"""What goes into the store and comes out of it. All times are seconds since the epoch."""

from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network
from socket import AF_INET, AF_INET6, inet_pton
from typing import Any, NamedTuple

from dpsd.core.lists import Entry
from dpsd.core.peers import Network


class Action(StrEnum):
    """What happened to an entry."""

    ADD = "add"  # put on its list, in place of an entry for the same network there
    REMOVE = "remove"  # taken off
    EXPIRE = "expire"  # its time was over


@dataclass(frozen=True, slots=True)
class Record:
    """One thing done to one entry, and when.

    ADD puts the entry as it is. REMOVE takes off whatever entry the list has for the network; the
    record's own reason and source say why and by whom. EXPIRE takes it off only if expires_at is
    still the stored one: somebody may have prolonged it meanwhile.
    """

    action: Action
    entry: Entry
    at: float


@dataclass(frozen=True, slots=True)
class Recorded(Record):
    """A record as history keeps it: which revision of the lists it made, and on which node."""

    revision: int
    node: str


class Committed(NamedTuple):
    """The revision that a commit made; if nothing had an effect, the one that there was.

    refused: records that came too late, for somebody else had changed their peers before.
    """

    revision: int
    made: bool
    refused: list[Record]


@dataclass(frozen=True, slots=True)
class PeerRow:
    """A peer's score (slot-seconds) as it was at `at`, when it was last seen, and its evidence.

    detail is anything that JSON can hold; the store doesn't look into it.
    """

    peer: Network
    score: float
    at: float
    seen_at: float
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Node:
    """What a running daemon tells about itself; `applied` is the revision that its kernel has."""

    node: str
    pid: int
    mode: str
    started_at: float
    updated_at: float
    applied: int
    status: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Pruned:
    """How many rows a pruning removed; expired counts entries that nobody had taken off."""

    expired: int
    history: int
    peers: int
    more: bool  # there may be more to remove


def network(text: str) -> Network:
    """The network that str(network) is the text of; ValueError for anything else.

    Lists are read 100,000 at a time: half the time of ip_network(), which also guesses versions.
    """
    address, _, length = text.partition("/")
    try:
        if ":" in address:
            return IPv6Network((inet_pton(AF_INET6, address), int(length)))
        return IPv4Network((inet_pton(AF_INET, address), int(length)))
    except (OSError, ValueError) as error:
        raise ValueError(f"{text!r} is no network") from error
