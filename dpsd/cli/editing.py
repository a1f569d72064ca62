"""What an operator changes: one transaction each, then waiting until the daemon has applied it.

These functions raise BadArgument for what makes no sense, NotSo for what isn't there, and whatever
the store raises.
"""

import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import inf

from dpsd.cli import own
from dpsd.cli.output import moment
from dpsd.cli.status import latest_node
from dpsd.config import Config, format_duration
from dpsd.core.given import CONFIG, HOST, OWN, POSTFIX, SOURCES
from dpsd.core.lists import OPERATOR, SCORE, Entry, ListName
from dpsd.core.peers import Network
from dpsd.errors import BadArgument, NotSo, Unavailable
from dpsd.store import Action, Record, Store

PATIENCE = 5.0  # seconds to wait for the daemon
_POLL = 0.02  # seconds
_BLOCKING = (ListName.BLACK, ListName.BLOCK)
_RESERVED = (OPERATOR, SCORE, *SOURCES)  # sources of entries that dpsd makes itself


def program(name: str) -> str:
    """A program's name as the source of entries; not one that dpsd itself goes by."""
    if not re.fullmatch(r"[A-Za-z0-9][\w.:@+-]{0,63}", name, re.ASCII) or name in _RESERVED:
        raise BadArgument(
            "--source: must be a name of up to 64 letters, digits and .:_@+-, other than"
            f" {', '.join(_RESERVED)}"
        )
    return name


def chosen(source: str | None) -> tuple[str, str | None]:
    """Who lifts, and only whose blocks (None: anybody's), for a --source of `dpsd unblock`.

    An operator lifts what the score or operators blocked, a program what it blocked itself.
    """
    if source in (SCORE, OPERATOR):
        return OPERATOR, source
    return (OPERATOR, None) if source is None else (program(source), source)


@dataclass(frozen=True, slots=True)
class Done:
    """What was changed, in words, and the revision that it made. None: nothing had to change."""

    message: str
    revision: int | None
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Editor:
    """An operator's hand on the lists, at one instant (s since the epoch).

    Or a program's: another source overrules nobody else's blocks, and lifts only its own.
    """

    store: Store
    config: Config
    now: float
    source: str = OPERATOR

    def block(self, peer: Network, seconds: float | None, reason: str) -> Done:
        """Put a peer on the block list for so long, or on the black one for good (None)."""
        check_own(self.config, peer)
        covering = self._covering(peer)
        if (other := self._longer(peer, covering, seconds)) is not None:
            lasts = until(other.expires_at, self.now)
            name = self._name(peer)
            return Done(f"{name} stays on the {other.list} list {lasts}, by {other.source}", None)
        # An operator's word comes before what the host and its mail server say of just this peer.
        given = (HOST, POSTFIX) if self.source == OPERATOR else ()
        exact = [e for e in covering if e.peer == peer]
        freed = [e for e in exact if e.list is ListName.WHITE and e.source in given]
        found = [e for e in covering if e not in freed]
        inside = self._white_inside(peer)
        if seconds is not None:
            entry = self._entry(ListName.BLOCK, peer, reason, seconds)
            return self._put(entry, freed, [*self._overruled_by(peer, found), *inside])
        # The black list decides before the block list: an entry there would only mislead.
        freed += [e for e in found if e.list is ListName.BLOCK and e.peer == peer]
        entry = self._entry(ListName.BLACK, peer, reason, None)
        white = [e for e in found if e.list is ListName.WHITE]
        return self._put(entry, freed, [*self._overruled_by(peer, white), *inside])

    def allow(self, peer: Network, seconds: float | None, reason: str) -> Done:
        """Put a peer on the white list, for so long or for good (None)."""
        if peer in self.config.white:
            name = self._name(peer)
            return Done(f"{name} is white already, by the configuration (lists.white)", None)
        return self._put(self._entry(ListName.WHITE, peer, reason, seconds), [], [])

    def unblock(self, peer: Network, only: str | None = None) -> Done:
        """Take a peer off the block and black lists; only: if this source blocked it."""
        return self._take_off(peer, _BLOCKING, only)

    def unblock_all(self, only: str | None, since: float | None) -> Done:
        """Take everybody off the block and black lists whom this source blocked (None: any), and
        since this instant (None: whenever)."""
        found = blocked(self.store, self.now, only, since)
        if not found:
            by = "" if only is None else f" by {only}"
            raise NotSo(
                f"nobody is on the black or block list{by}"
                f"{'' if since is None else f' since {moment(since)}'}"
            )
        number = self.store.commit([self._removal(entry) for entry in found])
        what = "1 entry" if len(found) == 1 else f"{len(found)} entries"
        by = "" if only is None else f" by {only}"
        return Done(f"{what}{by} taken off the black and block lists", number)

    def disallow(self, peer: Network) -> Done:
        """Take a peer off the white list."""
        entry = self.store.entry(ListName.WHITE, peer, self.now)
        if peer in self.config.white or (entry is not None and entry.source == CONFIG):
            raise NotSo(
                f"{self._name(peer)} is white by the configuration: take it out of lists.white,"
                " and reload the daemon"
            )
        if entry is not None and entry.source in (HOST, POSTFIX):
            name = self._name(peer)
            hint = "" if entry.reason == OWN else f"; `dpsd block {name}` comes before it"
            raise NotSo(f"{name} is white while it is so ({entry.reason}){hint}")
        return self._take_off(peer, (ListName.WHITE,))

    def _take_off(
        self, peer: Network, names: tuple[ListName, ...], only: str | None = None
    ) -> Done:
        found = [entry for entry in self._covering(peer) if entry.list in names]
        exact = [entry for entry in found if entry.peer == peer]
        if only is not None:
            others = [entry for entry in exact if entry.source != only]
            exact = [entry for entry in exact if entry.source == only]
            if others and not exact:
                told = " and ".join(f"the {e.list} list by {e.source}" for e in others)
                raise NotSo(f"{self._name(peer)} is on {told}, not by {only}: it stays")
        wider = [
            f"{self._name(entry.peer)}, which covers it, is on the {entry.list} list"
            for entry in found
            if entry.peer != peer
        ]
        lists = " or ".join(names)
        if not exact:
            raise NotSo("; ".join([f"{self._name(peer)} is not on the {lists} list", *wider]))
        number = self.store.commit([self._removal(entry) for entry in exact])
        off = " and ".join(f"the {entry.list} list" for entry in exact)
        return Done(f"{self._name(peer)} is off {off}", number, wider)

    def _put(self, entry: Entry, freed: Iterable[Entry], warnings: list[str]) -> Done:
        records = [Record(Action.ADD, entry, self.now), *map(self._removal, freed)]
        number = self.store.commit(records)
        lasts = until(entry.expires_at, self.now)
        message = f"{self._name(entry.peer)} is on the {entry.list} list {lasts}"
        return Done(message, number, warnings)

    def _entry(self, name: ListName, peer: Network, reason: str, seconds: float | None) -> Entry:
        ends = None if seconds is None else self.now + seconds
        return Entry(name, peer, reason, self.source, self.now, ends)

    def _removal(self, entry: Entry) -> Record:
        by = Entry(entry.list, entry.peer, "", self.source, self.now)
        return Record(Action.REMOVE, by, self.now)

    def _longer(self, peer: Network, found: Iterable[Entry], seconds: float | None) -> Entry | None:
        """What a program leaves alone: somebody else's block that is at least as long, and an
        operator's, which may be what keeps the peer off the white list."""
        ends = inf if seconds is None else self.now + seconds
        others = (
            entry
            for entry in found
            if entry.peer == peer and entry.list in _BLOCKING and entry.source != self.source
        )
        if self.source == OPERATOR:
            return None
        return next(
            (e for e in others if e.source == OPERATOR or (e.expires_at or inf) >= ends), None
        )

    def _covering(self, peer: Network) -> list[Entry]:
        return self.store.covering(peer, self.now)

    def _name(self, peer: Network) -> str:
        return self.config.peers.size.text(peer)

    def _overruled_by(self, peer: Network, found: Iterable[Entry]) -> list[str]:
        """Warnings of what decides on a peer before its new entry does."""
        over = {entry.peer: entry.list for entry in found if entry.list is not ListName.BLOCK}
        over |= {white: ListName.WHITE for white in self.config.white if holds(white, peer)}
        effects = {ListName.WHITE: "passes all the same", ListName.BLACK: "stays blocked for good"}
        return [
            f"{self._name(by)} is on the {name} list, so"
            f" {'it' if by == peer else self._name(peer)} {effects[name]}"
            for by, name in over.items()
        ]

    def _white_inside(self, peer: Network) -> list[str]:
        """Warnings of what stays white within a peer or prefix, by the host or its mail server."""
        if peer.num_addresses == 1:
            return []
        return [
            f"{self._name(e.peer)} within it stays white ({e.reason}); to block that as well:"
            f" dpsd block {self._name(e.peer)}"
            for e in self.store.entries(self.now, ListName.WHITE)
            if e.source in (HOST, POSTFIX) and e.peer != peer and holds(peer, e.peer)
        ]


