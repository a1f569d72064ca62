"""The pictures of docs/evaluation.md: mail over time, mail by attack, and times until listed."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.lab import private

os.environ.setdefault("MPLCONFIGDIR", str(private.RUN / "matplotlib"))  # not into anyone's home

import matplotlib as mpl

mpl.use("Agg")
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tests.lab.defences import DEFENCES, DPSD
from tests.lab.evaluate.matrix import ATTACKS
from tests.lab.evaluate.outcome import Outcome, Summary

Summaries = Mapping[tuple[str, str], Summary]

_OVER_TIME = ("hold", "distributed", "drip", "churn")
_INK = "#333333"
_GRID = "#e5e7e9"
_COLOURS = {
    "none": "#8a9199",
    "limits": "#b7950b",
    "ctcount": "#af601a",
    "postscreen": "#7d3c98",
    "fail2ban": "#c0392b",
    "dpsd": "#1a7f4b",
}
# Text stays text, and the same results make the same file.
_STYLE: Any = {"svg.fonttype": "none", "svg.hashsalt": "dpsd", "font.size": 9}
_WINDOW = 3
"""Seconds over which delivery is averaged."""


def draw(said: Summaries, directory: Path) -> None:
    """Write the pictures that these results are enough for."""
    directory.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(_STYLE):
        for name, make in (("mail", _mail), ("heat", _heat), ("listing", _listing)):
            if (figure := make(said)) is not None:
                figure.savefig(directory / f"{name}.svg", metadata={"Date": None})


def over_time(run: Outcome) -> tuple[list[float], list[float]]:
    """Seconds, and the share of honest mails due around then that were delivered, 0 to 100."""
    at, share = [], []
    for index in range(len(run.due_by_second) - _WINDOW + 1):
        due = sum(run.due_by_second[index : index + _WINDOW])
        if due:
            at.append(run.start + index + _WINDOW / 2)
            share.append(100 * sum(run.delivered_by_second[index : index + _WINDOW]) / due)
    return at, share


def _mail(said: Summaries) -> Figure | None:
    shown = [attack for attack in _OVER_TIME if any(key[1] == attack for key in said)]
    if not shown:
        return None
    rows = (len(shown) + 1) // 2
    figure = Figure(figsize=(9.4, 0.8 + 2.5 * rows), layout="constrained")
    axes = figure.subplots(rows, 2, sharex=True, sharey=True, squeeze=False).flat
    for axis, attack in zip(axes, shown, strict=False):
        for name in DEFENCES:
            if (summary := said.get((name, attack))) is not None:
                axis.plot(
                    *over_time(summary.runs[0]),
                    color=_COLOURS[name],
                    linewidth=2.4 if name == DPSD.name else 1.4,
                    zorder=3 if name == DPSD.name else 2,
                    label=DEFENCES[name].title,
                )
        axis.set_title(ATTACKS[attack].title, fontsize=10, color=_INK)
        axis.axvline(0, color=_INK, linewidth=0.8, linestyle=":")
        _frame(axis, "y")
        axis.set_ylim(0, 104)
    for axis in list(axes)[len(shown) :]:
        axis.set_visible(False)
    figure.supxlabel("seconds since the attack began", fontsize=9, color=_INK)
    figure.supylabel("honest mail delivered, %", fontsize=9, color=_INK)
    lines = {
        label: line
        for axis in figure.axes
        for line, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(lines.values(), lines.keys(), loc="outside upper center", ncols=6, frameon=False)
    return figure


def _heat(said: Summaries) -> Figure | None:
    attacks = [attack for attack in ATTACKS if any(key[1] == attack for key in said)]
    names = [name for name in DEFENCES if any(key[0] == name for key in said)]
    if not attacks:
        return None
    figure = Figure(figsize=(9.4, 1.0 + 0.3 * len(attacks)), layout="constrained")
    axis = figure.subplots()
    middles = {key: 100 * min(1.0, summary.share.middle) for key, summary in said.items()}
    grid = [[middles.get((name, attack), float("nan")) for name in names] for attack in attacks]
    axis.imshow(grid, cmap="RdYlGn", vmin=0, vmax=100, aspect="auto", alpha=0.75)
    for row, values in enumerate(grid):
        for column, value in enumerate(values):
            if value == value:  # noqa: PLR0124 - not a number: not tried
                axis.text(column, row, f"{value:.0f}", ha="center", va="center", color=_INK)
    axis.set_xticks(range(len(names)), [DEFENCES[name].title for name in names])
    axis.set_yticks(range(len(attacks)), [ATTACKS[attack].title for attack in attacks])
    axis.xaxis.tick_top()
    axis.tick_params(length=0, colors=_INK)
    axis.spines[:].set_visible(False)
    return figure


def _listing(said: Summaries) -> Figure | None:
    listed = [
        (ATTACKS[attack].title, summary, sorted(at for run in summary.runs for at in run.listings))
        for attack in ATTACKS
        if (summary := said.get((DPSD.name, attack))) is not None and summary.listed.most
    ]
    if not listed:
        return None
    figure = Figure(figsize=(9.4, 1.1 + 0.28 * len(listed)), layout="constrained")
    axis = figure.subplots()
    for row, (_, summary, times) in enumerate(listed):
        low, middle, high = (times[int(part * (len(times) - 1))] for part in (0.1, 0.5, 0.9))
        axis.plot([low, high], [row, row], color=_COLOURS["dpsd"], linewidth=3, alpha=0.4)
        axis.plot([middle], [row], "o", color=_COLOURS["dpsd"])
        axis.annotate(
            f"{summary.listed.middle:.0%}",
            (1.0, row),
            xycoords=("axes fraction", "data"),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            color=_INK,
        )
    axis.set_yticks(range(len(listed)), [title for title, _, _ in listed])
    axis.invert_yaxis()
    axis.set_xlim(left=0)
    axis.set_xlabel("seconds until an attacker was listed: median, and 10th to 90th percentile")
    axis.set_title("listed", loc="right", fontsize=9, color=_INK)
    _frame(axis, "x")
    return figure


def _frame(axis: Axes, grid: str) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y" if grid == "y" else "x", color=_GRID, linewidth=0.8)
    axis.set_axisbelow(True)
    axis.tick_params(colors=_INK)
