"""The picture of docs/positions.md: honest mail by attack, and what the server has under hold."""

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

from tests.lab.positions.matrix import CASES, JUDGED
from tests.lab.positions.measured import Measured, median_of, rounds
from tests.lab.positions.position import POSITIONS

_INK, _GRID = "#333333", "#e5e7e9"
_WITH, _WITHOUT = "#1a7f4b", "#c0392b"
_SLOTS = 100
# Text stays text, and the same results make the same file.
_STYLE: Any = {"svg.fonttype": "none", "svg.hashsalt": "dpsd", "font.size": 9}


def draw(runs: Mapping[str, Measured], path: Path) -> None:
    """Write the picture of what there is; nothing of nothing."""
    names = [name for name in POSITIONS if rounds(runs, name, "hold")]
    if not names:
        return
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(9.4, 1.2 + 0.42 * len(names)), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(3, 2), sharey=True)
        _mail(left, runs, names)
        _sessions(right, runs, names)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None})


def _mail(axis: Axes, runs: Mapping[str, Measured], names: list[str]) -> None:
    cases = ("bare", *JUDGED)
    grid = [
        [median_of(run.share for run in rounds(runs, name, case)) for case in cases]
        for name in names
    ]
    values = [[float("nan") if v is None else 100 * min(v, 1.0) for v in row] for row in grid]
    axis.imshow(values, cmap="RdYlGn", vmin=0, vmax=100, aspect="auto", alpha=0.75)
    for row, line in enumerate(grid):
        for column, value in enumerate(line):
            if value is not None:
                text = f"{100 * value:.0f}"
                axis.text(column, row, text, ha="center", va="center", color=_INK)
    axis.set_xticks(range(len(cases)), [CASES[case].title.replace(", ", "\n") for case in cases])
    axis.set_yticks(range(len(names)), [POSITIONS[name].title for name in names])
    axis.xaxis.tick_top()
    axis.tick_params(length=0, colors=_INK)
    axis.spines[:].set_visible(False)
    axis.set_title("honest mail delivered, %", fontsize=9, color=_INK)


def _sessions(axis: Axes, runs: Mapping[str, Measured], names: list[str]) -> None:
    """The server's sessions in the second half of hold, with dpsd and without."""
    for case, colour, label in (("bare", _WITHOUT, "no dpsd"), ("hold", _WITH, "dpsd")):
        held = [median_of(run.held for run in rounds(runs, name, case)) for name in names]
        known = [(each, row) for row, each in enumerate(held) if each is not None]
        axis.plot(
            [each for each, _ in known], [row for _, row in known], "o", color=colour, label=label
        )
    axis.axvline(_SLOTS, color=_INK, linewidth=0.9, linestyle=(0, (5, 4)))
    axis.annotate(
        f"{_SLOTS} slots", (_SLOTS, 1), xycoords=("data", "axes fraction"), xytext=(3, -9),
        textcoords="offset points", fontsize=8, color=_INK,
    )  # fmt: skip
    axis.set_xlim(left=0)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.grid(axis="both", color=_GRID, linewidth=0.8)
    axis.set_axisbelow(True)
    axis.tick_params(colors=_INK, length=0)
    axis.legend(loc="lower right", fontsize=8, frameon=False)
    axis.set_title("the server's sessions under hold", fontsize=9, color=_INK)