def blocked(store: Store, now: float, only: str | None, since: float | None) -> list[Entry]:
    """Whom a source blocked (None: any) since an instant (None: whenever)."""
    return [
        entry
        for name in _BLOCKING
        for entry in store.entries(now, name)
        if only in (None, entry.source) and (since is None or entry.created_at >= since)
    ]


def check_own(config: Config, peer: Network) -> None:
    """Refuse to block what would lock this host or a protected server out; BadArgument."""
    name = config.peers.size.text
    for address in own.addresses():
        if holds(peer, address):
            what = f"this host's own address {address.network_address}"
            hint = "; block a neighbour as /128" if address.version == 6 else ""
            raise BadArgument(f"{name(peer)} can't be blocked: it covers {what}{hint}")
    for protected in config.protect.addresses:
        if holds(peer, protected):
            what = f"{name(protected)}, which is protected (protect.addresses)"
            raise BadArgument(f"{name(peer)} can't be blocked: it covers {what}")


def until(expires_at: float | None, now: float) -> str:
    """How long an entry lasts, in words."""
    if expires_at is None:
        return "for good"
    return f"until {moment(expires_at)} ({format_duration(expires_at - now)})"


def holds(wide: Network, narrow: Network) -> bool:
    """Whether the whole of one network lies in another."""
    return wide.version == narrow.version and wide.supernet_of(narrow)  # type: ignore[arg-type]


def wait_until_applied(store: Store, revision: int) -> str:
    """Wait for the daemon to bring a revision into the kernel; what to add to the message.

    Raises Unavailable when it doesn't within PATIENCE.
    """
    deadline = time.monotonic() + PATIENCE
    while store.claimed():
        node = latest_node(store)
        if node is not None and node.applied >= revision:
            return "; dpsd only observes, nothing is enforced" if node.mode == "observe" else ""
        if time.monotonic() > deadline:
            raise Unavailable(
                f"stored, but the daemon has not applied it within {format_duration(PATIENCE)};"
                " see its log, and `dpsd status`"
            )
        time.sleep(_POLL)
    return "; stored, it takes effect when the daemon starts"
