"""Fitting the scale of a recipe's local judge to labelled examples: a file of them, or the policy's own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from realigner.errors import OracleError, did_you_mean
from realigner.oracle.calibration import Calibration, Method, fit
from realigner.oracle.local import LocalJudge
from realigner.oracle.policy_oracle import JUDGED
from realigner.oracle.verdict_lines import check_keys, lines_of, read_label, read_messages, read_text, refusal
from realigner.policy import Policy, Rule
from realigner.recipe import Recipe
from realigner.recipe_judges import LocalJudgeSettings
from realigner.recipe_parts import Section
from realigner.records import Judgement, Label, user_prompt

KEYS = ("rule", "prompt", "response", "label")


@dataclass(frozen=True, slots=True)
class Example:
    """A response whose label under one rule is known."""

    rule: Rule
    question: Judgement
    compliant: bool


def calibrate(recipe: Recipe, examples: Path | None, method: Method, judge: str | None) -> Calibration:
    """Ask the local judge of a recipe about labelled examples, and return the scale that fits them.

    Args:
        recipe: names the judge and the policy.
        examples: JSON Lines of `{rule, prompt, response, label}`. Default: the examples of the policy's rules.
        method: `platt` or `temperature`.
        judge: where the judge stands in the recipe, e.g. `oracle.llm`; needed where there are several.

    Raises:
        OracleError: there is no such judge, or the examples cannot be used.
    """
    if method not in get_args(Method):
        raise OracleError(f"method {method!r}", f"the methods are {', '.join(get_args(Method))}", "Name one of them")
    place, settings = _judge(recipe, judge)
    local = LocalJudge(settings.model_copy(update={"calibration": None}))
    policy = Policy.load(recipe.policy.path, allow_code=recipe.policy.allow_code)
    found = policy_examples(policy, place.split(".")[1]) if examples is None else list(read_examples(examples, policy))
    if not found:
        raise OracleError(
            f"policy {policy.id} {policy.version}",
            "its rules have no examples to fit to",
            "Give a file with --examples",
        )
    local.check()
    odds = local.log_odds([(example.rule, example.question) for example in found])
    return fit(odds, [example.compliant for example in found], method, local.uncalibrated)


def policy_examples(policy: Policy, role: str) -> list[Example]:
    """Return the examples of the rules that a role judges.

    A judge is shown a rule's examples. So each is judged by the rule without it: else the scale would be fitted to
    answers that the question gives away, and promise too much for all others.
    """
    return [
        Example(
            rule.model_copy(update={"examples": tuple(other for other in rule.examples if other is not example)}),
            Judgement(user_prompt(example.prompt), example.text),
            Label(example.label) is Label.COMPLIANT,
        )
        for rule in policy.rules
        if rule.by == role
        for example in rule.examples
    ]


def read_examples(path: Path, policy: Policy) -> Iterator[Example]:
    """Read labelled examples.

    Raises:
        OracleError: the file or a line (named by its number) cannot be used.
    """
    if not path.is_file():
        raise OracleError(f"examples {path}", "no such file", "Check --examples")
    rules = {rule.id: rule for rule in policy.rules}
    for source, columns in lines_of(path):
        check_keys(columns, KEYS, KEYS, source)
        name = read_text(columns["rule"], "rule", source)
        if name not in rules:
            raise OracleError(
                f"{source}: rule {name!r}",
                f"policy {policy.id} {policy.version} has no such rule",
                f"Correct it.{did_you_mean(name, rules)}",
            )
        label = read_label(columns["label"], source)
        if label not in (Label.COMPLIANT, Label.NON_COMPLIANT):
            raise refusal(source, "label", label, "compliant or non_compliant")
        question = Judgement(
            read_messages(columns["prompt"], source), read_text(columns["response"], "response", source)
        )
        yield Example(rules[name], question, label is Label.COMPLIANT)


def local_judges(recipe: Recipe) -> dict[str, LocalJudgeSettings]:
    """Return the local judges of a recipe's oracle by where they stand, e.g. `oracle.llm.steps.1.judge`."""
    found: dict[str, LocalJudgeSettings] = {}
    for role in JUDGED:
        inner = getattr(recipe.oracle, role)
        if inner is not None:
            found |= dict(_inside(inner, f"oracle.{role}"))
    return found


def _inside(section: Section, place: str) -> Iterator[tuple[str, LocalJudgeSettings]]:
    if isinstance(section, LocalJudgeSettings):
        yield place, section
    for name in type(section).model_fields:
        value = getattr(section, name)
        inner = enumerate(value) if isinstance(value, tuple) else ()
        for number, item in inner:
            if isinstance(item, Section):
                yield from _inside(item, f"{place}.{name}.{number}")
        if isinstance(value, Section):
            yield from _inside(value, f"{place}.{name}")


def _judge(recipe: Recipe, wanted: str | None) -> tuple[str, LocalJudgeSettings]:
    found = local_judges(recipe)
    if not found:
        raise OracleError(
            "the recipe's oracle", "it has no judge of kind 'local', and only these are calibrated", "Name one in it"
        )
    if wanted is None and len(found) > 1:
        raise OracleError(f"{len(found)} local judges", "one is calibrated at a time", f"--judge {' | '.join(found)}")
    place = next(iter(found)) if wanted is None else wanted
    if place not in found:
        raise OracleError(
            f"--judge {place}",
            f"the local judges are {', '.join(found)}",
            f"Name one of them.{did_you_mean(place, found)}",
        )
    return place, found[place]
