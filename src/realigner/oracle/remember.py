"""A judge with a memory and a meter: what the store holds is not asked, what is asked is stored at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from realigner.oracle.asking import Key, question_key
from realigner.oracle.judge import JudgeCosts, RuleAnswer, RuleJudge, RuleQuestion
from realigner.oracle.meter import Meter
from realigner.oracle.rule_asking import ask_rules
from realigner.oracle.store import Said, VerdictStore
from realigner.policy import Rule
from realigner.records import Judgement, Label, RuleVerdict


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

    def answer(self, questions: Sequence[RuleQuestion]) -> Iterator[tuple[int, RuleAnswer]]:
        """Yield what is known first, then the answers as they arrive; each is stored before the next is awaited.

        Raises:
            LimitReached: the next call could pass a limit. Every answer so far is stored.
            OracleError: the judge breaks its contract, or has no price under a limit on money.
        """
        known = self.known(questions)
        waiting: dict[tuple[Key, tuple[str, ...]], list[int]] = {}
        for place, asked in enumerate(questions):
            missing = tuple(rule.hash for rule in asked.rules if rule.hash not in known[place])
            if missing:
                waiting.setdefault((question_key(asked.question), missing), []).append(place)
            else:
                self._count_reused(asked.rules)
                yield place, _joined(asked, known[place], RuleAnswer((), facts={"stored": True}))
        pending = [
            (RuleQuestion(_only(questions[places[0]].rules, missing), questions[places[0]].question), places)
            for (_, missing), places in waiting.items()
        ]
        for asked, places, answer in self._ask(pending):
            said = {
                rule.hash: (verdict.label, verdict.reason)
                for rule, verdict in zip(asked.rules, answer.verdicts, strict=True)
            }
            for number, place in enumerate(places):
                now_known = known[place] | said
                self._count_reused(rule for rule in questions[place].rules if number > 0 or rule.hash not in said)
                yield place, _joined(questions[place], now_known, answer)

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

    def _ask(
        self, pending: Sequence[tuple[RuleQuestion, list[int]]]
    ) -> Iterator[tuple[RuleQuestion, list[int], RuleAnswer]]:
        """Ask in parts that cannot pass a limit; without limits that is all at once, so that no slot is idle."""
        start = 0
        if pending and not self.meter.may_ask:
            raise NotRemembered
        while start < len(pending):
            asked = [question for question, _ in pending[start:]]
            part = asked[: self.meter.allowed(self.costs, asked)]
            for place, answer in ask_rules(self.judge, part):
                self._keep(part[place], answer)
                yield part[place], pending[start + place][1], answer
            start += len(part)

    def _keep(self, asked: RuleQuestion, answer: RuleAnswer) -> None:
        self.meter.record(self.costs, asked, answer.facts)
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
