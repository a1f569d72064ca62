"""Whether conntrack counts the bytes of sessions, without which talk isn't told from mail, and
whether it tells of them at all."""

import asyncio
import logging

from dpsd.kernel import conntrack

log = logging.getLogger("dpsd")

EVERY = 10.0  # seconds between two looks: what begins while it counts nothing is never measured


class Accounting:
    """Sees to it that it does, if that is wanted and allowed, whoever switches it off. Its events
    are always wanted.

    on: whether it counted at the last look.
    """

    def __init__(self, wanted: bool) -> None:
        self.on = True
        self._wanted = wanted
        self._looked = False
        self._tells = True  # events

    async def look(self) -> None:
        """Look whether it does, and if not switch it on.

        At the first look, that is nothing to be told. Conntrack gives an entry its counters when it
        makes it (net/netfilter/nf_conntrack_core.c): what began without them never gets any.
        """
        before = self.on
        found, self.on = await asyncio.to_thread(self._see)
        await self._look_at_events()
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

    async def _look_at_events(self) -> None:
        """What begins without them is never told of; only dumps have it."""
        before = self._tells
        if await asyncio.to_thread(conntrack.tells_events):
            self._tells = True
            return
        self._tells = await asyncio.to_thread(conntrack.tell_events)
        if self._tells and self._looked:
            log.warning(
                "conntrack's events were switched off (net.netfilter.nf_conntrack_events); they are"
                " on again, but sessions that began meanwhile are seen late, by dumps only"
            )
        elif before and not self._tells:
            log.warning(
                "conntrack tells no events: sessions are seen late, by dumps only;"
                " set net.netfilter.nf_conntrack_events to 2"
            )

    def _see(self) -> tuple[bool, bool]:
        """Whether it counted, and whether it does now."""
        found = conntrack.counts_bytes()
        return found, found or (self._wanted and conntrack.count_bytes())
