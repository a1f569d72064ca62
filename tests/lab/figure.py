"""The paper's figure: sessions and honest mail over time, without and with dpsd."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.lab import private
from tests.lab.result import Result

os.environ.setdefault("MPLCONFIGDIR", str(private.RUN / "matplotlib"))  # not into anyone's home

import matplotlib as mpl

mpl.use("Agg")

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

_HELD = "#c0392b"
_NON_REGULAR = "#e59866"
_HONEST = "#1f618d"
_DELIVERED = "#2e8b57"
_LOST = "#cfd4d8"
_INK = "#333333"
_HEADROOM = 1.15
"""The height of a plot by its highest value: the legend stands above."""


def draw(results: Sequence[Result], path: Path, *, slots: int, attack: str) -> None:
    """Write a PNG with a column for every run; `slots`: sessions that the mail server can hold."""
    figure = Figure(figsize=(5.6 * len(results), 7.0), dpi=130, layout="constrained")
    figure.suptitle(f"A mail host under attack: {attack}", fontsize=14, weight="bold", color=_INK)
    axes = figure.subplots(2, len(results), sharex=True, sharey="row", squeeze=False)
    for column, result in enumerate(results):
        _sessions(axes[0][column], result, slots)
        _mails(axes[1][column], result)
    for row in axes:
        for axis in row:
            _frame(axis)
        row[0].set_ylim(0, _HEADROOM * max(axis.dataLim.ymax for axis in row))
    axes[0][0].set_ylabel("TCP sessions at the mail server")
    axes[1][0].set_ylabel("honest mails due in each second")
    for axis in axes[1]:
        axis.set_xlabel("seconds since the attack began")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _sessions(axis: Axes, result: Result, slots: int) -> None:
    at = [sample.at for sample in result.samples if sample.at <= result.seconds]
    shown = result.samples[: len(at)]
    axis.set_title(result.label, fontsize=12, color=_INK)
    axis.stackplot(
        at,
        [s.held for s in shown],
        [s.non_regular for s in shown],
        colors=[_HELD, _NON_REGULAR],
        alpha=0.85,
        linewidth=0,
        labels=["attackers: held", "attackers: non-regular"],
    )
    axis.plot(
        at,
        [s.honest["ESTAB"] for s in shown],
        color=_HONEST,
        linewidth=1.8,
        label="honest",
    )
    axis.axhline(slots, color=_INK, linewidth=0.9, linestyle=(0, (5, 4)))
    axis.annotate(  # over the peace before the attack, where there is room
        f"{slots} slots",
        (at[0], slots),
        xytext=(4, 4),
        textcoords="offset points",
        fontsize=8.5,
        color=_INK,
    )
    axis.legend(loc="upper right", fontsize=8.5, frameon=False, ncols=3, columnspacing=1.0)


def _mails(axis: Axes, result: Result) -> None:
    counted = [mail for mail in result.mails if mail.at < result.seconds]
    due = Counter(int(mail.at // 1) for mail in counted)
    done = Counter(int(mail.at // 1) for mail in counted if mail.delivered)
    seconds = sorted(due)
    centres = [second + 0.5 for second in seconds]
    delivered = [done[second] for second in seconds]
    lost = [due[second] - done[second] for second in seconds]
    axis.bar(centres, delivered, width=0.86, color=_DELIVERED, label="delivered")
    axis.bar(centres, lost, width=0.86, bottom=delivered, color=_LOST, label="given up")
    axis.set_title(
        f"{result.delivered} of {result.attempted} honest mails delivered under attack",
        fontsize=10.5,
        color=_INK,
    )
    axis.legend(loc="upper right", fontsize=8.5, frameon=False, ncols=2)


def _frame(axis: Axes) -> None:
    axis.axvline(0, color=_INK, linewidth=0.9, linestyle=":")
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", color="#e5e7e9", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.margins(x=0)
    axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    axis.tick_params(colors=_INK, labelsize=9)
