"""What is evaluated: every attack, who is tried against it, and how often."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from tests.lab.agents import Attack
from tests.lab.defences import DEFENCES, DPSD, NONE

ROUNDS = 3


@dataclass(frozen=True)
class Case:
    """An attack as the page names it."""

    title: str
    attacks: tuple[Attack, ...]
    heavy: bool = False
    """Whether it takes so much of the machine that nothing else may run beside it."""


@dataclass(frozen=True)
class Cell:
    """One labelled run to make."""

    defence: str
    attack: str
    round: int
    """From 1; it is the seed of the honest senders' plan."""

    @property
    def key(self) -> str:
        """`dpsd/hold/1`: what `--only` is matched with."""
        return f"{self.defence}/{self.attack}/{self.round}"


def _many(kind: str, title: str, *, family: str = "46") -> Case:
    return Case(title, (Attack(kind, sources=40, sessions=10, family=family),))


def _mixed() -> Iterator[Attack]:
    """All kinds at once, of both families, each from sources of its own."""
    first = 0
    for kind, sources, sessions, rate in (
        ("hold", 20, 5, 0),
        ("silent", 10, 5, 0),
        ("noop", 20, 5, 0),
        ("drip", 10, 5, 0),
        ("slowdata", 10, 5, 0),
        ("shut", 10, 5, 0),
        ("linger", 10, 5, 0),
        ("vanish", 20, 5, 0),
        ("churn", 10, 5, 500),
        ("reset", 10, 5, 300),
        ("synflood", 200, 1, 500),
        ("noop", 200, 1, 0),
    ):
        yield Attack(kind, sources, sessions, family="46", first=first, rate=rate or 1)
        first += sources


ATTACKS: dict[str, Case] = {
    "peace": Case("no attack", ()),
    "hold": _many("hold", "hold: HELO, then silence", family="4"),
    "hold6": _many("hold", "hold, IPv6", family="6"),
    "silent": _many("silent", "silent: not a word"),
    "noop": _many("noop", "noop: HELO, a NOOP every 8 s"),
    "drip": _many("drip", "drip: a byte every 3 s"),
    "slowdata": _many("slowdata", "slowdata: DATA, a line every 2 s"),
    "stall": _many("stall", "stall: DATA, 2 kB, then silence"),
    "shut": _many("shut", "half-close: FIN, then stays"),
    "linger": _many("linger", "half-close: QUIT, no FIN of its own"),
    "vanish": Case(
        "vanish before the last ACK",
        (Attack("vanish", sources=40, sessions=10, family="46"),),
        heavy=True,
    ),
    "churn": Case(
        "churn: 1,000 sessions a second",
        (Attack("churn", sources=10, sessions=10, family="46", rate=1000),),
        heavy=True,
    ),
    "churn3000": Case(
        "churn: 3,000 sessions a second",
        (Attack("churn", sources=20, sessions=10, family="46", rate=3000),),
        heavy=True,
    ),
    "reset": Case(
        "reset: 1,000 sessions a second",
        (Attack("reset", sources=10, sessions=10, family="46", rate=1000),),
        heavy=True,
    ),
    "synflood": Case(
        "forged SYNs: 3,000 a second",
        (Attack("synflood", sources=2000, family="46", rate=3000),),
        heavy=True,
    ),
    "distributed": Case(
        "distributed: 600 sources, a noop session each",
        (Attack("noop", sources=600, sessions=1, family="46"),),
    ),
    "hop56": Case(
        "hopping within one /56",
        (Attack("hold", sources=1, sessions=400, family="6", within=56),),
    ),
    "hop48": Case(
        "hopping within one /48",
        (Attack("hold", sources=1, sessions=400, family="6", within=48),),
    ),
    "rotate": Case(
        "rotate: another address after each cut",
        (Attack("hold", sources=40, sessions=10, family="4", rotate=200),),
    ),
    "mixed": Case("all of them at once", tuple(_mixed()), heavy=True),
}


def cells(only: Sequence[str] = ("*",), rounds: int = ROUNDS) -> list[Cell]:
    """Every run of the matrix whose key matches one of the globs `only`.

    dpsd goes through `rounds` rounds of every attack, all others through two, and one where an
    attack is heavy.
    """
    return [cell for cell in _matrix(rounds) if any(fnmatchcase(cell.key, glob) for glob in only)]


def compared(chosen: Sequence[Cell]) -> list[Cell]:
    """What runs are compared with: no defence in peace, of the same rounds."""
    return [Cell(NONE.name, "peace", each) for each in sorted({cell.round for cell in chosen})]


def _matrix(rounds: int) -> Iterator[Cell]:
    for number in range(1, rounds + 1):
        for name, case in ATTACKS.items():
            others = 1 if case.heavy else 2
            for defence in DEFENCES.values():
                if number <= others or defence is DPSD or (defence is NONE and name == "peace"):
                    yield Cell(defence.name, name, number)
