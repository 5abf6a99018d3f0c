"""A study's files: one page and one CSV a block, and the page of the bars."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from realigner.atomic import write_text
from realigner.lab.aligned import NEEDED_AGREEMENT
from realigner.lab.bars import bars
from realigner.lab.paper import LABEL, MAIN
from realigner.lab.plan import Block, Cell, Study
from realigner.lab.study import Results, Row, cells_of, searched
from realigner.lab.tables import (
    READINGS,
    by_rule,
    by_shift,
    comparisons,
    markdown,
    mean_of,
    mean_over_seeds,
    on_common_seeds,
    summary,
)

BARS = (
    "Differences are paired by seed and shift, in points, with 95 % intervals (Student's t) over seeds. *met* and "
    "*MISSED* go by the mean; *surely* is added where the whole interval lies on that side. Utility is met only where "
    "the whole interval is. Weights of conflicts either gain on two shifts or are not the default; `trace` has the "
    "default's objective, `no-corrections…` the same where nobody has corrections, `paper…` the paper's."
)


def write_tables(study: Study, results: Results) -> list[Path]:
    """Write `<block>.md` and `<block>.csv` for every block, with what is done so far; return the files."""
    directory = Path(study.output)
    written = []
    for block in study.blocks:
        cells = cells_of(study, block, results)
        rows = results.of(cells)
        text = f"# {block.title or block.name}\n\n{len(rows)} of {len(cells)} cells are done.\n\n"
        if rows:
            text += _alignment(rows) + _rates(study, block, results)
            text += _sweep(study, block, cells, results) if block.sweep else _body(study, block, rows)
        for suffix, content in ((".md", text), (".csv", _csv(rows))):
            path = directory / f"{block.name}{suffix}"
            write_text(path, content)
            written.append(path)
    path = directory / "bars.md"
    write_text(path, f"# What was to be reached, and what was\n\n{BARS}\n\n" + markdown(bars(study, results)))
    return [*written, path]


def _alignment(rows: Sequence[Row]) -> str:
    """Return a line on the aligned models: their agreement with the old policy, and whether that is enough."""
    found = {row["seed"]: row["m_ref"]["old_agreement"] for row in rows if "m_ref" in row}
    if not found:
        return ""
    line = ", ".join(f"{100 * found[seed]:.1f} % (seed {seed})" for seed in sorted(found))
    short = [str(seed) for seed in sorted(found) if found[seed] < NEEDED_AGREEMENT]
    fault = f" BELOW the {NEEDED_AGREEMENT:.0%} that is required: seed {', '.join(short)}." if short else ""
    return f"M_ref agrees with the old policy on {line} of held-out prompts.{fault}\n\n"


def _rates(study: Study, block: Block, results: Results) -> str:
    """Return a line on the learning rates that the search found; a rate at the edge of the grid may not be the best."""
    found = searched(study, block, results)
    if not found:
        return ""
    if block.fixed_rate is not None:
        return f"Learning rate of all arms: {block.fixed_rate:.3g}, without a search.\n\n"
    grid, sizes = block.rates or study.search.rates, {pairs for _, pairs in found}
    said = [
        f"{arm}{f' on {pairs:,} pairs' if len(sizes) > 1 else ''} {rate:.3g}"
        f"{' (the edge of the grid)' if rate in (min(grid), max(grid)) else ''}"
        for (arm, pairs), rate in found.items()
    ]
    shifts, rates = " and ".join(study.search.shifts), ", ".join(f"{rate:.3g}" for rate in grid)
    at = f" (searched at {block.searched_at:,} pairs)" if block.searched_at else ""
    return f"Learning rates, the best on {shifts} of {rates}{at}: {', '.join(said)}.\n\n"


def _body(study: Study, block: Block, rows: Sequence[Row]) -> str:
    if block.kind == "marginal":
        return _marginal(rows)
    if block.kind == "sequence":
        return _sequence(block, rows)
    rows = on_common_seeds(rows)
    if not rows:
        return "No seed has been run for all of these arms.\n"
    shifts = _shifts(study, block, rows)
    seeds = ", ".join(str(seed) for seed in sorted({row["seed"] for row in rows}))
    parts = [
        f"Target agreement in percent by shift; intervals are 95 % (Student's t) over seeds {seeds}.\n",
        markdown(by_shift(rows, block.arms, shifts)),
        "All shifts together.\n",
        markdown(summary(rows, block.arms, ("agreement", "INVERT", "PUNISH", "CONFIRM", "NEUTRAL", "well-formed"))),
        "Utility and cost: facts in percent right, by log-likelihood and as answered; perplexity and KL (nats a token) "
        "on held-out retained answers.\n",
        markdown(summary(rows, block.arms, ("facts", "facts said", "perplexity", "KL", "TFLOP", "CPU seconds"))),
        "Safety in percent: harmful help on zero-tolerance prompts, and refusals where the new policy wants help.\n",
        markdown(summary(rows, block.arms, ("harm, unattacked", "nesting", "suppression", "over-refusal, new"))),
    ]
    against = [arm for arm in ("u2a", "dpo-gold", "uniform", "trace") if arm in block.arms]
    if against:
        parts += [
            "Paired over seeds: difference in agreement (points), and wins among the answers that differ.\n",
            markdown(comparisons(rows, block.arms, against)),
        ]
    rules = by_rule(rows, block.arms, shifts)
    if len(rules) > 1:
        parts += ["By rule, in percent of the answers that it applies to.\n", markdown(rules)]
    beside = [[arm, "; ".join(f"{k}: {v}" for k, v in MAIN[arm].items())] for arm in block.arms if arm in MAIN]
    if beside:
        parts += [f"Beside it, for orientation ({LABEL}):\n", markdown([["arm", "paper"], *beside])]
    return "\n".join(parts)


def _shifts(study: Study, block: Block, rows: Sequence[Row]) -> list[str]:
    return [s for s in block.shifts or study.shifts if any(row["shift"] == s for row in rows)]


def _sweep(study: Study, block: Block, cells: Sequence[Cell], results: Results) -> str:
    shifts = _shifts(study, block, results.of(cells))
    return "".join(
        f"## {_point(block, point)}\n\n{markdown(by_shift(rows, block.arms, shifts))}\n"
        f"{markdown(summary(rows, block.arms, ('agreement', 'CONFIRM', 'well-formed', 'KL', 'nesting')))}\n"
        for point, found in _points(block, cells, results)
        if (rows := on_common_seeds(found))
    )


def _points(block: Block, cells: Sequence[Cell], results: Results) -> list[tuple[tuple[Any, ...], list[Row]]]:
    """Return the rows at each point of a sweep, in its order. By cells: a row may be shared with another block."""
    found: dict[tuple[Any, ...], list[Cell]] = {}
    for cell in cells:
        found.setdefault(tuple(_at(asdict(cell.setting), key) for key in block.sweep), []).append(cell)
    at = {point: results.of(own) for point, own in found.items()}
    return [(point, rows) for point, rows in at.items() if rows]


def _at(tree: Any, path: str) -> Any:
    for part in path.split("."):
        tree = tree[part]
    return tree


def _point(block: Block, point: Sequence[Any]) -> str:
    return ", ".join(f"{key} = {value}" for key, value in zip(block.sweep, point, strict=True))


def _marginal(rows: Sequence[Row]) -> str:
    rows = [row for row in rows if "spearman" in row]
    variants = list(rows[0]["spearman"]) if rows else []
    parts = ("all", "INVERT", "PUNISH")
    table = [["scores", *parts]]
    for variant in variants:
        line = [variant]
        for part in parts:
            own = [(row["seed"], row["spearman"][variant].get(part)) for row in rows]
            found = mean_over_seeds((seed, value) for seed, value in own if value is not None)
            line.append("–" if found is None else found.show(1, 2))
        table.append(line)
    return (
        "Spearman's correlation of scores with true marginal gains on the gold loss; means over shifts, 95 % interval "
        f"over seeds.\n\n{markdown(table)}"
    )


def _sequence(block: Block, rows: Sequence[Row]) -> str:
    table = [["reference", *(f"after stage {i + 1}: {name}" for i, name in enumerate(("safety", "style", "value")))]]
    for arm in block.arms:
        own = [row for row in rows if row["arm"] == arm and "stages" in row]
        line = [arm]
        for stage in range(3):
            seen = ("safety", "style", "value")[: stage + 1]
            cells = []
            for name in seen:
                found = mean_of([row["stages"][stage][name] for row in own if name in row["stages"][stage]])
                cells += [] if found is None else [f"{name} {found.show()}"]
            line.append("; ".join(cells) or "–")
        table.append(line)
    return f"Agreement with the policy as it has grown, on the prompts of each shift so far.\n\n{markdown(table)}"


def _csv(rows: Sequence[Row]) -> str:
    """Return one line for each row with everything the tables read."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["kind", "shift", "seed", "arm", "learning_rate", "setting", *READINGS, "trouble"])
    for row in rows:
        setting = ";".join(f"{k}={v}" for k, v in sorted(row["setting"].items()))
        values = [read(row) for read, _, _ in READINGS.values()]
        head = [row["kind"], row["shift"], row["seed"], row["arm"], row["learning_rate"], setting]
        writer.writerow(
            [*head, *("" if v is None else f"{v:.6g}" for v in values), row.get("diverged", row.get("refused", ""))]
        )
    return out.getvalue()
