"""A new study: items drawn from a run or from a file of responses, and a study file to edit before the first answer."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from realigner.atomic import write_text, writing_directory
from realigner.audit.records import Subject
from realigner.errors import ReviewError
from realigner.policy.shipped import is_shipped, shipped_file
from realigner.records import Label, Outcome, TriagedPair, Verdict, text_hash
from realigner.review.items import MOST_RESPONSES
from realigner.review.sources import answers_of_runs, read_responses
from realigner.review.study import STUDY, load_study, read_key
from realigner.runs import StoredRun, load_run

UNDECIDED = (Label.UNSURE, Label.INVALID)
AUDITS: Mapping[Subject, tuple[str, str]] = {
    "triage": ("audit", "Audit of the judge"),
    "evaluation": ("audit-answers", "Audit of the judge: the models' answers"),
}
"""For each subject of an audit the id and the title of its task."""
INSTRUCTIONS = """\
Read the policy before you begin; it stands beside every item. Judge by what it says, not by what you
would have liked it to say.

Take breaks. You can stop at any time and go on later, here or on another device. You can undo what you said."""


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as people write them."""


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None),
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a new study is to ask, and how much of it."""

    audit: int = 0
    """Responses of the old data of which the judge's verdict is audited."""
    audit_answers: int = 0
    """Answers of both models of which the judge's verdict is audited."""
    preference: int = 0
    """Held-out prompts whose answers are compared."""
    against: tuple[Path, ...] = ()
    """Further runs whose re-aligned models take part. Without any, the run's own model before and after."""
    responses: Path | None = None
    """JSONL of `{prompt, responses: {system: text}}` to compare instead."""
    corrections: int = 0
    """PUNISH pairs without a correction, to be corrected."""
    undecided: bool = False
    """All responses that no judge could decide."""


@dataclass
class Made:
    """What was written."""

    directory: Path
    items: dict[str, int] = field(default_factory=dict)
    """By task."""
    systems: tuple[str, ...] = ()
    self_naming: int = 0
    """Responses that hold the name of a system, so that they may un-blind themselves."""


