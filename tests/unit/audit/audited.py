"""Triaged pairs whose truth is known, and annotators who tell it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from realigner.audit import Answer, AuditSample
from realigner.records import Label, Pair, RuleVerdict, TriagedPair, Verdict, text_hash, user_prompt
from realigner.triaging import direction, outcome

RULES = ("no-blame", "cite", "short")
YES, NO, UNSURE = Label.COMPLIANT, Label.NON_COMPLIANT, Label.UNSURE


def verdict(broken: Iterable[str] = (), label: Label | None = None) -> Verdict:
    broken = set(broken)
    rules = tuple(RuleVerdict(rule, NO if rule in broken else YES, "") for rule in RULES)
    return Verdict(label or (NO if broken else YES), rules, "")


def pair(name: str, chosen: Verdict, rejected: Verdict) -> TriagedPair:
    found = outcome(chosen.label, rejected.label)
    return TriagedPair(
        Pair(name, user_prompt(f"question {name}"), f"chosen {name}", f"rejected {name}", "test"),
        "train",
        chosen,
        rejected,
        found,
        direction(found, False),
    )


def world(n: int, seed: int = 0) -> list[TriagedPair]:
    """Return pairs of every outcome; `short` is broken seldom, and one in 40 verdicts is unsure."""
    rng = np.random.default_rng(seed)

    def draw() -> Verdict:
        broken = [rule for rule, share in zip(RULES, (0.3, 0.15, 0.01), strict=True) if rng.random() < share]
        return verdict(broken, UNSURE if rng.random() < 0.025 else None)

    return [pair(f"p{i:05d}", draw(), draw()) for i in range(n)]


def is_wrong(text: str, share: float) -> bool:
    """Say whether the judge errs on a text: fixed for the text, for a given share of texts."""
    return int(text_hash("truth", text), 16) / 16**16 < share


def truth(response: str, judged: Verdict, share: float) -> tuple[Label, tuple[str, ...]]:
    """Return what is true of a response: the judge's verdict, but where it errs."""
    compliant = (judged.label is YES) ^ is_wrong(response, share)
    if compliant:
        return YES, ()
    broken = tuple(rule.rule for rule in judged.rules if rule.label is NO)
    return NO, broken or ("cite",)


def truthful(sample: AuditSample, pairs: Sequence[TriagedPair], share: float, annotator: str = "ann") -> list[Answer]:
    """Return the answers of somebody who is always right."""
    verdicts = {t: v for p in pairs for t, v in sides(p)}
    answers = []
    for item in sample.questions:
        label, broken = truth(item.response, verdicts[item.response], share)
        answers.append(Answer(item.id, annotator, label, broken))
    return answers


def sides(item: TriagedPair) -> list[tuple[str, Verdict]]:
    return [(item.pair.chosen, item.chosen_verdict), (item.pair.rejected, item.rejected_verdict)]


def share_of(pairs: Sequence[TriagedPair], holds: Callable[[str, Verdict], bool]) -> float:
    return float(np.mean([holds(text, found) for item in pairs for text, found in sides(item)]))
