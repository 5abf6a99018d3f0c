"""What a run remembers of the policy it was triaged by, so that a later run can tell what became of its rules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from realigner.policy.policy import Policy


@dataclass(frozen=True, slots=True)
class RuleRecord:
    """A rule, as far as later runs need it."""

    id: str
    hash: str
    tier: str
    by: str
    text: str


@dataclass(frozen=True, slots=True)
class PolicyRecord:
    """A policy that a run was triaged by."""

    id: str
    version: str
    title: str
    hash: str
    rules: tuple[RuleRecord, ...]
    decision: str = ""
    """How the rules' verdicts are joined; empty in records that do not say."""

    @classmethod
    def of(cls, policy: Policy) -> PolicyRecord:
        """Return the record of a policy."""
        rules = tuple(RuleRecord(rule.id, rule.hash, rule.tier, rule.by, rule.text) for rule in policy.rules)
        return cls(policy.id, policy.version, policy.title, policy.hash, rules, policy.decision)

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> PolicyRecord:
        """Return the record that `as_dict` wrote."""
        rules = tuple(RuleRecord(**rule) for rule in content["rules"])
        return cls(
            *(content["id"], content["version"], content["title"], content["hash"]),
            rules=rules,
            decision=content.get("decision", ""),
        )

    @property
    def name(self) -> str:
        """Id and version."""
        return f"{self.id} {self.version}"

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {**asdict(self), "rules": [asdict(rule) for rule in self.rules]}
