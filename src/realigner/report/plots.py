"""The plots of the report. Each takes numbers and returns inline SVG; none reads a file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

from realigner.report.interval import BeforeAfter, Figure, Interval
from realigner.report.svg import INK, drawing
from realigner.report.text import one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROW_HEIGHT = 42
MAX_POINTS = 240
"""Points drawn per curve; longer ones are averaged in equal stretches of steps."""

# Shape and dash repeat what colour says, for eyes and printers that do not tell the colours apart.
_DASHES: dict[str, tuple[int, tuple[float, ...]] | str] = {
    "invert": "-",
    "punish": (0, (5, 2)),
    "confirm": (0, (1, 1.4)),
    "neutral": (0, (5, 1.5, 1, 1.5)),
    "undecided": (0, (3, 3)),
    "ink": "-",
    "muted": (0, (2, 1)),
}


@dataclass(frozen=True)
class Curve:
    """One line of a plot: x in optimizer steps."""

    label: str
    ink: str
    steps: Sequence[float]
    values: Sequence[float]
    kind: Literal["line", "points"] = "line"


def interval_plot(name: str, rows: Sequence[tuple[str, BeforeAfter]], title: str) -> str:
    """Draw shares before (hollow) and after (filled) with their intervals, one row for each label."""
    told = [f"{label}: {_told(row.before)} before, {_told(row.after)} after" for label, row in rows]
    height = ROW_HEIGHT * len(rows) + 58
    with drawing(name, width=370, height=height, title=title, description="; ".join(told) + ".") as drawn:
        axes = drawn.axes
        for index, (label, row) in enumerate(rows):
            y = -index * 1.0
            axes.text(0, y + 0.38, one_line(label, 48), va="center", ha="left", fontsize=11)
            _dot(axes, row.before, y + 0.08, "before", hollow=True)
            _dot(axes, row.after, y - 0.16, "after", hollow=False)
        axes.set_ylim(-len(rows) + 0.45, 0.62)
        axes.set_xlim(-0.02, 1.02)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
        axes.set_yticks([])
        axes.grid(axis="x")
        axes.spines["left"].set_visible(False)
        axes.tick_params(length=0)
        for label, ink, hollow in (("before", "before", True), ("after", "after", False)):
            axes.plot([], [], **_marker(ink, hollow), label=label)
        axes.figure.legend(loc="outside upper right", ncols=2, handletextpad=0.2, columnspacing=1.2)
    return drawn.markup


def change_plot(name: str, rows: Sequence[tuple[str, Figure]], title: str, unit: str) -> str:
    """Draw changes with their intervals around 0, one row for each label; a bar marks the margin where there is one."""
    told = [f"{label}: {f.interval.shown(f.shown_unit)} ({f.interval.shown_range(f.shown_unit)})" for label, f in rows]
    scale = 100.0 if unit == "share" else 1.0
    with drawing(
        name, width=370, height=ROW_HEIGHT * len(rows) + 58, title=title, description="; ".join(told) + "."
    ) as drawn:
        axes = drawn.axes
        reach = max((abs(scale * end) for _, figure in rows for end in _ends(figure)), default=0) or 1.0
        axes.axvline(0, color=INK["muted"], linewidth=1)
        for index, (label, figure) in enumerate(rows):
            y = -index * 1.0
            axes.text(-reach, y + 0.34, one_line(label, 48), va="center", ha="left", fontsize=11)
            if figure.margin is not None:
                axes.plot([-scale * figure.margin] * 2, [y - 0.3, y + 0.16], color=INK["bad"], linewidth=2)
            low, high = figure.interval.low, figure.interval.high
            if low is not None and high is not None:
                axes.plot([scale * low, scale * high], [y - 0.07] * 2, color=INK["after"], linewidth=2)
            axes.plot([scale * figure.interval.value], [y - 0.07], **_marker("after", hollow=False))
        axes.set_ylim(-len(rows) + 0.45, 0.62)
        axes.set_xlim(-1.06 * reach, 1.06 * reach)
        axes.set_yticks([])
        axes.grid(axis="x")
        axes.spines["left"].set_visible(False)
        axes.tick_params(length=0)
        axes.locator_params(axis="x", nbins=5)
        axes.set_xlabel({"share": "percentage points", "plain": ""}.get(unit, one_line(unit, 40)))
    return drawn.markup


def share_bar(name: str, parts: Sequence[tuple[str, float]], title: str) -> str:
    """Draw shares of a whole as one bar, each named with its share below."""
    told = [f"{label} {100 * value:.1f} %" for label, value in parts]
    inks = ("after", "line", "before", "bad")
    with drawing(name, width=370, height=110, title=title, description="; ".join(told) + ".") as drawn:
        axes, left = drawn.axes, 0.0
        for (_, value), words, ink in zip(parts, told, inks, strict=False):
            hatch = "////" if ink == "bad" else None
            axes.barh([0], [value], left=left, height=0.6, color=INK[ink], hatch=hatch, label=words)
            left += value
        axes.set_xlim(0, max(1.0, left))
        axes.set_axis_off()
        axes.figure.legend(loc="outside lower center", ncols=2, columnspacing=1.2, handlelength=1.2)
    return drawn.markup


def _ends(figure: Figure) -> list[float]:
    margin = 0.0 if figure.margin is None else figure.margin
    return [
        end for end in (figure.interval.low, figure.interval.value, figure.interval.high, margin) if end is not None
    ]


def weight_histogram(name: str, weights: Sequence[float], clamped: int, ink: str, title: str) -> str:
    """Draw the distribution of one class's weights; the clamped ones are a hatched bar of their own at 0."""
    positive = sorted(weights)
    top = _nice_top(positive)
    over = sum(weight > top for weight in positive)
    description = (
        f"{clamped} weights clamped to 0 and {len(positive)} positive ones up to {_short(max(positive, default=0))}."
    )
    with drawing(name, height=210, title=title, description=description) as drawn:
        axes = drawn.axes
        bins = 24
        width = top / bins
        counts = [0] * bins
        for weight in positive:
            counts[min(bins - 1, int(weight / width))] += 1
        axes.bar([width * (i + 0.5) for i in range(bins)], counts, width * 0.92, color=INK[ink])
        if clamped:
            axes.bar([-1.6 * width], [clamped], 2.2 * width, facecolor="none", edgecolor=INK["bad"], hatch="////")
            axes.annotate(
                f"{clamped} clamped",
                (-2.7 * width, clamped),
                (0, 3),
                textcoords="offset points",
                ha="left",
                va="bottom",
            )
        if over:
            axes.annotate(
                f"last bar: {over} above {_short(top)}", (1, 1), xycoords="axes fraction", ha="right", va="top"
            )
        axes.margins(y=0.14)
        axes.set_xlim(-3.6 * width if clamped else -0.4 * width, top + 0.4 * width)
        axes.set_xlabel("weight in training")
        axes.set_ylabel("pairs")
        _quiet(axes)
    return drawn.markup


