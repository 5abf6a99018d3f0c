"""What an audit is made of: the responses that were judged, the ones drawn, and what people said of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from realigner.records import Label, Prompt, Verdict

Subject = Literal["triage", "evaluation"]
"""What is audited: verdicts on the old data (`triage.parquet`), or on the models' answers (`judgements.parquet`)."""


@dataclass(frozen=True, slots=True)
class Unit:
    """One judged response: a place in the data, not a text (the same text may be the response of several pairs)."""

    id: str
    """`PAIR/chosen`, `PAIR/rejected`, or the id of an answer."""
    prompt: Prompt
    response: str
    verdict: Verdict
    outcome: str
    """Of the pair; for an answer, of the pair whose prompt it answers."""
    group: str
    """`chosen` or `rejected`; for an answer, the model: `before` or `after`."""
    topic: str = ""
    """For answers, where the data say one."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What the judge said of a response, as far as estimates depend on it."""

    outcome: str
    group: str
    label: Label
    rules: tuple[tuple[str, Label], ...]
    """The label of every rule, in the order of the policy."""
    topic: str = ""

    def rule(self, name: str) -> Label | None:
        """Return what the judge said by one rule; None where the rule was not judged."""
        return next((label for rule, label in self.rules if rule == name), None)


@dataclass(frozen=True, slots=True)
class FrameRow:
    """All responses of one kind in the population, whether drawn or not."""

    stratum: int
    kind: Kind
    size: int


@dataclass(frozen=True, slots=True)
class Stratum:
    """A part of the population from which a simple random sample was drawn without replacement."""

    name: str
    size: int
    drawn: int

    @property
    def chance(self) -> float:
        """The inclusion probability of each of its responses."""
        return self.drawn / self.size

    @property
    def weight(self) -> float:
        """How many responses of the population each drawn one stands for."""
        return self.size / self.drawn


@dataclass(frozen=True, slots=True)
class AuditItem:
    """One drawn response."""

    id: str
    """What people answer: a hash of prompt and response. Drawn places that hold the same text share it."""
    unit: str
    """The place: `Unit.id`."""
    stratum: int
    kind: Kind
    prompt: Prompt
    response: str


@dataclass(frozen=True, slots=True)
class AuditSample:
    """A drawn sample with all that its estimates need. Iterating gives the items, in the order they are shown."""

    items: tuple[AuditItem, ...]
    strata: tuple[Stratum, ...]
    frame: tuple[FrameRow, ...]
    seed: int
    by: str
    """What the strata are made of: `outcome, side, verdict, rule`."""
    rules: tuple[str, ...]
    """The rules that people may name, in the order of the policy."""

    def __iter__(self) -> Iterator[AuditItem]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)

    @property
    def questions(self) -> tuple[AuditItem, ...]:
        """The items that people are shown: one for each distinct text."""
        return tuple({item.id: item for item in reversed(self.items)}.values())[::-1]


@dataclass(frozen=True, slots=True)
class Answer:
    """What one person said of one item, without having seen the judge's verdict."""

    item: str
    annotator: str
    label: Label
    """`compliant`, `non_compliant` or `unsure`."""
    rules: tuple[str, ...] = ()
    """The rules that the response breaks, all of them; empty where none was named."""
    note: str = ""
