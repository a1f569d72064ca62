"""Whether conntrack counts the bytes of sessions, without which talk isn't told from mail."""

import asyncio
import logging

from dpsd.kernel import conntrack

log = logging.getLogger("dpsd")

EVERY = 10.0  # seconds between two looks: what begins while it counts nothing is never measured


class Accounting:
    """Sees to it that it does, if that is wanted and allowed, whoever switches it off.

    on: whether it did at the last look.
    """

    def __init__(self, wanted: bool) -> None:
        self.on = True
        self._wanted = wanted
        self._looked = False

    async def look(self) -> None:
        """Look whether it does, and if not switch it on.

        At the first look, that is nothing to be told. Conntrack gives an entry its counters when it
        makes it (net/netfilter/nf_conntrack_core.c): what began without them never gets any.
        """
        before = self.on
        found, self.on = await asyncio.to_thread(self._see)
        if self.on and self._looked and not (before and found):
            log.warning(
                "conntrack's byte counters were switched off (net.netfilter.nf_conntrack_acct);"
                " they are on again, but sessions that began meanwhile are never measured"
            )
        elif self._wanted and before and not self.on:
            log.warning(
                "conntrack counts no bytes: talk that leads nowhere can't be told from mail;"
                " set net.netfilter.nf_conntrack_acct to 1"
            )
        self._looked = True

    def _see(self) -> tuple[bool, bool]:
        """Whether it counted, and whether it does now."""
        found = conntrack.counts_bytes()
        return found, found or (self._wanted and conntrack.count_bytes())
