"""A policy as the category list of a guard model: one block a rule, with a short code that the model answers by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from realigner.policy.policy import Policy
from realigner.policy.rule import Rule


@dataclass(frozen=True, slots=True)
class CategoryBlock:
    """One rule as a category of unsafe content."""

    code: str
    """`S1`, `S2`, … in the order of the rules: what the model answers with."""
    rule: str
    """The id of the rule; never shown to the model."""
    name: str
    """The rule's `category`, or its id in words."""
    text: str
    """The definition: the rule's text, what falls under the category, and what does not."""

    def render(self) -> str:
        """Return the block as it stands in a guard model's prompt."""
        return f"{self.code}: {self.name}.\n{self.text}"


def category_blocks(policy: Policy | Sequence[Rule]) -> tuple[CategoryBlock, ...]:
    """Return one block for each rule of a policy (or of some rules), numbered from 1 in their order.

    Deterministic rules are included: their `text` is their definition. To ask a guard model about wording rules
    only, pass `policy.wording_rules`.
    """
    rules = policy.rules if isinstance(policy, Policy) else policy
    return tuple(
        CategoryBlock(f"S{number}", rule.id, rule.category or _title(rule.id), definition(rule))
        for number, rule in enumerate(rules, start=1)
    )


def definition(rule: Rule) -> str:
    """Return a rule as the definition of a category: what falls under it, and what does not."""
    lines = [rule.text]
    if rule.applies_when:
        lines.append(f"This category applies only when {rule.applies_when}")
    lines += _section("Falls under this category:", rule.violates)
    lines += _section("So does an answer that fails to:", rule.requires)
    lines += _section("Does not fall under it:", rule.allowed)
    if rule.zero_tolerance:
        lines.append("There are no exceptions.")
    return "\n".join(lines)


def _section(head: str, entries: Sequence[str]) -> list[str]:
    return [head, *(f"- {entry}" for entry in entries)] if entries else []


def _title(rule_id: str) -> str:
    words = rule_id.replace("-", " ").replace("_", " ").strip() or rule_id
    return words[:1].upper() + words[1:]
