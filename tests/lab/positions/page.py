"""The parts of docs/positions.md that are made from results; what is written by hand stays."""

import re
from collections.abc import Callable, Iterable, Mapping

from tests.lab.positions.matrix import CASES, JUDGED
from tests.lab.positions.measured import BUSY, Measured, median_of, rounds
from tests.lab.positions.position import POSITIONS, Position

Runs = Mapping[str, Measured]

_MADE = re.compile(r"(<!-- made: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
_NOTHING = "-"


def render(page: str, runs: Runs) -> str:
    """The page with every made part made anew. KeyError: the page names an unknown part."""
    return _MADE.sub(lambda part: f"{part[1]}{PARTS[part[2]](runs)}\n{part[3]}", page)


def machines(runs: Runs) -> str:
    """On what the runs were made, how often, and which of them the machine was too busy for."""
    names = sorted({run.machine for run in runs.values()})
    most = max((run.round for run in runs.values()), default=0)
    starved = ", ".join(f"`{run.cell.key}`" for run in runs.values() if run.starved)
    late = max((run.late for run in runs.values()), default=0.0)
    often = "one round each" if most == 1 else f"up to {most} rounds each"
    return (
        f"{len(runs)} runs, {often}, on: {'; '.join(names)}. In the busiest of them one in twenty"
        f" honest senders began {late:.2f} s late or more. Starved runs (marked \\*: more than"
        f" 0.25 s, or a load of more than {BUSY:g} for each processor): {starved or 'none'}."
    )


def table(runs: Runs) -> str:
    """The paper's Table 2, measured: a line for each position on the path."""
    head = (
        *("where in the paper", "position", "honest mail", "recovery", "attackers listed"),
        *("honest listed", "ended", "not ended", "dpsd, a session", "dpsd, of a core"),
    )
    return _table(
        head,
        (
            [position.paper, position.title, *_least(runs, position), *_cost(runs, position)]
            for position in _tried(runs)
            if position.on_path
        ),
    )


def off_path(runs: Runs) -> str:
    """Where dpsd doesn't see the peers, or can't refuse them: what came of hold there."""
    head = (
        "position",
        "honest mail",
        "without dpsd",
        "listed",
        "honest listed",
        "server's sessions",
    )
    return _table(
        (*head, "ended", "not ended"),
        (
            [
                position.title,
                *(_share(rounds(runs, position.name, case)) for case in ("hold", "bare")),
                *_off_path(rounds(runs, position.name, "hold")),
            ]
            for position in _tried(runs)
            if not position.on_path
        ),
    )


def mail(runs: Runs) -> str:
    """Positions by attacks: honest mail delivered, of what was due."""
    return _by_case(runs, ("peace", "bare", *JUDGED), _share)


def recovery(runs: Runs) -> str:
    """Positions by attacks: seconds until honest mail went through promptly and went on so."""
    return _by_case(runs, JUDGED, _recovery)


def listed(runs: Runs) -> str:
    """Positions by attacks: attackers listed, and the median of when."""
    return _by_case(runs, JUDGED, _listed)


def kinds(runs: Runs) -> str:
    """Of four attacks at once, how many attackers of each kind were listed."""
    names = CASES["four"].kinds
    made = {name: rounds(runs, name, "four") for name in POSITIONS}
    return _table(
        ("position", *(CASES[name].title for name in names)),
        (
            [POSITIONS[name].title, *(_of(found, kind) for kind in names)]
            for name, found in made.items()
            if any(run.by_kind for run in found)
        ),
    )


def freed(runs: Runs) -> str:
    """What the server had and dpsd knew under hold: sessions, of 100 slots."""
    head = ("position", "server, no dpsd", "server", "dpsd knew", "server at that moment")
    return _table(
        head,
        (
            [
                position.title,
                *(_number(_held(rounds(runs, position.name, case))) for case in ("bare", "hold")),
                *(
                    _number(median_of(run.told.get(name) for run in _hold(runs, position)))
                    for name in ("open", "server")
                ),
            ]
            for position in _tried(runs)
        ),
    )


def cost(runs: Runs) -> str:
    """Processor time of dpsd and of what is in front: by session, and as a share of a core."""
    head = ("position", "dpsd, churn", "dpsd, hold", "in front, churn", "in front, hold")
    return _table(
        head,
        (
            [position.title, *_spent(runs, position)]
            for position in _tried(runs)
            if position.on_path
        ),
    )


def wronged(runs: Runs) -> str:
    """Every honest peer that was listed, and why."""
    found = [
        f"- `{run.cell.key}`: {peer}, {' '.join(why.split())[:300]}"
        for run in runs.values()
        for peer, why in run.wronged.items()
    ]
    return "\n".join(found) or "None."


PARTS: dict[str, Callable[[Runs], str]] = {
    "machines": machines,
    "table": table,
    "off_path": off_path,
    "mail": mail,
    "recovery": recovery,
    "listed": listed,
    "kinds": kinds,
    "freed": freed,
    "cost": cost,
    "wronged": wronged,
}


def _tried(runs: Runs) -> list[Position]:
    return [each for name, each in POSITIONS.items() if _hold(runs, each) or name in runs]


def _hold(runs: Runs, position: Position) -> list[Measured]:
    return rounds(runs, position.name, "hold")


def _judged(runs: Runs, position: Position) -> list[list[Measured]]:
    """The rounds of each attack that was tried; starved runs only if there are no others."""
    made = [rounds(runs, position.name, case) for case in JUDGED]
    counting = [[run for run in each if not run.starved] for each in made]
    return [each for each in (counting if any(counting) else made) if each]


def _least(runs: Runs, position: Position) -> list[str]:
    """The worst of all attacks: mail, recovery, listed; and all honest peers that were listed."""
    made = _judged(runs, position)
    shares = [median_of(run.share for run in case) for case in made]
    times = [_median_recovery(case) for case in made]
    parts = [_part_listed(case) for case in made]
    slowest = (
        None if None in times else max((each for each in times if each is not None), default=0)
    )
    return [
        _percent(min((each for each in shares if each is not None), default=None))
        + _star(run for case in made for run in case),
        _seconds(slowest),
        _percent(min(parts, default=None)),
        str(sum(len(run.wronged) for case in made for run in case)),
        *(str(sum(run.told.get(name, 0) for case in made for run in case)) for name in _ENDS),
    ]


_ENDS = ("ended", "not_ended")


def _cost(runs: Runs, position: Position) -> list[str]:
    churn = rounds(runs, position.name, "churn")
    return [
        _milliseconds(median_of(run.per_session("dpsd") for run in churn)),
        _percent(median_of(run.load("dpsd") for run in _hold(runs, position))),
    ]


def _spent(runs: Runs, position: Position) -> list[str]:
    cells = []
    for who in ("dpsd", "front"):
        churn, hold = (rounds(runs, position.name, case) for case in ("churn", "hold"))
        cells += [
            _milliseconds(median_of(run.per_session(who) for run in churn)),
            _percent(median_of(run.load(who) for run in hold)),
        ]
    return cells


def _off_path(made: list[Measured]) -> list[str]:
    return [
        _listed(made),
        str(sum(len(run.wronged) for run in made)),
        _number(_held(made)),
        *(str(sum(run.told.get(name, 0) for run in made)) for name in _ENDS),
    ]


def _held(made: list[Measured]) -> float | None:
    return median_of(run.held for run in made)


def _share(made: list[Measured]) -> str:
    return _percent(median_of(run.share for run in made)) + _star(made)


def _star(made: Iterable[Measured]) -> str:
    """For runs that the machine was too busy for."""
    return "\\*" if any(run.starved for run in made) else ""


def _median_recovery(made: list[Measured]) -> float | None:
    """None: it never came in most rounds."""
    return median_of(1e9 if run.recovery is None else run.recovery for run in made)


def _recovery(made: list[Measured]) -> str:
    return _seconds(_median_recovery(made)) if made else _NOTHING


def _part_listed(made: list[Measured]) -> float:
    return median_of(len(run.listings) / (run.attackers or 1) for run in made) or 0.0


def _listed(made: list[Measured]) -> str:
    if not made:
        return _NOTHING
    when = median_of(at for run in made for at in run.listings)
    return _percent(_part_listed(made)) + (f", {when:.0f} s" if when is not None else "")


def _of(made: list[Measured], kind: str) -> str:
    counts = [run.by_kind[kind] for run in made if kind in run.by_kind]
    return " of ".join(str(sum(each[i] for each in counts)) for i in (0, 1))


def _by_case(runs: Runs, cases: tuple[str, ...], told: Callable[[list[Measured]], str]) -> str:
    return _table(
        ("position", *(CASES[case].title for case in cases)),
        (
            [position.title, *(told(rounds(runs, position.name, case)) for case in cases)]
            for position in _tried(runs)
            if position.on_path
        ),
    )


def _percent(value: float | None) -> str:
    """Nearly all isn't all, so that is told to a tenth."""
    if value is None:
        return _NOTHING
    return f"{value:.{1 if 0.99 <= value < 1 else 0}%}".replace("%", " %")


def _seconds(value: float | None) -> str:
    return "never" if value is None or value >= 1e9 else f"{value:.1f} s"


def _milliseconds(value: float | None) -> str:
    return _NOTHING if value is None else f"{value:.2f} ms"


def _number(value: float | None) -> str:
    return _NOTHING if value is None else f"{value:.0f}"


def _table(head: tuple[str, ...], rows: Iterable[list[str]]) -> str:
    rule = ["---"] + ["--:"] * (len(head) - 1)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))
