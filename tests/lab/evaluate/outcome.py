"""What is kept of a run, and what several of them say together: plain data and arithmetic."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import inf
from pathlib import Path
from statistics import median
from typing import Any

from tests.lab.evaluate.matrix import Cell
from tests.lab.result import Result

STARVED = 0.25
"""Seconds: when a twentieth of the honest senders began later than this, the machine was too busy
for the run to count for much."""


@dataclass(frozen=True)
class Outcome:
    """One finished run, as a line of the results' file has it. Times: seconds of the attack."""

    defence: str
    attack: str
    round: int
    seconds: float
    """How long the attack was."""
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
    """Honest peers that were listed, and the reason as the defence tells it."""
    kinds: dict[str, list[int]]
    """Kind of honest sender to [delivered, due]."""
    start: int
    """The first second of the lists below; peace is negative."""
    due_by_second: list[int]
    delivered_by_second: list[int]
    held_by_second: list[int]
    """Established sessions of attackers."""
    late: float
    """By how much the latest twentieth of honest senders began late, at least."""
    machine: str = ""
    cut: int | None = None
    """Honest sessions that were reset or closed by somebody else, and of them those in the middle
    of a mail; None: a run from before these were counted."""
    torn: int | None = None

    @property
    def cell(self) -> Cell:
        """Which run of the matrix it is."""
        return Cell(self.defence, self.attack, self.round)

    @property
    def starved(self) -> bool:
        """Whether the machine was too busy."""
        return self.late > STARVED


def outcome(cell: Cell, result: Result, machine: str) -> Outcome:
    """What is kept of a run."""
    counted = result.counted
    due = Counter(int(mail.at // 1) for mail in counted)
    done = Counter(int(mail.at // 1) for mail in counted if mail.delivered)
    held = {int(s.at // 1): s.held for s in reversed(result.samples)}
    start = min(due, default=0)
    span = range(start, int(result.seconds))
    kind_of = {mail.source: mail.kind for mail in result.mails}
    return Outcome(
        cell.defence,
        cell.attack,
        cell.round,
        result.seconds,
        result.attempted,
        result.delivered,
        result.recovery,
        len(result.attackers),
        sorted(round(at, 1) for at in result.blocked.values()),
        {
            peer: f"{kind_of[peer]}: {result.transcripts.get(f'dpsd why {peer}', 'banned')}"
            for peer in result.wronged
        },
        {kind: list(counts) for kind, counts in result.by_kind().items()},
        start,
        [due[second] for second in span],
        [done[second] for second in span],
        [held.get(second, 0) for second in span],
        result.lateness,
        machine,
        result.cut,
        result.torn,
    )


def load(path: Path) -> dict[str, Outcome]:
    """The outcomes of a results' file by their cells' keys; a later line replaces an earlier."""
    found: dict[str, Outcome] = {}
    if path.exists():
        for line in path.read_text("utf-8").splitlines():
            each = Outcome(**json.loads(line))
            found[each.cell.key] = each
    return found


def line(each: Outcome) -> str:
    """An outcome as a line of the results' file."""
    fields = asdict(each)
    for name in ("cut", "torn"):  # not counted: not there
        if fields[name] is None:
            del fields[name]
    return json.dumps(fields, separators=(",", ":")) + "\n"


@dataclass(frozen=True)
class Spread:
    """Median, least and most of the rounds."""

    middle: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(median(values), min(values), max(values))


@dataclass(frozen=True)
class Summary:
    """What the rounds of one attack against one defence say."""

    defence: str
    attack: str
    rounds: int
    share: Spread
    """Honest mails delivered, of what the same senders get delivered with no attack."""
    recovery: Spread
    """Seconds; infinite when it never came."""
    listed: Spread
    """Share of the attackers that were listed."""
    listing: float
    """Median seconds until an attacker was listed, over all rounds; infinite when none was."""
    wronged: int
    """Honest peers listed, all rounds together."""
    cut: Spread | None
    """Honest sessions that were cut in a round, and of them those in the middle of a mail; None:
    not counted."""
    torn: Spread | None
    starved: bool
    """Whether the machine was too busy in any round."""
    runs: list[Outcome] = field(repr=False)


def summaries(outcomes: Mapping[str, Outcome]) -> dict[tuple[str, str], Summary]:
    """(defence, attack) to what its rounds say. Runs without their peace are left out."""
    rounds: dict[tuple[str, str], list[Outcome]] = {}
    for each in sorted(outcomes.values(), key=lambda each: each.round):
        if each.cell.peace.key in outcomes:
            rounds.setdefault((each.defence, each.attack), []).append(each)
    return {
        key: _summary(runs, [outcomes[run.cell.peace.key] for run in runs])
        for key, runs in rounds.items()
    }


def _summary(runs: list[Outcome], peace: Iterable[Outcome]) -> Summary:
    times = [at for run in runs for at in run.listings]
    return Summary(
        runs[0].defence,
        runs[0].attack,
        len(runs),
        Spread.of([_part(r.delivered, p.delivered) for r, p in zip(runs, peace, strict=True)]),
        Spread.of([inf if run.recovery is None else run.recovery for run in runs]),
        Spread.of([_part(len(run.listings), run.attackers) for run in runs]),
        median(times) if times else inf,
        sum(len(run.wronged) for run in runs),
        _counted([run.cut for run in runs]),
        _counted([run.torn for run in runs]),
        any(run.starved for run in runs),
        runs,
    )


def _counted(values: Iterable[int | None]) -> Spread | None:
    known = [value for value in values if value is not None]
    return Spread.of(known) if known else None


def _part(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def compact(outcomes: Mapping[str, Outcome], order: Sequence[Cell], path: Path) -> None:
    """Write the results' file anew: one line a run, in the matrix's order, nothing twice."""
    places: dict[Any, int] = {cell.key: place for place, cell in enumerate(order)}
    known = sorted(outcomes, key=lambda key: (places.get(key, len(places)), key))
    part = path.with_suffix(".part")
    part.write_text("".join(line(outcomes[key]) for key in known), encoding="utf-8")
    part.rename(path)
