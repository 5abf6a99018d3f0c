"""Several runs, or the arms of a study, on one page: what they share, every figure side by side, what differs.

Two figures are said to differ only where their 95 % intervals do not overlap; on answers to the same prompts, where a
paired test says so after correction for the number of runs. Everything else is shown and not judged.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from realigner.atomic import write_text, writing_directory
from realigner.errors import RunDirError
from realigner.manifest import MANIFEST
from realigner.records import Label
from realigner.report.changes import Changes, read_changes
from realigner.report.cost import read_cost
from realigner.report.figures import read_figures
from realigner.report.interval import Figure, Interval, read_interval
from realigner.report.page import render
from realigner.report.rundir import RunFiles, mapping, number, part
from realigner.report.study import is_study, study_columns
from realigner.report.tables import write_tables
from realigner.report.text import one_line

MARK = "comparison.json"
MOST_COLUMNS, MOST_FIGURES, NAMED = 40, 600, 6
MATTERS = ("policy hash", "judge of the answers", "data", "held-out prompts")
"""What must be the same for agreement to be comparable."""


@dataclass(frozen=True)
class Column:
    """One run, or one arm of a study."""

    name: str
    facts: Mapping[str, str]
    figures: Mapping[str, Figure]
    changes: Changes | None = None
    costs: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Compared:
    """A figure of one column beside the first column's."""

    figure: Figure | None
    differs: str
    """`higher` or `lower` than the first where the intervals do not overlap, else empty."""


@dataclass(frozen=True)
class Paired:
    """Agreement after, against the first run, on the prompts that both answered."""

    name: str
    prompts: int
    change: Interval | None
    p: float | None
    p_holm: float | None
    told: bool
    """Whether the change can be told from chance."""


def write_comparison(paths: Sequence[Path], out: Path) -> Path:
    """Write the page, its tables as CSV and JSON; return the page's path.

    Args:
        paths: run directories, or output directories of studies, whose arms then are the columns.
        out: a directory that is not there, is empty, or holds an earlier comparison.

    Raises:
        RunDirError: there is nothing to compare, or `out` holds something else.
    """
    columns = read_columns(paths)
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / MARK).is_file())):
        raise RunDirError(f"--out {out}", "it holds something that is no comparison", "Choose another directory")
    page = render_comparison(columns)
    out.parent.mkdir(parents=True, exist_ok=True)
    with writing_directory(out) as directory:
        (directory / "report.html").write_bytes(page.encode("utf-8"))
        (directory / "tables").mkdir()
        names = write_tables(directory / "tables", page)
        content = {
            "schema": 1,
            "of": [str(path) for path in paths],
            "columns": [c.name for c in columns],
            "tables": names,
        }
        write_text(directory / MARK, json.dumps(content, indent=1) + "\n")
    return out / "report.html"


def read_columns(paths: Sequence[Path]) -> list[Column]:
    """Return what is compared: a column for each run, and one for each arm of a study.

    Raises:
        RunDirError: a path is neither, or there are fewer than two columns, or too many.
    """
    columns: list[Column] = []
    for path, name in zip(paths, _names(paths), strict=True):
        if (path / MANIFEST).is_file():
            columns.append(_run_column(RunFiles(path), name))
        elif is_study(path):
            columns += study_columns(path)
        else:
            rule = f"it holds neither {MANIFEST} of a run nor rows of a study"
            raise RunDirError(f"{path}", rule, "Name run directories, or the output of a study")
    if not 2 <= len(columns) <= MOST_COLUMNS:
        rule = f"a comparison takes 2 to {MOST_COLUMNS} runs or arms"
        raise RunDirError(f"{len(columns)} to compare", rule, "Name more than one run, or a study")
    return columns


def render_comparison(columns: Sequence[Column]) -> str:
    """Return the page. The same columns give the same text; the first is what the others are compared with."""
    names = list(dict.fromkeys(name for column in columns for name in column.figures))
    rows = [(name, tuple(beside(column, columns[0], name) for column in columns)) for name in names]
    facts = list(dict.fromkeys(key for column in columns for key in column.facts))
    shared = {key: len({column.facts.get(key) for column in columns}) == 1 for key in facts}
    costs = list(dict.fromkeys(key for column in columns for key in column.costs))
    return render(
        "comparison.html.j2",
        title=one_line(f"Comparison of {_named([column.name for column in columns])}", 160),
        columns=columns,
        facts=facts,
        shared=shared,
        unlike=[key for key in MATTERS if shared.get(key) is False],
        rows=rows[:MOST_FIGURES],
        rows_left_out=max(0, len(rows) - MOST_FIGURES),
        told=sum(bool(cell.differs) for _, cells in rows for cell in cells),
        compared=sum(_have_intervals(cell.figure, cells[0].figure) for _, cells in rows for cell in cells[1:]),
        paired=paired(columns),
        costs=costs,
    )


