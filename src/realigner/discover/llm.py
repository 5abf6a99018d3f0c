"""A language model that proposes rules and votes by them; nothing that it has answered is asked again.

Votes go through the verdict store: the "response" of a stored vote is both responses in the order in which they were
shown, `compliant` stands for A, `non_compliant` for B, `unsure` for neither; the identity of the judge says so.
Proposals lie in a JSON file of their own.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from pydantic import ValidationError

from realigner.atomic import write_text
from realigner.discover.candidate import Candidate, Votes
from realigner.discover.llm_text import (
    VERSION,
    Unreadable,
    both_of,
    propose_format,
    propose_messages,
    read_rules,
    read_vote,
    two_responses,
    vote_format,
    vote_messages,
)
from realigner.discover.pointwise import Labels
from realigner.errors import LimitReached, OracleError
from realigner.oracle.http.judge import HttpJudge
from realigner.oracle.http.records import ChatRequest, Completion
from realigner.oracle.judge import Fact, JudgeCosts, RuleAnswer, RuleJudge, RuleQuestion
from realigner.oracle.meter import Meter
from realigner.oracle.remember import RememberingJudge
from realigner.oracle.store import VerdictStore
from realigner.policy import Rule
from realigner.progress import SILENT, Progress
from realigner.recipe_judges import HttpJudgeSettings
from realigner.records import Judgement, Label, Message, Pair, Prompt, RuleVerdict, pair_key, text_hash
from realigner.strict_yaml import load_yaml

logger = logging.getLogger(__name__)

BATCHES = 20
"""Requests for proposals."""
BATCH = 5
"""Pairs that one request shows."""
VOTES = 2
"""Votes on each pair and rule: the first in an order drawn by coin, then in turn; they must agree."""
_LABELS = {"A": Label.COMPLIANT, "B": Label.NON_COMPLIANT, "neither": Label.UNSURE}


def read_judge(path: Path) -> HttpJudgeSettings:
    """Return the settings of a judge of kind http, as `oracle.llm` of a recipe has them.

    Raises:
        OracleError: the file cannot be read, or says something else.
    """
    remedy = "Write what oracle.llm of a recipe would be: {kind: http, url: http://localhost:8000/v1, model: NAME}"
    try:
        return HttpJudgeSettings.model_validate(load_yaml(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise OracleError(f"--llm {path}", f"it cannot be read ({error.strerror})", remedy) from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise OracleError(f"--llm {path}", "it is not valid YAML", remedy) from None
    except ValidationError as error:
        # A judge of another kind lacks other keys, too; its kind is what has to be said.
        fault = min(error.errors(include_url=False), key=lambda fault: fault["loc"] != ("kind",))
        place = ".".join(map(str, fault["loc"])) or "the file"
        raise OracleError(f"--llm {path}: {place}", fault["msg"].lower(), remedy) from None


class PairwiseJudge:
    """Says which of two responses keeps a rule better, in the form of a `RuleJudge`.

    Args:
        judge: the server that is asked, and in which output mode.
        messages: asks which of two responses is better.
        words: the version of these messages.
    """

    def __init__(
        self,
        judge: HttpJudge,
        messages: Callable[[Rule, Prompt, str, str], list[Message]] = vote_messages,
        words: str = f"pairwise/{VERSION}",
    ) -> None:
        self._judge, self.messages, self._words = judge, messages, words

    @property
    def identity(self) -> str:
        """`pairwise/VERSION:`, the version of the question's words, and the identity of the judge."""
        return f"{self._words}:{self._judge.identity}"

    def check(self) -> str:
        """Ask the server one trivial question and return what came of it."""
        return self._judge.check()

    @property
    def costs(self) -> JudgeCosts:
        """The judge's own; there is no repair turn."""
        own = self._judge.costs
        return JudgeCosts(own.model, own.paid, own.max_output_tokens, own.concurrency)

    def answer(self, questions: Sequence[RuleQuestion]) -> Iterator[tuple[int, RuleAnswer]]:
        """Yield (place, answer) as they arrive; what cannot be read is `invalid` and not kept."""
        mode = self._judge.mode
        requests = (
            ChatRequest(
                self.messages(asked.rules[0], asked.question.prompt, *both_of(asked.question.response)),
                vote_format(mode),
            )
            for asked in questions
        )
        for place, completion in self._judge.client.complete(requests):
            yield place, _vote(questions[place], completion)


