"""A judge with a memory and a meter: what the store holds is not asked, what is asked is stored at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from realigner.oracle.asking import Key, question_key
from realigner.oracle.judge import JudgeCosts, RuleAnswer, RuleJudge, RuleQuestion
from realigner.oracle.meter import Meter
from realigner.oracle.rule_asking import ask_rules
from realigner.oracle.store import Said, VerdictStore
from realigner.policy import Rule
from realigner.records import Judgement, Label, RuleVerdict
from realigner.spent import Spent

AHEAD = 512
"""Questions that are looked up together, while those before them are being answered."""


class NotRemembered(Exception):
    """Something would have to be asked, and the meter says that nothing may be asked now."""


class RememberingJudge:
    """Asks another judge what is not known yet, each distinct question once, within the limits.

    Args:
        judge: who is asked.
        store: where answers are looked up and kept; without one, only identical questions of one call are shared.
        meter: counts, and stops before a limit is passed.
        rules_per_call: the mode in which rules are judged together; verdicts of other modes are not used.
    """

    streams = True

    def __init__(
        self, judge: RuleJudge, store: VerdictStore | None, meter: Meter | None = None, rules_per_call: int = 1
    ) -> None:
        self.judge = judge
        self.meter = Meter() if meter is None else meter
        self._store = store
        self._mode = "" if rules_per_call == 1 else f" ({rules_per_call} rules a call)"
        self._set_aside = False

    @property
    def identity(self) -> str:
        """The judge's own, and the mode where rules are judged together."""
        return f"{self.judge.identity}{self._mode}"

    @property
    def costs(self) -> JudgeCosts | None:
        """The judge's own."""
        return getattr(self.judge, "costs", None)

    def check(self) -> str:
        """Ask the judge whether it can be asked."""
        return check_judge(self.judge)

    def answer(self, questions: Iterable[RuleQuestion]) -> Iterator[tuple[int, RuleAnswer]]:
        """Yield what is known, and the answers as they arrive; each is stored before the next is awaited.

        Questions are looked up a part at a time, while those before them are being answered.

        Raises:
            LimitReached: the next call could pass a limit. Every answer so far is stored.
            OracleError: the judge breaks its contract, or has no price under a limit on money.
        """
        ready: deque[tuple[int, RuleAnswer]] = deque()
        waiting: list[_Waiting] = []
        for number, answer in self._ask(self._missing(questions, ready, waiting)):
            yield from _taken(ready)
            asked = waiting[number]
            asked.answer = answer
            for again, (place, question, known) in enumerate(asked.places):
                yield place, self._share(asked, question, known, again > 0)
        yield from _taken(ready)

    def _missing(
        self, questions: Iterable[RuleQuestion], ready: deque[tuple[int, RuleAnswer]], waiting: list[_Waiting]
    ) -> Iterator[RuleQuestion]:
        """Yield each distinct question that has to be asked, noted in `waiting`; what is known goes into `ready`."""
        first: dict[tuple[Key, tuple[str, ...]], _Waiting] = {}
        for place, (question, known) in enumerate(self._looked_up(questions)):
            hashes = tuple(rule.hash for rule in question.rules if rule.hash not in known)
            if not hashes:
                self._count_reused(question.rules)
                ready.append((place, _joined(question, known, RuleAnswer((), facts={"stored": True}))))
                continue
            key = question_key(question.question), hashes
            earlier = first.get(key)
            if earlier is None:
                first[key] = asked = _Waiting(_only(question.rules, hashes), [(place, question, known)])
                waiting.append(asked)
                yield RuleQuestion(asked.rules, question.question)
            elif earlier.answer is None:
                earlier.places.append((place, question, known))
            else:
                ready.append((place, self._share(earlier, question, known, again=True)))

    def _looked_up(self, questions: Iterable[RuleQuestion]) -> Iterator[tuple[RuleQuestion, dict[str, Said]]]:
        rest = iter(questions)
        while part := list(islice(rest, AHEAD)):
            yield from zip(part, self.known(part), strict=True)

    def _share(self, asked: _Waiting, question: RuleQuestion, known: dict[str, Said], again: bool) -> RuleAnswer:
        """Return the answer to one of the questions that were asked as one."""
        assert asked.answer is not None
        said = {
            rule.hash: (verdict.label, verdict.reason)
            for rule, verdict in zip(asked.rules, asked.answer.verdicts, strict=True)
        }
        self._count_reused(rule for rule in question.rules if again or rule.hash not in said)
        return _joined(question, known | said, asked.answer)

    def recall(self, questions: Sequence[Judgement], rules: Sequence[Rule]) -> list[list[RuleVerdict] | None]:
        """Return the verdicts of all the rules on each question, or None where one is not stored. Asks nothing.

        The short way for what is wholly known: no question is put together, and none is looked up twice.
        """
        if self._store is None:
            return [None] * len(questions)
        hashes = [rule.hash for rule in rules]
        named = [(rule.id, rule.hash) for rule in rules]
        recalled: list[list[RuleVerdict] | None] = []
        for said in self._store.find(self.identity, questions, hashes):
            if all(map(said.__contains__, hashes)):
                recalled.append([RuleVerdict(name, *said[hashed]) for name, hashed in named])
            else:
                recalled.append(None)
        whole = len(recalled) - recalled.count(None)
        self.meter.reused.update({rule.id: whole for rule in rules if whole})
        return recalled

    def known(self, questions: Sequence[RuleQuestion]) -> list[dict[str, Said]]:
        """Return what is stored on each question, by rule hash. Asks nothing."""
        distinct: dict[Key, Judgement] = {}
        keys = []
        for asked in questions:
            key = question_key(asked.question)
            distinct.setdefault(key, asked.question)
            keys.append(key)
        if self._store is None:
            return [{} for _ in questions]
        rules = {rule.hash for asked in questions for rule in asked.rules}
        found = dict(zip(distinct, self._store.find(self.identity, list(distinct.values()), rules), strict=True))
        if self._set_aside:
            for key, question in distinct.items():
                found[key] = self._store.find_aside(self.identity, question) | found[key]
        return [found[key] for key in keys]

    def _ask(self, questions: Iterator[RuleQuestion]) -> Iterator[tuple[int, RuleAnswer]]:
        """Yield (number of the question, answer); what could pass a limit waits until it is known what others took."""
        costs, asked, held = self.costs, 0, next(questions, None)
        while held is not None:
            if not self.meter.may_ask:
                raise NotRemembered
            part = _Part(held, questions, self.meter, costs)
            try:
                for place, answer in ask_rules(self.judge, part.admitted()):
                    self.meter.release(part.promises.pop(place))
                    self._keep(part.questions[place], answer)
                    yield asked + place, answer
            finally:
                for promise in part.promises.values():
                    self.meter.release(promise)
            asked, held = asked + len(part.questions), part.held

    def _keep(self, asked: RuleQuestion, answer: RuleAnswer) -> None:
        self.meter.record(self.costs, asked, answer.facts, self.identity)
        verdicts = [(rule.hash, verdict) for rule, verdict in zip(asked.rules, answer.verdicts, strict=True)]
        for _, verdict in verdicts:
            self.meter.asked[verdict.rule] += 1
            self.meter.invalid[verdict.rule] += verdict.label is Label.INVALID
        if self._store is None:
            return
        if answer.keep:
            self._store.add(self.identity, asked.question, verdicts, answer.facts)
        else:
            self._set_aside = True
            self._store.set_aside(self.identity, asked.question, verdicts)

    def _count_reused(self, rules: Iterable[Rule]) -> None:
        for rule in rules:
            self.meter.reused[rule.id] += 1


