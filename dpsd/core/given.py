"""What is white because somebody else says so: the configuration, the host, its mail server.

Such entries are read, not decided. They are on the list while that is said, and an operator's word
comes before what the host and the mail server say.
"""

from collections.abc import Collection, Iterable
from typing import NamedTuple

from dpsd.core.lists import OPERATOR, Entry, ListName, Lists
from dpsd.core.peers import Network

CONFIG, HOST, POSTFIX = "config", "host", "postfix"
SOURCES = (CONFIG, HOST, POSTFIX)

GATEWAY = "gateway"  # the reason of routers, behind which may be anybody
OWN = "own address"  # the reason of what no operator may block either


class Given(NamedTuple):
    """The entries that are to be on the white list, by peer, and the sources that could be read.

    What a source said that can't be read now goes on to hold.
    """

    entries: dict[Network, Entry]
    sources: frozenset[str]


def entry(peer: Network, source: str, reason: str) -> Entry:
    """A white entry; when it was made is told when it is put on the list."""
    return Entry(ListName.WHITE, peer, reason, source, 0.0)


def given(entries: Iterable[Entry], sources: Iterable[str] = SOURCES) -> Given:
    """Those of the entries that no earlier one covers: one reason is enough for a peer."""
    lists = Lists()
    for each in entries:
        if lists.covering(ListName.WHITE, each.peer) is None:
            lists.put(each)
    return Given({each.peer: each for each in lists}, frozenset(sources))


def may_overrule(entry: Entry) -> bool:
    """Whether an entry of another list for the same peer comes before what is given: a person's,
    not a program's."""
    return entry.list is not ListName.WHITE and entry.source == OPERATOR


def changes(
    wanted: Given, white: Iterable[Entry], overruled: Collection[Network]
) -> tuple[list[Entry], list[Entry]]:
    """What has to leave the white list, and what has to be put on it.

    Others' white entries stay in place of given ones. overruled: peers that an operator blocked;
    only the configuration's word comes before that.
    """
    held = {each.peer: each for each in white}
    old = {peer: each for peer, each in held.items() if each.source in SOURCES}
    due = {
        peer: each
        for peer, each in wanted.entries.items()
        if (peer in old or peer not in held) and (each.source == CONFIG or peer not in overruled)
    }
    gone = [each for p, each in old.items() if each.source in wanted.sources and p not in due]
    new = [each for p, each in due.items() if p not in old or _said(old[p]) != _said(each)]
    return gone, new


def _said(entry: Entry) -> tuple[str, str]:
    return entry.source, entry.reason
