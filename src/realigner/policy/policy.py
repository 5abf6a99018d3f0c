"""A policy: versioned rules, the decision that joins their verdicts, and its identity."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, model_validator

from realigner.errors import OracleError, PolicyError
from realigner.policy.code import Permission
from realigner.policy.decisions import Decision, Shares, Threshold, decide, shares, undecidable
from realigner.policy.faults import explain, read_policy_file
from realigner.policy.rule import Part, Rule, digest
from realigner.policy.shipped import is_shipped
from realigner.records import Prompt, RuleVerdict, Verdict


class Policy(Part):
    """A versioned set of rules and the decision rule that joins their verdicts."""

    id: str = Field(pattern=r"^\S+$")
    version: str = Field(min_length=1)
    title: str = Field(min_length=1)
    supersedes: str | None = None
    """The policy that this one replaces, e.g. `house-style 1.0`; for readers, it changes no verdict."""
    decision: Decision = "any_violation"
    threshold: Threshold = Threshold()
    """Used by the decision `threshold`."""
    rules: tuple[Rule, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _unique_ids(self) -> Policy:
        first: dict[str, int] = {}
        for number, rule in enumerate(self.rules, start=1):
            if rule.id in first:
                raise ValueError(f"rule id {rule.id!r} is used twice (rules {first[rule.id]} and {number}); rename one")
            first[rule.id] = number
        return self

    @model_validator(mode="after")
    def _can_decide(self) -> Policy:
        if self.decision != "threshold" and self.threshold != Threshold():
            raise ValueError(f"threshold belongs to `decision: threshold`, not to {self.decision}; remove it")
        fault = undecidable(self.decision, self.rules, self.threshold)
        if fault:
            raise ValueError(fault)
        return self

    @classmethod
    def load(cls, path: str | Path, allow_code: bool = False) -> Policy:
        """Read a policy file and check its deterministic rules against their own examples.

        Args:
            path: a YAML file in UTF-8; docs/policy.md describes it. Or the name of a shipped policy, such as
                `realigner:house-style`.
            allow_code: permit `python` checks, which import and run code named in the file.

        Raises:
            PolicyError: the file cannot be read, is no policy (all faults at once), or contradicts its examples.
        """
        folder = None if is_shipped(path) else Path(path).resolve().parent
        policy = cls.parse(read_policy_file(path), source=str(path), allow_code=allow_code, folder=folder)
        mismatches = policy.check_examples()
        if mismatches:
            raise PolicyError(
                f"policy {path}",
                "a rule contradicts its own example\n- " + "\n- ".join(mismatches),
                "Correct the rule or the example",
            )
        return policy

    @classmethod
    def parse(
        cls,
        content: Mapping[str, Any],
        *,
        source: str = "(given as a mapping)",
        allow_code: bool = False,
        folder: Path | None = None,
    ) -> Policy:
        """Validate a nested mapping; `folder` is where modules of python checks are looked for first.

        Raises:
            PolicyError: all faults at once, each with the rule's id and the remedy.
        """
        try:
            return cls.model_validate(content, context=Permission(allow_code, folder))
        except ValidationError as error:
            raise explain(error, content, source, cls) from None

    @cached_property
    def hash(self) -> str:
        """16 hex digits of SHA-256 over the canonical JSON: equal for equal policies, code of checks included."""
        content = self.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        return digest([content, [rule.code() for rule in self.rules]])

    @property
    def wording_rules(self) -> tuple[Rule, ...]:
        """The rules that a judge decides by their wording: `by: llm` and `by: classifier`."""
        return tuple(rule for rule in self.rules if rule.by != "rules")

    @cached_property
    def _ids(self) -> list[str]:
        return [rule.id for rule in self.rules]

    @cached_property
    def shares(self) -> Shares:
        """How much each rule counts in the decision."""
        return shares(self.decision, self.rules, self.threshold)

    def refuse_without_judge(self, fallbacks: bool = False) -> None:
        """Refuse to be judged by checks alone where a rule needs a judge.

        Args:
            fallbacks: whether the checks of wording rules may stand in for their judge.

        Raises:
            OracleError: it names the rules, and what can be done.
        """
        needy = [rule for rule in self.wording_rules if not (fallbacks and rule.has_checks)]
        if not needy:
            return
        names = ", ".join(f"{rule.id} ({rule.by})" for rule in needy)
        remedy = "Set oracle.kind: judges"
        if not fallbacks and all(rule.has_checks for rule in needy):
            remedy += ", or let their deterministic fallbacks stand in with oracle.fallbacks: true"
        without = "" if not fallbacks else " without a deterministic fallback"
        raise OracleError(
            f"policy {self.id} {self.version}: {_count(len(needy), 'rule')} judged by wording{without}: {names}",
            "this policy needs a judge; checks alone cannot decide it",
            remedy,
        )

    def judge(self, prompt: Prompt, response: str, fallbacks: bool = False) -> Verdict:
        """Ask every rule's checks about one response and decide.

        Args:
            prompt: what was asked.
            response: what is judged.
            fallbacks: let the checks of wording rules stand in for their judge.

        Raises:
            OracleError: a rule needs a judge.
        """
        self.refuse_without_judge(fallbacks)
        return self.decide([rule.judge(prompt, response) for rule in self.rules])

    def decide(self, rules: Sequence[RuleVerdict]) -> Verdict:
        """Join the verdicts of the rules by the policy's decision rule; the reason names those that decided.

        Raises:
            ValueError: there is not exactly one verdict for each rule, so a rule would pass unjudged.
        """
        given = [verdict.rule for verdict in rules]
        # The order is nearly always the policy's; to compare it first is what triage of known verdicts waits for.
        if given != self._ids and Counter(given) != Counter(self._ids):
            found, wanted = (", ".join(names) for names in ([v.rule for v in rules], [r.id for r in self.rules]))
            raise ValueError(f"one verdict for each rule is needed ({wanted}); given: {found or 'none'}")
        label, reason = decide(rules, self.shares)
        return Verdict(label, tuple(rules), reason)

    def check_examples(self, fallbacks: bool = False) -> list[str]:
        """Return one line for every example whose label differs from what the checks of its own rule say.

        Args:
            fallbacks: ask the checks of wording rules too. They are stand-ins and may be wrong; without it, only
                deterministic rules are held to their examples.
        """
        return [
            f"rule {rule.id!r}, {line}"
            for rule in self.rules
            if rule.by == "rules" or (fallbacks and rule.has_checks)
            for line in rule.check_examples()
        ]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun} is" if number == 1 else f"{number} {noun}s are"
