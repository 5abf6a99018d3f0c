"""Seeded mistakes on top of any oracle, for studies of how much noise a re-alignment survives.

A violation is the positive class: a false positive calls a compliant response non_compliant, a false negative the other
way round. `unsure` and `invalid` stay as they are. Whether a verdict is flipped depends on (seed, prompt, response,
rule) alone, never on the order or the batches in which questions come.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import replace

from realigner.errors import OracleError, did_you_mean
from realigner.oracle.asking import ask
from realigner.oracle.protocol import Oracle
from realigner.policy import Policy
from realigner.recipe_judges import NoiseSettings
from realigner.records import Judgement, Label, RuleVerdict, Verdict, prompt_key, text_hash

VERSION = 1
DECISION = ""
"""Stands for the rule where the decision itself is flipped; no rule has an empty id."""
_FLIPPED = {Label.COMPLIANT: Label.NON_COMPLIANT, Label.NON_COMPLIANT: Label.COMPLIANT}


class NoisyOracle:
    """An oracle whose verdicts are flipped at known rates. Every flipped verdict says so in its reason.

    Args:
        oracle: who judges before the noise; it is also `oracle`, for those who want the clean verdicts.
        noise: rates, seed, correlation, and what is flipped.
        policy: joins the verdicts of the rules again after some of them were flipped.

    Raises:
        OracleError: the noise names a rule that the policy does not have.
    """

    def __init__(self, oracle: Oracle, noise: NoiseSettings, policy: Policy) -> None:
        known = [rule.id for rule in policy.rules]
        for named in noise.rules:
            if named.rule not in known:
                raise OracleError(
                    f"oracle.noise.rules: rule {named.rule!r}",
                    f"policy {policy.id} {policy.version} has no such rule",
                    f"Name one of its rules.{did_you_mean(named.rule, known)}",
                )
        self.oracle = oracle
        self._noise, self._policy = noise, policy
        self._rates = {named.rule: (named.false_positive, named.false_negative) for named in noise.rules}

    @property
    def identity(self) -> str:
        """`noise/VERSION:SETTINGS(IDENTITY)`, the settings as a hash."""
        settings = json.dumps(self._noise.model_dump(mode="json"), sort_keys=True)
        return f"noise/{VERSION}:{text_hash(settings)}({self.oracle.identity})"

    def judge(self, questions: Sequence[Judgement]) -> list[Verdict]:
        """Return the oracle's verdicts, some of them flipped.

        Raises:
            OracleError: rules are to be flipped, and the oracle gives no verdicts of rules.
        """
        verdicts = ask(self.oracle, questions, max(len(questions), 1))
        flip = self._decision if self._noise.of == "decision" else self._rules
        return [flip(question, verdict) for question, verdict in zip(questions, verdicts, strict=True)]

    def _decision(self, question: Judgement, verdict: Verdict) -> Verdict:
        label = self._noisy(question, DECISION, verdict.label)
        if label is verdict.label:
            return verdict
        return replace(verdict, label=label, reason=_said(verdict.label, verdict.reason))

    def _rules(self, question: Judgement, verdict: Verdict) -> Verdict:
        if not verdict.rules:
            if verdict.label not in _FLIPPED:
                return verdict
            raise OracleError(
                f"oracle {self.oracle.identity} under oracle.noise.of: rules",
                "it gives a decision without the verdicts of its rules, so no rule can be flipped",
                "Set oracle.noise.of: decision",
            )
        noisy = [self._rule(question, rule) for rule in verdict.rules]
        return verdict if noisy == list(verdict.rules) else self._policy.decide(noisy)

    def _rule(self, question: Judgement, verdict: RuleVerdict) -> RuleVerdict:
        label = self._noisy(question, verdict.rule, verdict.label)
        if label is verdict.label:
            return verdict
        return replace(verdict, label=label, reason=_said(verdict.label, verdict.reason))

    def _noisy(self, question: Judgement, rule: str, label: Label) -> Label:
        """Return the label, or its opposite with the chance that belongs to it."""
        if label not in _FLIPPED:
            return label
        positive, negative = self._rates.get(rule, (self._noise.false_positive, self._noise.false_negative))
        rate = positive if label is Label.COMPLIANT else negative
        return _FLIPPED[label] if self._draw(question, rule) < rate else label

    def _draw(self, question: Judgement, rule: str) -> float:
        """Return a number in [0, 1), uniform over questions.

        With chance sqrt(correlation) it is the prompt's number, else the response's own. Two flips at one rate that
        share a prompt then have exactly this correlation, and each keeps its rate.
        """
        prompt = prompt_key(question.prompt)
        own = (str(self._noise.seed), prompt, question.response, rule)
        if _uniform("shares", *own) < math.sqrt(self._noise.correlation):
            return _uniform("prompt", str(self._noise.seed), prompt, rule)
        return _uniform("own", *own)


def without_noise(identity: str) -> str:
    """Return the identity of the oracle that stands under the noise; one without noise as it is."""
    if not identity.startswith("noise/"):
        return identity
    return identity.partition("(")[2].removesuffix(")")


def _uniform(*parts: str) -> float:
    # 53 bits, as many as a float has, so that 1.0 is never reached.
    content = json.dumps(parts).encode("ascii")
    return (int.from_bytes(hashlib.sha256(content).digest()[:8]) >> 11) / 2.0**53


def _said(label: Label, reason: str) -> str:
    return f"flipped by oracle.noise from {label.value}" + (f" ({reason})" if reason else "")
