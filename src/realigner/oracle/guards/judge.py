"""A guard model as a judge of single rules: one prompt, one answer, and the label of the rule's category in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from realigner.errors import OracleError, did_you_mean
from realigner.oracle.guards import FAMILIES
from realigner.oracle.guards.asking import Guard, Written
from realigner.oracle.guards.family import Family, GuardPrompt, Reading, conversation, unreadable
from realigner.oracle.guards.local import LocalGuard
from realigner.oracle.guards.served import ServedGuard
from realigner.oracle.guards.wildguard import filled
from realigner.oracle.judge import JudgeCosts, RuleAnswer, RuleJudge, RuleQuestion
from realigner.policy import Rule
from realigner.recipe_judges import GuardJudgeSettings
from realigner.records import Judgement, Label, RuleVerdict, text_hash

if TYPE_CHECKING:
    from realigner.oracle.build import JudgeContext

VERSION = 1
NO_CATEGORY = "no category of the guard stands for this rule"


def build_guard(settings: GuardJudgeSettings, context: JudgeContext) -> RuleJudge:
    """Return the guard judge of a recipe; its map is checked against the policy.

    Raises:
        OracleError: the family cannot judge in this way, or the map names a rule or category that is not there.
    """
    known = [rule.id for rule in context.policy.rules]
    for rule in settings.map:
        if rule not in known:
            raise OracleError(
                f"guard {settings.family}, map: rule {rule!r}",
                f"policy {context.policy.id} {context.policy.version} has no such rule",
                f"Correct it.{did_you_mean(rule, known)}",
            )
    return GuardJudge(settings, rules=context.policy.wording_rules)


@dataclass(slots=True)
class _Open:
    """A question on its way: which prompts it waits for, and what is known."""

    asked: RuleQuestion
    missing: set[int]
    verdicts: dict[str, RuleVerdict] = field(default_factory=dict)
    written: list[Written] = field(default_factory=list)


class GuardJudge:
    """Judges by a guard model.

    Args:
        settings: the family, where the model runs, and the map of categories.
        guard: who answers, if not what the settings say; for tests.
        rules: those of the policy; `check` says which of them have no category.

    Raises:
        OracleError: the family cannot judge in this way, or the map names a category that it does not have.
    """

    def __init__(self, settings: GuardJudgeSettings, guard: Guard | None = None, rules: Sequence[Rule] = ()) -> None:
        self._settings, self._rules = settings, tuple(rules)
        self._family: Family = FAMILIES[settings.family]
        self._by_policy = self._mode() == "policy"
        for rule, name in settings.map.items():
            if self._family.category(name) is None:
                raise self._unknown(f"map.{rule}", name)
        self._template = self._read_template(settings.prompt)
        self._guard = _open_guard(self._family, settings) if guard is None else guard
        self.costs: JudgeCosts = self._guard.costs

    @property
    def identity(self) -> str:
        """`guard/VERSION:FAMILY.VERSION:MODE:MODEL:MAP`."""
        said = sorted(self._settings.map.items())
        told = text_hash(repr(said), self._template)
        tokens = self._settings.max_tokens or self._family.max_tokens
        mode = "policy" if self._by_policy else "own"
        family = f"{self._family.name}.{self._family.version}"
        return f"guard/{VERSION}:{family}:{mode}:{self._guard.identity}:{tokens}:{told}"

    def check(self) -> str:
        """Say that the guard can be asked, and which rules it cannot judge."""
        line = f"{self._family.name}, {self._guard.check()}"
        if self._by_policy:
            return f"{line}: by the wording of the rules"
        without = [rule.id for rule in self._rules if self._category(rule) is None]
        if not without:
            return f"{line}: by its own categories"
        return f"{line}: by its own categories; WARNING: none stands for {', '.join(without)}, which will be unsure"

    def answer(self, questions: Sequence[RuleQuestion]) -> Iterator[tuple[int, RuleAnswer]]:
        """Yield each question's verdicts. Questions that need the same prompt share one answer."""
        prompts: list[GuardPrompt] = []
        numbers: dict[tuple[object, ...], int] = {}
        waiting: list[list[tuple[int, tuple[Rule, ...]]]] = []
        open_questions: dict[int, _Open] = {}
        for place, asked in enumerate(questions):
            item = open_questions[place] = _Open(asked, set())
            for rules, prompt in self._prompts(asked, item):
                number = numbers.setdefault(prompt.key, len(prompts))
                if number == len(prompts):
                    prompts.append(prompt)
                    waiting.append([])
                waiting[number].append((place, rules))
                item.missing.add(number)
            if not item.missing:
                yield place, _answer(open_questions.pop(place))
        for number, written in self._guard.ask(prompts):
            first = True
            for place, rules in waiting[number]:
                item = open_questions[place]
                reading = self._read(written, rules)
                item.verdicts |= {rule.id: self._verdict(rule, rules, reading) for rule in rules}
                # What an answer cost is told once, by the first question that it served.
                item.written.append(written if first else Written(error=written.error, model=written.model))
                first = False
                item.missing.discard(number)
                if not item.missing:
                    yield place, _answer(open_questions.pop(place))

    def _prompts(self, asked: RuleQuestion, item: _Open) -> Iterator[tuple[tuple[Rule, ...], GuardPrompt]]:
        """Yield the prompts that a question needs, with the rules that each serves; settle the others."""
        if self._by_policy:
            assert self._family.policy is not None  # by _mode
            parts = [(rule,) for rule in asked.rules] if self._family.one_rule else [asked.rules]
            for rules in parts:
                yield rules, self._family.policy(rules, asked.question)
            return
        judged = tuple(rule for rule in asked.rules if self._category(rule) is not None)
        for rule in asked.rules:
            if rule not in judged:
                item.verdicts[rule.id] = RuleVerdict(rule.id, Label.UNSURE, NO_CATEGORY)
        if self._family.guidelines:
            for rule in judged:
                told = (("guideline", self._family.guidelines[self._category(rule) or ""]),)
                yield (rule,), replace(self._own(asked.question), arguments=told)
        elif judged:
            yield judged, self._own(asked.question)

    def _own(self, question: Judgement) -> GuardPrompt:
        turns = conversation(question, self._family.control)
        assert self._family.own is not None  # by _mode
        prompt = self._family.own(turns)
        if not self._template:
            return prompt
        asked = "\n\n".join(turn["content"] for turn in turns[:-1])
        return GuardPrompt(text=filled(self._template, asked, turns[-1]["content"]))

    def _read(self, written: Written, rules: Sequence[Rule]) -> Reading:
        if written.error:
            return unreadable(written.error)
        return self._family.read(written.text, rules if self._by_policy else ())

    def _verdict(self, rule: Rule, rules: Sequence[Rule], reading: Reading) -> RuleVerdict:
        if self._by_policy or self._family.guidelines:
            code = f"S{1 + [other.id for other in rules].index(rule.id)}"
        else:
            code = self._category(rule) or ""
        label, reason = reading.of(code)
        return RuleVerdict(rule.id, label, reason)

    def _category(self, rule: Rule) -> str | None:
        name = self._settings.map.get(rule.id, rule.category)
        return None if name is None else self._family.category(name)

    def _mode(self) -> str:
        """Return `own` or `policy`.

        Raises:
            OracleError: the family cannot be asked in the way that the recipe says.
        """
        told = not self._family.categories or bool(self._family.guidelines)
        wanted = self._settings.categories
        mode = wanted if wanted != "auto" else "policy" if told else "own"
        if (self._family.policy if mode == "policy" else self._family.own) is None:
            other = "own" if mode == "policy" else "policy"
            raise OracleError(
                f"guard {self._family.name}, categories: {mode}",
                "it cannot be told another policy" if mode == "policy" else "it has no taxonomy of its own",
                f"Set categories: {other}",
            )
        return mode

    def _unknown(self, where: str, name: str) -> OracleError:
        names = [f"{code} {full}" for code, full in self._family.categories.items()]
        return OracleError(
            f"guard {self._family.name}, {where}: {name!r}",
            f"its categories are {', '.join(names) or 'those of the policy'}",
            f"Correct it.{did_you_mean(name, self._family.categories.values())}",
        )

    def _read_template(self, path: str | None) -> str:
        if path is None:
            return ""
        remedy = "Give the prompt of the model's card, with {prompt} and {response} where the texts belong"
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            raise OracleError(f"guard {self._family.name}, prompt: {path}", "it cannot be read", remedy) from None
        if "{prompt}" not in text or "{response}" not in text:
            raise OracleError(f"guard {self._family.name}, prompt: {path}", "a place for a text is missing", remedy)
        return text


def _open_guard(family: Family, settings: GuardJudgeSettings) -> Guard:
    """Return where the recipe says that the model runs. Nothing is loaded or sent yet."""
    tokens = settings.max_tokens or family.max_tokens
    if settings.server is not None:
        return ServedGuard(settings.server, settings, tokens)
    return LocalGuard(settings, tokens)


def _answer(item: _Open) -> RuleAnswer:
    verdicts = tuple(item.verdicts[rule.id] for rule in item.asked.rules)
    told = [written for written in item.written if written.output_tokens is not None]
    return RuleAnswer(
        verdicts,
        keep=all(verdict.label is not Label.INVALID for verdict in verdicts),
        facts={
            "calls": len(told),
            "input_tokens": sum(written.input_tokens or 0 for written in told),
            "output_tokens": sum(written.output_tokens or 0 for written in told),
            "seconds": round(sum(written.seconds for written in told), 4),
            "model": next((written.model for written in item.written if written.model), ""),
            "answer": next((written.text[:400] for written in told), ""),
        },
    )
