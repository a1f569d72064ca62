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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.lab import smtp, tls
from tests.lab.limits import many_files
from tests.lab.net import HONEST4, HONEST6, MAIL4, MAIL6, source4, source6
from tests.lab.records import Records

RECIPIENT = "user@example.test"
GREYLISTED = "greylisted@example.test"
"""Whom the lab's Postfix answers 450: the first try of a sender that it doesn't know yet."""
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
    keep: float = 5.0
    """How long a session is kept without a mail, when it may be used again."""
    pipelining: bool = False
    """Whether the envelope goes out in one piece."""
    retry: float | None = None
    """Seconds after which it comes again when it is greylisted; None: it never is."""
    quits: bool = True
    """Whether it says QUIT before it closes."""
    tls: bool = False
    """Whether TLS begins with the session."""


KINDS = {
    "single": Kind(),
    "big": Kind(reuse=10),
    "parallel": Kind(),
    "caching": Kind(reuse=20, keep=30),
    "bulk": Kind(size=20_000, reuse=5, pipelining=True),
    "newsletter": Kind(size=20_000),
    "list": Kind(size=8_000, reuse=4),
    "greylisted": Kind(patience=12, retry=3),
    "slow": Kind(size=90_000, rate=15_000, patience=14),
    "office": Kind(port=587, size=30_000, reuse=3),
    "home": Kind(port=465, size=30_000, tls=True),
    "probe": Kind(size=0),
    "check": Kind(size=0, quits=False),
    "outbound": Kind(reuse=5),
}


@dataclass(frozen=True, order=True)
class Mail:
    """One mail that is due `at` seconds after the start. Mails of one lane share sessions."""

    at: float
    kind: str
    source: str
    lane: int = 0


def plan(role: str, seed: int, seconds: float, load: float = 1.0, home: bool = False) -> list[Mail]:
    """Every mail of a run, in order of time: about 10 a second from `world`, 1 from `mail`.

    `load` thins all kinds, and has them use so many fewer sessions, for a server with fewer slots;
    `home` adds the submission clients on port 465.
    """
    chance = random.Random(f"{seed}/{role}")
    if role == "mail":
        return sorted(_outbound(chance, seconds, load))
    mails = [*_inbound(chance, seconds, load), *_bursts(seconds, load)]
    return sorted([*mails, *_home(chance, seconds, load)] if home else mails)


def _inbound(chance: random.Random, seconds: float, load: float) -> Iterator[Mail]:
    for number, at in enumerate(_arrivals(chance, 2.5 * load, seconds)):
        six = chance.random() < 0.4
        source = source6(HONEST6, number) if six else source4(HONEST4, number)
        yield Mail(at, "single", source)
    for number, at in enumerate(_arrivals(chance, 1.5 * load, seconds)):
        yield Mail(at, "big", source4(HONEST4, 20_000), number % _some(6, load))
    for number, at in enumerate(_arrivals(chance, 0.5 * load, seconds)):
        yield Mail(at, "bulk", source6(HONEST6, 20_001), number % _some(2, load))
    for number, at in enumerate(_arrivals(chance, 0.4 * load, seconds)):  # 10 s a lane or so
        yield Mail(at, "caching", source4(HONEST4, 20_002), number % _some(4, load))
    for number, at in enumerate(_arrivals(chance, 0.3 * load, seconds)):
        yield Mail(at, "greylisted", source4(HONEST4, 24_000 + number))
    for number, at in enumerate(_arrivals(chance, 0.1 * load, seconds)):
        six = number % 2 == 1
        index = 21_000 + number
        yield Mail(at, "slow", source6(HONEST6, index) if six else source4(HONEST4, index))
    for number, at in enumerate(_arrivals(chance, 1.0 * load, seconds)):
        yield Mail(at, "office", source4(HONEST4, 22_000), number % _some(20, load))
    for number in range(int(seconds * load)):
        yield Mail(number / load + 0.5, "probe", source4(HONEST4, 23_000))
    for at in _arrivals(chance, 0.2 * load, seconds):
        yield Mail(at, "check", source4(HONEST4, 23_001))


