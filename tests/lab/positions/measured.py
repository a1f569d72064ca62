"""What is kept of a run at a position: plain data and arithmetic."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from tests.lab.evaluate.outcome import STARVED
from tests.lab.positions.matrix import Cell, trial
from tests.lab.result import Result

BUSY = 3.0
"""Load for each processor. A run alone makes 1 to 1.5; with more than this, others worked, too, and
dpsd and Postfix had to wait for each other longer than attackers do."""
_TOLD = ("pressure", "ended", "not_ended", "not_ended_why")


@dataclass(frozen=True)
class Measured:
    """One finished run, as a line of the results' file has it. Times: seconds of the attack."""

    position: str
    case: str
    round: int
    seconds: float
    """How long the attack was watched."""
    due: int
    """Honest mails during the attack, and of them the delivered ones."""
    delivered: int
    recovery: float | None
    """Seconds to recovery; None: it never came."""
    attackers: int
    """Sources that completed a handshake."""
    listings: list[float]
    """When each attacker that was listed was."""
    wronged: dict[str, str]
    """Honest peers that were listed, and what dpsd says of it."""
    kinds: dict[str, list[int]]
    """Kind of honest sender to [delivered, due]."""
    visits: int
    """The attackers' sessions that were opened."""
    start: int
    """The first second of the list below; peace is negative."""
    established: list[int]
    """Sessions that the server had, second by second, whoever's."""
    cpu: dict[str, float]
    """Seconds of processor time, of `dpsd` and of what is in `front`, within `span` seconds."""
    span: float
    told: dict[str, Any]
    """Of `dpsd status` late in the attack: pressure, ended, not_ended, not_ended_why, and the
    sessions that it knew (`open`) while the server had so many (`server`)."""
    late: float
    """By how much the latest twentieth of honest senders began late, at least."""
    machine: str
    by_kind: dict[str, list[int]] = field(default_factory=dict)
    """Kind of agent to [listed, attackers]; empty: a run from before these were counted."""
    busy: float | None = None
    """The machine's load in the run's last minute, for each processor; None: not looked at."""

    @property
    def cell(self) -> Cell:
        """Which run it is."""
        return Cell(self.position, self.case, self.round)

    @property
    def starved(self) -> bool:
        """Whether the machine was too busy."""
        return self.late > STARVED or (self.busy or 0.0) > BUSY

    @property
    def share(self) -> float:
        """Honest mail delivered of what was due, 0 to 1."""
        return self.delivered / self.due if self.due else 1.0

    @property
    def held(self) -> float:
        """The server's sessions in the second half of the attack, median."""
        half = int(self.seconds / 2) - self.start
        return median(self.established[half:] or [0])

    def per_session(self, who: str) -> float | None:
        """Processor time of `dpsd` or what is in `front` for a session of an attacker, in ms."""
        if who not in self.cpu or not self.visits:
            return None
        return 1000 * self.cpu[who] / self.visits

    def load(self, who: str) -> float | None:
        """The share of a processor that it took."""
        return self.cpu[who] / self.span if who in self.cpu and self.span else None


def measured(cell: Cell, result: Result, machine: str) -> Measured:
    """What is kept of a run."""
    span = range(min((int(s.at // 1) for s in result.samples), default=0), int(result.seconds))
    had = {
        int(s.at // 1): s.attackers["ESTAB"] + s.honest["ESTAB"] for s in reversed(result.samples)
    }
    kind_of = {mail.source: mail.kind for mail in result.mails}
    box = result.box
    told: dict[str, Any] = {}
    if box is not None and box.status:
        told = {name: box.status[name] for name in _TOLD if name in box.status}
        told |= {"open": box.status["sessions"]["open"], "server": box.established}
    return Measured(
        cell.position,
        cell.case,
        cell.round,
        result.seconds,
        result.attempted,
        result.delivered,
        result.recovery,
        len(result.attackers),
        sorted(round(at, 1) for at in result.blocked.values()),
        {
            peer: f"{kind_of[peer]}: {result.transcripts.get(f'dpsd why {peer}', '')}"
            for peer in result.wronged
        },
        {kind: list(counts) for kind, counts in result.by_kind().items()},
        result.visits,
        span.start,
        [had.get(second, 0) for second in span],
        box.cpu if box else {},
        box.seconds if box else 0.0,
        told,
        result.lateness,
        machine,
        {
            attack.kind: [len(result.blocked.keys() & sources), len(result.attackers & sources)]
            for attack in trial(cell).attacks
            for sources in [frozenset(attack.addresses())]
        },
        round(os.getloadavg()[0] / (os.cpu_count() or 1), 2),
    )


def load(path: Path) -> dict[str, Measured]:
    """The runs of a results' file by their cells' keys; a later line replaces an earlier."""
    found: dict[str, Measured] = {}
    if path.exists():
        for each in path.read_text("utf-8").splitlines():
            run = Measured(**json.loads(each))
            found[run.cell.key] = run
    return found


def line(run: Measured) -> str:
    """A run as a line of the results' file."""
    return json.dumps(asdict(run), separators=(",", ":")) + "\n"


def compact(runs: Mapping[str, Measured], order: Sequence[Cell], path: Path) -> None:
    """Write the results' file anew: one line a run, in the matrix's order, nothing twice."""
    places = {cell.key: place for place, cell in enumerate(order)}
    known = sorted(runs, key=lambda key: (places.get(key, len(places)), key))
    part = path.with_suffix(".part")
    part.write_text("".join(line(runs[key]) for key in known), encoding="utf-8")
    part.rename(path)


def rounds(runs: Mapping[str, Measured], position: str, case: str) -> list[Measured]:
    """All rounds of one attack at one position."""
    return [run for run in runs.values() if (run.position, run.case) == (position, case)]


def median_of(values: Iterable[float | None]) -> float | None:
    """The median of what is known; None: nothing is."""
    known = [value for value in values if value is not None]
    return median(known) if known else None
