"""Honest senders: the mail that has to go on while attackers are at work.

The whole plan is drawn beforehand from a seed, so that every run, with whatever defence, is asked
to deliver the same mails at the same moments. Run as a process in a namespace:

    python -m tests.lab.honest world --start EPOCH --seconds 30 --records FILE
    python -m tests.lab.honest mail  --start EPOCH ...       (the mail host's own outbound queue)
    python -m tests.lab.honest sink                          (in world: takes that queue's mail)
"""

import argparse
import asyncio
import contextlib
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.lab import smtp
from tests.lab.limits import many_files
from tests.lab.net import HONEST4, HONEST6, MAIL4, MAIL6, source4, source6
from tests.lab.records import Records

RECIPIENT = "user@example.test"
SINK4 = source4(HONEST4, 30_000)
"""Where `world` takes the mail that the mail host itself sends."""


@dataclass(frozen=True)
class Kind:
    """How a kind of sender behaves. Sizes in bytes, times in seconds."""

    port: int = 25
    size: int = 4_000
    patience: float = 8.0
    """Counted from the moment when the mail was due; then the sender gives up."""
    rate: float | None = None
    """Bytes a second, for the slow; otherwise as fast as it goes."""
    reuse: int = 1
    """Mails in a session before QUIT."""


KINDS = {
    "single": Kind(),
    "big": Kind(reuse=10),
    "newsletter": Kind(size=20_000),
    "slow": Kind(size=90_000, rate=15_000, patience=12),
    "office": Kind(port=587, size=30_000, reuse=3),
    "probe": Kind(size=0),
    "outbound": Kind(reuse=5),
}


@dataclass(frozen=True, order=True)
class Mail:
    """One mail that is due `at` seconds after the start. Mails of one lane share sessions."""

    at: float
    kind: str
    source: str
    lane: int = 0


def plan(role: str, seed: int, seconds: float) -> list[Mail]:
    """Every mail of a run, in order of time: about 9 a second from `world`, 1 from `mail`."""
    chance = random.Random(f"{seed}/{role}")
    kinds = _outbound(chance, seconds) if role == "mail" else _inbound(chance, seconds)
    return sorted(kinds)


def _inbound(chance: random.Random, seconds: float) -> Iterator[Mail]:
    for number, at in enumerate(_arrivals(chance, 4.0, seconds)):
        six = chance.random() < 0.4
        source = source6(HONEST6, number) if six else source4(HONEST4, number)
        yield Mail(at, "single", source)
    for number, at in enumerate(_arrivals(chance, 3.0, seconds)):
        yield Mail(at, "big", source4(HONEST4, 20_000), number % 6)
    for number in range(30):  # a burst halfway, each on a session of its own
        yield Mail(seconds / 2 + number * 0.1, "newsletter", source6(HONEST6, 20_000), number)
    for number, at in enumerate(_arrivals(chance, 0.1, seconds)):
        yield Mail(at, "slow", source4(HONEST4, 21_000 + number))
    for number, at in enumerate(_arrivals(chance, 1.0, seconds)):
        yield Mail(at, "office", source4(HONEST4, 22_000), number % 4)
    for at in _arrivals(chance, 0.3, seconds):
        yield Mail(at, "probe", source4(HONEST4, 23_000))


def _outbound(chance: random.Random, seconds: float) -> Iterator[Mail]:
    for number, at in enumerate(_arrivals(chance, 1.0, seconds)):
        yield Mail(at, "outbound", str(MAIL4), number % 2)


def _arrivals(chance: random.Random, rate: float, seconds: float) -> Iterator[float]:
    """Moments of a Poisson process of `rate` a second."""
    at = chance.expovariate(rate)
    while at < seconds:
        yield at
        at += chance.expovariate(rate)


class Lane:
    """Sends its mails one after another, over one session as long as that is allowed."""

    def __init__(self, kind: Kind, host: str, source: str) -> None:
        self._kind = kind
        self._host = host
        self._source = source
        self._turn = asyncio.Lock()
        self._session: smtp.Session | None = None
        self._sent = 0

    async def deliver(self) -> None:
        """Deliver one mail; when that fails or is cancelled, the session is given up."""
        async with self._turn:
            used = self._session is not None
            try:
                try:
                    await self._deliver()
                except (OSError, smtp.SmtpError):
                    if not used:
                        raise
                    self._drop()  # a kept session had ended meanwhile: MTAs take a fresh one
                    await self._deliver()
            except BaseException:
                self._drop()
                raise

    async def _deliver(self) -> None:
        kind = self._kind
        if self._session is None:
            self._session = await smtp.Session.open(self._host, kind.port, self._source)
            self._sent = 0
            if kind.size:
                await self._session.hello()
        if kind.size:
            await self._session.mail(RECIPIENT, kind.size, kind.rate)
            self._sent += 1
        if self._sent >= kind.reuse or not kind.size:
            session, self._session = self._session, None
            await session.quit()

    def _drop(self) -> None:
        if self._session is not None:
            self._session.abort()
            self._session = None

    async def close(self) -> None:
        if self._session is not None:
            with contextlib.suppress(OSError, smtp.SmtpError, TimeoutError):
                async with asyncio.timeout(1):
                    await self._session.quit()


async def send(mails: list[Mail], start: float, records: Records) -> None:
    """Send every mail when it is due, `start` being Unix time, and record what became of it."""
    lanes: dict[tuple[str, str, int], Lane] = {}
    async with asyncio.TaskGroup() as tasks:
        for mail in mails:
            await asyncio.sleep(max(0.0, start + mail.at - time.time()))
            key = (mail.kind, mail.source, mail.lane)
            if key not in lanes:
                lanes[key] = Lane(KINDS[mail.kind], _host(mail), mail.source)
            tasks.create_task(_attempt(mail, start, lanes[key], records))
    await asyncio.gather(*(lane.close() for lane in lanes.values()))


async def _attempt(mail: Mail, start: float, lane: Lane, records: Records) -> None:
    due = start + mail.at
    error = ""
    try:
        async with asyncio.timeout(due + KINDS[mail.kind].patience - time.time()):
            await lane.deliver()
    except TimeoutError:
        error = "gave up"
    except (OSError, smtp.SmtpError) as problem:
        error = str(problem) or type(problem).__name__
    records.write(
        time=due,
        kind=mail.kind,
        source=mail.source,
        delivered=not error,
        seconds=round(time.time() - due, 4),
        error=error,
    )


def _host(mail: Mail) -> str:
    if mail.kind == "outbound":
        return SINK4
    return str(MAIL6 if ":" in mail.source else MAIL4)


async def _sink() -> None:
    async with await smtp.sink(SINK4, 25) as server:
        await server.serve_forever()


async def _send(role: str, start: float, seconds: float, seed: int, path: Path) -> None:
    with Records(path) as records:
        await send(plan(role, seed, seconds), start, records)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=["world", "mail", "sink"])
    parser.add_argument("--start", type=float, default=time.time())
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--records", type=Path)
    given = parser.parse_args()
    many_files()
    with contextlib.suppress(KeyboardInterrupt):
        if given.role == "sink":
            asyncio.run(_sink())
        else:
            asyncio.run(_send(given.role, given.start, given.seconds, given.seed, given.records))


if __name__ == "__main__":
    main()