def _bursts(seconds: float, load: float) -> Iterator[Mail]:
    for number in range(_some(30, load)):  # halfway, each on a session of its own
        at = seconds / 2 + number * 0.1 / load
        yield Mail(at, "newsletter", source6(HONEST6, 20_000), number)
    for number in range(_some(50, load)):  # all at once, each on a session of its own
        yield Mail(seconds / 3, "parallel", source4(HONEST4, 20_003), number)
    burst = _some(8, load)
    for number in range(burst * int(seconds / 12)):
        at = 4 + 12 * (number // burst) + 0.1 * (number % burst)
        yield Mail(at, "list", source6(HONEST6, 20_002), number % 2)


def _home(chance: random.Random, seconds: float, load: float) -> Iterator[Mail]:
    for number, at in enumerate(_arrivals(chance, 2.0 * load, seconds)):
        index = 25_000 + number % _some(16, load)
        six = number % 2 == 1
        yield Mail(at, "home", source6(HONEST6, index) if six else source4(HONEST4, index))


def _some(count: int, load: float) -> int:
    """So many of `count`, at least one."""
    return max(1, round(count * load))


def _outbound(chance: random.Random, seconds: float, load: float) -> Iterator[Mail]:
    for number, at in enumerate(_arrivals(chance, 1.0 * load, seconds)):
        yield Mail(at, "outbound", str(MAIL4), number % 2)


def _arrivals(chance: random.Random, rate: float, seconds: float) -> Iterator[float]:
    """Moments of a Poisson process of `rate` a second."""
    at = chance.expovariate(rate)
    while at < seconds:
        yield at
        at += chance.expovariate(rate)


class Lane:
    """Sends its mails one after another, over one session as long as that is allowed."""

    def __init__(self, kind: Kind, host: str, source: str, told: Callable[[str], None]) -> None:
        """`told` hears of each session that somebody else ended, and at which stage of it."""
        self._kind = kind
        self._host = host
        self._source = source
        self._told = told
        self._turn = asyncio.Lock()
        self._session: smtp.Session | None = None
        self._sent = 0
        self._idle: asyncio.TimerHandle | None = None
        self._leaving: set[asyncio.Task[None]] = set()

    async def deliver(self) -> None:
        """Deliver one mail; when that fails or is cancelled, the session is given up."""
        async with self._turn:
            if self._idle is not None:
                self._idle.cancel()
            used = self._session is not None
            try:
                try:
                    await self._try()
                except (OSError, smtp.SmtpError):
                    if not used:
                        raise
                    self._drop()  # a kept session had ended meanwhile: MTAs take a fresh one
                    await self._try()
            except BaseException:
                self._drop()
                raise

    async def _try(self) -> None:
        try:
            await self._deliver()
        except smtp.Cut as cut:
            self._told(cut.stage)
            raise

    async def _deliver(self) -> None:
        kind = self._kind
        if kind.retry is not None:
            await self._first_try(kind.retry)
        session = self._session or await self._open()
        self._session = session
        if kind.size:
            await session.mail(RECIPIENT, kind.size, kind.rate, pipelining=kind.pipelining)
            self._sent += 1
        if self._sent < kind.reuse and kind.size:
            self._idle = asyncio.get_running_loop().call_later(kind.keep, self._leave)
            return
        self._session = None
        await (session.quit() if kind.quits else session.close())

    async def _open(self) -> smtp.Session:
        context = tls.context() if self._kind.tls else None
        session = await smtp.Session.open(self._host, self._kind.port, self._source, context)
        self._sent = 0
        if self._kind.size:
            try:
                await session.hello()
            except BaseException:
                session.abort()
                raise
        return session

    async def _first_try(self, retry: float) -> None:
        """What a server with greylisting makes of a sender that it sees for the first time."""
        session = await self._open()
        try:
            await session.refused(GREYLISTED)
            with contextlib.suppress(OSError, smtp.SmtpError):
                await session.quit()  # under stress Postfix closes after the first such reply
        except BaseException:
            session.abort()
            raise
        await asyncio.sleep(retry)  # this sender's own queue, not a wait

    def _leave(self) -> None:
        """Nothing to send for long enough: say good-bye."""
        task = asyncio.create_task(self.close())
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    def _drop(self) -> None:
        if self._session is not None:
            self._session.abort()
            self._session = None

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            with contextlib.suppress(OSError, smtp.SmtpError, TimeoutError):
                async with asyncio.timeout(1):
                    try:
                        await session.quit()
                    except smtp.Cut as cut:
                        self._told(cut.stage)


async def send(mails: list[Mail], start: float, records: Records) -> None:
    """Send every mail when it is due, `start` being Unix time, and record what became of it."""
    lanes: dict[tuple[str, str, int], Lane] = {}
    async with asyncio.TaskGroup() as tasks:
        for mail in mails:
            await asyncio.sleep(max(0.0, start + mail.at - time.time()))
            key = (mail.kind, mail.source, mail.lane)
            if key not in lanes:
                told = partial(_record_cut, records, mail.kind, mail.source)
                lanes[key] = Lane(KINDS[mail.kind], _host(mail), mail.source, told)
            tasks.create_task(_attempt(mail, start, lanes[key], records))
    await asyncio.gather(*(lane.close() for lane in lanes.values()))


async def _attempt(mail: Mail, start: float, lane: Lane, records: Records) -> None:
    due = start + mail.at
    late = time.time() - due
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
        late=round(late, 4),
        error=error,
    )


def _record_cut(records: Records, kind: str, source: str, stage: str) -> None:
    records.write(time=time.time(), kind=kind, source=source, cut=stage)


def _host(mail: Mail) -> str:
    if mail.kind == "outbound":
        return SINK4
    return str(MAIL6 if ":" in mail.source else MAIL4)


async def _sink() -> None:
    async with await smtp.sink(SINK4, 25) as server:
        await server.serve_forever()


async def _send(mails: list[Mail], start: float, path: Path) -> None:
    with Records(path) as records:
        await send(mails, start, records)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=["world", "mail", "sink"])
    parser.add_argument("--start", type=float, default=time.time())
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--load", type=float, default=1.0)
    parser.add_argument("--home", action="store_true")
    parser.add_argument("--records", type=Path)
    given = parser.parse_args()
    many_files()
    with contextlib.suppress(KeyboardInterrupt):
        if given.role == "sink":
            asyncio.run(_sink())
        else:
            mails = plan(given.role, given.seed, given.seconds, given.load, given.home)
            asyncio.run(_send(mails, given.start, given.records))


if __name__ == "__main__":
    main()
