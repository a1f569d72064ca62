"""A mail host with few slots, honest senders, attackers, and dpsd between them; and whether all is
as it should be there."""

import itertools
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from math import inf
from pathlib import Path
from typing import Any, Self

from dpsd.config.kinds import Duration
from dpsd.core.lists import Entry
from dpsd.core.peers import parse_network
from dpsd.kernel.nftset.elements import ElementSocket
from dpsd.kernel.nftset.table import _peers, _prefixes
from dpsd.store import Store
from tests.daemon.live import Nft, eventually
from tests.lab.agents import Attack
from tests.lab.dpsd import Dpsd
from tests.lab.net import Namespace, Net
from tests.lab.records import read
from tests.soak import senders

SLOTS = 30
SETTLED = 4.0  # seconds after which a change is everywhere, and before which an end is near
SAME = 3.0  # seconds by which two instants may differ
WITHIN = 20.0  # seconds in which all has to be as it should be again, on a busy machine
FLOWS = 8  # mails in a row that show that mail flows
STANDING = (
    "block 10.98.1.1 --for 5h",
    "block 10.98.1.2 --permanent",
    "block 2001:db8:b001:1::1 --for 5h",
    "block 10.98.2.0/24 --for 6h",
    "block 2001:db8:b002::/48 --permanent",
    "allow 10.98.3.1 --for 5h",
    "allow 10.98.4.0/24",
)
"""What operators said before anything breaks. Nobody in the field comes from there."""
TRACES = re.compile(r"Traceback|Exception in|never retrieved|was never awaited")


class Faulty(Dpsd):
    """dpsd whose kernel, store and clock can be made to fail."""

    def __init__(self, space: Namespace, directory: Path, **sections: Any) -> None:
        super().__init__(space, directory, **sections)
        self._faults = directory / "faults"
        self.fail()

    def fail(self, **faults: Any) -> None:
        """These are the faults from now on, see faulty.py."""
        written = self._faults.with_suffix(".new")
        written.write_text(json.dumps(faults), encoding="ascii")
        written.rename(self._faults)

    def _argv(self, *args: str) -> list[str]:
        python = ["env", f"DPSD_FAULTS={self._faults}", sys.executable, "-m", "tests.soak.faulty"]
        return [*python, "--config", str(self.config), *args]


