"""From answers to what others use: the audit's figures, the votes un-blinded, corrections and verdicts as files."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from realigner.audit import Answer, AuditScore
from realigner.errors import ReviewError
from realigner.records import Label, prompt_key, text_hash
from realigner.review.answers import Corrected, Judged
from realigner.review.figures import TaskFigures, counted, task_figures
from realigner.review.history import Entry
from realigner.review.preference import PreferenceScore, preference_score
from realigner.review.store import Store
from realigner.review.study import Task, read_key
from realigner.runs import load_run


@dataclass(frozen=True, slots=True)
class TaskScore:
    """What a task came to."""

    figures: TaskFigures
    audit: AuditScore | None = None
    preference: PreferenceScore | None = None
    note: str = ""
    """Why a score is missing, where one is."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "figures": asdict(self.figures),
            "audit": self.audit and self.audit.as_dict(),
            "preference": self.preference and asdict(self.preference),
            "note": self.note,
        }


def score_task(store: Store, task: Task, *, run: Path | None = None, partial: bool = False) -> TaskScore:
    """Return what a task came to; an audit's figures are also written to its run, as `audit score` does.

    Args:
        store: of the answers.
        task: which.
        run: where its audit was drawn, if the run was moved.
        partial: score what there is where questions of an audit have no answer at all.

    Raises:
        AuditError: the audit cannot be scored: the run's verdicts changed, or answers are missing.
    """
    figures = task_figures(store, task)
    if task.kind == "preference":
        if store.unblinded is None:
            return TaskScore(figures, note="blind; to see whose responses were chosen: realigner review unblind")
        return TaskScore(
            figures, preference=preference_score(counted(store.history(task)).first, read_key(store.study, task))
        )
    if task.kind == "audit":
        return _score_audit(store, task, figures, run, partial)
    return TaskScore(figures)


def _score_audit(store: Store, task: Task, figures: TaskFigures, run: Path | None, partial: bool) -> TaskScore:
    from realigner.audit.keyfile import read_key as read_audit_key
    from realigner.audit.run import score_answers
    from realigner.audit.stored import FOLDER

    name = run or store.study.settings.run
    if task.settings.audit is None or name is None:
        return TaskScore(figures, note="not drawn by `review new` from a run: agreement is all that can be told")
    stored = load_run(name)
    keys = sorted(stored.path(FOLDER).glob(f"*-{task.settings.audit}.key.json"))
    if not keys:
        given = f"run {stored.directory}: no key of audit {task.settings.audit}"
        raise ReviewError(given, "the audit of this study was drawn from another run", "Give --run")
    answers = audit_answers(counted(store.history(task)).first)
    if not answers:
        return TaskScore(figures, note="nobody has answered yet")
    return TaskScore(figures, audit=score_answers(stored, read_audit_key(keys[0]), answers, partial=partial))


def audit_answers(entries: Sequence[Entry]) -> list[Answer]:
    """Return answers as the audit takes them."""
    return [
        Answer(entry.item, entry.annotator, Label(entry.value.label), entry.value.rules, entry.value.note)
        for entry in entries
        if isinstance(entry.value, Judged)
    ]


def unblind_study(store: Store, *, early: bool = False) -> list[Task]:
    """End the votes of a study for ever; return its preference tasks.

    Args:
        store: of the answers.
        early: even though votes are missing.

    Raises:
        ReviewError: there is nothing to un-blind, votes are missing, or the key does not fit.
    """
    tasks = _of_kind(store, "preference")
    if not tasks:
        raise ReviewError(f"study {store.study.directory}", "it has no preference task", "There is nothing to un-blind")
    for task in tasks:
        read_key(store.study, task)  # refused before the votes are ended, not after
        counts = store.counts(task)
        missing = sum(max(0, count - counts.get(name, 0)) for name, count in store.wanted(task).items())
        if missing and not early and store.unblinded is None:
            raise ReviewError(
                f"task '{task.id}': {missing} votes are missing",
                "votes end when the systems are known, so that nobody votes for a name",
                "Wait for them, or end the votes now with --early",
            )
    store.unblind()
    return tasks


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of a file for another stage, and what was left out of it."""

    rows: list[dict[str, Any]]
    left_out: dict[str, int]
    """By reason."""


def correction_rows(store: Store) -> Rows:
    """Return the corrections as `corrections.path` takes them: one for each pair, the one that was given first."""
    rows: dict[str, dict[str, Any]] = {}
    left_out: Counter[str] = Counter()
    for task in _of_kind(store, "correction"):
        for entry in sorted(counted(store.history(task)).first, key=lambda entry: entry.at):
            assert isinstance(entry.value, Corrected)
            pair = task.by_id[entry.item].pair
            if entry.value.skip:
                left_out["no answer can be given"] += 1
            elif pair in rows:
                left_out["pair was corrected by somebody before"] += 1
            else:
                rows[pair] = {"id": pair, "correction": entry.value.text, **_provenance(store, [entry])}
    return Rows(list(rows.values()), dict(left_out))


def verdict_rows(store: Store) -> Rows:
    """Return what people decided of undecided responses, as `human.path` takes it: one row a response."""
    rows: list[dict[str, Any]] = []
    left_out: Counter[str] = Counter()
    wording = store.study.wording
    for task in _of_kind(store, "undecided"):
        by_item: dict[str, list[Entry]] = defaultdict(list)
        for entry in counted(store.history(task)).first:
            by_item[entry.item].append(entry)
        for name, entries in by_item.items():
            item = task.by_id[name]
            label = _most(entries)
            if not item.pair or not item.side:
                left_out["item names no pair and side"] += 1
            elif label is None:
                left_out["people are unsure, or divided"] += 1
            else:
                agreeing = [e.value for e in entries if isinstance(e.value, Judged) and e.value.label == label]
                named = Counter(rule for value in agreeing for rule in value.rules)
                reasons = [value.note for value in agreeing if value.note]
                rows.append(
                    {
                        "id": item.pair,
                        "side": item.side,
                        "label": label,
                        "rules": [rule for rule, count in named.items() if 2 * count > len(agreeing)],
                        "reason": "; ".join(reasons),
                        **({"policy": f"{wording.id} {wording.version}"} if wording else {}),
                        "text": text_hash(prompt_key(item.prompt), item.texts[0]),
                        **_provenance(store, entries),
                    }
                )
    return Rows(rows, dict(left_out))


def voted_rows(store: Store, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return exported rows with the chosen system's name, once the study is un-blinded."""
    if store.unblinded is None:
        return rows
    keys = {task.id: read_key(store.study, task) for task in _of_kind(store, "preference")}
    return [
        {**row, "system": keys[row["task"]][row["item"]][row["choice"] - 1]}
        if isinstance(row.get("choice"), int)
        else row
        for row in rows
    ]


def _most(entries: Sequence[Entry]) -> str | None:
    """Return the verdict that most people gave; None where that is `unsure`, or where it is a draw."""
    votes = Counter(entry.value.label for entry in entries if isinstance(entry.value, Judged))
    yes, no = votes[Label.COMPLIANT], votes[Label.NON_COMPLIANT]
    if yes == no or votes[Label.UNSURE] > max(yes, no):
        return None
    return str(Label.COMPLIANT if yes > no else Label.NON_COMPLIANT)


def _of_kind(store: Store, kind: str) -> list[Task]:
    return [task for task in store.study.tasks.values() if task.kind == kind]


def _provenance(store: Store, entries: Sequence[Entry]) -> dict[str, Any]:
    people = list(dict.fromkeys(entry.annotator for entry in entries))
    return {"provenance": "human", "annotators": people, "study": store.study.hash}
