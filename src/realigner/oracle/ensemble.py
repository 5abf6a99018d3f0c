"""Several judges of single rules as one: votes with a margin, and a cascade that asks dear judges only where needed.

Where they come to no clear answer the verdict is `unsure`, which leaves the pair to a human and never becomes a class.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from realigner.errors import OracleError
from realigner.oracle.judge import Fact, RuleAnswer, RuleJudge, RuleQuestion
from realigner.oracle.meter import HeldBack
from realigner.oracle.remember import check_judge
from realigner.oracle.rule_asking import ask_rules
from realigner.policy import Rule
from realigner.recipe_judges import CascadeSettings, VotesSettings
from realigner.records import Label, RuleVerdict

if TYPE_CHECKING:
    from realigner.oracle.build import JudgeContext

VERSION = 1
Settles = Literal["both", "compliant", "non_compliant"]
"""Which verdicts of a step are final."""
_DECIDED = (Label.COMPLIANT, Label.NON_COMPLIANT)


class VotesJudge:
    """Every judge has one vote on every rule; a majority that is ahead by `margin` votes decides.

    Without a clear majority the verdict is `unsure`, which as a vote is an abstention. Where a judge could not answer
    (`invalid`), a verdict stands only if that vote could not have changed it; else it is `invalid` and can be asked
    again.

    Args:
        judges: at least two.
        margin: votes that the majority must be ahead by, from 1 to the number of judges.

    Raises:
        OracleError: two of them are the same.
    """

    asks_all = True

    def __init__(self, judges: Sequence[RuleJudge], margin: int = 1) -> None:
        if len(judges) < 2 or not 1 <= margin <= len(judges):
            raise ValueError(f"{len(judges)} judges with a margin of {margin}: at least 2, and 1 to their number")
        for place, judge in enumerate(judges):
            if any(judge.identity == other.identity for other in judges[:place]):
                raise OracleError(
                    f"votes: judge {judge.identity} is named twice",
                    "equal judges say the same, so its vote would count double",
                    "Name different judges",
                )
        self.members, self._margin = tuple(judges), margin

    @property
    def identity(self) -> str:
        """`votes/VERSION:MARGIN[IDENTITY; IDENTITY; …]`."""
        return f"votes/{VERSION}:{self._margin}[{_identities(self.members)}]"

    def check(self) -> str:
        """Ask every judge whether it can be asked."""
        return _checks(self.members)

    def answer(self, questions: Sequence[RuleQuestion]) -> Iterator[tuple[int, RuleAnswer]]:
        """Yield each question's verdict as soon as the last judge has voted on it; the judges answer side by side."""
        votes: dict[int, dict[int, RuleAnswer]] = {}
        with ExitStack() as stack:
            running = dict(enumerate(stack.enter_context(closing(_Voter(judge, questions))) for judge in self.members))
            waiting: dict[int, _Voter] = {}
            while running:
                for number, voter in list(running.items()):
                    try:
                        following = voter.next()
                    except HeldBack:
                        if len(running) == 1:
                            raise
                        # What the others may take can be all that a limit leaves; who has ended takes nothing.
                        waiting[number] = running.pop(number)
                        continue
                    if following is None:
                        del running[number]
                        running |= waiting
                        waiting.clear()
                        continue
                    place, answer = following
                    given = votes.setdefault(place, {})
                    given[number] = answer
                    if len(given) == len(self.members):
                        yield place, self._count(questions[place], [given[n] for n in sorted(votes.pop(place))])

    def _count(self, asked: RuleQuestion, answers: Sequence[RuleAnswer]) -> RuleAnswer:
        verdicts = tuple(
            self._verdict(rule, [answer.verdicts[n] for answer in answers]) for n, rule in enumerate(asked.rules)
        )
        keep = all(
            verdict.label is not Label.INVALID for verdict in verdicts
        )  # no missing vote could change the others
        ballots = (",".join(verdict.label for verdict in answer.verdicts) for answer in answers)
        spent = _spent(list(zip(self.members, answers, strict=True)))
        return RuleAnswer(verdicts, keep, {**spent, "votes": "; ".join(ballots)})

    def _verdict(self, rule: Rule, votes: Sequence[RuleVerdict]) -> RuleVerdict:
        counts = Counter(vote.label for vote in votes)
        missing = counts[Label.INVALID]
        ahead, behind = sorted(_DECIDED, key=lambda label: -counts[label])
        lead = counts[ahead] - counts[behind]
        said = ", ".join(f"{counts[label]} {label.value}" for label in Label if counts[label])
        if lead - missing >= self._margin:
            reason = next(vote.reason for vote in votes if vote.label is ahead)
            return RuleVerdict(rule.id, ahead, f"votes: {said}; {reason}")
        if missing and lead + missing >= self._margin:
            reason = next(vote.reason for vote in votes if vote.label is Label.INVALID)
            return RuleVerdict(rule.id, Label.INVALID, f"votes: {said}; the missing ones could decide ({reason})")
        return RuleVerdict(rule.id, Label.UNSURE, f"votes: {said}; no majority of {self._margin} or more")