def curve_plot(name: str, curves: Sequence[Curve], *, title: str, unit: str, zero: bool = False) -> str:
    """Draw curves over optimizer steps. `zero` draws a line at 0 where its side has a meaning."""
    ends = [f"{curve.label} from {_short(curve.values[0])} to {_short(curve.values[-1])}" for curve in curves]
    with drawing(name, height=215, title=title, description="; ".join(ends) + ".") as drawn:
        axes = drawn.axes
        if zero:
            axes.axhline(0, color=INK["muted"], linewidth=0.8)
        for curve in curves:
            steps, values = thinned(curve.steps, curve.values)
            if curve.kind == "points":
                marks: dict[str, Any] = {"linestyle": "none", "marker": "o", "markersize": 5, "markerfacecolor": "none"}
                axes.plot(steps, values, color=INK[curve.ink], label=curve.label, **marks)
            else:
                lone: dict[str, Any] = {"marker": "."} if len(values) == 1 else {}
                axes.plot(steps, values, color=INK[curve.ink], linestyle=_DASHES[curve.ink], label=curve.label, **lone)
        axes.set_xlabel("optimizer step")
        axes.set_ylabel(unit)
        _quiet(axes)
        axes.ticklabel_format(axis="y", scilimits=(-3, 4))
        if len(curves) > 1:
            axes.figure.legend(
                loc="outside upper center", ncols=2, handlelength=2.6, columnspacing=1.2, labelspacing=0.25
            )
    return drawn.markup


def thinned(steps: Sequence[float], values: Sequence[float]) -> tuple[list[float], list[float]]:
    """Return at most `MAX_POINTS` points, each the mean of an equal stretch."""
    if len(steps) <= MAX_POINTS:
        return list(steps), list(values)
    edges = [round(i * len(steps) / MAX_POINTS) for i in range(MAX_POINTS + 1)]
    spans = list(pairwise(edges))
    return (
        [math.fsum(steps[a:b]) / (b - a) for a, b in spans],
        [math.fsum(values[a:b]) / (b - a) for a, b in spans],
    )


def _dot(axes: Axes, interval: Interval | None, y: float, ink: str, *, hollow: bool) -> None:
    if interval is None:
        axes.text(0, y, "not measured", va="center", fontsize=9.5, color=INK["muted"])
        return
    if interval.low is not None and interval.high is not None:
        axes.plot([interval.low, interval.high], [y, y], color=INK[ink], linewidth=2, solid_capstyle="round")
    axes.plot([interval.value], [y], **_marker(ink, hollow))


def _marker(ink: str, hollow: bool) -> dict[str, Any]:
    face = INK["panel"] if hollow else INK[ink]
    return {
        "marker": "o" if hollow else "D",
        "markersize": 7 if hollow else 6,
        "markerfacecolor": face,
        "markeredgecolor": INK[ink],
        "markeredgewidth": 1.6,
        "linestyle": "none",
    }


def _quiet(axes: Axes) -> None:
    axes.grid(axis="y")
    axes.tick_params(length=3)
    axes.locator_params(axis="x", nbins=6)
    axes.locator_params(axis="y", nbins=5)


def _nice_top(positive: Sequence[float]) -> float:
    """The end of the axis: a few very large weights must not press all others into the first bar."""
    if not positive:
        return 1.0
    return min(positive[-1], 1.5 * positive[int(0.98 * (len(positive) - 1))]) or 1.0


def _told(interval: Interval | None) -> str:
    return "not measured" if interval is None else interval.shown("share")


def _short(value: float) -> str:
    return f"{value:.3g}"
