"""Where responses to compare come from: runs that answered the same held-out prompts, or a file from anywhere."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from realigner.errors import ReviewError
from realigner.records import prompt_key, user_prompt
from realigner.runs import StoredRun

REMEDY = 'Each line is {"prompt": …, "responses": {"system": "text", …}}, and "id" where you have one'


@dataclass(frozen=True, slots=True)
class Answered:
    """A prompt with the responses of several systems."""

    id: str
    prompt: str | list[dict[str, str]]
    """Text, or turns."""
    responses: dict[str, str]
    """By the system's name."""


def answers_of_runs(runs: Sequence[StoredRun]) -> list[Answered]:
    """Return the prompts that all runs answered. One run: its model before and after; several: each one's after.

    Raises:
        ReviewError: there is no such prompt, or a run was given twice.
        RunDirError: a run has not generated its answers.
    """
    import pyarrow.parquet as pq

    found: dict[str, dict[str, str]] = {}
    prompts: dict[str, list[dict[str, str]]] = {}
    names = _names(runs)
    for run, name in zip(runs, names, strict=True):
        run.require("generate")
        columns = ["prompt_id", "model", "prompt", "response"]
        for row in pq.read_table(run.path("responses.parquet"), columns=columns).to_pylist():
            if len(runs) > 1 and row["model"] != "after":
                continue
            system = f"{name} {row['model']}" if len(runs) == 1 else name
            prompts[row["prompt_id"]] = row["prompt"]
            found.setdefault(row["prompt_id"], {})[system] = row["response"]
    wanted = 2 if len(runs) == 1 else len(runs)
    answered = [Answered(id_, prompts[id_], given) for id_, given in found.items() if len(given) == wanted]
    if not answered:
        raise ReviewError(
            f"runs {', '.join(str(run.directory) for run in runs)}",
            "they have no held-out prompt in common",
            "Compare runs of the same data, seed and eval_fraction",
        )
    return answered


def read_responses(path: Path) -> list[Answered]:
    """Read JSON Lines of `{prompt, responses: {system: text}}`; `id` is the prompt's hash where there is none.

    Raises:
        ReviewError: a line is broken; it is named.
    """
    if not path.is_file():
        raise ReviewError(f"responses {path}", "no such file", "Check --responses")
    found: dict[str, Answered] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").removesuffix("\n").split("\n"), start=1):
        given = f"{path.name}:{number}"
        answered = _answered(line, given)
        if answered.id in found:
            raise ReviewError(
                f"{given}: id '{answered.id}'", "an id is given once", 'Give each line an "id" of its own'
            )
        found[answered.id] = answered
    return list(found.values())


def _answered(line: str, given: str) -> Answered:
    try:
        row: Any = json.loads(line)
        prompt, responses = row["prompt"], row["responses"]
        turns = user_prompt(prompt) if isinstance(prompt, str) else tuple(prompt)
        id_ = str(row.get("id") or prompt_key(turns))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ReviewError(given, "it is no prompt with responses", REMEDY) from None
    texts = isinstance(responses, dict) and all(isinstance(text, str) for text in responses.values())
    if not texts or len(responses) < 2 or not all(responses):
        raise ReviewError(f"{given}: responses", "they are the texts of two systems or more, by name", REMEDY)
    return Answered(id_, prompt, responses)


def _names(runs: Sequence[StoredRun]) -> list[str]:
    """Return a name for each run: the end of its path, as long as it must be to be its own."""
    parts = [run.directory.resolve().parts for run in runs]
    if len(set(parts)) < len(parts):
        raise ReviewError("a run that is compared with itself", "each run is named once", "Leave one out")
    length = 1
    while len({path[-length:] for path in parts}) < len(parts):
        length += 1
    return ["/".join(path[-length:]) for path in parts]
