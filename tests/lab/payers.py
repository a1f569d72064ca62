"""Attackers that pay a little for their places: bytes, commands, mail, or good behaviour before."""

import asyncio
import itertools
from collections.abc import Iterator
from dataclasses import replace

from tests.lab import shapes
from tests.lab.connection import Connection
from tests.lab.shapes import Visit

RECIPIENT_LIMIT = 1000
"""Postfix's smtpd_recipient_limit: recipients of one mail."""
_LINE = b"x" * 76 + b"\r\n"
_MAIL = b"From: a@agent\r\nSubject: lab\r\n\r\n" + _LINE * 25 + b"."
"""About 2 kB, and its end."""
_NOOPS = 20
_IDLE = 3.0
"""Seconds between two mails of `slowmails`."""


async def trickle(session: Connection, visit: Visit) -> None:
    """Begins a mail and goes on with it at `visit.pay` bytes a second, in no regular rhythm."""
    await shapes.data(session)
    await session.heard()

    async def talk() -> None:
        text = _endless()
        owed = 0.0
        while True:
            wait = visit.chance.uniform(0.2, 2.0)
            await asyncio.sleep(wait)
            owed += visit.pay * wait
            piece = bytes(itertools.islice(text, int(owed)))
            owed -= len(piece)
            await session.say(piece)

    await shapes.speak(session, talk(), visit.left)


async def rcpt(session: Connection, visit: Visit) -> None:
    """One more recipient about every second, as many as a mail may have, and then anew."""
    await session.hello()
    await session.heard()
    while True:
        await session.ask(b"MAIL FROM:<a@agent>")
        for _ in range(RECIPIENT_LIMIT):
            await session.ask(b"RCPT TO:<user@example.test>")
            await session.idle(visit.chance.uniform(0.7, 1.3))
        await session.ask(b"RSET")


async def mailhold(session: Connection, visit: Visit) -> None:
    """One real mail, which the server accepts, then nothing."""
    await session.hello()
    await session.heard()
    await _mail(session)
    await session.idle(visit.left)


async def slowmails(session: Connection, visit: Visit) -> None:
    """Mail after mail, with a pause after each."""
    await session.hello()
    await session.heard()
    while True:
        await _mail(session)
        await session.idle(_IDLE * visit.chance.uniform(0.9, 1.1))


async def bought(session: Connection, visit: Visit) -> None:
    """Some time of clean sessions of NOOPs, then hold."""
    if not visit.buying:
        await shapes.hold(session, visit)
        return
    await session.greeted()
    for line in (b"EHLO agent", *[b"NOOP"] * _NOOPS, b"QUIT"):
        await session.ask(line)


async def buymail(session: Connection, visit: Visit) -> None:
    """Some time of sessions with a real mail, then hold."""
    if not visit.buying:
        await shapes.hold(session, visit)
        return
    await session.hello()
    await session.heard()
    await _mail(session)
    await session.ask(b"QUIT")


async def shift(session: Connection, visit: Visit) -> None:
    """Takes another shape each time it was cut: from hold to ones that pay, and again."""
    shape, pay = _SHIFTS[visit.cuts % len(_SHIFTS)]
    await shape(session, replace(visit, pay=pay))


_SHIFTS: tuple[tuple[shapes.Shape, float], ...] = (
    (shapes.hold, 0.0),
    (trickle, 100.0),
    (trickle, 800.0),
    (mailhold, 0.0),
)


async def _mail(session: Connection) -> None:
    """Deliver one mail of 2 kB, after HELO."""
    for line in (b"MAIL FROM:<a@agent>", b"RCPT TO:<user@example.test>", b"DATA", _MAIL):
        await session.ask(line)


def _endless() -> Iterator[int]:
    """The bytes of a mail that never ends."""
    return itertools.cycle(_LINE)
