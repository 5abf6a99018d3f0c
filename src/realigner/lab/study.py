"""Running a study: every cell once, in order of the blocks, resumable at any moment."""

from __future__ import annotations

import json
import logging
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any

from realigner import __version__
from realigner.atomic import write_text
from realigner.errors import RealignerError, TrainingDiverged
from realigner.lab.experiment import run_cell
from realigner.lab.plan import Block, Cell, Study, block_cells, search_cells, searches_of
from realigner.lab.tables import CELLS, ROWS, read_rows
from realigner.lab.tables import Row as Row
from realigner.progress import SILENT, Progress

log = logging.getLogger(__name__)


class Results:
    """The rows of a study, by cell: `cells/<key>.json` as they are made, and the collected `rows.jsonl`."""

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        (self.directory / CELLS).mkdir(parents=True, exist_ok=True)
        self.rows: dict[str, Row] = {}
        self.refresh()

    def refresh(self) -> None:
        """Read the rows that were made since."""
        self.rows = read_rows(self.directory) | self.rows

    def collect(self) -> None:
        """Write all rows into one file, sorted, and remove the cells' own files."""
        self.refresh()
        lines = (json.dumps(self.rows[key], sort_keys=True) for key in sorted(self.rows))
        write_text(self.directory / ROWS, "".join(line + "\n" for line in lines))
        for path in (self.directory / CELLS).glob("*.json"):
            path.unlink()

    def of(self, cells: Sequence[Cell]) -> list[Row]:
        """Return the rows of the cells that are done, each once."""
        return [self.rows[key] for key in dict.fromkeys(cell.key for cell in cells) if key in self.rows]


def compute(cell: Cell, cache: str, directory: str) -> Row:
    """Run one cell and write its row, whole or not at all.

    A training that diverged, or settings that the library refuses (a gold batch larger than a class, say), are
    results and no accident: the row says so.
    """
    rate = cell.learning_rate if cell.learning_rate is not None else 0.0
    try:
        if cell.kind == "marginal":
            from realigner.lab.marginal import run_marginal

            found = run_marginal(cache, cell.lab, cell.shift, cell.seed, cell.setting)
        elif cell.kind == "sequence":
            from realigner.lab.sequence import run_sequence

            found = run_sequence(cache, cell.lab, cell.seed, cell.arm, cell.setting, rate)
        else:
            found = run_cell(cache, cell.lab, cell.shift, cell.seed, cell.arm, cell.setting, rate)
    except TrainingDiverged as error:
        found = {"diverged": str(error)}
    except RealignerError as error:
        found = {"refused": str(error)}
    row = {
        "key": cell.key,
        "kind": cell.kind,
        "shift": cell.shift,
        "seed": cell.seed,
        "arm": cell.arm,
        "setting": asdict(cell.setting),
        "trace_loss": cell.setting.whole_loss.model_dump(mode="json"),  # the defaults of today, said aloud
        "learning_rate": cell.learning_rate,
        "version": __version__,
        **found,
    }
    write_text(Path(directory) / CELLS / f"{cell.key}.json", json.dumps(row, sort_keys=True) + "\n")
    return row


def run_study(study: Study, *, jobs: int = 1, blocks: Sequence[str] = (), progress: Progress = SILENT) -> Results:
    """Run what is not done yet, block by block: first the block's learning-rate search, then its cells.

    Args:
        study: the file.
        jobs: processes; each takes one core and all cells of a data set.
        blocks: names of the blocks to run. Default: all.
        progress: where to show how far it is.
    """
    results = Results(study.output)
    try:
        for block in study.blocks:
            if blocks and block.name not in blocks:
                continue
            run_cells(search_cells(study, block), study, results, jobs, f"{block.name}: learning rates", progress)
            run_cells(cells_of(study, block, results), study, results, jobs, block.name, progress)
    finally:
        results.collect()
    return results


