"""The oracle of a whole policy: each rule judged as it says, and the verdicts joined by the policy's decision."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext

from realigner.errors import OracleError
from realigner.oracle.judge import RuleJudge, RuleQuestion
from realigner.oracle.meter import Meter
from realigner.oracle.remember import NotRemembered, RememberingJudge, check_judge
from realigner.oracle.rule_asking import ask_rules
from realigner.oracle.rules import VERSION as CHECKS_VERSION
from realigner.oracle.store import VerdictStore
from realigner.policy import Policy, Rule
from realigner.progress import Progress
from realigner.records import Judgement, RuleVerdict, Verdict

VERSION = 1
"""Raise it when questions are put together differently: stages are then not taken for done."""
JUDGED = ("llm", "classifier")


class PolicyOracle:
    """Judges by checks where a rule is `by: rules`, by a judge where it is `by: llm` or `by: classifier`.

    Args:
        policy: the rules and the decision.
        judges: for `llm` and `classifier`, as far as the policy's rules need them.
        store: remembers the judges' verdicts; without one, they last for one call.
        meter: counts what is asked and holds the limits.
        rules_per_call: how many rules are judged together in one question.

    Raises:
        OracleError: rules need a judge that is not there.
    """

    def __init__(
        self,
        policy: Policy,
        judges: Mapping[str, RuleJudge],
        store: VerdictStore | None = None,
        *,
        meter: Meter | None = None,
        rules_per_call: int = 1,
    ) -> None:
        self._policy, self.store, self.rules_per_call = policy, store, rules_per_call
        self.meter = Meter() if meter is None else meter
        self._computed = tuple(rule for rule in policy.rules if rule.by == "rules")
        self._judges: dict[str, tuple[RuleJudge, tuple[Rule, ...]]] = {}
        for role in JUDGED:
            rules = tuple(rule for rule in policy.rules if rule.by == role)
            if rules:
                judge = remembering(_judge_of(role, rules, judges), store, self.meter, rules_per_call)
                self._judges[role] = judge, rules

    @property
    def identity(self) -> str:
        """`judges/VERSION.VERSION_OF_CHECKS:POLICY_HASH` and who judges the rules of each kind."""
        mode = "" if self.rules_per_call == 1 else f":rules_per_call={self.rules_per_call}"
        return f"judges/{VERSION}.{CHECKS_VERSION}:{self._policy.hash}{mode}" + "".join(
            f":{role}={identity}" for role, identity in self.judges.items()
        )

    @property
    def policy(self) -> Policy:
        """The rules and the decision."""
        return self._policy

    @property
    def judges(self) -> dict[str, str]:
        """The identity of the judge of each kind that the policy needs."""
        return {role: judge.identity for role, (judge, _) in self._judges.items()}

    @property
    def roles(self) -> dict[str, RuleJudge]:
        """The judge of each kind that the policy needs."""
        return {role: judge for role, (judge, _) in self._judges.items()}

    @property
    def computed(self) -> tuple[str, ...]:
        """The ids of the rules that are computed here."""
        return tuple(rule.id for rule in self._computed)

    def check(self) -> list[str]:
        """Return a line for each judge that says it can be asked.

        Raises:
            OracleError: one cannot: no server, a wrong key, no model.
        """
        return [f"{role}: {check_judge(judge)}" for role, (judge, _) in self._judges.items()]

    @contextmanager
    def recalling(self) -> Iterator[None]:
        """Ask nobody while the context lasts: what is not remembered raises `NotRemembered`, and nothing is counted."""
        self.meter.may_ask = False
        try:
            yield
        except NotRemembered:
            self.meter.reused.clear()
            self.meter.computed.clear()
            raise
        finally:
            self.meter.may_ask = True

    @contextmanager
    def asking(self, calls: int, progress: Progress) -> Iterator[None]:
        """Make sure that the judges can be asked, if they will be, and show each answer while the context lasts.

        Args:
            calls: how many are expected.
            progress: counts them.

        Raises:
            OracleError: a judge cannot be asked: no server, a wrong key, no model.
        """
        if calls:
            self.check()
        with progress.task("Asking the judge", calls) if calls else nullcontext() as advance:
            self.meter.advance = advance
            try:
                yield
            finally:
                self.meter.advance = None

    def judge(self, questions: Sequence[Judgement]) -> list[Verdict]:
        """Return the policy's verdict on each question, in order.

        Raises:
            LimitReached: a limit on calls or money is reached; what was answered is stored.
            OracleError: a judge breaks its contract.
        """
        return self.judge_rest(questions, [{} for _ in questions])

    def judge_rest(self, questions: Sequence[Judgement], given: Sequence[Mapping[str, RuleVerdict]]) -> list[Verdict]:
        """Return the policy's verdict on each question, where the verdicts of some rules are known already.

        Args:
            questions: what is judged.
            given: for each question, verdicts by rule id; those rules are neither computed nor asked.

        Raises:
            LimitReached: a limit on calls or money is reached; what was answered is stored.
            OracleError: a judge breaks its contract.
        """
        found = [dict(verdicts) for verdicts in given]
        for rule in self._computed:
            for asked, verdicts in zip(questions, found, strict=True):
                if rule.id not in verdicts:
                    verdicts[rule.id] = rule.judge(asked.prompt, asked.response)
                    self.meter.computed[rule.id] += 1
        if not self.meter.may_ask and not any(given):
            self._recall(questions, found)
        for judge, calls, places in self.calls(questions, found):
            for number, answer in ask_rules(judge, calls) if calls else ():
                found[places[number]].update((verdict.rule, verdict) for verdict in answer.verdicts)
        return [self._policy.decide([verdicts[rule.id] for rule in self._policy.rules]) for verdicts in found]

    def calls(
        self, questions: Sequence[Judgement], given: Sequence[Mapping[str, RuleVerdict]]
    ) -> Iterator[tuple[RuleJudge, list[RuleQuestion], list[int]]]:
        """Yield each judge with what it would be asked without a memory, and the place in `questions` of each."""
        for judge, rules in self._judges.values():
            asked, places = [], []
            for place, (question, verdicts) in enumerate(zip(questions, given, strict=True)):
                left = tuple(rule for rule in rules if rule.id not in verdicts)
                for start in range(0, len(left), self.rules_per_call):
                    asked.append(RuleQuestion(left[start : start + self.rules_per_call], question))
                    places.append(place)
            yield judge, asked, places

    def _recall(self, questions: Sequence[Judgement], found: Sequence[dict[str, RuleVerdict]]) -> None:
        """Take what is wholly stored by the short way; where judges may be asked, that is done while they answer."""
        for judge, rules in self._judges.values():
            if isinstance(judge, RememberingJudge):
                for verdicts, known in zip(found, judge.recall(questions, rules), strict=True):
                    verdicts.update((verdict.rule, verdict) for verdict in known or ())


def remembering(judge: RuleJudge, store: VerdictStore | None, meter: Meter, rules_per_call: int) -> RuleJudge:
    """Return the judge with a memory, unless it is free, or one whose members have theirs."""
    return judge if _remembers(judge) else RememberingJudge(judge, store, meter, rules_per_call)


def _remembers(judge: RuleJudge) -> bool:
    if isinstance(judge, RememberingJudge) or getattr(judge, "free", False):
        return True
    members: Sequence[RuleJudge] = getattr(judge, "members", ())
    return bool(members) and all(map(_remembers, members))


def _judge_of(role: str, rules: Sequence[Rule], judges: Mapping[str, RuleJudge]) -> RuleJudge:
    if role not in judges:
        names = ", ".join(rule.id for rule in rules)
        raise OracleError(
            f"rules by {role}: {names}", f"there is no judge for them: oracle.{role} is not set", "Set it"
        )
    return judges[role]
