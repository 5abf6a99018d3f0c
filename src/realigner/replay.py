"""`realigner replay`: repeat a run from its stored recipe and say which numbers agree."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from realigner.atomic import write_text
from realigner.audit.gate import needs_audit
from realigner.audit.stored import AUDIT
from realigner.corrections.stage import journal_path
from realigner.errors import RunDirError, StaleKeyError
from realigner.evaluate.evidence import read_evidence
from realigner.oracle.build import STORE, store_path
from realigner.pipeline import run, stage_inputs
from realigner.progress import SILENT, Progress
from realigner.recipe import Recipe
from realigner.runs import StoredRun, finished_stages, load_run

TOLERANCE = 1e-6
"""Relative difference up to which two numbers agree; on the same machine and versions they are equal."""

Agreement = Literal["exact", "within tolerance", "different"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """One number, or one column of numbers or texts, of the run beside the same of its replay."""

    name: str
    agreement: Agreement
    text: str


@dataclass(frozen=True, slots=True)
class ReplayReport:
    """What a replay found."""

    run: Path
    replay: Path
    comparisons: tuple[Comparison, ...]

    @property
    def agrees(self) -> bool:
        """Whether every number agrees, exactly or within the tolerance."""
        return all(item.agreement != "different" for item in self.comparisons)

    def lines(self) -> list[str]:
        """Return the report for people."""
        lines = [f"{item.agreement:<17} {item.name}: {item.text}" for item in self.comparisons]
        verdict = "the numbers agree" if self.agrees else "the numbers DO NOT agree"
        return [*lines, f"{verdict} (tolerance {TOLERANCE:g}, relative); the replay is in {self.replay}"]

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "run": str(self.run),
            "replay": str(self.replay),
            "agrees": self.agrees,
            "tolerance": TOLERANCE,
            "comparisons": [asdict(item) for item in self.comparisons],
        }


def replay(directory: str | Path, progress: Progress = SILENT) -> ReplayReport:
    """Repeat a run, as far as it got, into `RUN/replay-N/`, and compare. An interrupted replay is resumed.

    Raises:
        RunDirError: the run finished no stage.
        StaleKeyError: the data, the policy or the model are not those of the run any more.
    """
    stored = load_run(directory)
    done = finished_stages(stored.directory)
    if not done:
        raise RunDirError(f"run {directory}", "it finished no stage", f"First run: realigner run {directory}")
    try:
        stored.refuse_stale(stage_inputs(stored.recipe, done[-1], progress))
    except StaleKeyError as error:
        raise StaleKeyError(error.given, "a replay needs the inputs of the run", "Restore them, or run anew") from None
    target = _free(stored.directory.resolve(), done)
    recipe = _elsewhere(stored.recipe, target)
    if needs_audit(recipe) and (stored.directory / AUDIT).is_file():
        # People are not asked twice: their audit holds for the same verdicts, which triage makes anew first.
        run(recipe, until="triage", progress=progress)
        write_text(target / AUDIT, (stored.directory / AUDIT).read_text(encoding="utf-8"))
    run(recipe, until=done[-1], progress=progress)
    return compare(stored, load_run(target))


def _elsewhere(recipe: Recipe, target: Path) -> Recipe:
    """Return the recipe for another directory, with the verdicts and candidates of the run: nothing is asked twice."""
    oracle, corrections = recipe.oracle, recipe.corrections
    if oracle.kind == "judges":
        oracle = oracle.model_copy(update={"store": str(store_path(oracle, recipe.output))})
    if corrections is not None and corrections.generate is not None:
        journal = str(journal_path(corrections.generate, recipe.output))
        generate = corrections.generate.model_copy(update={"journal": journal})
        corrections = corrections.model_copy(update={"generate": generate})
    report = recipe.report.model_copy(update={"gate": None})  # a replay asks for the same numbers, not for good ones
    evaluate = recipe.evaluate
    if evaluate.oracle is not None and evaluate.oracle.kind == "judges":
        own = evaluate.oracle.model_copy(update={"store": str(store_path(evaluate.oracle, recipe.output))})
        evaluate = evaluate.model_copy(update={"oracle": own})
    if evaluate.win_rate is not None and evaluate.win_rate.store is None:
        store = str(Path(recipe.output).parent / STORE)
        evaluate = evaluate.model_copy(update={"win_rate": evaluate.win_rate.model_copy(update={"store": store})})
    changes = {"output": str(target), "oracle": oracle, "corrections": corrections, "report": report}
    changes["evaluate"] = evaluate
    return recipe.model_copy(update=changes)


def compare(first: StoredRun, second: StoredRun) -> ReplayReport:
    """Compare what two runs wrote; what neither has is left out."""
    parts = (_outcomes, _weights, _losses, _responses, _summaries, _evidence)
    found = tuple(item for part in parts for item in part(first.directory, second.directory))
    return ReplayReport(first.directory, second.directory, found)


def _free(directory: Path, done: Sequence[str]) -> Path:
    """Return the first `replay-N` that is not there yet or not finished."""
    number = 1
    while (target := directory / f"replay-{number}").exists() and len(finished_stages(target)) >= len(done):
        number += 1
    return target


def _outcomes(first: Path, second: Path) -> Iterator[Comparison]:
    before, after = (_rows(run / "triage.parquet", ["id", "outcome", "direction"]) for run in (first, second))
    if before or after:
        yield _same_rows("outcomes", before, after)


def _weights(first: Path, second: Path) -> Iterator[Comparison]:
    before, after = (
        {row["id"]: row for row in _rows(run / "weights.parquet", ["id", "score", "weight"])} for run in (first, second)
    )
    for name in ("score", "weight"):
        if before or after:
            old, new = ({key: row[name] for key, row in rows.items()} for rows in (before, after))
            yield _same_numbers(f"{name}s" if name == "weight" else "impact scores", old, new)


def _losses(first: Path, second: Path) -> Iterator[Comparison]:
    before, after = (_steps(run / "metrics.jsonl") for run in (first, second))
    if before or after:
        yield _same_numbers("training loss by step", before, after)


def _responses(first: Path, second: Path) -> Iterator[Comparison]:
    columns = ["id", "model", "response"]
    before, after = (_rows(run / "responses.parquet", columns) for run in (first, second))
    if before or after:
        yield _same_rows("responses", before, after)


def _summaries(first: Path, second: Path) -> Iterator[Comparison]:
    before, after = (_summary(run / "summary.json") for run in (first, second))
    for name in {**before, **after}:
        yield _same_numbers(name, *({name: side[name]} if name in side else {} for side in (before, after)))


def _evidence(first: Path, second: Path) -> Iterator[Comparison]:
    """Compare the figures of each part of `measure`."""
    before, after = read_evidence(first), read_evidence(second)
    for part in {**before, **after}:
        sides = (
            {name: figure["value"] for name, figure in found[part]["figures"].items()} if part in found else {}
            for found in (before, after)
        )
        yield _same_numbers(f"evidence of {part}", *sides)


def _same_rows(name: str, before: list[dict[str, Any]], after: list[dict[str, Any]]) -> Comparison:
    equal = sum(old == new for old, new in zip(before, after, strict=False))
    total = max(len(before), len(after))
    return Comparison(name, "exact" if equal == total else "different", f"{equal:,} of {total:,} rows are equal")


def _same_numbers(name: str, before: dict[Any, float | None], after: dict[Any, float | None]) -> Comparison:
    """Compare numbers of the same keys by their largest difference, absolute and relative to the larger number."""
    alone = before.keys() ^ after.keys()
    if alone:
        return Comparison(name, "different", f"{len(alone):,} of {len(before | after):,} values are on one side only")
    absolute = relative = 0.0
    for key, old in before.items():
        new = after[key]
        if old is None or new is None:
            if old is not new:
                return Comparison(name, "different", f"{old} and {new}")
            continue
        difference = abs(old - new)
        absolute = max(absolute, difference)
        relative = max(relative, difference / (max(abs(old), abs(new)) or 1.0))
    agreement: Agreement = "exact" if absolute == 0 else "within tolerance" if relative <= TOLERANCE else "different"
    values = f" ({next(iter(before.values()))})" if len(before) == 1 else f", {len(before):,} values"
    return Comparison(name, agreement, f"largest difference {absolute:.3g}, relative {relative:.3g}{values}")


def _rows(path: Path, columns: list[str]) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]] = pq.read_table(path, columns=columns).to_pylist() if path.is_file() else []
    return rows


def _steps(path: Path) -> dict[int, float | None]:
    """Return the training loss of each logged step."""
    if not path.is_file():
        return {}
    lines = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    return {line["step"]: line["loss"] for line in lines if "loss" in line and "step" in line}


def _summary(path: Path) -> dict[str, float | None]:
    """Return the headline numbers of summary.json."""
    if not path.is_file():
        return {}
    summary = json.loads(path.read_text(encoding="utf-8"))
    figures = {
        "agreement before": summary["agreement"]["before"],
        "agreement after": summary["agreement"]["after"],
        "kl": summary["kl"],
        "perplexity before": summary["perplexity"]["before"],
        "perplexity after": summary["perplexity"]["after"],
    }
    return {name: None if figure is None else figure["value"] for name, figure in figures.items()}
