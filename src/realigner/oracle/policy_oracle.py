"""The oracle of a whole policy: each rule judged as it says, and the verdicts joined by the policy's decision."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext

from realigner.errors import OracleError
from realigner.oracle.judge import RuleJudge, RuleQuestion
from realigner.oracle.meter import Meter
from realigner.oracle.remember import NotRemembered, RememberingJudge, check_judge
from realigner.oracle.rule_asking import ask_rules
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
        """`judges/VERSION:POLICY_HASH` and who judges the rules of each kind."""
        mode = "" if self.rules_per_call == 1 else f":rules_per_call={self.rules_per_call}"
        return f"judges/{VERSION}:{self._policy.hash}{mode}" + "".join(
            f":{role}={identity}" for role, identity in self.judges.items()
        )

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
        found: list[dict[str, RuleVerdict]] = [
            {rule.id: rule.judge(asked.prompt, asked.response) for rule in self._computed} for asked in questions
        ]
        for judge, rules in self._judges.values():
            recalled = (
                judge.recall(questions, rules) if isinstance(judge, RememberingJudge) else [None] * len(questions)
            )
            for verdicts, known in zip(found, recalled, strict=True):
                verdicts.update((verdict.rule, verdict) for verdict in known or ())
            places = [place for place, known in enumerate(recalled) if known is None]
            parts = self.parts(rules)
            asked = [RuleQuestion(part, questions[place]) for place in places for part in parts]
            for number, answer in ask_rules(judge, asked) if asked else ():
                found[places[number // len(parts)]].update((verdict.rule, verdict) for verdict in answer.verdicts)
        return [self._policy.decide([verdicts[rule.id] for rule in self._policy.rules]) for verdicts in found]

    def calls(self, questions: Sequence[Judgement]) -> Iterator[tuple[RuleJudge, list[RuleQuestion]]]:
        """Yield each judge with all that it would be asked if nothing were known."""
        for judge, rules in self._judges.values():
            parts = self.parts(rules)
            yield judge, [RuleQuestion(part, question) for question in questions for part in parts]

    def parts(self, rules: tuple[Rule, ...]) -> list[tuple[Rule, ...]]:
        """Return the rules in groups that are judged together."""
        return [rules[start : start + self.rules_per_call] for start in range(0, len(rules), self.rules_per_call)]


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