def searched(study: Study, block: Block, results: Results) -> dict[tuple[str, int], float]:
    """Return the rate with the highest mean agreement on the tuning shifts for each search of a block that is done.

    Among rates that keep facts (`KEPT_FACTS`): what a user would not deploy is no candidate, for no arm. A tie goes to
    the lower rate. A diverged training counts as an agreement of 0.

    Returns:
        The rate by arm and number of pairs.
    """
    if block.fixed_rate is not None:
        return dict.fromkeys(searches_of(study, block), block.fixed_rate)
    searches: dict[tuple[str, int], list[Cell]] = {}
    for cell in search_cells(study, block):
        searches.setdefault((cell.arm, cell.setting.pairs), []).append(cell)
    return {
        search: _best_rate(cells, results)
        for search, cells in searches.items()
        if all(cell.key in results.rows for cell in cells)
    }


KEPT_FACTS = 0.01
"""How much smaller than at the arm's best rate the share of questions of fact answered rightly may be."""


def _best_rate(cells: Sequence[Cell], results: Results) -> float:
    by_rate: dict[float, list[Row]] = {}
    for cell in cells:
        assert cell.learning_rate is not None
        by_rate.setdefault(cell.learning_rate, []).append(results.rows[cell.key])
    facts = {rate: _mean(rows, "facts_said") for rate, rows in by_rate.items()}
    keeps = [rate for rate in sorted(by_rate) if facts[rate] >= max(facts.values()) - KEPT_FACTS]
    return max(keeps, key=lambda rate: sum(row.get("agreement") or 0.0 for row in by_rate[rate]))


def _mean(rows: Sequence[Row], name: str) -> float:
    """Return the mean of a reading over the rows that have it; 0 where none has."""
    found = [row[name] for row in rows if row.get(name) is not None]
    return sum(found) / len(found) if found else 0.0


def cells_of(study: Study, block: Block, results: Results) -> list[Cell]:
    """Return a block's cells at the rates found so far."""
    return block_cells(study, block, searched(study, block, results))


def run_cells(
    cells: Sequence[Cell], study: Study, results: Results, jobs: int, label: str, progress: Progress = SILENT
) -> None:
    """Compute the cells that have no row yet.

    Args:
        cells: those of one data set next to each other.
        study: says where models and rows are kept.
        results: takes the rows.
        jobs: processes.
        label: of the progress bar.
        progress: where to show how far it is.
    """
    todo = {cell.key: cell for cell in cells if cell.key not in results.rows}
    if not todo:
        return
    groups = [list(group) for _, group in groupby(todo.values(), key=lambda cell: cell.data)]
    with progress.task(label, len(todo)) as advance:
        if jobs == 1:
            for cell in todo.values():
                results.rows[cell.key] = compute(cell, study.cache, study.output)
                advance(1)
            return
        # Models first, one process a seed: two processes must not build the same one.
        with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"), initializer=_one_core) as pool:
            first = {cell.lab: cell for cell in todo.values()}
            for made in as_completed([pool.submit(_prepare, study.cache, lab) for lab in first]):
                made.result()
            for done in as_completed([pool.submit(_group, group, study.cache, study.output) for group in groups]):
                rows = done.result()
                results.rows.update(rows)
                advance(len(rows))


def _one_core() -> None:
    import torch

    torch.set_num_threads(1)


def _prepare(cache: str, lab: Any) -> None:
    from realigner.lab.aligned import build_lab

    build_lab(cache, lab)


def _group(cells: Sequence[Cell], cache: str, directory: str) -> dict[str, Row]:
    return {cell.key: compute(cell, cache, directory) for cell in cells}


def quick_study(study: Study) -> Study:
    """Return a study that is the same in kind and tiny in size: for CI, not for conclusions."""
    small = {
        "corpus": 800,
        "steps": 30,
        "preferences": 300,
        "preference_steps": 8,
        "held_out": 40,
        "size": {"hidden": 48, "intermediate": 96, "layers": 1, "heads": 2},
    }
    blocks = tuple(
        Block(name=b.name, title=b.title, kind=b.kind, arms=b.arms[:4], seeds=study.seeds[:2], shifts=("safety",))
        for b in study.blocks[:1]
    )
    return study.model_copy(
        update={
            "name": f"{study.name} (quick)",
            "output": f"{study.output}-quick",
            "model": small,
            "seeds": study.seeds[:2],
            "shifts": ("safety",),
            "setting": {"pairs": 64, "prompts": 24, "attacks": 6, "impact": {"gold": {"size": 6}}},
            "search": study.search.model_copy(update={"rates": (6e-4,), "seeds": study.search.seeds[:1]}),
            "blocks": blocks,
        }
    )
