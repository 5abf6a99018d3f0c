"""The judge behind an OpenAI-compatible server: a rule and a response in, a strictly read verdict out."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from realigner.errors import OracleError
from realigner.oracle.http.client import ChatClient
from realigner.oracle.http.modes import Mode, Probe, pin, pinned, pins_file, probe, refuses_form, response_format
from realigner.oracle.http.parse import Unreadable, read_answer
from realigner.oracle.http.records import ChatRequest, Completion
from realigner.oracle.judge import Fact, JudgeCosts, RuleAnswer, RuleQuestion
from realigner.policy import Rule
from realigner.policy.prompt import PROMPT_VERSION, fixed_nonce, judge_messages, new_nonce
from realigner.records import Judgement, Label, Message, RuleVerdict, text_hash

logger = logging.getLogger(__name__)

VERSION = 1
"""Raise it when a reply begins to be asked for or read differently."""
LONGEST_QUOTE = 4_000
"""Characters of an unreadable answer that the repair turn shows to its author."""
TURNS = 2
"""A question and at most one repair."""

_REPAIR = (
    "Your answer could not be read: {why}. Answer the same question again, with the one JSON object that the system "
    "message describes and nothing else."
)


@dataclass(slots=True)
class _Asked:
    """One question under way."""

    rules: Sequence[Rule]
    messages: list[Message]
    turns: int = 1
    verdicts: tuple[RuleVerdict, ...] = ()
    why: str = ""
    """Why the answer could not be read."""
    attempts: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    seconds: float = 0.0
    calls: int = 0

    def count(self, completion: Completion) -> None:
        self.attempts += completion.attempts
        self.seconds += completion.seconds
        self.calls += completion.status == 200
        self.input_tokens += completion.prompt_tokens or 0
        self.output_tokens += completion.completion_tokens or 0


class HttpJudge:
    """Judges by the wording of rules, through any server that speaks the chat-completions API.

    Args:
        client: asks the server.
        output: how the form of answers is enforced; `auto` finds the strongest mode that the server supports and keeps
            to it.
        deployment: stands for the server in the identity. Default: its host, port and path, so that another server
            under the same model name is another judge.
        pins: file that remembers which mode `auto` found; None: every process asks the server again.
        may_ask: whether the server may be asked for its mode when the judge has to be identified. Where not, a judge
            whose mode is not known yet has an identity that no verdict is stored under.
    """

    streams = True

    def __init__(
        self,
        client: ChatClient,
        *,
        output: Literal["auto", "json_schema", "json_object", "plain"] = "auto",
        deployment: str | None = None,
        pins: Path | None = None,
        may_ask: bool = True,
    ) -> None:
        self.client = client
        self._fixed = None if output == "auto" else Mode(output)
        self._place = deployment or client.endpoint.place
        self._pins, self._may_ask = pins, may_ask
        self._probe: Probe | None = None
        self._identity: str | None = None
        self._noticed: set[str] = set()

    @property
    def identity(self) -> str:
        """`http/VERSION:MODEL@PLACE:MODE:prompt-VERSION:SETTINGS`. The server is asked only if its mode is not known.

        Limits, patience and the longest answer are not in it: they decide whether there is a verdict, not which.

        Raises:
            OracleError: the mode has to be asked for, and the server cannot be asked.
        """
        if self._identity is None:
            if not self._may_ask and self.known_mode is None:
                return self._identity_in("auto")
            self._identity = self._identity_in(self.mode)
        return self._identity

    @property
    def note(self) -> str:
        """What has to be said of a plan for this judge; empty where there is nothing."""
        if self._may_ask or self.known_mode is not None:
            return ""
        return (
            "its output mode is not known yet and asking for it is a call too, so nothing counts as known: name it in "
            "`output`, or let `realigner check` find it"
        )

    @property
    def costs(self) -> JudgeCosts:
        """What the plan of a run is made from. Whoever wants a key may want money."""
        limits, model = self.client.limits, self.client.model
        return JudgeCosts(
            model=model.model,
            paid=self.client.endpoint.key_env is not None,
            max_output_tokens=model.max_tokens,
            concurrency=limits.concurrency,
            requests_per_minute=limits.requests_per_minute,
            tokens_per_minute=limits.tokens_per_minute,
            most_calls=TURNS,
        )

    @property
    def known_mode(self) -> Mode | None:
        """The mode, if it is known without asking the server."""
        if self._fixed is None and self._pins is not None:
            self._fixed = pinned(self._pins, *self._pin_key)
        return self._fixed

    @property
    def mode(self) -> Mode:
        """How the form of answers is enforced; the server is asked if it is not known."""
        return self.known_mode or self.reach().mode

    def check(self) -> str:
        """Ask the server one trivial question and return what came of it, in one line.

        Raises:
            OracleError: it cannot be reached, or refuses the key, the model or the mode.
        """
        found = self.reach()
        served = f", which calls itself {found.model}" if found.model not in ("", self.client.model.model) else ""
        line = f"{self.client.model.model} at {self.client.endpoint.place}{served}: output {found.mode}"
        if found.readable:
            return f"{line}, answered in {found.seconds:.1f} s"
        return f"{line}; WARNING: its answer to a trivial question is no verdict ({found.answer!r})"

    def reach(self) -> Probe:
        """Ask the server one trivial question, once in the life of this judge.

        Raises:
            OracleError: it cannot be reached, or refuses the key, the model or the mode.
        """
        if self._probe is None:
            known = self.known_mode
            found = probe(self.client, list(Mode) if known is None else [known], self._first_turn)
            if known is None and self._pins is not None:
                pin(self._pins, found.mode, *self._pin_key)
            self._probe, self._fixed = found, found.mode
        return self._probe

    def answer(self, questions: Iterable[RuleQuestion]) -> Iterator[tuple[int, RuleAnswer]]:
        """Yield (place, answer) as they arrive; questions are taken as the server has room for them.

        An answer that cannot be read is sent back once, with the reason; then it is `invalid`, as are answers that
        were cut, filtered or refused, and requests that the server does not take. None of these is to be kept.

        Raises:
            OracleError: the server cannot be reached, or refuses the key, the model, or (now) the mode.
            JudgeError: it stopped answering.
        """
        rest = iter(questions)
        first = next(rest, None)
        if first is None:
            return
        mode = self.reach().mode
        under_way: dict[int, _Asked] = {}

        def requests() -> Iterator[ChatRequest]:
            for place, question in enumerate(chain((first,), rest)):
                request = self._first_turn(question.rules, question.question, mode)
                under_way[place] = _Asked(question.rules, list(request.messages))
                yield request

        def again(place: int, completion: Completion) -> ChatRequest | None:
            if refuses_form(completion, mode):
                raise self._changed(mode, completion)
            return _next_turn(under_way[place], completion, mode)

        for place, completion in self.client.complete(requests(), again=again):
            self._notice(completion.model)
            yield place, _answer(under_way.pop(place), completion, mode)

    def request(self, question: RuleQuestion) -> dict[str, Any]:
        """Return the body of the request that asks this question, as a live call or a line of a batch file sends it."""
        return self.client.model.body(self._first_turn(question.rules, question.question, self.mode))

    def custom_id(self, question: RuleQuestion) -> str:
        """Return the identity of a question to this judge: what a line of a batch file and its answer are named by."""
        prompt = [part for turn in question.question.prompt for part in (turn["role"], turn["content"])]
        rules = [rule.hash for rule in question.rules]
        return text_hash(self.identity, str(len(rules)), *rules, *prompt, question.question.response)

    def read(self, question: RuleQuestion, completion: Completion) -> RuleAnswer:
        """Return the answer that a completion from elsewhere (a batch file) holds; there is no repair turn."""
        asked = _Asked(question.rules, [], turns=TURNS)
        _next_turn(asked, completion, self.mode)
        return _answer(asked, completion, self.mode)

    @property
    def _pin_key(self) -> tuple[str, ...]:
        return self.client.endpoint.url, self.client.model.model

    def _identity_in(self, mode: str) -> str:
        model = self.client.model
        settings = text_hash(json.dumps([model.temperature, dict(model.extra)], sort_keys=True))
        return f"http/{VERSION}:{model.model}@{self._place}:{mode}:prompt-{PROMPT_VERSION}:{settings}"

    def _notice(self, served: str) -> None:
        """Warn, once a name, where the server says that another model answers than the one that was found."""
        found = "" if self._probe is None else self._probe.model
        if served in (found, "") or not found or served in self._noticed:
            return
        self._noticed.add(served)
        logger.warning(
            "the judge at %s calls itself %s now, and called itself %s when it was found: verdicts of two models may "
            "be stored as one judge's; name a fixed version in model",
            *(self.client.endpoint.place, served, found),
        )

    def _first_turn(self, rules: Sequence[Rule], question: Judgement, mode: Mode) -> ChatRequest:
        # A server knows a request again by its bytes: the code of the fences is then no random one, but a hash that no
        # author can put into the text that it is made from.
        nonce = new_nonce() if self.client.idempotency_header is None else fixed_nonce(rules, question)
        return ChatRequest(judge_messages(rules, question, nonce), response_format(mode, rules))

    def _changed(self, mode: Mode, completion: Completion) -> OracleError:
        return OracleError(
            f"judge {self.client.model.model} at {self.client.endpoint.url}",
            f"it supported output: {mode} before and no longer does ({completion.error}), and verdicts of different "
            "modes are not mixed",
            f"Remove {self._pins or pins_file()} or set output to what it supports: all is then judged in that mode",
        )


def _next_turn(asked: _Asked, completion: Completion, mode: Mode) -> ChatRequest | None:
    """Read a completion into `asked`; return the repair turn where it could not be read and there was none yet."""
    asked.count(completion)
    if not completion.ok:
        return None
    try:
        asked.verdicts = read_answer(completion.text, asked.rules, alone=mode is not Mode.PLAIN)
    except Unreadable as error:
        asked.why = str(error)
    if asked.verdicts or asked.turns == TURNS:
        return None
    asked.turns += 1
    turns = [
        *asked.messages,
        Message(role="assistant", content=completion.text[:LONGEST_QUOTE]),
        Message(role="user", content=_REPAIR.format(why=asked.why)),
    ]
    return ChatRequest(turns, response_format(mode, asked.rules))


def _answer(asked: _Asked, completion: Completion, mode: Mode) -> RuleAnswer:
    facts: dict[str, Fact] = {
        "output": mode.value,
        "model": completion.model,
        "attempts": asked.attempts,
        "calls": asked.calls,
        "input_tokens": asked.input_tokens,
        "output_tokens": asked.output_tokens,
        "seconds": round(asked.seconds, 4),
    }
    if asked.turns == TURNS and asked.messages:
        facts["repaired"] = bool(asked.verdicts)
    if asked.verdicts:
        return RuleAnswer(asked.verdicts, True, facts)
    why = completion.error or f"the answer could not be read: {asked.why}"
    return RuleAnswer(tuple(RuleVerdict(rule.id, Label.INVALID, why) for rule in asked.rules), False, facts)
