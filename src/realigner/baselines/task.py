"""What every arm is given: the same model, the same pairs with their verdicts, the same budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from realigner.model.logprobs import score_rows
from realigner.model.rows import Row
from realigner.recipe import ImpactSettings, LossSettings
from realigner.records import Label, Outcome, Pair, TriagedPair, Verdict
from realigner.triaging.outcomes import Over, direction, outcome


@dataclass(frozen=True)
class Budget:
    """How long and how every arm is trained; batch sizes count pairs."""

    steps: int
    batch: int = 32
    learning_rate: float = 3e-4
    seed: int = 0


@dataclass(frozen=True)
class JudgedPair:
    """An old preference with the verdicts that the experiment's oracle gave, and a compliant answer if it has one."""

    pair: Pair
    chosen_complies: bool
    rejected_complies: bool
    correction: str | None = None
    correction_accepted: bool = True
    """What the oracle said of the correction; one it did not accept is used by no arm but DPO-Gold, which is told."""

    def triaged(self, *, corrected: bool, over: Over = "both") -> TriagedPair:
        """Return the pair as triage would; a correction is used on PUNISH pairs only."""
        chosen, rejected = map(_label, (self.chosen_complies, self.rejected_complies))
        found = outcome(chosen, rejected)
        usable = corrected and self.correction_accepted and found is Outcome.PUNISH
        correction = self.correction if usable else None
        way = direction(found, correction is not None, over)
        return TriagedPair(self.pair, "train", Verdict(chosen), Verdict(rejected), found, way, correction)


def _label(complies: bool) -> Label:
    return Label.COMPLIANT if complies else Label.NON_COMPLIANT


@dataclass(frozen=True)
class Responses:
    """A pair's responses as rows with their reference log-probabilities, and what the oracle said of them."""

    id: str
    outcome: Outcome
    rows: dict[str, Row]
    reference: dict[str, float]
    complies: dict[str, bool]


@dataclass
class Task:
    """One experiment's data and models.

    Args:
        load: returns a fresh trainable copy of M_ref, or of the model before it was aligned (`"base"`).
        encoder: turns text into rows.
        pairs: the training data with verdicts.
        corrected: share of the PUNISH pairs whose correction TRACE may use, 0 to 1; by order in `pairs`. DPO-Gold is
            given all of them.
        loss: β, α_KL and so on.
        impact: how impact weights are made.
        budget: the training.
        over: whether TRACE's corrections are preferred to the chosen answer alone, or to both old ones.
    """

    load: Any
    encoder: Any
    pairs: Sequence[JudgedPair]
    corrected: float
    loss: LossSettings
    impact: ImpactSettings
    budget: Budget
    over: Over = "both"
    facts: dict[str, Any] = field(default_factory=dict)
    """What an arm found on the way: the weights' diagnostics, for example."""

    @cached_property
    def reference(self) -> Any:
        """The frozen M_ref."""
        return self.load("model").requires_grad_(False).eval()

    @cached_property
    def responses(self) -> list[Responses]:
        """Every response of every pair, scored under M_ref."""
        found = []
        for item in self.pairs:
            texts = {"chosen": item.pair.chosen, "rejected": item.pair.rejected}
            if item.correction is not None and item.triaged(corrected=False).outcome is Outcome.PUNISH:
                texts["correction"] = item.correction
            rows = self.encoder.encode(item.pair.id, item.pair.prompt, texts)
            if rows is not None:
                found.append((item, rows))
        flat = [row for _, rows in found for row in rows.values()]
        logps = iter(score_rows(self.reference, flat).tolist())
        return [
            Responses(
                item.pair.id,
                item.triaged(corrected=False).outcome,
                rows,
                {name: next(logps) for name in rows},
                {"chosen": item.chosen_complies, "rejected": item.rejected_complies, "correction": True},
            )
            for item, rows in found
        ]

    @cached_property
    def triaged(self) -> list[TriagedPair]:
        """The pairs as TRACE sees them: a share `corrected` of the PUNISH pairs has a correction."""
        punished = seen = 0
        found = []
        for item in self.pairs:
            one = item.triaged(corrected=True, over=self.over)
            if one.outcome is Outcome.PUNISH and one.correction is not None:
                punished += 1
                if seen + 1 > self.corrected * punished + 1e-9:
                    one = item.triaged(corrected=False)
                else:
                    seen += 1
            found.append(one)
        return found
