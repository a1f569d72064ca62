"""What the mail server of this host said last, asked in a thread, and told to the log once."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from dpsd import assembly
from dpsd.config import Config
from dpsd.mta import Mta

log = logging.getLogger("dpsd")


class MailServer:
    """Remembers what it said; while it can't be asked, that goes on to hold."""

    def __init__(self) -> None:
        self.said: Mta | None = None
        self._knows = False  # whether that is an answer of its own
        self._asked: tuple[object, ...] = ()
        self._told: dict[str, object] = {}

    async def ask(self, config: Config) -> Mta:
        """What it says about this configuration now; nothing is remembered before take()."""
        mta = await asyncio.to_thread(assembly.ask, config)
        if not mta.problem or self.said is None or not self._still_holds(config):
            return mta
        return replace(self.said, problem=mta.problem)

    def take(self, config: Config, mta: Mta) -> None:
        """Go on with this configuration and what it said; what is new goes to the log."""
        holds = bool(mta.problem) and self._still_holds(config)
        self.said, self._asked, self._knows = mta, _question(config), holds or not mta.problem
        if self._is_new("problem", mta.problem) and mta.problem:
            then = "what was known of it holds" if holds else "nothing is known of it"
            log.error("the mail server can't be asked, %s: %s", then, mta.problem)
        slots = assembly.slots(config, mta)
        if self._is_new("slots", slots):
            for each in slots:
                log.info("slots: %s", each.words(config.protect.ports))

        left_out = mta.networks.left_out if mta.networks else ()
        if self._is_new("left out", left_out) and left_out:
            log.warning("not taken as white of Postfix's mynetworks: %s", ", ".join(left_out))

    def _still_holds(self, config: Config) -> bool:
        """Whether what it said before is about this configuration, too."""
        return self._knows and self._asked == _question(config)

    def learned(self, slots: Sequence[Mapping[str, Any]]) -> None:
        """Tell the log, once each, which pools of slots a lesson is about."""
        full = {(*each["ports"],): each for each in slots if " full at " in each["source"]}
        for ports, each in full.items():
            if self._is_new(f"full {ports}", each["slots"]):
                named = ", ".join(map(str, ports))
                log.warning("slots: %d for %s: %s", each["slots"], named, each["source"])

    def _is_new(self, what: str, value: object) -> bool:
        """Whether this differs from what was told last."""
        last = self._told.get(what)
        self._told[what] = value
        return last != value


def _question(config: Config) -> tuple[object, ...]:
    protect = config.protect
    return protect.ports, protect.addresses, protect.postfix
