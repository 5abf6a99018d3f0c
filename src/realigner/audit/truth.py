"""What the people who audited an item found together, and what is no answer to the audit."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from realigner.audit.records import Answer, AuditSample
from realigner.errors import AuditError, did_you_mean
from realigner.records import Label

HUMAN = (Label.COMPLIANT, Label.NON_COMPLIANT, Label.UNSURE)
"""What people may say."""
DECIDED = (Label.COMPLIANT, Label.NON_COMPLIANT)


@dataclass(frozen=True, slots=True)
class Truth:
    """What most annotators of an item said. `unsure` is no vote; without a majority the item is unsure."""

    label: Label
    broken: frozenset[str] | None
    """The rules that it breaks; None where that is not known (non-compliant, and nobody named a rule)."""
    votes: int

    def by(self, rule: str | None) -> Label | None:
        """Return `compliant` or `non_compliant` by one rule, or by the whole policy; None where it is not known."""
        if rule is None:
            return self.label if self.label in DECIDED else None
        if self.broken is None:
            return None
        return Label.NON_COMPLIANT if rule in self.broken else Label.COMPLIANT


def truths_of(sample: AuditSample, answers: Iterable[Answer]) -> dict[str, Truth]:
    """Return the truth of every item that somebody answered."""
    by_item: dict[str, list[Answer]] = defaultdict(list)
    for answer in answers:
        by_item[answer.item].append(answer)
    return {item: _truth(given, sample.rules) for item, given in by_item.items()}


def refuse_wrong(sample: AuditSample, answers: Sequence[Answer]) -> None:
    """Refuse answers that do not belong to the sample.

    Raises:
        AuditError: an item that was not asked about, no label, two answers of one person, or a rule that is not known.
    """
    known, rules = {item.id for item in sample.items}, set(sample.rules)
    seen: set[tuple[str, str]] = set()
    for answer in answers:
        given = f"the answer of '{answer.annotator}' to item {answer.item}"
        if answer.item not in known:
            raise AuditError(given, "this audit did not ask about that item", "Give the sheets of this audit only")
        if answer.label not in HUMAN:
            raise AuditError(
                f"{given}: '{answer.label}'", "people say compliant, non_compliant or unsure", "Correct it"
            )
        if (answer.annotator, answer.item) in seen:
            raise AuditError(given, "one person answers an item once", "Keep one of the answers")
        seen.add((answer.annotator, answer.item))
        for rule in answer.rules:
            if rule not in rules:
                raise AuditError(
                    f"{given} names the rule '{rule}'",
                    f"the rules of the policy are {', '.join(sorted(rules))}",
                    f"Correct it.{did_you_mean(rule, rules)}",
                )


def count_labels(answers: Iterable[Answer], labels: Sequence[Label]) -> list[list[int]]:
    """Return items × labels: how many people gave each label, in the order of the items' ids."""
    votes: Mapping[str, Counter[Label]] = defaultdict(Counter)
    for answer in answers:
        votes[answer.item][answer.label] += 1
    return [[votes[item][label] for label in labels] for item in sorted(votes)]


def _truth(given: Sequence[Answer], rules: Sequence[str]) -> Truth:
    votes = Counter(answer.label for answer in given)
    yes, no = votes[Label.COMPLIANT], votes[Label.NON_COMPLIANT]
    label = Label.UNSURE if yes == no else Label.COMPLIANT if yes > no else Label.NON_COMPLIANT
    return Truth(label, _broken(given, label, rules), len(given))


def _broken(given: Sequence[Answer], label: Label, rules: Sequence[str]) -> frozenset[str] | None:
    """Return the rules that more than half of those who spoke of rules call broken."""
    told = []
    for answer in given:
        if answer.rules:
            told.append(frozenset(answer.rules))
        elif answer.label is Label.COMPLIANT:
            told.append(frozenset())
        elif answer.label is Label.NON_COMPLIANT and len(rules) == 1:
            told.append(frozenset(rules))  # it can have broken no other
    named = Counter(rule for broken in told for rule in broken)
    found = frozenset(rule for rule, count in named.items() if 2 * count > len(told))
    if not told or label is Label.UNSURE or (label is Label.NON_COMPLIANT and not found):
        return None
    return found
