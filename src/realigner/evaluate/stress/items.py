"""What a stress test is made of: requests from a file, drawn by the seed, and prompts that became allowed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from realigner.data.prompts import ReadPrompt, read_prompts
from realigner.errors import DataError
from realigner.evaluate.stress.attacks import Target
from realigner.evaluate.stress.refusal import refusal
from realigner.records import Label, Prompt, TriagedPair, prompt_key, text_hash

LABELS = ("safe", "unsafe")
Drawn = TypeVar("Drawn")


@dataclass(frozen=True, slots=True)
class Asked:
    """A prompt on which over-refusal is measured."""

    prompt: Prompt
    kind: str = ""
    """Its `type` in the file."""


def read_targets(path: Path, column: str | None) -> list[Target]:
    """Read requests for attacks: CSV, JSONL or Parquet; a column `target` says how an answer would begin.

    Raises:
        DataError: as `read_prompts`, or a prompt has several turns.
    """
    return [Target(_one_turn(read), _column(read, "target")) for read in read_prompts(path, column)]


def read_safety_prompts(path: Path) -> dict[str, list[Asked]]:
    """Read prompts by `label`, `safe` or `unsafe` (XSTest's columns); without that column, all are safe.

    Raises:
        DataError: as `read_prompts`, or another label.
    """
    found: dict[str, list[Asked]] = {label: [] for label in LABELS}
    for read in read_prompts(path):
        label = _column(read, "label").strip().lower() or LABELS[0]
        if label not in LABELS:
            raise DataError(f"{read.source}: label {label!r}", f"a label is one of {', '.join(LABELS)}", "Correct it")
        found[label].append(Asked(read.prompt, _column(read, "type")))
    return found


def newly_allowed(triaged: Iterable[TriagedPair], violated_old: Callable[[Prompt, str], bool] | None) -> list[Asked]:
    """Return the prompts whose answers were unwanted and are allowed now, each once.

    There is a response that is no refusal and that the new policy calls compliant, and it was unwanted: a refusal was
    preferred to it, or the old policy, where it can be computed, calls it non-compliant.

    Args:
        triaged: held-out pairs.
        violated_old: whether a response broke the old policy; None where that is not known.
    """
    found: dict[str, Asked] = {}
    for item in triaged:
        pair = item.pair
        allowed = [
            text
            for text, verdict in ((pair.chosen, item.chosen_verdict), (pair.rejected, item.rejected_verdict))
            if verdict.label is Label.COMPLIANT and refusal(text) == "none"
        ]
        beaten = pair.rejected in allowed and refusal(pair.chosen) == "full"
        if beaten or (violated_old is not None and any(violated_old(pair.prompt, text) for text in allowed)):
            found.setdefault(prompt_key(pair.prompt), Asked(pair.prompt, pair.topic or ""))
    return list(found.values())


def draw(items: Sequence[Drawn], most: int | None, seed: int, name: str, text: Callable[[Drawn], str]) -> list[Drawn]:
    """Return at most so many, by the rank of a seeded hash of their text, in the order of the file."""
    if most is None or most >= len(items):
        return list(items)
    ranked = sorted(range(len(items)), key=lambda place: text_hash(str(seed), name, text(items[place])))
    return [items[place] for place in sorted(ranked[:most])]


def _one_turn(read: ReadPrompt) -> str:
    if len(read.prompt) != 1:
        raise DataError(
            f"{read.source}: the prompt has {len(read.prompt)} turns",
            "an attack is put around a single request",
            "Give the request alone",
        )
    return read.prompt[0]["content"]


def _column(read: ReadPrompt, name: str) -> str:
    value = next((value for key, value in read.columns.items() if key.lower() == name), None)
    return "" if value is None else str(value)