class LlmVoter:
    """Proposes rules from batches of pairs and votes by them.

    Args:
        judge: the server.
        store: remembers votes and verdicts.
        proposals: a JSON file that remembers proposals, made if it is not there; None: they are asked for anew.
        meter: counts, and stops before a limit is passed.
        seed: of the pairs that are shown and of the orders.
        progress: counts answers.
    """

    def __init__(
        self,
        judge: HttpJudge,
        store: VerdictStore | None,
        *,
        proposals: Path | None = None,
        meter: Meter | None = None,
        seed: int = 0,
        progress: Progress = SILENT,
    ) -> None:
        self.meter = Meter() if meter is None else meter
        self.answers: Counter[str] = Counter()
        """How much was wanted of the model, and how much of it could not be read or was not given."""
        self._judge, self._seed, self._progress, self._proposals = judge, seed, progress, proposals
        self._pairwise = RememberingJudge(PairwiseJudge(judge), store, self.meter)
        self._single = RememberingJudge(judge, store, self.meter)

    @property
    def identity(self) -> str:
        """The judge's own."""
        return self._judge.identity

    def propose(self, pairs: Sequence[Pair]) -> list[Candidate]:
        """Return the rules that the model proposes for batches of pairs, drawn by the seed.

        Answers that cannot be read are counted and propose nothing; they are asked for anew by the next command.

        Raises:
            OracleError: the server cannot be asked.
            JudgeError: it stopped answering; answers so far are kept.
            LimitReached: the calls would pass the limit.
        """
        drawn = sorted(pairs, key=lambda pair: text_hash(str(self._seed), "proposals", pair.id))[: BATCHES * BATCH]
        batches = [drawn[start : start + BATCH] for start in range(0, len(drawn), BATCH)]
        # By their texts: ids that the data bring along may stay while the texts change.
        shown = [[pair_key(pair.prompt, pair.chosen, pair.rejected) for pair in batch] for batch in batches]
        keys = [text_hash(self.identity, str(VERSION), *batch) for batch in shown]
        known = self._known()
        open_places = [place for place, key in enumerate(keys) if key not in known]
        self._refuse_over(len(open_places))
        mode = self._judge.mode
        requests = (ChatRequest(propose_messages(batches[place]), propose_format(mode)) for place in open_places)
        with self._progress.task("Proposing", len(open_places)) as advance:
            for number, completion in self._judge.client.complete(requests):
                self.meter.spend(
                    self._pairwise.costs,
                    int(completion.status == 200),
                    completion.prompt_tokens or 0,
                    completion.completion_tokens or 0,
                )
                advance(1)
                try:
                    found = read_rules(completion.text) if completion.ok else []
                except Unreadable as error:
                    logger.info("a proposal could not be read: %s", error)
                    found = []
                if not found:
                    self.answers["unreadable_requests"] += 1
                    continue
                known[keys[open_places[number]]] = completion.text
                self._keep(known)
        candidates = [candidate for key in keys if key in known for candidate in read_rules(known[key])]
        self.answers.update(requests=len(batches), proposed=len(candidates))
        if self.answers["unreadable_requests"]:
            logger.warning(
                "%d of %d requests for rules had no answer that could be read%s",
                self.answers["unreadable_requests"],
                len(batches),
                "" if candidates else ": take a model that follows instructions, or raise max_tokens",
            )
        return candidates

    def votes(self, candidates: Sequence[Candidate], pairs: Sequence[Pair]) -> list[Votes]:
        """Return the votes of each candidate: unanimous over both orders, or 0."""
        questions, signs = [], []
        for candidate in candidates:
            rule = candidate.rule("candidate")
            for pair in pairs:
                swapped = int(text_hash(str(self._seed), "order", rule.hash, pair.id), 16) % 2
                for number in range(VOTES):
                    sign = 1 if (swapped + number) % 2 == 0 else -1
                    sides = (pair.chosen, pair.rejected)[::sign]
                    questions.append(RuleQuestion((rule,), Judgement(pair.prompt, two_responses(*sides))))
                    signs.append(sign)
        labels = self._answers(self._pairwise, questions, "Voting")
        self.answers.update(votes=len(labels), unreadable_votes=labels.count(Label.INVALID))
        said = np.array([_sign(label) * sign for label, sign in zip(labels, signs, strict=True)])
        by_vote = said.reshape(len(candidates), len(pairs), VOTES)
        unanimous = np.where((by_vote == by_vote[:, :, :1]).all(axis=2), by_vote[:, :, 0], 0)
        return list(unanimous.astype(np.int8))

    def pointwise(self, candidate: Candidate, rule_id: str, pairs: Sequence[Pair]) -> Labels:
        """Return what the rule's wording says of each response alone."""
        rule = candidate.rule(rule_id)
        texts = [(pair.prompt, text) for pair in pairs for text in (pair.chosen, pair.rejected)]
        questions = [RuleQuestion((rule,), Judgement(prompt, text)) for prompt, text in texts]
        labels = self._answers(self._single, questions, "Judging alone")
        self.answers.update(verdicts=len(labels), unreadable_verdicts=labels.count(Label.INVALID))
        return list(zip(labels[::2], labels[1::2], strict=True))

    def _answers(self, judge: RuleJudge, questions: Sequence[RuleQuestion], label: str) -> list[Label]:
        labels = [Label.INVALID] * len(questions)
        with self._progress.task(label, len(questions)) as advance:
            for place, answer in judge.answer(questions):
                labels[place] = answer.verdicts[0].label
                advance(1)
        return labels

    def _known(self) -> dict[str, str]:
        if self._proposals is None or not self._proposals.exists():
            return {}
        try:
            known: Any = json.loads(self._proposals.read_text(encoding="utf-8"))
            return {str(key): str(text) for key, text in known.items()}
        except (OSError, ValueError, AttributeError):
            raise OracleError(
                f"proposals {self._proposals}", "it is no file of proposals", "Remove it, and they are asked for anew"
            ) from None

    def _keep(self, known: dict[str, str]) -> None:
        if self._proposals is not None:
            write_text(self._proposals, json.dumps(known, indent=1, ensure_ascii=False) + "\n")

    def _refuse_over(self, calls: int) -> None:
        most = self.meter.max_calls
        if most is not None and self.meter.spent.calls + calls > most:
            raise LimitReached(
                f"{calls} calls for proposals", f"max_calls is {most:,}", "Raise --max-calls and give the command again"
            )


def _sign(label: Label) -> int:
    return {Label.COMPLIANT: 1, Label.NON_COMPLIANT: -1}.get(label, 0)


def _vote(asked: RuleQuestion, completion: Completion) -> RuleAnswer:
    rule = asked.rules[0].id
    facts: dict[str, Fact] = {
        "model": completion.model,
        "calls": int(completion.status == 200),
        "input_tokens": completion.prompt_tokens or 0,
        "output_tokens": completion.completion_tokens or 0,
        "seconds": round(completion.seconds, 4),
    }
    try:
        if completion.ok:
            choice, reason = read_vote(completion.text)
            return RuleAnswer((RuleVerdict(rule, _LABELS[choice], reason),), True, facts)
        why = completion.error
    except Unreadable as error:
        why = f"the answer could not be read: {error}"
    return RuleAnswer((RuleVerdict(rule, Label.INVALID, why),), False, facts)
