"""One labelled run: network, a real Postfix, honest senders, attackers, and perhaps a defence."""

import contextlib
import itertools
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from pathlib import Path

from tests.lab import private
from tests.lab.agents import BUYING, Attack
from tests.lab.box import Meter
from tests.lab.dpsd import Dpsd, Section
from tests.lab.fail2ban import Fail2ban
from tests.lab.honest import KINDS
from tests.lab.net import HONEST4, HONEST6, Namespace, Net
from tests.lab.positions.position import HOST, Position
from tests.lab.postfix import SMTPD, Postfix
from tests.lab.records import read
from tests.lab.result import Cut, Mail, Result, Sample, listed

_TICK = 0.5
_READY = 1.5
"""Seconds from starting the senders to the run's first moment: Python has to start."""
_PATIENCE = max(kind.patience for kind in KINDS.values())
_ROOT = Path(__file__).parents[2]

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Trial:
    """What is to be tried. Times in seconds."""

    label: str
    attacks: tuple[Attack, ...] = ()
    """Their `seconds` are set by `run`: they last as long as any honest mail is on its way. Those
    that buy begin with the peace."""
    peace: float = 6.0
    """Of honest mail alone, before the attack."""
    seconds: float = 30.0
    """Of honest mail under attack."""
    seed: int = 1
    dpsd: Mapping[str, Section] | None = None
    """None: no dpsd; otherwise changes to its configuration."""
    postfix: Mapping[str, str] = field(default_factory=dict)
    """Changes to main.cf."""
    port25: tuple[str, ...] = (SMTPD,)
    """The lines of master.cf that serve port 25."""
    rules: str = ""
    """An nftables ruleset for the mail host, to compare with."""
    prompt: float = 2.0
    """How long a mail may wait and still be prompt."""
    fail2ban: bool = False
    """Whether fail2ban reads Postfix's log, to compare with."""
    slots: int = 100
    """Postfix's processes for each port, and what dpsd is told of them."""
    load: float = 1.0
    """The share of the usual honest senders that there are: fewer slots serve fewer of them."""
    home: bool = False
    """Whether there are submission clients on port 465 as well; then only their mail counts."""
    position: Position = HOST
    """Where dpsd and the mail server are."""


Watch = Callable[[Sample, int, int], None]
"""Told twice a second: a sample, and how many honest mails were delivered and failed so far."""


def run(trial: Trial, watch: Watch | None = None, prefix: str = "") -> Result:
    """Carry it out, in a private world. Takes peace + seconds + 5 to 17 s.

    Two at a time need a `prefix` each, for the names of their namespaces.
    """
    directory = private.RUN / f"trial-{next(_numbers)}"
    directory.mkdir()
    with contextlib.ExitStack() as stack:
        position = trial.position
        net = stack.enter_context(position.network(prefix))
        if trial.rules:
            net.mail.run("nft", "-f", "-", stdin=trial.rules)
        main = {"default_process_limit": str(trial.slots), **position.postfix, **trial.postfix}
        port25 = position.port25 if trial.port25 == (SMTPD,) else trial.port25
        postfix = stack.enter_context(Postfix(net.server, port25, position.door, **main))
        front = stack.enter_context(position.front(net)) if position.front else None
        daemon = jail = None
        if trial.dpsd is not None:
            told = {**position.dpsd, **trial.dpsd}
            told["protect"] = {
                "slots": trial.slots,
                **position.dpsd.get("protect", {}),
                **trial.dpsd.get("protect", {}),
            }
            daemon = Dpsd(net.box, directory / "dpsd", **told)
            stack.enter_context(daemon)
        if trial.fail2ban:
            jail = stack.enter_context(Fail2ban(net.mail, postfix.root))
        meter = Meter(daemon, front.pids if front else [])
        return _Run(trial, net, directory, daemon, jail, meter).carry_out(watch)


