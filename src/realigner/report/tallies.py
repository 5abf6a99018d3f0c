"""What reading the data and cutting the text left out, as the stages counted it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from realigner.report.rundir import NotMeasured, RunFiles, mapping

_TEXT_PREFIXES = ("cut_", "dropped_", "left_out_", "merged_")
_TEXT_MEANINGS = {
    "pairs": "pairs turned into tokens",
    "prompts": "held-out prompts answered",
    "cut_prompts": "prompts that lost their oldest turns or their start",
    "cut_responses": "responses whose end was cut",
    "cut_generation_prompts": "held-out prompts cut to leave room for the answer",
    "merged_boundaries": "rows where a token spans the end of the prompt and the start of the response",
}


@dataclass(frozen=True)
class DataTally:
    """Counts of rows while reading: `read == valid + skipped + duplicates`."""

    stage: str
    read: int
    valid: int
    duplicates: int
    contradictory: int
    skipped: Mapping[str, int]
    examples: Mapping[str, list[str]]


@dataclass(frozen=True)
class TextTally:
    """Counts of one stage that turned text into tokens: (count, what it means)."""

    stage: str
    rows: tuple[tuple[int, str], ...]


def read_data_tally(run: RunFiles) -> DataTally:
    """Return what reading the data set found.

    Raises:
        NotMeasured: no stage recorded it.
    """
    for stage, found in _find(run, lambda facts: {"read", "valid", "duplicates", "contradictory"} <= facts.keys()):
        skipped = mapping(found.get("skipped"))
        examples = mapping(found.get("examples"))
        return DataTally(
            stage=stage,
            read=_count(found["read"]),
            valid=_count(found["valid"]),
            duplicates=_count(found["duplicates"]),
            contradictory=_count(found["contradictory"]),
            skipped={str(reason): _count(n) for reason, n in skipped.items()},
            examples={str(name): [str(p) for p in places] for name, places in examples.items() if places},
        )
    raise NotMeasured("no stage recorded what reading the data found")


def read_text_tallies(run: RunFiles) -> tuple[TextTally, ...]:
    """Return what each stage cut or dropped when it turned text into tokens.

    Raises:
        NotMeasured: no stage recorded it.
    """
    found = tuple(
        TextTally(stage, tuple((_count(n), _meaning(name)) for name, n in facts.items() if isinstance(n, int)))
        for stage, facts in _find(run, _is_text_tally)
    )
    if not found:
        raise NotMeasured("no stage recorded what was cut or dropped as too long")
    return found


def read_corrections_tally(run: RunFiles) -> tuple[tuple[str, int], ...]:
    """Return what became of the proposed corrections: (what, how many).

    Raises:
        NotMeasured: triage recorded none.
    """
    found = mapping(run.facts("triage").get("corrections"))
    refused = {f"refused: {str(reason).replace('_', ' ')}": n for reason, n in mapping(found.get("refused")).items()}
    counts = {
        "accepted": found.get("accepted"),
        **refused,
        "for a pair that is not in the data": found.get("unknown"),
        "accepted, by a writer": found.get("written"),
    }
    rows = tuple((name, _count(n)) for name, n in counts.items() if _count(n))
    if not rows:
        raise NotMeasured("no correction was proposed")
    return rows


def _find(run: RunFiles, matches: Callable[[Mapping[str, Any]], bool]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the mappings anywhere in the stages' facts that match, with where they were: `reference, held out`."""
    for stage, record in mapping(run.manifest("stages")).items():
        waiting: list[tuple[str, Any]] = [(str(stage), mapping(record).get("facts"))]
        while waiting:
            place, facts = waiting.pop(0)
            if not isinstance(facts, Mapping):
                continue
            if matches(facts):
                yield place, facts
            else:
                waiting.extend((_inside(place, str(name)), value) for name, value in facts.items())


def _inside(place: str, name: str) -> str:
    return place if name in ("text", "data") else f"{place}, {name.replace('_', ' ')}"


def _is_text_tally(facts: Mapping[str, Any]) -> bool:
    return any(str(name).startswith(_TEXT_PREFIXES) for name in facts) or facts.keys() == {"pairs"}


def _meaning(name: str) -> str:
    for prefix, what in (("dropped_", "pairs dropped"), ("left_out_", "prompts left out")):
        if name.startswith(prefix):
            return f"{what} ({name.removeprefix(prefix).replace('_', ' ')})"
    return _TEXT_MEANINGS.get(name, name.replace("_", " "))


def _count(value: Any) -> int:
    return value if isinstance(value, int) else 0
