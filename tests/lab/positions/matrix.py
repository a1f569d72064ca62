"""What is tried at each position: every attack on the path, hold alone elsewhere."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from tests.lab.agents import Attack
from tests.lab.positions.position import POSITIONS
from tests.lab.trial import Trial

PEACE, SECONDS = 4.0, 30.0
"""Of a run, in seconds."""
_SOURCES, _SESSIONS = 40, 10
_FEW = ("host", "container", "haproxy", "gateway")
"""Where it is tried what is no test of a position."""
_CHURN = 1000.0
"""Sessions a second, of all sources together."""


@dataclass(frozen=True)
class Case:
    """An attack as the page names it."""

    title: str
    kinds: tuple[str, ...] = ()
    """The kinds of agent, which share the sources; none: no attack."""
    dpsd: bool = True
    everywhere: bool = True
    """Whether it is tried also off the path, and where nothing else is new to dpsd."""
    only: tuple[str, ...] = ()
    """The positions at which it is tried; empty: at all."""

    @property
    def attacks(self) -> tuple[Attack, ...]:
        """40 sources of both families in turn, with 10 sessions each."""
        share = _SOURCES // max(1, len(self.kinds))
        return tuple(
            Attack(kind, share, _SESSIONS, family="46", rate=_CHURN, first=share * number)
            for number, kind in enumerate(self.kinds)
        )


CASES = {
    "hold": Case("hold", ("hold",)),
    "churn": Case("churn", ("churn",), everywhere=False),
    "four": Case("four at once", ("noop", "drip", "silent", "halfclose"), everywhere=False),
    "bare": Case("hold, no dpsd", ("hold",), dpsd=False, only=_FEW),
    "halfclose": Case("half-close", ("halfclose",), everywhere=False),
    "noop": Case("noop", ("noop",), everywhere=False),
    "drip": Case("drip", ("drip",), everywhere=False),
    "silent": Case("silent", ("silent",), everywhere=False),
    "peace": Case("no attack", only=_FEW),
}
"""In the order in which they are tried: the most telling first."""
JUDGED = tuple(name for name, case in CASES.items() if case.kinds and case.dpsd)
"""The attacks under which dpsd has to hold."""


@dataclass(frozen=True)
class Cell:
    """One labelled run to make."""

    position: str
    case: str
    round: int
    """From 1; it is the seed of the honest senders' plan."""

    @property
    def key(self) -> str:
        """`container/hold/1`: what `--only` is matched with."""
        return f"{self.position}/{self.case}/{self.round}"


def cells(only: Sequence[str] = ("*",), rounds: int = 1) -> list[Cell]:
    """Every run whose key matches one of the globs `only`."""
    return [cell for cell in _matrix(rounds) if any(fnmatchcase(cell.key, glob) for glob in only)]


def trial(cell: Cell, *, peace: float = PEACE, seconds: float = SECONDS) -> Trial:
    """The labelled run that a cell stands for; times in seconds."""
    case, position = CASES[cell.case], POSITIONS[cell.position]
    return Trial(
        cell.key,
        case.attacks,
        peace=peace,
        seconds=seconds,
        seed=cell.round,
        dpsd={} if case.dpsd else None,
        position=position,
    )


def _matrix(rounds: int) -> Iterator[Cell]:
    for number in range(1, rounds + 1):
        for name, case in CASES.items():
            for position in POSITIONS.values():
                whole = position.on_path and not position.like
                if (case.everywhere or whole) and position.name in (case.only or POSITIONS):
                    yield Cell(position.name, name, number)
