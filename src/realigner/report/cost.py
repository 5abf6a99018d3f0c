"""What the run cost: seconds of each stage; calls, tokens and money of judges and writers, as the stages counted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from realigner.report.parts import read_evidence, recorded_parts
from realigner.report.reproduce import SELF
from realigner.report.rundir import NotMeasured, RunFiles, mapping, number, part

_ASKED = frozenset({"calls", "input_tokens", "output_tokens"})


@dataclass(frozen=True)
class Asked:
    """What asking judges, or a writer, took in one place."""

    place: str
    calls: int
    input_tokens: int
    output_tokens: int
    money: float | None
    """None where no price was given."""
    currency: str
    given: int
    """Verdicts that a judge gave now."""
    reused: int
    """Verdicts that were known before."""
    invalid: int


@dataclass(frozen=True)
class Cost:
    """The section's content."""

    stages: tuple[tuple[str, float | None], ...]
    seconds: float
    parts: tuple[tuple[str, float], ...]
    """(part of `measure`, seconds)."""
    asked: tuple[Asked, ...]
    flops: float | None
    """Of training, by the trainer's own count; None where it counted none."""
    trained: tuple[tuple[str, str], ...]


def read_cost(run: RunFiles) -> Cost:
    """Return what was counted.

    Raises:
        NotMeasured: there is no manifest.
    """
    stages = {str(name): mapping(record) for name, record in mapping(run.manifest("stages")).items() if name != SELF}
    seconds = tuple((name, number(record.get("seconds"))) for name, record in stages.items())
    if not seconds:
        raise NotMeasured("manifest.json records no stage")
    evidence = {name: part(lambda r, n=name: read_evidence(r, n), run).value for name in recorded_parts(run)}  # type: ignore[misc]
    places = [(name, record.get("facts")) for name, record in stages.items()]
    places += [(f"measure, {name.replace('_', ' ')}", found.facts) for name, found in evidence.items() if found]
    train = mapping(stages.get("train", {}).get("facts"))
    shown = ("steps", "pairs", "trainable_parameters", "parameters", "device", "dtype", "attention")
    return Cost(
        stages=seconds,
        seconds=sum(found or 0.0 for _, found in seconds),
        parts=tuple((name, found.seconds) for name, found in evidence.items() if found and found.seconds is not None),
        asked=tuple(asked for place, facts in places for asked in _asked(place, facts)),
        flops=number(train.get("flops")),
        trained=tuple((key.replace("_", " "), str(train[key])) for key in shown if train.get(key) is not None),
    )


def _asked(place: str, facts: Any) -> Iterator[Asked]:
    """Yield what meters recorded anywhere in the facts of a stage."""
    if not isinstance(facts, Mapping):
        return
    if facts.keys() >= _ASKED:
        rules = [mapping(rule) for rule in mapping(facts.get("rules")).values()]
        yield Asked(
            place=place,
            calls=_count(facts["calls"]),
            input_tokens=_count(facts["input_tokens"]),
            output_tokens=_count(facts["output_tokens"]),
            money=number(facts.get("cost")),
            currency=str(facts.get("currency") or ""),
            given=sum(_count(rule.get("asked")) for rule in rules),
            reused=sum(_count(rule.get("reused")) for rule in rules),
            invalid=sum(_count(rule.get("invalid")) for rule in rules),
        )
        return
    for name, value in facts.items():
        word = str(name).replace("_", " ")
        yield from _asked(place if name == "asked" else f"{place}, {word}", value)


def _count(value: Any) -> int:
    found = number(value)
    return 0 if found is None else int(found)