class _Run:
    def __init__(
        self,
        trial: Trial,
        net: Net,
        directory: Path,
        daemon: Dpsd | None,
        jail: Fail2ban | None,
        meter: Meter,
    ) -> None:
        self._trial = trial
        self._net = net
        self._daemon = daemon
        self._jail = jail
        self._meter = meter
        self._honest = (directory / "world.jsonl", directory / "mail.jsonl")
        self._attacks = [directory / f"attack-{i}.jsonl" for i in range(len(trial.attacks))]
        self._first = time.time() + _READY
        self._start = self._first + trial.peace

    def carry_out(self, watch: Watch | None) -> Result:
        honest: list[subprocess.Popen[bytes]] = []
        attacking: list[subprocess.Popen[bytes]] = []
        sink = _spawn(self._net.world.command(sys.executable, "-m", "tests.lab.honest", "sink"))
        try:
            honest += map(_spawn, self._senders())
            attacking += map(_spawn, self._agents())
            samples = list(self._samples(honest, watch))
            over = time.time() - self._start
            for process in attacking:
                process.send_signal(signal.SIGINT)  # called off: it records what it holds
            for process in honest + attacking:
                if process.wait(20) != 0:
                    raise RuntimeError(f"a process of the lab failed: {process.args!r}")
        finally:
            for process in [*honest, *attacking, sink]:
                process.kill()
                process.wait()
        return self._result(samples, over)

    def _senders(self) -> Iterator[list[str]]:
        trial, net = self._trial, self._net
        roles: list[tuple[str, Namespace, Path]] = [
            ("world", net.world, self._honest[0]),
            ("mail", net.public, self._honest[1]),
        ]
        for role, space, path in roles:
            yield space.command(
                sys.executable,
                "-m",
                "tests.lab.honest",
                role,
                f"--start={self._first}",
                f"--seconds={trial.peace + trial.seconds}",
                f"--seed={trial.seed}",
                f"--load={trial.load}",
                f"--records={path}",
                *(["--home"] if trial.home else []),
            )

    def _agents(self) -> Iterator[list[str]]:
        trial = self._trial
        for attack, path in zip(trial.attacks, self._attacks, strict=True):
            ahead = trial.peace if attack.kind in BUYING else 0.0
            lasting = replace(
                attack, seconds=ahead + trial.seconds + _PATIENCE, buy=ahead + attack.buy
            )
            yield lasting.command(self._net.world, self._start - ahead, path)

    def _samples(
        self, honest: list[subprocess.Popen[bytes]], watch: Watch | None
    ) -> Iterator[Sample]:
        """Samples until every honest mail is delivered or given up."""
        moment = self._first
        while any(process.poll() is None for process in honest):
            time.sleep(max(0.0, moment - time.time()))  # a sample is due at its moment
            sample = self._sample()
            self._meter.at(sample, self._trial.seconds)
            yield sample
            if watch is not None:
                done = Counter(mail.delivered for mail in self._mails())
                watch(sample, done[True], done[False])
            moment = max(moment + _TICK, time.time())

    def _sample(self) -> Sample:
        sample = Sample(time.time() - self._start, Counter(), Counter())
        ports = "( sport = :25 or sport = :465 or sport = :587 )"
        for line in self._net.server.run("ss", "-Htan", ports).stdout.splitlines():
            state, _, _, _, peer = line.split()[:5]
            if state == "LISTEN":
                continue
            address = ip_address(peer.rpartition(":")[0].strip("[]"))
            honest = address in (HONEST4 if address.version == 4 else HONEST6)
            (sample.honest if honest else sample.attackers)[state] += 1
        return sample

    def _mails(self) -> Iterator[Mail]:
        for record in itertools.chain(*map(read, self._honest)):
            if "cut" not in record:
                at = record.pop("time") - self._start
                yield Mail(at=at, **record)

    def _cuts(self) -> Iterator[Cut]:
        for record in itertools.chain(*map(read, self._honest)):
            if "cut" in record:
                at = record["time"] - self._start
                yield Cut(at, record["kind"], record["source"], record["cut"])

    def _result(self, samples: list[Sample], over: float) -> Result:
        sessions = [r for path in self._attacks for r in read(path) if r["opened"]]
        attackers = frozenset(r["source"] for r in sessions)
        first, last = self._start, self._start + self._trial.seconds
        found: dict[str, float] = {}
        if self._daemon is not None:
            found = listed(self._daemon.json("list"), self._start)
        if self._jail is not None:
            found |= {peer: at - self._start for peer, at in self._jail.banned().items()}
        result = Result(
            self._trial.label,
            self._trial.seconds,
            list(self._mails()),
            samples,
            attackers,
            found,
            over,
            self._trial.prompt,
            cuts=list(self._cuts()),
            judged=frozenset({"home"} if self._trial.home else ()),
            box=self._meter.read(),
            visits=sum(first <= r["opened"] < last for r in sessions),
        )
        if self._daemon is not None:
            asked = [["list"], ["status"]]
            if found:
                asked.append(["why", min(found, key=lambda peer: found[peer])])
            asked += [["why", peer] for peer in result.wronged]
            for command in asked:
                output = self._daemon.cli(*command).stdout
                result.transcripts["dpsd " + " ".join(command)] = output
        return result


def _spawn(command: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, cwd=_ROOT)
