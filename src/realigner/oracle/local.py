"""A judge on this machine: a language model whose probability of yes, at the first token, is a verdict on one rule.

Nothing is generated, so a question costs one forward pass over its prompt. The probability is calibrated where a file
says how; between two bounds it is `unsure`, which leaves the pair to a human.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from realigner.errors import ModelError, OracleError
from realigner.oracle.calibration import Calibration
from realigner.oracle.judge import JudgeCosts, RuleAnswer, RuleJudge, RuleQuestion
from realigner.oracle.local_prompt import PROMPT_VERSION, rendered, token_ids, yes_no_messages
from realigner.policy import Rule
from realigner.recipe import JudgeModelSettings, LoraSettings, ModelSettings
from realigner.recipe_judges import LocalJudgeSettings
from realigner.records import Judgement, Label, Message, RuleVerdict, text_hash

if TYPE_CHECKING:
    from realigner.model.yes_no import YesNo
    from realigner.oracle.build import JudgeContext

VERSION = 1
Score = Callable[[Sequence[Sequence[int]]], "Iterator[tuple[int, YesNo]]"]
"""Yields (place, log-probabilities) of tokenised prompts, each once, in any order."""
Ask = Callable[[Rule, Judgement], list[Message]]
"""Puts the question about a response and a rule into words."""


def build_local(settings: LocalJudgeSettings, context: JudgeContext) -> RuleJudge:  # noqa: ARG001
    """Return the judge that the settings ask for; its model is loaded with the first question."""
    return LocalJudge(settings)


class LocalJudge:
    """Judges single rules by a model of transformers.

    Args:
        settings: the model, its template, the bounds, the calibration.
        messages: asks a question that yes or no answers; yes becomes `compliant`.

    Raises:
        OracleError: the calibration cannot be used.
        ModelError: there is no such model.
    """

    def __init__(self, settings: LocalJudgeSettings, messages: Ask = yes_no_messages) -> None:
        self._settings, self._messages = settings, messages
        path = settings.calibration
        self._calibration = Calibration() if path is None else Calibration.load(path, self.uncalibrated)
        self.costs = JudgeCosts(model=settings.path, paid=False, max_output_tokens=1)

    @cached_property
    def uncalibrated(self) -> str:
        """The identity of what gives the log-odds: weights, precision, words, template."""
        from realigner.model.load import model_fingerprint, resolve_device, resolve_dtype

        model = _model_settings(self._settings)
        dtype = str(resolve_dtype(model, resolve_device(model))).removeprefix("torch.")
        arguments = text_hash(
            *(f"{name}={value!r}" for name, value in sorted(self._settings.template_arguments.items()))
        )
        template = f"{self._settings.template}:{arguments}"
        return f"local/{VERSION}.{PROMPT_VERSION}:{model_fingerprint(model)}:{dtype}:{template}"

    @property
    def identity(self) -> str:
        """What gives the log-odds, the calibration, and the bounds of `unsure`."""
        low, high = self._settings.unsure
        least = self._settings.least_mass
        return f"{self.uncalibrated}:{self._calibration.identity}:{low!r}-{high!r}:{least!r}"

    def check(self) -> str:
        """Say that the model, its template and its words for yes and no are there. Loads no weights.

        Raises:
            ModelError: the model or its tokenizer cannot be read, or cannot say yes or no.
            OracleError: it has no chat template.
        """
        tokens = self._tokens
        self._text(Rule(id="check", text="A rule.", by="llm"), Judgement(({"role": "user", "content": "q"},), "a"))
        return (
            f"{self._settings.path}: context {self._context:,}, {len(tokens.yes)} ways to say yes and "
            f"{len(tokens.no)} to say no, calibration {self._calibration.method}"
        )

    def answer(self, questions: Sequence[RuleQuestion]) -> Iterator[tuple[int, RuleAnswer]]:
        """Yield each question's verdicts; every rule is a forward pass of its own, whatever stands together.

        A prompt that is longer than the model's context is `invalid`: nothing of a response is left unread.
        """
        asked = [(place, rule) for place, question in enumerate(questions) for rule in question.rules]
        texts = [self._text(rule, questions[place].question) for place, rule in asked]
        prompts = token_ids(self._tokenizer, texts, self._settings.template)
        room = self._context - max(len(ids) for ids in (*self._tokens.yes, *self._tokens.no))
        fitting = [number for number, ids in enumerate(prompts) if len(ids) <= room]
        done: dict[int, dict[str, tuple[RuleVerdict, float | None, int]]] = {n: {} for n in range(len(questions))}

        def note(number: int, verdict: RuleVerdict, odds: float | None) -> Iterator[tuple[int, RuleAnswer]]:
            place, rule = asked[number]
            done[place][rule.id] = verdict, odds, len(prompts[number])
            if len(done[place]) == len(questions[place].rules):
                yield place, self._answer(questions[place], done.pop(place))

        for number in sorted(set(range(len(asked))) - set(fitting)):
            reason = f"the prompt has {len(prompts[number]):,} tokens, the judge reads {room:,}"
            yield from note(number, RuleVerdict(asked[number][1].id, Label.INVALID, reason), None)
        for place, said in self._score([prompts[number] for number in fitting]):
            number = fitting[place]
            yield from note(number, self._verdict(asked[number][1], said), said.yes - said.no)

    def log_odds(self, questions: Sequence[tuple[Rule, Judgement]]) -> list[float]:
        """Return the uncalibrated log-odds of compliance, in nats, in order; for fitting a calibration.

        Raises:
            OracleError: a prompt is longer than the model's context.
        """
        prompts = token_ids(self._tokenizer, [self._text(*each) for each in questions], self._settings.template)
        longest = max((len(ids) for ids in prompts), default=0)
        if longest > self._context - 1:
            raise OracleError(
                f"an example of {longest:,} tokens", f"the judge reads {self._context - 1:,}", "Leave it out"
            )
        odds = {place: said.yes - said.no for place, said in self._score(prompts)}
        return [odds[place] for place in range(len(prompts))]

    def _answer(self, asked: RuleQuestion, found: dict[str, tuple[RuleVerdict, float | None, int]]) -> RuleAnswer:
        verdicts = tuple(found[rule.id][0] for rule in asked.rules)
        odds = [found[rule.id][1] for rule in asked.rules]
        return RuleAnswer(
            verdicts,
            keep=all(verdict.label is not Label.INVALID for verdict in verdicts),
            facts={
                "log_odds": odds[0]
                if len(odds) == 1
                else ",".join("" if odd is None else f"{odd:.6g}" for odd in odds),
                "calls": len(odds),
                "input_tokens": sum(tokens for _, _, tokens in found.values()),
                "output_tokens": 0,
            },
        )

    def _verdict(self, rule: Rule, said: YesNo) -> RuleVerdict:
        mass = math.exp(said.yes) + math.exp(said.no)
        if mass < self._settings.least_mass:
            reason = f"yes and no together have a probability of {mass:.2g} at the first token: that is no answer"
            return RuleVerdict(rule.id, Label.INVALID, reason)
        probability = self._calibration.probability(said.yes - said.no)
        low, high = self._settings.unsure
        label = Label.COMPLIANT if probability >= high else Label.NON_COMPLIANT if probability <= low else Label.UNSURE
        return RuleVerdict(rule.id, label, f"probability of compliance {probability:.4f}")

    def _text(self, rule: Rule, question: Judgement) -> str:
        messages = self._messages(rule, question)
        return rendered(self._tokenizer, messages, self._settings.template, self._settings.template_arguments)

    @cached_property
    def _tokenizer(self) -> Any:
        from realigner.model.load import load_tokenizer

        return load_tokenizer(_model_settings(self._settings))

    @cached_property
    def _tokens(self) -> Any:
        from realigner.model.yes_no import answer_tokens

        return answer_tokens(self._tokenizer)

    @cached_property
    def _context(self) -> int:
        from realigner.model.load import context_length

        return context_length(_model_settings(self._settings))

    @cached_property
    def _score(self) -> Score:
        """Load the model; under torchrun, the models of all processes."""
        from realigner.oracle.local_parallel import score_here_or_everywhere

        return score_here_or_everywhere(self._settings)


def load_scorer(settings: LocalJudgeSettings) -> Score:
    """Load the model of a local judge, and return what scores tokenised prompts with it."""
    from realigner.model.load import load_model, load_tokenizer
    from realigner.model.yes_no import YesNoScorer, answer_tokens

    wanted = _model_settings(settings)
    tokenizer = load_tokenizer(wanted)
    model = load_model(wanted)
    scorer = YesNoScorer(model, answer_tokens(tokenizer), pad=tokenizer.pad_token_id or 0)

    def score(prompts: Sequence[Sequence[int]]) -> Iterator[tuple[int, YesNo]]:
        return scorer.score(prompts, settings.batch_size)

    return score


def _model_settings(settings: LocalJudgeSettings) -> ModelSettings:
    # Frozen weights may be bfloat16 as under an adapter; without one, `auto` keeps float32 for training.
    if settings.dtype not in ("auto", "float32", "bfloat16"):
        raise ModelError(f"dtype {settings.dtype}", "a judge runs in float32 or bfloat16", "Choose one")
    return JudgeModelSettings(
        path=settings.path,
        revision=settings.revision,
        dtype=settings.dtype,
        device=settings.device,
        lora=LoraSettings(),
    )
