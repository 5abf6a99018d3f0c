"""The judged responses of a run as units of an audit, and the identity of what was said of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from realigner.audit.records import Subject, Unit
from realigner.audit.sample import units_of
from realigner.progress import SILENT, Progress
from realigner.records import Label, Message, RuleVerdict, Verdict
from realigner.runs import StoredRun
from realigner.triaging import read_triage

STAGE_OF: dict[Subject, str] = {"triage": "triage", "evaluation": "evaluate"}
STEP = 1000
"""Pairs between two reports of progress."""
FILE_OF: dict[Subject, str] = {"triage": "triage.parquet", "evaluation": "judgements.parquet"}


def units_in(run: StoredRun, subject: Subject, progress: Progress = SILENT) -> Callable[[], Iterable[Unit]]:
    """Return a function that streams every response that was judged, and says how far it is."""

    def units() -> Iterator[Unit]:
        if subject == "evaluation":
            yield from answer_units(run.path("responses.parquet"), run.path("judgements.parquet"))
            return
        with progress.task("reading verdicts", run.facts("triage").get("pairs")) as advance:
            for number, row in enumerate(read_triage(run.path("triage.parquet")), start=1):
                yield from units_of(row)
                if number % STEP == 0:
                    advance(STEP)

    return units


def answer_units(responses: Path, judgements: Path) -> Iterator[Unit]:
    """Stream the answers of both models with their verdicts; the two files have the same order."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(responses) as answers, pq.ParquetFile(judgements) as verdicts:
        wanted = ("id", "prompt", "response", "outcome", "model", "topic")
        columns = [name for name in wanted if name in answers.schema_arrow.names]
        for row, judged in zip(_rows(answers, columns), _rows(verdicts), strict=True):
            rules = tuple(RuleVerdict(r["rule"], Label(r["label"]), r["reason"]) for r in judged["rules"])
            yield Unit(
                row["id"],
                tuple(Message(role=turn["role"], content=turn["content"]) for turn in row["prompt"]),
                row["response"],
                Verdict(Label(judged["label"]), rules, judged["reason"]),
                row["outcome"],
                row["model"],
                row.get("topic") or "",
            )


def digest(units: Iterable[Unit]) -> str:
    """Return the identity of all verdicts in their order, by response and rule: 16 hex digits. Reasons are left out."""
    found = hashlib.sha256()
    for unit in units:
        verdict = unit.verdict
        rules = [(rule.rule, rule.label.value) for rule in verdict.rules]
        parts = [unit.id, unit.outcome, unit.group, unit.topic, verdict.label.value, rules]
        found.update(json.dumps(parts).encode() + b"\n")
    return found.hexdigest()[:16]


def output_hash(run: StoredRun, subject: Subject) -> str:
    """Return the hash of the file that holds the verdicts, as the manifest has it."""
    return str(run.stages[STAGE_OF[subject]]["outputs"][FILE_OF[subject]]["hash"])


def _rows(file: Any, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    for batch in file.iter_batches(batch_size=1024, columns=columns):
        yield from batch.to_pylist()
