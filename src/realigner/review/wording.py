"""The policy's own wording as annotators see it. Checks and code of the policy file are neither read nor run."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class _Shown(BaseModel):
    """What is shown of a policy; other keys belong to the program that judges."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class WordedExample(_Shown):
    """A response whose label under the rule is known."""

    text: str
    label: str
    why: str = ""
    prompt: str = ""


class WordedRule(_Shown):
    """One rule, in words."""

    id: str
    text: str = ""
    tier: str = "standard"
    zero_tolerance: bool = False
    applies_when: str | None = None
    violates: tuple[str, ...] = ()
    allowed: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    examples: tuple[WordedExample, ...] = ()


class Wording(_Shown):
    """A policy, in words."""

    id: str
    version: str
    title: str
    rules: tuple[WordedRule, ...] = Field(min_length=1)

    @property
    def rule_ids(self) -> tuple[str, ...]:
        """The rules, in the policy's order."""
        return tuple(rule.id for rule in self.rules)