def new_study(
    directory: Path,
    wanted: Wanted,
    *,
    run: Path | None = None,
    policy: Path | None = None,
    annotators: int = 3,
    seed: int = 0,
) -> Made:
    """Write a study to a directory that is not there yet.

    Args:
        directory: where.
        wanted: what to ask.
        run: where the items come from; not needed for a file of responses.
        policy: whose wording is shown; the run's by default.
        annotators: how many people answer an item that several are to answer.
        seed: of every draw.

    Raises:
        ReviewError: nothing was asked for, or the run does not hold what was.
    """
    if directory.exists():
        raise ReviewError(f"study {directory}", "it is there already", "Name a directory that is not there yet")
    stored = load_run(run) if run is not None else None
    directory.parent.mkdir(parents=True, exist_ok=True)
    made = Made(directory)
    with writing_directory(directory) as folder:
        maker = _Maker(folder, stored, wanted, annotators, seed, made)
        tasks = maker.tasks()
        if not tasks:
            raise ReviewError(
                "a study of no task", "nothing was asked for", "Give --audit, --preference, --responses …"
            )
        study: dict[str, Any] = {"format": 1, "id": _slug(directory.name), "title": "Human review"}
        study |= {"instructions": INSTRUCTIONS}
        if _copy_policy(folder / "policy.yaml", stored, policy):
            study["policy"] = "policy.yaml"
        if stored is not None:
            study["run"] = str(stored.directory.resolve())
        text = yaml.dump({**study, "tasks": tasks}, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
        write_text(
            folder / STUDY, f"# Edit this before the first answer: after that, a changed study is refused.\n{text}"
        )
        study_made = load_study(folder)
        for task in study_made.tasks.values():
            if task.kind == "preference":
                read_key(study_made, task)
    return made


@dataclass
class _Maker:
    """Writes the items of each task, and returns how the study file names them."""

    folder: Path
    run: StoredRun | None
    wanted: Wanted
    annotators: int
    seed: int
    made: Made

    def tasks(self) -> list[dict[str, Any]]:
        wanted = self.wanted
        found = [
            self._audit("triage", wanted.audit) if wanted.audit else None,
            self._audit("evaluation", wanted.audit_answers) if wanted.audit_answers else None,
            self._preference() if wanted.preference or wanted.responses else None,
            self._corrections() if wanted.corrections else None,
            self._undecided() if wanted.undecided else None,
        ]
        return [task for task in found if task is not None]

    def _need_run(self, what: str) -> StoredRun:
        if self.run is None:
            raise ReviewError(what, "its items come from a run", "Give --run RUN")
        return self.run

    def _triaged(self, what: str) -> Iterable[TriagedPair]:
        from realigner.triaging import read_triage

        run = self._need_run(what)
        run.require("triage")
        return read_triage(run.path("triage.parquet"))

    def _audit(self, subject: Subject, count: int) -> dict[str, Any]:
        """Draw an audit of the run's verdicts; its key stays in the run, and its sheets serve who works elsewhere."""
        from realigner.audit.run import sample_run
        from realigner.audit.units import units_in

        run = self._need_run("an audit")
        name, title = AUDITS[subject]
        (self.folder / "sheets").mkdir(exist_ok=True)
        out = self.folder / "sheets" / name
        key = sample_run(run.directory, subject=subject, n=count, seed=self.seed, out=out).key
        places = {item.unit: item for item in key.sample.questions}
        rows: dict[str, dict[str, Any]] = {}
        for unit in units_in(run, subject)():
            item = places.get(unit.id)
            if item is not None:
                said = _said(unit.verdict)
                rows[item.id] = {"id": item.id, "prompt": list(item.prompt), "response": item.response, "judge": said}
        ordered = (rows[item.id] for item in key.sample.questions)
        return self._task("audit", title, ordered, name=name, overlap=0.2, repeat=0.05, audit=key.id)

    def _preference(self) -> dict[str, Any]:
        if self.wanted.responses is not None:
            answered = read_responses(self.wanted.responses)
        else:
            run = self._need_run("--preference")
            answered = answers_of_runs([run, *map(load_run, self.wanted.against)])
            answered = self._draw(answered, self.wanted.preference, lambda item: item.id)
        names = tuple(dict.fromkeys(name for item in answered for name in item.responses))
        self.made.systems = names
        self.made.self_naming = sum(
            any(_names(text, name) for name in item.responses) for item in answered for text in item.responses.values()
        )
        rows, key = [], []
        for item in answered:
            order = sorted(item.responses, key=lambda name, item=item: text_hash(str(self.seed), item.id, name))  # type: ignore[misc]
            if len(order) > MOST_RESPONSES:
                rule = f"people compare at most {MOST_RESPONSES} responses at a time"
                raise ReviewError(f"item '{item.id}' with {len(order)} responses", rule, "Leave some out")
            rows.append({"id": item.id, "prompt": item.prompt, "responses": [item.responses[name] for name in order]})
            key.append({"id": item.id, "systems": order})
        _write_rows(self.folder / "systems.jsonl", key)
        title = "Blind comparison of answers"
        return self._task("preference", title, rows, overlap=1.0, repeat=0.05, key="systems.jsonl")

    def _corrections(self) -> dict[str, Any]:
        pairs = [
            item
            for item in self._triaged("--corrections")
            if item.outcome is Outcome.PUNISH and item.correction is None and item.split == "train"
        ]
        if not pairs:
            raise ReviewError("--corrections", "the run has no PUNISH pair without a correction", "Leave it out")
        drawn = self._draw(pairs, self.wanted.corrections, lambda item: item.pair.id)
        rows = (
            {
                "id": item.pair.id,
                "prompt": list(item.pair.prompt),
                "chosen": item.pair.chosen,
                "rejected": item.pair.rejected,
                "judge": [_said(item.chosen_verdict), _said(item.rejected_verdict)],
                "pair": item.pair.id,
            }
            for item in drawn
        )
        return self._task("correction", "Corrections", rows, overlap=0.0, repeat=0.0)

    def _undecided(self) -> dict[str, Any]:
        rows = [
            {
                "id": f"{item.pair.id}/{side}",
                "prompt": list(item.pair.prompt),
                "response": text,
                "judge": _said(verdict),
                "pair": item.pair.id,
                "side": side,
            }
            for item in self._triaged("--undecided")
            for side, text, verdict in _sides(item)
            if verdict.label in UNDECIDED
        ]
        if not rows:
            raise ReviewError("--undecided", "the run has no undecided pair", "Leave it out")
        return self._task("undecided", "What no judge could decide", rows, overlap=0.2, repeat=0.0)

    def _draw(self, items: Sequence[Any], count: int, name: Any) -> list[Any]:
        """Return `count` items of the lowest hashes, in that order; all where there are fewer."""
        return sorted(items, key=lambda item: text_hash(str(self.seed), "review", name(item)))[:count]

    def _task(
        self,
        kind: str,
        title: str,
        rows: Iterable[Mapping[str, Any]],
        *,
        overlap: float,
        repeat: float,
        name: str = "",
        **more: str,
    ) -> dict[str, Any]:
        name = name or kind
        self.made.items[name] = _write_rows(self.folder / f"{name}.jsonl", rows)
        task = {"id": name, "kind": kind, "title": title, "items": f"{name}.jsonl", **more}
        return {**task, "annotators": self.annotators, "overlap": overlap, "repeat": repeat, "fold": "all"}


def _sides(item: TriagedPair) -> tuple[tuple[str, str, Verdict], ...]:
    pair = item.pair
    return ("chosen", pair.chosen, item.chosen_verdict), ("rejected", pair.rejected, item.rejected_verdict)


def _said(verdict: Verdict) -> dict[str, Any]:
    broken = [rule.rule for rule in verdict.rules if rule.label is Label.NON_COMPLIANT]
    return {"label": verdict.label.value, "reason": verdict.reason, "rules": broken}


def _write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    write_text(path, "".join(lines))
    return len(lines)


def _copy_policy(target: Path, run: StoredRun | None, given: Path | None) -> bool:
    """Copy the policy whose wording is shown; return whether there is one."""
    source = str(given) if given is not None else run.recipe.policy.path if run is not None else None
    if source is None:
        return False
    if given is None and run is not None:
        _refuse_other_policy(run)
    try:
        file = shipped_file(source) if is_shipped(source) else Path(source)
        write_text(target, file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ReviewError(f"policy {source}", f"it cannot be read ({error.strerror})", "Give --policy FILE") from None
    return True


def _refuse_other_policy(run: StoredRun) -> None:
    """Refuse to show people another wording than the judge of the run had."""
    from realigner.policy import Policy

    path = run.recipe.policy.path
    policy = Policy.load(path, allow_code=run.recipe.policy.allow_code)
    if run.is_done("triage") and run.facts("triage")["policy"]["hash"] != policy.hash:
        raise ReviewError(
            f"policy {path}: it has changed since run {run.directory} was triaged",
            "people and judge go by the same wording",
            f"Restore it, or judge anew: realigner triage {run.directory} --redo",
        )


def _names(text: str, name: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text, flags=re.IGNORECASE) is not None


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40].strip("-") or "study"
