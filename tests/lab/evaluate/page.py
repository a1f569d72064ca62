"""The parts of docs/evaluation.md that are made from results; what is written by hand stays."""

import re
from collections.abc import Callable, Iterable, Mapping
from math import inf

from tests.lab.defences import DEFENCES, DPSD
from tests.lab.evaluate.matrix import ATTACKS
from tests.lab.evaluate.outcome import Spread, Summary
from tests.lab.honest import KINDS

Summaries = Mapping[tuple[str, str], Summary]

_MADE = re.compile(r"(<!-- made: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
_NOT_TRIED = ""
_HEAD = (
    *("honest mail delivered", "recovery", "attackers listed", "after", "honest peers listed"),
    "honest sessions cut",
)


def render(page: str, said: Summaries, before: Summaries) -> str:
    """The page with every made part made anew; `before`: what the version before has to say.

    KeyError: the page names an unknown part.
    """
    parts = PARTS | {"before": lambda now: changes(before, now)}
    return _MADE.sub(lambda part: f"{part[1]}{parts[part[2]](said)}\n{part[3]}", page)


def tables(said: Summaries) -> str:
    """All parts below each other, for a terminal."""
    return "\n\n".join(part(said) for part in PARTS.values())


def changes(before: Summaries, now: Summaries) -> str:
    """Attack by attack what dpsd did before and does now, with an arrow between."""
    cells = (_share, _recovery, _listed, _wronged, _cut)
    return _table(
        ("attack", "honest mail", "recovery", "attackers listed", "honest listed", "honest cut"),
        (
            [case.title, *(f"{_or(old, cell)} → {_or(new, cell)}" for cell in cells)]
            for attack, case in ATTACKS.items()
            for old, new in [[said.get((DPSD.name, attack)) for said in (before, now)]]
            if old is not None or new is not None
        ),
    )


def machines(said: Summaries) -> str:
    """On what the runs were made."""
    names = {run.machine for summary in said.values() for run in summary.runs}
    starved = sorted(run.cell.key for s in said.values() for run in s.runs if run.starved)
    late = max((run.late for s in said.values() for run in s.runs), default=0.0)
    runs = sum(len(summary.runs) for summary in said.values())
    return (
        f"{runs} runs on: {'; '.join(sorted(names))}. In the busiest of them one in twenty honest"
        f" senders began {late:.2f} s late or more. Starved runs (marked \\*): "
        + (", ".join(f"`{key}`" for key in starved) or "none")
        + "."
    )


def shares(said: Summaries) -> str:
    """Attacks by defences: honest mail delivered, in per cent."""
    return _table(
        ("attack", *(defence.title for defence in DEFENCES.values())),
        (
            [case.title, *(_share(said.get((name, attack))) for name in DEFENCES)]
            for attack, case in ATTACKS.items()
            if any((name, attack) in said for name in DEFENCES)
        ),
    )


def details(said: Summaries) -> str:
    """Everything that is measured, for dpsd, attack by attack."""
    return _table(
        ("attack", "rounds", *_HEAD),
        (
            [case.title, str(summary.rounds), *_measures(summary)]
            for attack, case in ATTACKS.items()
            if (summary := said.get((DPSD.name, attack))) is not None
        ),
    )


def others(said: Summaries) -> str:
    """Everything that is measured, for all defences."""
    return _table(
        ("attack", "defence", *_HEAD),
        (
            [case.title, defence.title, *_measures(summary)]
            for attack, case in ATTACKS.items()
            for name, defence in DEFENCES.items()
            if (summary := said.get((name, attack))) is not None
        ),
    )


def senders(said: Summaries) -> str:
    """Kinds of honest sender by defence: what was delivered under the attacks that all share."""
    tried = [name for name in DEFENCES if any(each == name for each, _ in said)]
    attacks = [
        attack
        for attack, case in ATTACKS.items()
        if case.attacks and all((name, attack) in said for name in tried)
    ]

    def cell(name: str, kind: str) -> str:
        runs = [run for attack in attacks for run in said[name, attack].runs]
        done, due = (sum(run.kinds.get(kind, [0, 0])[i] for run in runs) for i in (0, 1))
        return f"{100 * done / due:.0f}" if due else _NOT_TRIED

    return _table(
        ("sender", *(DEFENCES[name].title for name in tried)),
        ([f"`{kind}`", *(cell(name, kind) for name in tried)] for kind in KINDS),
    )


def wronged(said: Summaries) -> str:
    """Every honest peer that was listed, by whom, and why."""
    found = [
        f"- `{run.cell.key}`: {peer}, {_reason(why)}"
        for summary in said.values()
        for run in summary.runs
        for peer, why in run.wronged.items()
    ]
    return "\n".join(found) or "None."


def listing(said: Summaries) -> str:
    """The picture of times until listed, which there is once dpsd has listed somebody."""
    listed = any(said[key].listed.most for key in said if key[0] == DPSD.name)
    return "![Seconds until attackers were listed](evaluation/listing.svg)" if listed else ""


PARTS: dict[str, Callable[[Summaries], str]] = {
    "machines": machines,
    "shares": shares,
    "details": details,
    "listing": listing,
    "others": others,
    "senders": senders,
    "wronged": wronged,
}


def _reason(why: str) -> str:
    kind, _, told = why.partition(": ")
    verdict = re.search(r"slot-seconds: (.+)", told)
    return f"`{kind}`: {verdict[1] if verdict else told.splitlines()[0]}"


def _measures(summary: Summary) -> list[str]:
    lists = DEFENCES[summary.defence].lists
    return [
        _share(summary, span=True),
        _recovery(summary, span=True),
        _listed(summary, span=True),
        _seconds(summary.listing, "{:.1f} s") if lists and summary.listed.most else "-",
        _wronged(summary),
        _cut(summary),
    ]


def _recovery(summary: Summary, *, span: bool = False) -> str:
    if not ATTACKS[summary.attack].attacks:
        return "-"
    return _spread(summary.recovery, "{:.1f} s", span=span)


def _listed(summary: Summary, *, span: bool = False) -> str:
    if not DEFENCES[summary.defence].lists or not any(run.attackers for run in summary.runs):
        return "-"
    return _spread(summary.listed, "{:.0%}", span=span)


def _wronged(summary: Summary) -> str:
    return str(summary.wronged) if DEFENCES[summary.defence].lists else "-"


def _or(summary: Summary | None, cell: Callable[[Summary], str]) -> str:
    return "-" if summary is None else cell(summary)


def _cut(summary: Summary) -> str:
    """Honest sessions that were cut, and in brackets those in the middle of a mail."""
    if summary.cut is None or summary.torn is None:
        return "-"
    return f"{summary.cut.middle:.0f} ({summary.torn.middle:.0f})"


def _share(summary: Summary | None, *, span: bool = False) -> str:
    if summary is None:
        return _NOT_TRIED
    return _spread(summary.share, "{:.0%}", span=span) + ("\\*" if summary.starved else "")


def _spread(spread: Spread, form: str, *, span: bool) -> str:
    middle, least, most = (
        _seconds(value, form) for value in (spread.middle, spread.least, spread.most)
    )
    return f"{middle} ({least} to {most})" if span and least != most else middle


def _seconds(value: float, form: str) -> str:
    return "never" if value == inf else form.format(value).replace("%", " %")


def _table(head: tuple[str, ...], rows: Iterable[list[str]]) -> str:
    rule = ["---"] + ["--:"] * (len(head) - 1)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))
