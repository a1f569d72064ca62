"""Peers that keep slots from others and can't be listed for it: whom to name, and when."""

import time
from collections.abc import Iterable, Iterator

from dpsd.core.owners import Pressing

AGAIN = 3600.0  # seconds between two warnings about one peer


def words(each: Pressing) -> str:
    """Why it isn't listed, what is done, and what an administrator can do."""
    if not each.relay:
        return (
            f"it is white ({each.white or 'near this host'}), so none of them is ended;"
            " take it off the white list if it shouldn't be there"
        )
    white = f" (white: {each.white})" if each.white else ""
    return (
        f"other people's sessions come through it{white}, so it isn't listed, and those of no use"
        " are ended one by one; let it hand on who they are from, or run dpsd on it"
    )


class Pressers:
    """Remembers who was named."""

    def __init__(self) -> None:
        self._told: dict[str, float] = {}

    def warnings(self, pressing: Iterable[Pressing]) -> Iterator[str]:
        """The warnings that are due."""
        now = time.monotonic()
        self._told = {peer: at for peer, at in self._told.items() if now - at < AGAIN}
        for each in pressing:
            if str(each.peer) not in self._told:
                self._told[str(each.peer)] = now
                bare = each.peer.prefixlen in (32, 128)
                address = each.peer.network_address if bare else each.peer
                yield f"{address} makes the pressure with {each.sessions} sessions: {words(each)}"