def _named(names: Sequence[str]) -> str:
    """Return names in a row, of many the first three."""
    return ", ".join(names) if len(names) <= NAMED else f"{len(names)}: {', '.join(names[:3])}, …"


def beside(column: Column, first: Column, name: str) -> Compared:
    """Return a figure of a column, and whether its interval lies apart from that of the first column."""
    figure, other = column.figures.get(name), first.figures.get(name)
    ends = [end for one in (figure, other) if one for end in (one.interval.low, one.interval.high) if end is not None]
    if column is first or len(ends) < 4:
        return Compared(figure, "")
    low, high, other_low, other_high = ends
    return Compared(figure, "higher" if low > other_high else "lower" if high < other_low else "")


def _have_intervals(*figures: Figure | None) -> bool:
    return all(figure is not None and figure.interval.low is not None for figure in figures)


def paired(columns: Sequence[Column], seed: int = 0) -> list[Paired]:
    """Compare agreement after with the first run's, prompt by prompt; p is corrected for the number of runs (Holm)."""
    from realigner.evaluate.statistics import holm, paired_change

    first = _labels(columns[0])
    found = []
    for column in columns[1:]:
        labels = _labels(column)
        both = [prompt for prompt in first if prompt in labels]
        change = paired_change([first[p] for p in both], [labels[p] for p in both], seed)
        found.append((column.name, len(both), change))
    ps = iter(holm([change["p"] for _, _, change in found if change is not None]))
    rows = []
    for name, prompts, change in found:
        p = None if change is None else next(ps)
        interval = read_interval(change)
        apart = interval is not None and None not in (interval.low, interval.high)
        told = apart and p is not None and p < 0.05 and (interval.low > 0 or interval.high < 0)  # type: ignore[union-attr,operator]
        rows.append(Paired(name, prompts, interval, number(mapping(change).get("p")), p, told))
    return rows


def _labels(column: Column) -> dict[str, bool]:
    if column.changes is None:
        return {}
    return {row.prompt_id: row.after_label == Label.COMPLIANT for row in column.changes.rows}


def _names(paths: Sequence[Path]) -> list[str]:
    """Return short names that tell the paths apart."""
    resolved = [path.resolve() for path in paths]
    for depth in range(1, 5):
        names = ["/".join(path.parts[-depth:]) for path in resolved]
        if len(set(names)) == len(names):
            break
    return [one_line(name, 60) for name in names]


def _run_column(run: RunFiles, name: str) -> Column:
    cost = part(read_cost, run).value
    costs: dict[str, float] = {}
    if cost is not None:
        costs = {f"seconds of {stage}": seconds for stage, seconds in cost.stages if seconds is not None}
        costs["seconds in all"] = cost.seconds
        for key in ("calls", "input_tokens", "output_tokens"):
            costs[f"judges: {key.replace('_', ' ')}"] = float(sum(getattr(asked, key) for asked in cost.asked))
    return Column(name, _facts(run), read_figures(run), part(read_changes, run).value, costs)


def _facts(run: RunFiles) -> dict[str, str]:
    """Return what a run was made of and by, as far as it is recorded."""

    def found(*keys: str, read: Any = run.summary) -> str:
        value = part(lambda _: read(*keys), run).value
        return "not recorded" if value is None else one_line(str(value), 160)

    stages = mapping(part(lambda r: r.manifest("stages"), run).value)
    data = mapping(mapping(mapping(stages.get("triage")).get("inputs")).get("data")).get("content")
    prompts = mapping(mapping(mapping(stages.get("generate")).get("inputs")).get("generate")).get("prompts")
    audit = part(lambda r: mapping(r.json("audit.json").get("evaluation")).get("audit"), run).value
    return {
        "policy": f"{found('policy', 'id')} {found('policy', 'version')}",
        "policy hash": found("policy", "hash"),
        "judge of the answers": found("oracle", "evaluation"),
        "judge in training": found("oracle", "training"),
        "audit of the answers": one_line(str(audit or "none"), 80),
        "data": one_line(str(data or "not recorded"), 80),
        "held-out prompts": one_line(str(prompts or "not recorded"), 80),
        "model": one_line(Path(found("model", "path", read=run.recipe)).name, 80),
        "loss": one_line(str(mapping(part(lambda r: r.recipe("loss"), run).value).get("invert", "not recorded")), 80),
        "weights": found("impact", "weighting", read=run.recipe),
        "seed": found("seed", read=run.manifest),
        "realigner": found("versions", "realigner", read=run.manifest),
    }