class _Voter:
    """One judge of a vote and the questions that it has not answered yet."""

    def __init__(self, judge: RuleJudge, questions: Sequence[RuleQuestion]) -> None:
        self._judge, self._questions = judge, questions
        self._left = dict.fromkeys(range(len(questions)))
        self._places: list[int] = []
        self._answers: Iterator[tuple[int, RuleAnswer]] | None = None

    def next(self) -> tuple[int, RuleAnswer] | None:
        """Return the next (place, answer), or None where all are answered. After `HeldBack` it can be called again."""
        if self._answers is None:
            self._places = list(self._left)
            self._answers = ask_rules(self._judge, [self._questions[place] for place in self._places])
        try:
            found = next(self._answers, None)
        except HeldBack:
            self._answers = None
            raise
        if found is None:
            return None
        place = self._places[found[0]]
        del self._left[place]
        return place, found[1]

    def close(self) -> None:
        """End the judge's work."""
        if isinstance(self._answers, Generator):
            self._answers.close()


@dataclass(frozen=True, slots=True)
class Step:
    """One judge of a cascade."""

    judge: RuleJudge
    settles: Settles = "both"
    """Which of its verdicts are final. A word list that finds something may settle `non_compliant`; that it finds
    nothing says little, and the next judge is asked."""

    def settle(self, label: Label) -> bool:
        """Say whether a verdict is final although judges are left."""
        return label in _DECIDED and self.settles in ("both", label.value)


@dataclass(slots=True)
class _Open:
    """A question on its way through a cascade."""

    place: int
    asked: RuleQuestion
    left: tuple[Rule, ...]
    """Rules that are not settled yet."""
    verdicts: dict[str, RuleVerdict] = field(default_factory=dict)
    """The last word on each rule so far, settled or not."""
    answers: list[tuple[RuleJudge, RuleAnswer]] = field(default_factory=list)

    def take(self, step: Step, answer: RuleAnswer) -> None:
        """Note what a step said, and what it settled."""
        self.answers.append((step.judge, answer))
        self.verdicts |= {verdict.rule: verdict for verdict in answer.verdicts}
        settled = {verdict.rule for verdict in answer.verdicts if step.settle(verdict.label)}
        self.left = tuple(rule for rule in self.left if rule.id not in settled)

    def result(self) -> RuleAnswer:
        verdicts = tuple(self.verdicts[rule.id] for rule in self.asked.rules)
        invalid = any(verdict.label is Label.INVALID for verdict in verdicts)
        keep = not invalid and all(answer.keep for _, answer in self.answers)
        return RuleAnswer(verdicts, keep, {**_spent(self.answers), "steps": len(self.answers)})


class CascadeJudge:
    """Judges in order, cheap ones first: the next is asked about the rules that the ones before did not settle.

    A judge that says `unsure` or could not answer settles nothing. What the last one says stands.

    Args:
        steps: at least two; the last settles whatever it says.
    """

    asks_all = False

    def __init__(self, steps: Sequence[Step]) -> None:
        if len(steps) < 2:
            raise ValueError(f"a cascade has at least 2 steps, not {len(steps)}")
        self._steps = tuple(steps)
        self.members = tuple(step.judge for step in steps)

    @property
    def identity(self) -> str:
        """`cascade/VERSION[SETTLES IDENTITY; …]`."""
        steps = (f"{step.settles} {step.judge.identity}" for step in self._steps)
        return f"cascade/{VERSION}[{'; '.join(steps)}]"

    def check(self) -> str:
        """Ask every judge whether it can be asked."""
        return _checks(self.members)

    def answer(self, questions: Sequence[RuleQuestion]) -> Iterator[tuple[int, RuleAnswer]]:
        """Yield each question's verdicts as soon as all its rules are settled."""
        waiting = [_Open(place, asked, asked.rules) for place, asked in enumerate(questions)]
        for number, step in enumerate(self._steps):
            asked = [RuleQuestion(item.left, item.asked.question) for item in waiting]
            last = number == len(self._steps) - 1
            unsettled: list[_Open] = []
            with _asked(step.judge, asked) as answers:
                for place, answer in answers:
                    item = waiting[place]
                    item.take(step, answer)
                    if item.left and not last:
                        unsettled.append(item)
                    else:
                        yield item.place, item.result()
            waiting = unsettled


@contextmanager
def _asked(judge: RuleJudge, questions: Sequence[RuleQuestion]) -> Iterator[Iterator[tuple[int, RuleAnswer]]]:
    """Ask a judge, and end its work when nobody takes its answers any more."""
    answers = ask_rules(judge, questions)
    try:
        yield answers
    finally:
        if isinstance(answers, Generator):
            answers.close()


def build_votes(settings: VotesSettings, context: JudgeContext) -> RuleJudge:
    """Return the vote that a recipe asks for; each member remembers what it said.

    Raises:
        OracleError: a judge is named twice.
    """
    return VotesJudge([context.build(inner) for inner in settings.judges], settings.margin)


def build_cascade(settings: CascadeSettings, context: JudgeContext) -> RuleJudge:
    """Return the cascade that a recipe asks for; each member remembers what it said."""
    return CascadeJudge([Step(context.build(step.judge), step.settles) for step in settings.steps])


def _checks(judges: Sequence[RuleJudge]) -> str:
    return "; ".join(check_judge(judge) for judge in judges)


def _identities(judges: Sequence[RuleJudge]) -> str:
    return "; ".join(judge.identity for judge in judges)


def _spent(answers: Sequence[tuple[RuleJudge, RuleAnswer]]) -> dict[str, Fact]:
    """Add up what the answers cost, as the meter of what was spent reads it. A judge without costs takes no calls."""
    total: dict[str, Fact] = {
        "calls": sum(
            int(answer.facts.get("calls", getattr(judge, "costs", None) is not None) or 0) for judge, answer in answers
        )
    }
    for name in ("input_tokens", "output_tokens"):
        counts = [count for _, answer in answers if isinstance(count := answer.facts.get(name), int)]
        if counts:
            total[name] = sum(counts)
    return total
