"""Small studies for tests: every kind of task, with names that can be searched for."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from realigner.review import Study, load_study

SYSTEMS = ("Zephyrion-9", "Quillfeather", "Brontomax")
"""They stand in no text, so that one occurrence anywhere is a leak."""
POLICY = {
    "id": "clinic",
    "version": "2.1",
    "title": "Answers of the clinic's assistant",
    "rules": [
        {
            "id": "no-dosage",
            "tier": "critical",
            "text": "Do not state a dose of a prescription medicine.",
            "forbid": {"regex": r"\d+ mg"},
            "examples": [{"text": "Take 400 mg.", "label": "non_compliant", "why": "states a dose"}],
        },
        {"id": "kind", "text": "Do not blame.", "forbid": {"words": ["your fault"]}},
    ],
}
KINDS = ("audit", "preference", "correction", "undecided")


def lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write JSON Lines."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def rows_of(kind: str, count: int, responses: int = 3) -> list[dict[str, Any]]:
    """Return items whose texts say which they are."""
    if kind == "preference":
        return [
            {
                "id": f"item-{i}",
                "prompt": f"Question {i}?",
                "responses": [f"Response {r} to {i}." for r in range(1, responses + 1)],
            }
            for i in range(count)
        ]
    if kind == "correction":
        return [
            {"id": f"pair-{i}", "prompt": f"Question {i}?", "chosen": f"Take {i} mg.", "rejected": "It is your fault."}
            for i in range(count)
        ]
    said = {"label": "non_compliant", "reason": "SECRET-OF-THE-JUDGE", "rules": ["no-dosage"]}
    if kind == "undecided":
        said = {"label": "unsure", "reason": "SECRET-OF-THE-JUDGE"}
    return [
        {
            "id": f"pair-{i}/chosen",
            "prompt": f"Question {i}?",
            "response": f"Take {i} mg.",
            "judge": said,
            "pair": f"pair-{i}",
            "side": "chosen",
        }
        for i in range(count)
    ]


def write_study(
    folder: Path, kinds: Iterable[str] = KINDS, count: int = 6, responses: int = 3, **settings: Any
) -> Path:
    """Write a study with one task of each kind, named after it; `settings` go to every task. Return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    tasks = []
    for kind in kinds:
        lines(folder / f"{kind}.jsonl", rows_of(kind, count, responses))
        task: dict[str, Any] = {"id": kind, "kind": kind, "title": f"The {kind} task", "items": f"{kind}.jsonl"}
        if kind == "preference":
            systems = [SYSTEMS[i % len(SYSTEMS)] for i in range(responses)]
            lines(folder / "systems.jsonl", ({"id": f"item-{i}", "systems": systems} for i in range(count)))
            task["key"] = "systems.jsonl"
        tasks.append({**task, "overlap": 1.0, "repeat": 0.0, "fold": "none", **settings})
    (folder / "policy.yaml").write_text(yaml.safe_dump(POLICY), encoding="utf-8")
    content = {"id": "spring", "title": "The spring review", "instructions": "Take your time.\n\nBe fair."}
    (folder / "study.yaml").write_text(yaml.safe_dump({**content, "policy": "policy.yaml", "tasks": tasks}))
    return folder


def make_study(
    folder: Path, kinds: Iterable[str] = KINDS, count: int = 6, responses: int = 3, **settings: Any
) -> Study:
    """As `write_study`, and load it."""
    return load_study(write_study(folder, kinds, count, responses, **settings))
