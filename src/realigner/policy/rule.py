"""One rule: its wording for people and judges, its checks for the program, and its identity."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from functools import cached_property
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from realigner.errors import OracleError
from realigner.policy.base import BaseCheck, quote, yes_or_no
from realigner.policy.checks import Check
from realigner.policy.code import PythonCheck
from realigner.records import Judgement, Label, Prompt, RuleVerdict, user_prompt

By = Literal["rules", "llm", "classifier"]
Tier = Literal["critical", "high", "standard", "reduced"]
Wording = Annotated[str, Field(min_length=1, pattern=r"\S")]
DOES_NOT_APPLY = "does not apply"


class Part(BaseModel):
    """A part of a policy: frozen, and strict about unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class RuleExample(Part):
    """A response whose label under this ONE rule is known.

    A policy whose deterministic rule contradicts its own example does not load. A judge is shown the examples.
    """

    text: str
    label: Literal["compliant", "non_compliant"]
    why: str
    prompt: str = ""


class Rule(Part):
    """One rule, judged by its checks (`by: rules`) or by its wording (`by: llm`, `by: classifier`).

    By its checks, a response breaks it where `when` matches, `forbid` does (or `require` does not), `unless` does
    not. The checks of a wording rule are its deterministic fallback: they stand in for a judge only where that is
    permitted.
    """

    id: str = Field(pattern=r"^\S+$")
    text: str = Field(min_length=1)
    tier: Tier = "standard"
    by: By = "rules"
    zero_tolerance: bool = False
    """No exception counts; judges and auditors are told so."""
    applies_when: Wording | None = None
    violates: tuple[Wording, ...] = ()
    """What breaks the rule."""
    allowed: tuple[Wording, ...] = ()
    """Exceptions: what does not break it though it looks like it."""
    requires: tuple[Wording, ...] = ()
    """What an answer must do; to leave one out breaks the rule."""
    category: Wording | None = None
    """The name of the nearest category of a guard model's own taxonomy, for judges by classifier."""
    when: Check | None = None
    unless: Check | None = None
    forbid: Check | None = None
    require: Check | None = None
    examples: tuple[RuleExample, ...] = ()

    @model_validator(mode="after")
    def _one_demand(self) -> Rule:
        if self.forbid is not None and self.require is not None:
            raise ValueError("has both forbid and require; give exactly one")
        if self.forbid is None and self.require is None:
            if self.by == "rules":
                raise ValueError(
                    "has neither forbid nor require; give exactly one, or `by: llm` to have its wording judged"
                )
            if self.when is not None or self.unless is not None:
                raise ValueError("has when or unless, but neither forbid nor require; give one of these as well")
        return self

    @property
    def has_checks(self) -> bool:
        """Whether it can be judged by checks: always with `by: rules`, else where it has a fallback."""
        return self.forbid is not None or self.require is not None

    @property
    def demands(self) -> bool:
        """Whether it states what an answer must do, so that the decision `all_requirements` counts it."""
        return bool(self.requires) or self.require is not None

    @cached_property
    def hash(self) -> str:
        """Identity of everything that can change this rule's verdict under one judge.

        Wording, examples (where a judge is shown them), checks and their code count; `category` counts for judges
        by classifier, who alone read it. The id and the tier never do: a renamed rule keeps its verdicts.
        """
        left_out = {"id", "tier"}
        if self.by != "classifier":
            left_out.add("category")
        if self.by == "rules":
            left_out.add("examples")
        content = self.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude=left_out)
        return digest([content, self.code()])

    def judge(self, prompt: Prompt, response: str) -> RuleVerdict:
        """Return what this rule's checks say of `response` as an answer to `prompt`.

        Raises:
            OracleError: it has no checks.
        """
        if not self.has_checks:
            raise OracleError(
                f"rule {self.id!r}", "it is judged by its wording and has no checks", "Give it to a judge"
            )
        return RuleVerdict(self.id, *self._judge(Judgement(prompt, response)))

    def _judge(self, question: Judgement) -> tuple[Label, str]:
        """Ask the checks in order; the first that has no yes or no settles the rule."""
        if self.when is not None:
            finding = yes_or_no(self.when.find(question, "prompt"))
            if finding.matched is None:
                return finding.label or Label.INVALID, finding.fact
            if not finding.matched:
                return Label.COMPLIANT, DOES_NOT_APPLY
        demand = self.forbid or self.require
        assert demand is not None  # by judge
        finding = demand.find(question, "response")
        if finding.label is not None and finding.label is not Label.NON_COMPLIANT:
            return finding.label, finding.fact
        broken = finding.label is Label.NON_COMPLIANT or finding.matched == (self.forbid is not None)
        if not broken:
            return Label.COMPLIANT, finding.fact
        if self.unless is not None:
            exception = yes_or_no(self.unless.find(question, "response"))
            if exception.matched is None:
                return exception.label or Label.INVALID, exception.fact
            if exception.matched:
                return Label.COMPLIANT, f"excepted: {exception.fact}"
        return Label.NON_COMPLIANT, finding.fact

    def check_examples(self) -> list[str]:
        """Return one line for every example whose label differs from what the rule's checks say."""
        lines = []
        for number, example in enumerate(self.examples, start=1):
            verdict = self.judge(user_prompt(example.prompt), example.text)
            if verdict.label != example.label:
                lines.append(
                    f"example {number} ({quote(example.text)}) is labelled {example.label}, but the rule says "
                    f"{verdict.label.value}: {verdict.reason}"
                )
        return lines

    def code(self) -> list[str]:
        """Return the identities of the code that the checks call."""
        return [part.code_hash for part in self._checks() if isinstance(part, PythonCheck)]

    def _checks(self) -> Iterator[BaseCheck]:
        for check in (self.when, self.unless, self.forbid, self.require):
            if check is not None:
                yield from check.walk()


def digest(content: object) -> str:
    """Return 16 hex digits of SHA-256 over the canonical JSON of plain values."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:16]
