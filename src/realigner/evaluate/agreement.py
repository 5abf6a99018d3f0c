"""Policy agreement: the share of responses to held-out prompts that the new policy calls compliant."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from realigner.evaluate.statistics import clustered_change, clustered_proportion, holm
from realigner.records import Label, Outcome, Verdict

SIDES = ("before", "after")


@dataclass(frozen=True, slots=True)
class Answered:
    """What is known of an answer but its text: the prompt that it answers, and what that is a case of."""

    prompt: Hashable
    """Answers to one prompt are a cluster."""
    outcome: str = ""
    """Of the prompt's pair; empty where there is none."""
    topic: str = ""


def agreement(verdicts: Mapping[str, Sequence[Verdict]], answered: Sequence[Answered], seed: int) -> dict[str, Any]:
    """Return agreement before and after with the paired change: overall, by rule, by outcome of the pair, by topic.

    `unsure` and `invalid` verdicts count as not compliant, so that a model cannot gain by answers nobody can judge;
    how many there were is returned as `undecided`. Inside each of the three families, p is corrected for the number
    of its members (`p_holm`).

    Args:
        verdicts: `before` and `after`, on the same prompts in the same order.
        answered: what the answers are of, in that order.
        seed: of the bootstrap.
    """
    compliant = {side: [v.label == Label.COMPLIANT for v in found] for side, found in verdicts.items()}
    prompts = [item.prompt for item in answered]
    rules = dict.fromkeys(r.rule for found in verdicts.values() for v in found for r in v.rules)
    outcomes = [str(outcome) for outcome in Outcome if any(item.outcome == outcome for item in answered)]
    topics = sorted({item.topic for item in answered} - {""})
    return {
        **_compared(compliant, prompts, seed),
        "by_rule": _family({rule: _by_rule(verdicts, prompts, rule) for rule in rules}, seed),
        "by_outcome": _family(
            {name: _picked(compliant, prompts, [item.outcome == name for item in answered]) for name in outcomes}, seed
        ),
        "by_topic": _family(
            {name: _picked(compliant, prompts, [item.topic == name for item in answered]) for name in topics}, seed
        ),
        "undecided": {
            side: sum(v.label in (Label.UNSURE, Label.INVALID) for v in found) for side, found in verdicts.items()
        },
    }


Hits = Mapping[str, Sequence[bool]]
"""By side, whether each answer succeeded."""
Part = tuple[Hits, Mapping[str, Sequence[Hashable]]]
"""Hits, and by side the prompts of the answers."""


def _compared(hits: Hits, prompts: Sequence[Hashable], seed: int) -> dict[str, Any]:
    return _figures((hits, dict.fromkeys(hits, prompts)), seed)


def _figures(part: Part, seed: int) -> dict[str, Any]:
    """Return the share of each side, and the change where both sides answered the same prompts."""
    hits, prompts = part
    shares: dict[str, Any] = {side: clustered_proportion(found, prompts[side]) for side, found in hits.items()}
    before, after = SIDES
    same = before in hits and after in hits and list(prompts[before]) == list(prompts[after])
    change = clustered_change(hits[before], hits[after], prompts[before], seed) if same else None
    return {**shares, "change": change}


def _family(parts: Mapping[str, Part], seed: int) -> dict[str, Any]:
    """Return the figures of several parts, with p corrected for their number."""
    found = {name: _figures(part, seed) for name, part in parts.items()}
    changes = [figures["change"] for figures in found.values() if figures["change"] is not None]
    for change, p in zip(changes, holm([change["p"] for change in changes]), strict=True):
        change["p_holm"] = p
    return found


def _picked(hits: Hits, prompts: Sequence[Hashable], wanted: Sequence[bool]) -> Part:
    chosen = [prompt for prompt, take in zip(prompts, wanted, strict=True) if take]
    picked = {side: [hit for hit, take in zip(found, wanted, strict=True) if take] for side, found in hits.items()}
    return picked, dict.fromkeys(hits, chosen)


def _by_rule(verdicts: Mapping[str, Sequence[Verdict]], prompts: Sequence[Hashable], rule: str) -> Part:
    """A rule's agreement: the share of responses that it calls compliant, those it does not apply to included."""
    hits: dict[str, list[bool]] = {}
    named: dict[str, list[Hashable]] = {}
    for side, found in verdicts.items():
        labels = [
            (prompt, r.label) for prompt, v in zip(prompts, found, strict=True) for r in v.rules if r.rule == rule
        ]
        hits[side] = [label == Label.COMPLIANT for _, label in labels]
        named[side] = [prompt for prompt, _ in labels]
    return hits, named
