"""A study's figures as SVG; the paper's curves stand beside them, grey, dashed and said to be another setting."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from realigner.atomic import writing
from realigner.lab.bars import Evidence
from realigner.lab.paper import NOISE, SCALE
from realigner.lab.plan import Study
from realigner.lab.study import Results, Row
from realigner.lab.tables import agreement, mean_over_seeds

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PAPER = "paper (another setting)"


def write_figures(study: Study, results: Results) -> list[Path]:
    """Write the figures for which there are rows; return the files."""
    import matplotlib as mpl

    evidence = Evidence(study, results)
    written = []
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "realigner", "axes.spines.top": False}):
        for name, draw in (("main", _main), ("noise", _noise), ("scale", _scale)):
            path = _figure(Path(study.output) / f"{name}.svg", evidence, draw)
            if path is not None:
                written.append(path)
    return written


def _figure(path: Path, evidence: Evidence, draw: Any) -> Path | None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.6), layout="constrained")
    if not draw(figure.add_subplot(), evidence):
        return None
    with writing(path) as unfinished:
        figure.savefig(unfinished, format="svg", metadata={"Date": None})
    return path


def _point(rows: list[Row]) -> tuple[float, float] | None:
    """Return the mean over seeds and the half-width of its interval, in percent."""
    found = mean_over_seeds((row["seed"], agreement(row) or 0.0) for row in rows)
    return None if found is None else (100 * found.value, 100 * (found.half or 0.0))


def _main(axes: Axes, evidence: Evidence) -> bool:
    """Draw agreement by shift, one group of bars a shift."""
    arms = list(dict.fromkeys(row["arm"] for row in evidence.blocks.get("main", [])))
    width = 0.8 / max(len(arms), 1)
    for i, arm in enumerate(arms):
        points = [_point(evidence.rows("main", arm, shift)) or (0.0, 0.0) for shift in evidence.study.shifts]
        places = [k + i * width for k in range(len(points))]
        axes.bar(places, [p[0] for p in points], width, yerr=[p[1] for p in points], label=arm, error_kw={"lw": 0.8})
    axes.set_xticks([k + 0.4 - width / 2 for k in range(len(evidence.study.shifts))], evidence.study.shifts)
    axes.set_ylabel("target agreement, %")
    axes.set_ylim(0, 100)
    axes.legend(fontsize=7, ncols=4, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.1))
    return bool(arms)


def _noise(axes: Axes, evidence: Evidence) -> bool:
    """Draw agreement by verdict noise; solid where flips are independent, dotted where they are correlated."""
    rows = evidence.blocks.get("noise", [])
    for i, arm in enumerate(dict.fromkeys(row["arm"] for row in rows)):
        for kind, style in (("independent", "-"), ("correlated", ":")):
            _line(
                axes,
                {n: evidence.rows("noise", arm, noise=n, correlation=kind) for n in (0.0, 0.1, 0.2, 0.3)},
                {"color": f"C{i}", "ls": style, "marker": "o", "label": f"{arm}, {kind}"},
            )
    return _beside(axes, bool(rows), "share of verdicts flipped", NOISE)


def _scale(axes: Axes, evidence: Evidence) -> bool:
    """Draw agreement by number of pairs."""
    rows = evidence.blocks.get("scale", [])
    for i, arm in enumerate(dict.fromkeys(row["arm"] for row in rows)):
        _line(
            axes,
            {n: evidence.rows("scale", arm, pairs=n) for n in (5000, 10000, 20000)},
            {"color": f"C{i}", "marker": "o", "label": arm},
        )
    return _beside(axes, bool(rows), "pairs", SCALE)


def _line(axes: Axes, rows: dict[Any, list[Row]], style: dict[str, Any]) -> None:
    points = {x: point for x, found in rows.items() if (point := _point(found)) is not None}
    if points:
        axes.errorbar(list(points), [p[0] for p in points.values()], [p[1] for p in points.values()], **style)


def _beside(axes: Axes, drawn: bool, label: str, paper: dict[str, Any]) -> bool:
    """Add the paper's curves and the words."""
    for arm, values in paper.items():
        axes.plot(list(values), list(values.values()), color="0.6", ls="--", marker=".", label=f"{arm}, {_PAPER}")
    axes.set_xlabel(label)
    axes.set_ylabel("target agreement, %")
    axes.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return drawn
