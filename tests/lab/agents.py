"""The attackers. Each kind is an endless supply of sessions of one shape from many sources.

Run as a process in `world`; it stops by itself after `--seconds`:

    python -m tests.lab.agents hold --sources 40 --sessions 10 --seconds 30 --records FILE
"""

import argparse
import asyncio
import contextlib
import itertools
import random
import sys
import time
from dataclasses import asdict, dataclass
from math import inf
from pathlib import Path

from tests.lab import payers, shapes, synflood
from tests.lab.connection import Connection
from tests.lab.limits import many_files
from tests.lab.net import ATTACK4, ATTACK6, SILENT4, SILENT6, Namespace, source4, source6
from tests.lab.records import Records
from tests.lab.shapes import Shape, Visit

_PAUSE = 1.0
"""Seconds between a session's end and its successor: determined, but not a flood."""

STAYING: dict[str, Shape] = {
    "hold": shapes.hold,
    "silent": shapes.silent,
    "noop": shapes.noop,
    "drip": shapes.drip,
    "slowdata": shapes.slowdata,
    "stall": shapes.stall,
    "helobyte": shapes.helobyte,
    "halfclose": shapes.halfclose,
    "shut": shapes.shut,
    "linger": shapes.linger,
    "vanish": shapes.vanish,
    "trickle": payers.trickle,
    "rcpt": payers.rcpt,
    "mailhold": payers.mailhold,
    "slowmails": payers.slowmails,
    "shift": payers.shift,
}
BUYING: dict[str, Shape] = {"bought": payers.bought, "buymail": payers.buymail}
"""These begin with the peace before the attack."""
TLS: dict[str, Shape] = {
    "hello": shapes.hello,
    "mute465": shapes.silent,
    "tlshold": shapes.tlshold,
}
"""These are for port 465, where TLS begins at once and the client speaks first."""
PASSING: dict[str, Shape] = {"churn": shapes.churn, "reset": shapes.reset}
SHAPES = STAYING | BUYING | TLS | PASSING
KINDS = (*SHAPES, "synflood")


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
    port: int = 0
    """0: 465 for the kinds of TLS, 25 for all others."""
    rate: float = 3000.0
    """Most sessions (or forged SYNs) a second altogether, for the kinds that don't stay, and for
    those that buy, as long as they do."""
    pay: float = 100.0
    """Bytes of mail a second that a session of `trickle` gives."""
    buy: float = 8.0
    """For how long the kinds that buy go on to do so under attack."""
    first: int = 0
    """Number of the first source, so that attacks at the same time don't share them."""
    within: int = 0
    """IPv6: each session comes from a /64 drawn from one prefix of this length; 0: no hopping."""
    rotate: int = 0
    """Addresses of a source, which takes the next one after each session; 0: it has but one."""
    seed: int = 1

    @property
    def target(self) -> int:
        """The server's port."""
        return self.port or (465 if self.kind in TLS else 25)

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


class Throttle:
    """Lets through at most `rate` a second, evenly."""

    def __init__(self, rate: float) -> None:
        self._step = 1 / rate
        self._next = 0.0

    async def turn(self, until: float = inf) -> None:
        """Wait for one's turn, but not beyond `until` (monotonic time)."""
        now = time.monotonic()
        self._next = max(self._next, now - 0.1) + self._step  # catches up no more than 0.1 s
        if self._next > now:
            await asyncio.sleep(max(0.0, min(self._next, until) - now))


async def run(attack: Attack, start: float, records: Records) -> None:
    """Carry the attack out from `start` (Unix time) on."""
    await asyncio.sleep(max(0.0, start - time.time()))
    attackers = _Attackers(attack, time.monotonic(), records)
    async with asyncio.TaskGroup() as tasks:
        for source in range(attack.sources):
            for number in range(attack.sessions):
                tasks.create_task(attackers.place(source, number))


class _Attackers:
    """All places of an attack: each has one session after another until the end."""

    def __init__(self, attack: Attack, began: float, records: Records) -> None:
        self._attack = attack
        self._shape = SHAPES[attack.kind]
        self._end = began + attack.seconds
        self._throttle = Throttle(attack.rate)
        self._throttled = began  # until then, by monotonic time
        if attack.kind in PASSING:
            self._throttled = inf
        elif attack.kind in BUYING:
            self._throttled += attack.buy
        self._records = records

    async def place(self, source: int, number: int) -> None:
        """One of a source's places for a session."""
        attack = self._attack
        chance = random.Random(f"{attack.seed}/{attack.address(source)}/{number}")
        cuts = 0
        for turn in itertools.count():
            hurried = time.monotonic() < self._throttled
            if hurried:
                await self._throttle.turn(self._throttled)
            now = time.monotonic()
            if now >= self._end:
                return
            visit = Visit(chance, self._end - now, attack.pay, now < self._throttled, cuts)
            how = await self._session(attack.address(source, number, turn), visit)
            cuts += how in {"ended", "cut"}
            if not hurried or how != "ended":
                left = max(0.0, self._end - time.monotonic())
                await asyncio.sleep(min(_PAUSE * chance.uniform(0.5, 1.5), left))

    async def _session(self, address: str, visit: Visit) -> str:
        """Have one session, and write down how it ended; that is returned."""
        began, opened, how = time.time(), None, "ended"
        session = Connection(address)
        end = asyncio.timeout(visit.left)
        try:
            async with end:
                await session.connect(self._attack.target)
                opened = time.time()
                await self._shape(session, visit)
        except TimeoutError:  # of connecting, or waiting for the greeting, or the attack is over
            how = "ended" if end.expired() else "timeout"
        except OSError as error:
            how = "refused" if opened is None else "cut"
            if not isinstance(error, ConnectionError):
                how = error.strerror or how
        finally:  # also when the attack is called off
            session.socket.close()
            self._records.write(
                kind=self._attack.kind,
                source=address,
                began=began,
                opened=opened,
                closed=time.time(),
                how=how,
            )
        return how


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
                attack.target,
                start=start,
                seconds=attack.seconds,
                rate=attack.rate,
                seed=attack.seed,
            )
        else:
            asyncio.run(run(attack, start, records))


if __name__ == "__main__":
    main()
