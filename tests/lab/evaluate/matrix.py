"""What is evaluated: every attack, who is tried against it, and how often."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from tests.lab.agents import Attack
from tests.lab.defences import DEFENCES, DPSD, NONE
from tests.lab.trial import Trial

ROUNDS = 3


@dataclass(frozen=True)
class Case:
    """An attack as the page names it."""

    title: str
    attacks: tuple[Attack, ...]
    heavy: bool = False
    """Whether it takes so much of the machine that nothing else may run beside it."""
    others: int = 2
    """Rounds of the defences that aren't dpsd; dpsd goes through all."""
    slots: int = 100
    load: float = 1.0
    home: bool = False
    """`slots`, `load` and `home` are the trial's."""
    peace: str = "peace"
    """The case without an attack, of the same senders, with which it is compared."""


@dataclass(frozen=True)
class Cell:
    """One labelled run to make."""

    defence: str
    attack: str
    round: int
    """From 1; it is the seed of the honest senders' plan."""

    @property
    def peace(self) -> "Cell":
        """The run that this one is compared with: the same senders, no attack, no defence."""
        return Cell(NONE.name, ATTACKS[self.attack].peace, self.round)

    @property
    def key(self) -> str:
        """`dpsd/hold/1`: what `--only` is matched with."""
        return f"{self.defence}/{self.attack}/{self.round}"


def _many(kind: str, title: str, *, family: str = "46") -> Case:
    return Case(title, (Attack(kind, sources=40, sessions=10, family=family),))


def _paid(
    kind: str, title: str, sources: int = 40, sessions: int = 10, *, pay: float = 100, rate: int = 1
) -> Case:
    attack = Attack(kind, sources, sessions, family="46", pay=pay, rate=rate)
    return Case(title, (attack,), others=1)


def _tls(kind: str, title: str, sources: int = 40, sessions: int = 10) -> Case:
    return replace(_paid(kind, title, sources, sessions), home=True, peace="peace465")


def _small(kind: str, title: str, sources: int = 40, sessions: int = 10) -> Case:
    case = _paid(kind, f"20 slots: {title}", sources, sessions)
    return replace(case, slots=20, load=0.3, peace="peace20")


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
        others=1,
    ),
    "churn": Case(
        "churn: 1,000 sessions a second",
        (Attack("churn", sources=10, sessions=10, family="46", rate=1000),),
        heavy=True,
        others=1,
    ),
    "churn3000": Case(
        "churn: 3,000 sessions a second",
        (Attack("churn", sources=20, sessions=10, family="46", rate=3000),),
        heavy=True,
        others=1,
    ),
    "reset": Case(
        "reset: 1,000 sessions a second",
        (Attack("reset", sources=10, sessions=10, family="46", rate=1000),),
        heavy=True,
        others=1,
    ),
    "synflood": Case(
        "forged SYNs: 3,000 a second",
        (Attack("synflood", sources=2000, family="46", rate=3000),),
        heavy=True,
        others=1,
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
    "mixed": Case("mixed: a dozen kinds at once", tuple(_mixed()), heavy=True, others=1),
    "hold150": _paid("hold", "hold: 150 sources, a session each", 150, 1),
    "helobyte": _paid("helobyte", "helobyte: HELO a byte a packet, then silence"),
    "trickle100": _paid("trickle", "trickle: DATA at 100 bytes a second"),
    "trickle400": _paid("trickle", "trickle: DATA at 400 bytes a second", pay=400),
    "trickle2k": _paid("trickle", "trickle: DATA at 2,000 bytes a second", pay=2000),
    "trickle150": _paid("trickle", "trickle at 100: 150 sources, a session each", 150, 1),
    "rcpt": _paid("rcpt", "rcpt: a recipient a second"),
    "mailhold": _paid("mailhold", "mailhold: a mail of 2 kB, then silence"),
    "mailhold200": _paid("mailhold", "mailhold: 200 sources, a session each", 200, 1),
    "slowmails": _paid("slowmails", "slowmails: mail after mail, 3 s between"),
    "bought": _paid("bought", "bought: clean NOOPs before, then hold", 40, 5, rate=80),
    "buymail": _paid("buymail", "buymail: real mails before, then hold", 40, 5, rate=30),
    "shift": _paid("shift", "shift: hold, trickle or mailhold after each cut"),
    "peace465": Case("no attack, senders on 465", (), others=1, home=True, peace="peace465"),
    "mute465": _tls("mute465", "465: not a byte"),
    "hello": _tls("hello", "465: 20 bytes of a ClientHello"),
    "hello200": _tls("hello", "465: the same, 200 sources, a session each", 200, 1),
    "tlshold": _tls("tlshold", "465: TLS, EHLO, then silence"),
    "peace20": Case("20 slots: no attack", (), others=1, slots=20, load=0.3, peace="peace20"),
    "hold20": _small("hold", "hold"),
    "stall20": _small("stall", "stall"),
    "trickle20": _small("trickle", "trickle at 100"),
    "mailhold20": _small("mailhold", "mailhold"),
    "noop20": _small("noop", "noop, 150 sources, a session each", 150, 1),
}


def cells(only: Sequence[str] = ("*",), rounds: int = ROUNDS) -> list[Cell]:
    """Every run of the matrix whose key matches one of the globs `only`.

    dpsd goes through `rounds` rounds of every attack, all others through as many as the case says.
    """
    return [cell for cell in _matrix(rounds) if any(fnmatchcase(cell.key, glob) for glob in only)]


def compared(chosen: Sequence[Cell]) -> list[Cell]:
    """What runs are compared with: no defence in peace, of the same senders and rounds."""
    return list(dict.fromkeys(cell.peace for cell in chosen))


def trial(cell: Cell, *, peace: float, seconds: float) -> Trial:
    """The labelled run that a cell stands for; times in seconds."""
    case = ATTACKS[cell.attack]
    made = DEFENCES[cell.defence].trial(case.attacks, cell.round, peace=peace, seconds=seconds)
    return replace(made, slots=case.slots, load=case.load, home=case.home)


def _matrix(rounds: int) -> Iterator[Cell]:
    for number in range(1, rounds + 1):
        for name, case in ATTACKS.items():
            for defence in DEFENCES.values():
                compared_with = defence is NONE and name == case.peace
                if number <= case.others or defence is DPSD or compared_with:
                    yield Cell(defence.name, name, number)
