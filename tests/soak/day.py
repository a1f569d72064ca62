"""A day through the real daemon, on the real kernel, with time that passes many times as fast:
honest mail without an end, a wave of attackers an hour, and operators' entries of many lengths.

Its memory is flat after the first hour; every entry is where it should be as long as it should be;
and what the kernel says of when it ends is what the store says, as exactly in the last hour as in
the first.
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from dpsd.store import Store
from tests.lab.agents import Attack
from tests.lab.dpsd import Dpsd
from tests.lab.net import Namespace, Net
from tests.soak.field import WITHIN, Field

HOUR = 3600.0
GANGS = 8  # of attackers, which take turns
OF_AN_HOUR = 0.3  # that a wave lasts
GROWS = 4.0  # MiB by which it may grow after the first hour
HONEST = 0.9  # of honest mails that are delivered, of all
LENGTHS = ("30m", "90m", "3h", "6h", "12h", "23h", "5d")


class Hurried(Dpsd):
    """dpsd for which time passes so many times as fast, from now on; its commands too."""

    def __init__(self, space: Namespace, directory: Path, speed: float, **sections: Any) -> None:
        self.speed, self._began = speed, (time.time(), time.monotonic())
        super().__init__(space, directory, **sections)

    def now(self) -> float:
        """What its wall clock says."""
        wall, steady = self._began
        return wall + (time.monotonic() - steady) * self.speed

    def _argv(self, *args: str) -> list[str]:
        hurry = ":".join(map(str, (self.speed, *self._began)))
        python = ["env", f"DPSD_HURRY={hurry}", sys.executable, "-m", "tests.soak.hurried"]
        return [*python, "--config", str(self.config), *args]


class Day(Field):
    """A field in which a day passes."""

    every = 0.03

    def __init__(self, net: Net, directory: Path, speed: float) -> None:
        self._at_speed = speed
        super().__init__(net, directory, attackers=0)
        self.speed, self.same = speed, max(self.same, 0.1 * speed)

    def made(self, directory: Path, **sections: Any) -> Dpsd:
        policy = {"block_for": "10m", "block_max": "1h", "black_after": 100}
        protect = {**sections.pop("protect"), "ports": [25]}
        sections |= {"policy": policy, "protect": protect}
        return Hurried(self.net.mail, directory, self._at_speed, **sections)

    def now(self) -> float:
        assert isinstance(self.daemon, Hurried)
        return self.daemon.now()

    def memory(self) -> float:
        """MiB of the daemon in memory."""
        told = Path(f"/proc/{self.daemon.pid}/status").read_text(encoding="ascii")
        return int(told.partition("VmRSS:")[2].split()[0]) / 1024

    def drift(self) -> float:
        """Seconds by which kernel and store differ in when an entry ends, at most."""
        with Store.open(f"sqlite:///{self.store}") as store:
            ends = {(e.list.value, str(e.peer)): e.expires_at for e in store.entries(self.now())}
        found = [0.0]
        for name in ("white", "black", "block"):
            now = self.now()
            for peer, left in self.elements(name).items():
                until = ends.get((name, peer))
                if until is not None and left is not None:
                    found.append(abs(now + left - until))
        return max(found)


def run(
    directory: Path, seed: int, speed: float, hours: float, lengths: Sequence[str] = LENGTHS
) -> list[str]:
    """Play so many hours so fast, with operators' entries of these lengths; what went wrong."""
    directory.mkdir()
    chance, wrong, first = Random(seed), list[str](), 0.0
    with Net("y-") as net, Day(net, directory, speed) as field:
        began = time.monotonic()
        for number, lasts in enumerate(lengths):
            assert not field.operate(f"block 10.94.{number}.1 --for {lasts}"), field.daemon.tail()
            assert not field.operate(f"block 10.94.{number}.128/25 --for {lasts}")
        step = min(HOUR, hours * HOUR)
        for hour in range(1, round(hours * HOUR / step) + 1):
            wave = step / speed * OF_AN_HOUR
            gang = Attack("hold", 12, 6, wave, first=(hour % GANGS) * 12, seed=chance.randrange(99))
            attacking = field.attack(gang)
            time.sleep(max(0.0, began + hour * step / speed - time.monotonic()))  # the hour passes
            attacking.wait(60)
            wrong += [f"hour {hour}: {each}" for each in _settled(field)]
            memory, drift = field.memory(), field.drift()
            first = memory if hour == 1 else first
            told = f"{memory:.1f} MiB, {drift:.1f} s of drift, {_lists(field)}"
            print(f"day: hour {hour}: {told}", flush=True)
            if memory > first + GROWS:
                wrong.append(f"hour {hour}: {memory:.1f} MiB, {first:.1f} after the first")
            if drift > field.same:
                wrong.append(f"hour {hour}: expiry differs by {drift:.1f} s")
        mails = field.mails()
        share = sum(each["delivered"] for each in mails) / len(mails)
        blind = field.daemon.log.read_text(encoding="utf-8").count("stood still")
        print(f"day: {share:.1%} of {len(mails):,} honest mails; it stood still {blind} times")
        if share < HONEST:
            wrong.append(f"only {share:.1%} of honest mail")
        wrong += field.honest_listed()
        field.told("", [])
    return wrong


def _settled(field: Day) -> list[str]:
    """What isn't as it should be within WITHIN seconds."""
    end = time.monotonic() + WITHIN
    while found := field.differences():
        if time.monotonic() > end:
            return found
        time.sleep(0.1)  # between two looks
    return []


def _lists(field: Day) -> str:
    told = field.daemon.json("status")
    return f"{told['lists']}, {told['peers']} peers, {told['verdicts']['block']} verdicts"