@dataclass(slots=True)
class _Waiting:
    """A question that is being asked, or was: for all of those that are the same."""

    rules: tuple[Rule, ...]
    places: list[tuple[int, RuleQuestion, dict[str, Said]]]
    """(place, question, what is known of it)."""
    answer: RuleAnswer | None = None


@dataclass(slots=True)
class _Part:
    """Questions that may be asked together, whatever their answers cost; the next one, if any, stays in `held`."""

    held: RuleQuestion | None
    rest: Iterator[RuleQuestion]
    meter: Meter
    costs: JudgeCosts | None
    questions: list[RuleQuestion] = field(default_factory=list)
    promises: dict[int, Spent] = field(default_factory=dict)

    def admitted(self) -> Iterator[RuleQuestion]:
        """Yield questions as long as the limits allow.

        Raises:
            LimitReached: they do not even allow the first.
        """
        while self.held is not None:
            promise = self.meter.promise(self.costs, self.held)
            if promise is None:
                if not self.questions:
                    self.meter.refuse(self.costs, self.held)
                return
            self.promises[len(self.questions)] = promise
            self.questions.append(self.held)
            yield self.held
            self.held = next(self.rest, None)


def _taken(ready: deque[tuple[int, RuleAnswer]]) -> Iterator[tuple[int, RuleAnswer]]:
    while ready:
        yield ready.popleft()


def check_judge(judge: RuleJudge) -> str:
    """Return a line that says the judge can be asked; judges that have no check of their own always can.

    Raises:
        OracleError: it cannot be asked.
    """
    own = getattr(judge, "check", None)
    return str(own()) if own is not None else f"judge {judge.identity}"


def _only(rules: Sequence[Rule], hashes: Sequence[str]) -> tuple[Rule, ...]:
    """Return the first rule of each hash: two rules of the same wording have the same verdict."""
    by_hash = {rule.hash: rule for rule in reversed(rules)}
    return tuple(by_hash[wanted] for wanted in dict.fromkeys(hashes))


def _joined(asked: RuleQuestion, said: dict[str, Said], answer: RuleAnswer) -> RuleAnswer:
    verdicts = tuple(RuleVerdict(rule.id, *said[rule.hash]) for rule in asked.rules)
    keep = answer.keep and all(verdict.label is not Label.INVALID for verdict in verdicts)
    return RuleAnswer(verdicts, keep, answer.facts)