class Field:
    """Runs from its start to its end as a context manager. `daemon` may be restarted.

    ahead: seconds by which the daemon's wall clock was set forward; expected: by peer, the list on
    which an operator wants it (None: on none), and `ends` until when; speed: how many times as fast
    the daemon's time passes; same: its seconds by which two instants may differ.
    """

    every = 0.2  # seconds between two mails

    def __init__(self, net: Net, directory: Path, attackers: int = 30) -> None:
        self.net = net
        self.nft = Nft(net.mail)
        self.store = directory / "store" / "dpsd.db"
        self.ahead, self.speed, self.same = 0.0, 1.0, SAME
        self.expected: dict[str, str | None] = {}
        self.ends: dict[str, float] = {}
        self.store.parent.mkdir(parents=True, exist_ok=True)
        self.daemon: Dpsd = self.made(
            directory / "dpsd",
            protect={"slots": SLOTS},
            policy={"block_for": "15s", "block_max": "60s", "black_after": 100},
            store={"url": f"sqlite:///{self.store}"},
        )
        self._attack = Attack("hold", sources=attackers, sessions=4, seconds=1e6)
        self._directory = directory
        self._processes: list[subprocess.Popen[bytes]] = []
        self._numbers = itertools.count(1)
        self._log_read = 0

    def made(self, directory: Path, **sections: Any) -> Dpsd:
        """The daemon, which isn't started yet."""
        return Faulty(self.net.mail, directory, **sections)

    def set_clock(self, ahead: float) -> None:
        """The daemon's wall clock was set; what is listed lasts as long as it was meant to."""
        for peer in self.ends:
            self.ends[peer] += ahead - self.ahead
        self.ahead = ahead

    def now(self) -> float:
        """What the daemon's wall clock says."""
        return time.time() + self.ahead

    def __enter__(self) -> Self:
        net, python, records = self.net, sys.executable, self._directory
        server = self.spawn(
            net.mail.command(python, "-m", "tests.soak.server", f"--slots={SLOTS}"),
            stdout=subprocess.PIPE,
        )
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"
        self.daemon.start()
        mails = f"--records={records / 'mails'}"
        every = f"--every={self.every}"
        self.spawn(net.world.command(python, "-m", "tests.soak.senders", mails, every))
        if self._attack.sources:
            self.attack(self._attack)
        for line in STANDING:
            self.operate(line)
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
        if self.daemon.running:
            self.daemon.kill()
        self.net.mail.run("nft", "add table inet dpsd; delete table inet dpsd")

    def attack(self, attack: Attack) -> subprocess.Popen[bytes]:
        """Begin an attack."""
        return self.spawn(attack.command(self.net.world, time.time(), self._directory / "attacks"))

    def spawn(self, argv: list[str], **how: Any) -> subprocess.Popen[bytes]:
        """Start a program that ends with the field at the latest."""
        process = subprocess.Popen(argv, cwd=Path(__file__).parents[2], **how)
        self._processes.append(process)
        return process

    def operate(self, line: str) -> int:
        """An operator's command: its exit code; what it wants is expected from now on."""
        done = self.daemon.cli(*line.split())
        words = line.split()
        wanted = {"allow": "white", "block": "black" if "--permanent" in words else "block"}
        if done.returncode:
            self.expected.pop(words[1], None)  # nobody knows what it did
        else:
            self.expected[words[1]] = wanted.get(words[0])
            self.ends.pop(words[1], None)
            if "--for" in words:
                self.ends[words[1]] = self.now() + Duration().read(words[words.index("--for") + 1])
        return done.returncode

    def operators(self) -> None:
        """Operators win now: a peer is blocked, another one freed, and the kernel has it so."""
        number = next(self._numbers)
        peer, other = f"10.97.{number}.1", f"10.97.{number}.2"
        for line in (f"block {peer} --for 2h", f"block {other} --for 2h", f"unblock {other}"):
            code = self.operate(line)
            assert code == 0, f"{line}: {code}\n{self.daemon.tail()}"
        assert self.nft.holds("block4", peer), f"{peer} isn't blocked in the kernel"
        assert not self.nft.holds("block4", other), f"{other} is blocked in the kernel"

    # Whether all is as it should be

    def check(self) -> None:
        """All is as it should be, or will be within WITHIN seconds; AssertionError."""
        assert self.daemon.running, f"dpsd ended\n{self.daemon.tail()}"
        assert eventually(lambda: not self.differences(), WITHIN), self.differences()
        since = time.time()
        assert eventually(lambda: self.flows(since), WITHIN), f"no mail flows\n{self.mails()[-20:]}"
        honest = self.honest_listed()
        assert not honest, honest

    def differences(self, settled: float = SETTLED) -> list[str]:
        """What store, kernel and operators don't agree in.

        settled: seconds before which a change need not be everywhere.
        """
        now, told = self.now(), list[str]()
        with Store.open(f"sqlite:///{self.store}") as store:
            stored = store.entries(now)
        kernel = {name: self.elements(name) for name in ("white", "black", "block")}
        by_peer = {(entry.list.value, str(entry.peer)): entry for entry in stored}
        for peer, name in self.expected.items():
            network, left = str(_peer(peer)), self.ends.get(peer, inf) - now
            if abs(left) < SETTLED * self.speed:
                continue
            name = name if left > 0 else None  # noqa: PLW2901 - its time is over
            for each in ("white", "black", "block"):
                if ((each, network) in by_peer) is not (name == each):
                    told.append(f"{peer} should be on {name}, and the store has {each} otherwise")
        for entry in stored:
            if entry.created_at <= now - settled * self.speed:
                told += self._unlike(entry, kernel[entry.list.value], now)
        told += [
            f"{peer} is in the kernel's {name} and not in the store"
            for name, found in kernel.items()
            for peer, left in found.items()
            if (name, peer) not in by_peer and (left is None or left > SETTLED * self.speed)
        ]
        return told

    def elements(self, name: str) -> dict[str, float | None]:
        """Whom the kernel has on a list, and for how many seconds yet."""
        found: dict[str, float | None] = {}
        with self.net.mail.entered():
            reading = ElementSocket("dpsd")
        with closing(reading):
            for version, prefix in ((4, 32), (6, 64)):
                hosts = reading.dump(f"{name}{version}") or ()
                nets = reading.dump(f"{name}{version}_nets") or ()
                for each, until in (*_peers(hosts, prefix), *_prefixes(nets)):
                    left = until and (until - time.monotonic()) * self.speed
                    found[str(each)] = left
        return found

    def _unlike(self, entry: Entry, held: dict[str, float | None], now: float) -> Iterator[str]:
        """How the kernel has it otherwise than the store."""
        peer, until = str(entry.peer), entry.expires_at
        if until is not None and until < now + SETTLED * self.speed:
            return
        if peer not in held:
            yield f"{peer} is on {entry.list} by {entry.source}, and not in the kernel"
            return
        left = held[peer]
        if left is None or until is None:
            if left is not until:
                yield f"{peer}: {left} s left in the kernel, until {until} in the store"
        elif abs(now + left - until) > self.same:
            yield f"{peer}: {left} s left in the kernel, {until - now:.1f} in the store"

    def honest_listed(self) -> list[str]:
        """Honest senders on the block or black list."""
        honest = {str(_peer(senders.source(number))) for number in range(senders.PEERS)}
        with Store.open(f"sqlite:///{self.store}") as store:
            entries = store.entries(self.now())
        return [
            f"{e.peer}: {e.reason}" for e in entries if e.list != "white" and str(e.peer) in honest
        ]

    def mails(self, since: float = 0.0) -> list[dict[str, Any]]:
        """What became of the mails that were due after an instant."""
        return [each for each in read(self._directory / "mails") if each["time"] >= since]

    def flows(self, since: float) -> bool:
        """Whether mails in a row were delivered after an instant."""
        row = 0
        for each in self.mails(since):
            row = row + 1 if each["delivered"] else 0
            if row >= FLOWS:
                return True
        return False

    def log(self) -> str:
        """What the daemon logged since the last call."""
        text = self.daemon.log.read_text(encoding="utf-8", errors="replace")
        new, self._log_read = text[self._log_read :], len(text)
        return new

    def told(self, words: str, seen: list[str]) -> bool:
        """Whether the log or the status says it, since `seen` was begun."""
        seen.append(self.log())
        assert not (found := TRACES.search("".join(seen))), "".join(seen)[found.start() :][:3000]
        status = self.daemon.cli("status")
        return bool(re.search(words, "".join((*seen, status.stdout, status.stderr))))


def _peer(text: str) -> Any:
    """The network that a peer or prefix is written as."""
    network = parse_network(text)
    if network.version == 6 and network.prefixlen == 128:
        return network.supernet(new_prefix=64)
    return network
