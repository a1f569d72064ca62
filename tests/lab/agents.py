"""The attackers. Each kind is an endless supply of sessions of one shape from many sources.

Run as a process in `world`; it stops by itself after `--seconds`:

    python -m tests.lab.agents hold --sources 40 --sessions 10 --seconds 30 --records FILE
"""

import argparse
import asyncio
import contextlib
import itertools
import random
import socket
import struct
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.lab import synflood
from tests.lab.limits import many_files
from tests.lab.net import (
    ATTACK4,
    ATTACK6,
    MAIL4,
    MAIL6,
    SILENT4,
    SILENT6,
    Namespace,
    source4,
    source6,
)
from tests.lab.records import Records

_BIND_ADDRESS_NO_PORT = 24  # pick the port at connect: 64k sessions a source, not a host
_TCP_REPAIR = 19
_CONNECT_PATIENCE = 3.0
_GREETING_PATIENCE = 5.0
_PAUSE = 1.0
"""Seconds between a session's end and its successor: determined, but not a flood."""


@dataclass(frozen=True)
class Attack:
    """An attack as it is asked for. All of it is bounded."""

    kind: str
    sources: int = 40
    sessions: int = 10
    """A source's sessions at a time."""
    seconds: float = 30.0
    family: str = "4"
    """`4`, `6`, or `46`: sources of both in turn."""
    port: int = 25
    rate: float = 3000.0
    """Most sessions (or forged SYNs) a second altogether, for the kinds that don't stay."""
    first: int = 0
    """Number of the first source, so that attacks at the same time don't share them."""
    within: int = 0
    """IPv6: each session comes from a /64 drawn from one prefix of this length; 0: no hopping."""
    rotate: int = 0
    """Addresses of a source, which takes the next one after each session; 0: it has but one."""
    seed: int = 1

    def addresses(self) -> list[str]:
        """Its sources; every one is a peer of its own (in IPv6: another /64)."""
        return [self.address(source) for source in range(self.sources)]

    def address(self, source: int, number: int = 0, visit: int = 0) -> str:
        """Where a source's session comes from: the `visit`-th in its `number`-th place."""
        silent = self.kind in {"vanish", "synflood"}
        four, six = (SILENT4, SILENT6) if silent else (ATTACK4, ATTACK6)
        index = self.first + source
        if self.within:
            size = 1 << (64 - self.within)
            chance = random.Random(f"{self.seed}/{source}/{number}/{visit}")
            # The prefix is the first in which nobody else is; /48 is 65,536 times a /64.
            return source6(six, (-(-self.first // size) + 1) * size + chance.randrange(size))
        six_now = self.family[index % len(self.family)] == "6"
        if self.rotate:
            index = self.first + source * self.rotate + visit % self.rotate
        return source6(six, index) if six_now else source4(four, index)

    def command(self, space: Namespace, start: float, path: Path) -> list[str]:
        """How to run it in `space` from `start` (Unix time), with its records in `path`."""
        options = [f"--{name}={value}" for name, value in asdict(self).items() if name != "kind"]
        return space.command(
            sys.executable,
            "-m",
            "tests.lab.agents",
            self.kind,
            *options,
            f"--start={start}",
            f"--records={path}",
        )


class Connection:
    """One attacking session, on a socket whose every option can be abused."""

    def __init__(self, source: str) -> None:
        family = socket.AF_INET6 if ":" in source else socket.AF_INET
        self._host = str(MAIL6 if ":" in source else MAIL4)
        self._loop = asyncio.get_running_loop()
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_IP, _BIND_ADDRESS_NO_PORT, 1)
        self.socket.bind((source, 0))

    async def connect(self, port: int) -> None:
        async with asyncio.timeout(_CONNECT_PATIENCE):
            await self._loop.sock_connect(self.socket, (self._host, port))

    async def say(self, text: bytes) -> None:
        await self._loop.sock_sendall(self.socket, text)

    async def heard(self) -> None:
        """Wait for the end of what the server says, as a client that obeys the protocol."""
        said = b""
        while not said.endswith(b"\n") or said.splitlines()[-1][3:4] == b"-":
            part = await self._loop.sock_recv(self.socket, 4096)
            if not part:
                raise ConnectionError
            said += part

    async def greeted(self) -> None:
        """Wait for the greeting, but not for ever: the server's queue may have lost the session."""
        async with asyncio.timeout(_GREETING_PATIENCE):
            await self.heard()

    async def hello(self) -> None:
        await self.greeted()
        await self.say(b"HELO agent\r\n")

    async def until_cut(self, limit: float) -> None:
        """Swallow what comes until the server ends the session, at most `limit` seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit):
                while await self._loop.sock_recv(self.socket, 4096):
                    pass


Shape = Callable[[Connection, random.Random, float], Awaitable[None]]
"""What a session does once connected; the number is the seconds that are left of the attack."""


async def _hold(session: Connection, _chance: random.Random, left: float) -> None:
    """The paper's agent: a greeting, then nothing."""
    await session.hello()
    await session.until_cut(left)


async def _silent(session: Connection, _chance: random.Random, left: float) -> None:
    """Connects and never says a word."""
    await session.until_cut(left)


async def _noop(session: Connection, chance: random.Random, left: float) -> None:
    """Speaks every few seconds, gets nowhere."""
    await session.hello()
    await _repeat(session, b"NOOP\r\n", chance, 8.0, left)


async def _drip(session: Connection, chance: random.Random, left: float) -> None:
    """A command that never ends, a byte now and then."""
    await session.greeted()
    await session.say(b"HELO ")
    await _repeat(session, b"a", chance, 3.0, left)


async def _slowdata(session: Connection, chance: random.Random, left: float) -> None:
    """Begins a mail as anybody would, and then takes for ever to say what is in it."""
    await _data(session)
    await _repeat(session, b"slow\r\n", chance, 2.0, left)


async def _stall(session: Connection, _chance: random.Random, left: float) -> None:
    """Says much of a mail, and never the rest."""
    await _data(session)
    await session.heard()
    await session.say(b"Received: from somewhere by somewhere else\r\n" * 50)
    await session.until_cut(left)


async def _data(session: Connection) -> None:
    await session.hello()
    for line in (b"MAIL FROM:<a@agent>", b"RCPT TO:<user@example.test>", b"DATA"):
        await session.heard()
        await session.say(line + b"\r\n")


async def _repeat(
    session: Connection, text: bytes, chance: random.Random, every: float, left: float
) -> None:
    async def speak() -> None:
        while True:
            await asyncio.sleep(every * chance.uniform(0.7, 1.3))
            await session.say(text)

    speaking = asyncio.create_task(speak())
    listening = asyncio.create_task(session.until_cut(left))
    both = (speaking, listening)
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    finally:  # also when the attack is called off
        for task in both:
            task.cancel()
        results = await asyncio.gather(*both, return_exceptions=True)
    for result in results:
        if isinstance(result, OSError):
            raise result


async def _churn(_session: Connection, _chance: random.Random, _left: float) -> None:
    """Comes and goes, as often as it can."""


async def _reset(session: Connection, _chance: random.Random, _left: float) -> None:
    """Goes with a reset."""
    session.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def _halfclose(session: Connection, chance: random.Random, left: float) -> None:
    """Closes its half and stays, or lets the server close and never answers its FIN."""
    await (_shut if chance.random() < 0.5 else _linger)(session, chance, left)


async def _shut(session: Connection, _chance: random.Random, left: float) -> None:
    """Closes its half and stays."""
    await session.hello()
    session.socket.shutdown(socket.SHUT_WR)
    await session.until_cut(min(left, 20.0))


async def _linger(session: Connection, _chance: random.Random, left: float) -> None:
    """Lets the server close and never answers its FIN."""
    await session.hello()
    await session.say(b"QUIT\r\n")
    await asyncio.sleep(min(left, 20.0))


async def _vanish(session: Connection, _chance: random.Random, _left: float) -> None:
    """Says good-bye and is gone before the last ACK; `world` sends no reset for it."""
    await session.say(b"HELO agent\r\nQUIT\r\n")
    session.socket.shutdown(socket.SHUT_WR)
    session.socket.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR, 1)  # so that close says nothing


STAYING: dict[str, Shape] = {
    "hold": _hold,
    "silent": _silent,
    "noop": _noop,
    "drip": _drip,
    "slowdata": _slowdata,
    "stall": _stall,
    "halfclose": _halfclose,
    "shut": _shut,
    "linger": _linger,
    "vanish": _vanish,
}
PASSING: dict[str, Shape] = {"churn": _churn, "reset": _reset}
KINDS = (*STAYING, *PASSING, "synflood")


class Throttle:
    """Lets through at most `rate` a second, evenly."""

    def __init__(self, rate: float) -> None:
        self._step = 1 / rate
        self._next = 0.0

    async def turn(self) -> None:
        now = time.monotonic()
        self._next = max(self._next, now - 0.1) + self._step  # catches up no more than 0.1 s
        if self._next > now:
            await asyncio.sleep(self._next - now)


async def run(attack: Attack, start: float, records: Records) -> None:
    """Carry the attack out from `start` (Unix time) on."""
    await asyncio.sleep(max(0.0, start - time.time()))
    end = time.monotonic() + attack.seconds
    throttle = Throttle(attack.rate) if attack.kind in PASSING else None
    async with asyncio.TaskGroup() as tasks:
        for source in range(attack.sources):
            for number in range(attack.sessions):
                place = _slot(attack, source, number, throttle=throttle, end=end, records=records)
                tasks.create_task(place)


async def _slot(
    attack: Attack,
    source: int,
    number: int,
    *,
    throttle: Throttle | None,
    end: float,
    records: Records,
) -> None:
    """One of a source's places for a session: one after another until the end."""
    shape = (STAYING | PASSING)[attack.kind]
    chance = random.Random(f"{attack.seed}/{attack.address(source)}/{number}")
    visits = itertools.count()
    while (left := end - time.monotonic()) > 0:
        if throttle is not None:
            await throttle.turn()
        began, opened, how = time.time(), None, "ended"
        address = attack.address(source, number, next(visits))
        session = Connection(address)
        try:
            await session.connect(attack.port)
            opened = time.time()
            await shape(session, chance, left)
        except TimeoutError:
            how = "timeout"  # of connecting, or waiting for the greeting
        except OSError as error:
            how = "refused" if opened is None else "cut"
            if not isinstance(error, ConnectionError):
                how = error.strerror or how
        finally:  # also when the attack is called off
            session.socket.close()
            records.write(
                kind=attack.kind,
                source=address,
                began=began,
                opened=opened,
                closed=time.time(),
                how=how,
            )
        if throttle is None or opened is None:
            await asyncio.sleep(min(_PAUSE * chance.uniform(0.5, 1.5), max(0.0, left)))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=KINDS)
    for name, default in asdict(Attack("")).items():
        if name != "kind":
            parser.add_argument(f"--{name}", type=type(default), default=default)
    parser.add_argument("--start", type=float, default=time.time())
    parser.add_argument("--records", type=Path, required=True)
    return parser.parse_args()


def main() -> None:
    given = vars(_arguments())
    start, path = given.pop("start"), given.pop("records")
    attack = Attack(**given)
    many_files()
    with contextlib.suppress(KeyboardInterrupt), Records(path) as records:
        if attack.kind == "synflood":
            synflood.run(
                attack.addresses(),
                attack.port,
                start=start,
                seconds=attack.seconds,
                rate=attack.rate,
                seed=attack.seed,
            )
        else:
            asyncio.run(run(attack, start, records))


if __name__ == "__main__":
    main()
