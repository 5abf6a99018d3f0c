"""The part `stress`: attacks on both models, and what they refuse that they should not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from realigner.errors import RecipeError
from realigner.evaluate.agreement import SIDES
from realigner.evaluate.evidence import Evidence, Source
from realigner.evaluate.stress.answered import (
    CONTRAST,
    NEWLY_ALLOWED,
    STRESS,
    UNATTACKED,
    XSTEST,
    Answered,
    Case,
)
from realigner.evaluate.stress.attacks import ATTACKS, Target, attacked, plain
from realigner.evaluate.stress.figures import attack_figures, refusal_figures
from realigner.evaluate.stress.items import Asked, draw, newly_allowed, read_safety_prompts, read_targets
from realigner.evaluate.stress.refusal import VERSION, refusal
from realigner.evaluate.stress.tables import tables
from realigner.oracle import RuleOracle
from realigner.policy import Policy
from realigner.recipe import Recipe
from realigner.recipe_evaluate import StressSettings
from realigner.records import Judgement, Label, Prompt, prompt_key, prompt_text
from realigner.triaging import read_triage

if TYPE_CHECKING:
    from realigner.evaluate.parts import Comparison

ROWS = pa.schema(
    [
        *((name, pa.string()) for name in ("suite", "attack", "kind", "item_id", "side", "request", "sent")),
        *((name, pa.string()) for name in ("response", "finish", "refusal", "label", "old_label")),
        *((name, pa.bool_()) for name in ("succeeded", "undecided")),
        ("attack_version", pa.int64()),
    ]
)


def inputs(settings: StressSettings) -> dict[str, Any]:
    """Return the identities of the prompts, and the versions of attacks and of what counts as a refusal.

    Raises:
        RecipeError: a file is not there.
        DataError: it cannot be read; known before anything is computed.
    """
    from realigner.evaluate.parts import file_identity

    def identity(name: str) -> str | None:
        path = getattr(settings, name)
        return None if path is None else file_identity(path, f"evaluate.stress.{name}")

    found = {name: identity(name) for name in ("prompts", "over_refusal")}
    check(settings)
    return {
        **found,
        "attacks": {name: ATTACKS[name].version for name in settings.attacks},
        "refusal": VERSION,
    }


def check(settings: StressSettings) -> list[str]:
    """Read the prompts; say how many there are.

    Raises:
        DataError: they cannot be read.
    """
    said = []
    if settings.prompts is not None:
        requests = len(read_targets(Path(settings.prompts), settings.column))
        asked = min(requests, settings.limit or requests)
        said.append(f"{asked:,} of {requests:,} requests, as they stand and under {len(settings.attacks)} attacks")
    if settings.over_refusal is not None:
        found = read_safety_prompts(Path(settings.over_refusal))
        said.append(f"{len(found['safe']):,} safe and {len(found['unsafe']):,} unsafe prompts for over-refusal")
    return said


def asks(settings: StressSettings, recipe: Recipe) -> list[str]:
    """Say how many answers are judged."""
    if settings.prompts is None or recipe.evaluation_oracle.kind != "judges":
        return []
    requests = len(read_targets(Path(settings.prompts), settings.column))
    answers = 2 * min(requests, settings.limit or requests) * (1 + len(settings.attacks))
    return [f"at most {answers:,} answers to attacks judged by every rule, as in evaluate, less those remembered"]


def measure(settings: StressSettings, comparison: Comparison) -> Evidence:
    """Let both models answer everything, judge what was attacked, and compare.

    Raises:
        DataError: the prompts cannot be read.
        RecipeError: there is nothing to measure.
    """
    old = _OldPolicy.of(comparison)
    cases, sources = _cases(settings, comparison, old)
    if not cases:
        raise RecipeError(
            "evaluate.stress", "none of its prompts is there to be asked", "Name prompts, over_refusal or both"
        )
    changes = {} if settings.max_new_tokens is None else {"max_new_tokens": settings.max_new_tokens}
    answers = comparison.answers([case.sent for case in cases], "stress", **changes)
    left_out = sum(given is None for given in answers["before"])
    asked = [case.sent for case, given in zip(cases, answers["before"], strict=True) if given is not None]
    cut = comparison.cut_prompts(asked, **changes)
    sides: dict[str, list[Answered]] = {
        side: [
            Answered(cases[place], given.text, given.finish, refusal(given.text))
            for place, given in enumerate(answers[side])
            if given is not None
        ]
        for side in SIDES
    }
    judged, facts = _judged(sides, comparison, old)
    found = {side: _grouped(answered) for side, answered in judged.items()}
    attacks = [name for name in (UNATTACKED, *settings.attacks) if (STRESS, name) in found["before"]]
    figures = {**attack_figures(found, attacks, old.known, comparison.seed), **refusal_figures(found, comparison.seed)}
    return Evidence(
        figures,
        tables=tuple(tables(found, figures, attacks)),
        sources=sources,
        warnings=tuple(_warnings(judged, left_out, cut, old)),
        rows=pa.Table.from_pylist([_row(side, each) for side in SIDES for each in judged[side]], schema=ROWS),
        facts={**facts, "left_out_control_token": left_out, "cut_prompts": dict(cut), "refusal_detector": VERSION},
    )


@dataclass(frozen=True)
class _OldPolicy:
    """The old policy, as far as it can be asked."""

    policy: Policy | None
    why_not: str = ""
    """Why its verdicts are not known, where there is one."""

    @classmethod
    def of(cls, comparison: Comparison) -> _OldPolicy:
        policy = comparison.old_policy()
        if policy is None:
            return cls(None)
        if not policy.wording_rules or comparison.recipe.evaluation_oracle.kind == "judges":
            return cls(policy)
        return cls(
            None, f"the old policy {policy.id} has rules by wording, and the oracle of the evaluation asks no judge"
        )

    @property
    def known(self) -> bool:
        return self.policy is not None

    @property
    def computed(self) -> Callable[[Prompt, str], bool] | None:
        """Whether a response broke it, where that takes no judge."""
        if self.policy is None or self.policy.wording_rules:
            return None
        oracle = RuleOracle(self.policy)
        return lambda prompt, text: oracle.judge([Judgement(prompt, text)])[0].label is Label.NON_COMPLIANT

    def labels(self, questions: Sequence[Judgement], comparison: Comparison) -> list[Label]:
        """Return its verdicts: computed where no rule needs a judge, else by the judges of the evaluation."""
        assert self.policy is not None
        if not self.policy.wording_rules:
            return [verdict.label for verdict in RuleOracle(self.policy).judge(questions)]
        from realigner.evaluate.judging import judge_questions

        verdicts, _, _ = judge_questions(
            comparison.recipe, self.policy, questions, comparison.progress, comparison.spent
        )
        return [verdict.label for verdict in verdicts]


def _cases(settings: StressSettings, comparison: Comparison, old: _OldPolicy) -> tuple[list[Case], tuple[Source, ...]]:
    cases: list[Case] = []
    sources = []
    seed = comparison.seed
    if settings.prompts is not None:
        read = read_targets(Path(settings.prompts), settings.column)
        targets = draw(read, settings.limit, seed, "stress", lambda target: target.request)
        for name in (UNATTACKED, *settings.attacks):
            cases += [_attack_case(name, target) for target in targets]
        sources.append(_source("requests for attacks", settings.prompts, len(targets)))
    if settings.over_refusal is not None:
        prompts = read_safety_prompts(Path(settings.over_refusal))
        for suite, label in ((XSTEST, "safe"), (CONTRAST, "unsafe")):
            cases += _plain_cases(suite, draw(prompts[label], settings.over_refusal_limit, seed, suite, _text))
        count = sum(case.suite in (XSTEST, CONTRAST) for case in cases)
        sources.append(_source("prompts for over-refusal", settings.over_refusal, count))
    triage = comparison.directory / "triage.parquet"
    if settings.newly_allowed and triage.is_file():
        allowed = newly_allowed(read_triage(triage, split="eval"), old.computed)
        drawn = draw(allowed, settings.newly_allowed, seed, NEWLY_ALLOWED, _text)
        cases += _plain_cases(NEWLY_ALLOWED, drawn)
        sources.append(_source("held-out prompts newly allowed", str(triage), len(drawn)))
    return cases, tuple(sources)


def _grouped(answered: Iterable[Answered]) -> dict[tuple[str, str], dict[str, Answered]]:
    found: dict[tuple[str, str], dict[str, Answered]] = {}
    for each in answered:
        found.setdefault((each.case.suite, each.case.attack), {})[each.case.item] = each
    return found


def _attack_case(name: str, target: Target) -> Case:
    request = plain(target)
    return Case(STRESS, name, prompt_key(request), request, attacked(name, target))


def _plain_cases(suite: str, asked: Iterable[Asked]) -> list[Case]:
    return [Case(suite, "", prompt_key(each.prompt), each.prompt, each.prompt, each.kind) for each in asked]


def _text(asked: Asked) -> str:
    return prompt_text(asked.prompt)


def _judged(
    sides: Mapping[str, list[Answered]], comparison: Comparison, old: _OldPolicy
) -> tuple[dict[str, list[Answered]], dict[str, Any]]:
    """Return the answers with the verdicts on those that were attacked; the judge sees the request, not the attack."""
    places = [(side, place) for side in SIDES for place, each in enumerate(sides[side]) if each.case.suite == STRESS]
    judged = {side: list(answered) for side, answered in sides.items()}
    if not places:
        return judged, {}
    questions = [Judgement(sides[side][place].case.request, sides[side][place].text) for side, place in places]
    verdicts, identity, asked = comparison.judge(questions)
    before = old.labels(questions, comparison) if old.known else [None] * len(questions)
    for (side, place), verdict, label in zip(places, verdicts, before, strict=True):
        judged[side][place] = replace(judged[side][place], label=verdict.label, old_label=label)
    return judged, {"oracle": identity, **asked}


def _warnings(
    judged: Mapping[str, list[Answered]], left_out: int, cut: Mapping[str, int], old: _OldPolicy
) -> Iterable[str]:
    if left_out:
        yield f"{left_out} prompts hold a control token of a tokenizer and were left out"
    for side in SIDES:
        if cut[side]:
            lost = "were too long for the model and lost their beginnings"
            yield f"{cut[side]} of {len(judged[side])} prompts {lost} ({side})"
        own = [each for each in judged[side] if each.case.suite == STRESS]
        undecided = sum(each.undecided for each in own)
        if undecided:
            yield f"{undecided} of {len(own)} answers to attacks could not be judged ({side}); they count as successes"
        ended = sum(each.finish == "stop" for each in judged[side])
        if ended < len(judged[side]) / 2:
            yield f"{ended} of {len(judged[side])} answers ended before the token limit ({side}): raise max_new_tokens"
    if old.why_not:
        yield f"old verdicts are not known: {old.why_not}"


def _row(side: str, each: Answered) -> dict[str, Any]:
    case = each.case
    version = ATTACKS[case.attack].version if case.attack in ATTACKS else None
    return {
        "suite": case.suite,
        "attack": case.attack,
        "attack_version": version,
        "kind": case.kind,
        "item_id": case.item,
        "side": side,
        "request": prompt_text(case.request),
        "sent": prompt_text(case.sent),
        "response": each.text,
        "finish": each.finish,
        "refusal": each.refusal,
        "label": None if each.label is None else each.label.value,
        "old_label": None if each.old_label is None else each.old_label.value,
        "succeeded": each.succeeded if each.label is not None else None,
        "undecided": each.undecided if each.label is not None else None,
    }


def _source(name: str, path: str, n: int) -> Source:
    from realigner.atomic import hash_of

    return Source(name, hash_of(Path(path)).rpartition(":")[2], n, Path(path).name)
