"""The verdict in one line. It says no more than the intervals do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from realigner.report.interval import PER_CENT, BeforeAfter, Interval, read_before_after, read_interval
from realigner.report.rundir import NotMeasured, RunFiles, mapping, number
from realigner.report.text import one_line

LEVEL = 0.05
"""A change is called one when its paired 95 % interval excludes 0 AND McNemar's exact p is below this."""

Word = Literal["improved", "no measurable change", "worse", "not measured"]


@dataclass(frozen=True)
class Verdict:
    """The one line, and what it rests on."""

    word: Word
    line: str
    basis: str
    cost: str
    """What the change cost on retained responses; empty where that was not measured."""


def read_agreement(run: RunFiles) -> BeforeAfter:
    """Return the overall policy agreement.

    Raises:
        NotMeasured: it is not in summary.json, or one side is absent.
    """
    agreement = read_before_after(run.summary("agreement"))
    agreement.both  # noqa: B018  raises where a side is absent
    return agreement


def judge_is_the_same(run: RunFiles) -> bool | None:
    """Say whether the evaluation's oracle is the one that triaged; None where it is not recorded."""
    try:
        same = mapping(run.summary("oracle")).get("same")
    except NotMeasured:
        return None
    return same if isinstance(same, bool) else None


def read_verdict(run: RunFiles) -> Verdict:
    """Return the verdict; without an evaluation it is "not measured"."""
    try:
        before, after = read_agreement(run).both
    except NotMeasured as reason:
        line = "Not measured: nothing is known yet about how the model's behaviour changed."
        return Verdict("not measured", line, f"{str(reason)[:1].upper()}{str(reason)[1:]}.", read_cost(run))
    word, basis = _weigh(before, after, mapping(run.summary("agreement")).get("change"))
    words = {
        "improved": "Policy agreement improved",
        "worse": "Policy agreement got worse",
        "no measurable change": "No measurable change in policy agreement",
    }
    judge = {
        True: "judged by the same oracle that chose the training pairs",
        False: "judged by an oracle that had no part in training",
        None: "by a judge whose part in training was not recorded",
    }[judge_is_the_same(run)]
    change = f"{before.shown('share')} before, {after.shown('share')} after"
    line = f"{words[word]}: {change}, on {_prompts(before, after)}, {judge}."
    return Verdict(word, line, basis, read_cost(run))


def read_cost(run: RunFiles) -> str:
    """Return one plain sentence on perplexity and KL, which stands beside every verdict; empty without figures.

    It claims no "no change": two overlapping intervals do not show that, and these are not paired.
    """
    costs = []
    try:
        before, after = read_before_after(run.summary("perplexity")).both
        change = f"{100 * (after.value / before.value - 1):+.1f}{PER_CENT}".replace("-", "−") if before.value else ""
        apart = before.high is not None and after.low is not None and after.low > before.high
        beyond = ", beyond both intervals" if apart else ""
        costs.append(f"perplexity {before.shown('plain')} before, {after.shown('plain')} after ({change}{beyond})")
    except NotMeasured:
        pass
    try:
        kl = read_interval(run.summary("kl"))
    except NotMeasured:
        kl = None
    if kl is not None:
        costs.append(f"KL from the model before {kl.shown('plain')} nats per token")
    return f"Cost on retained responses: {'; '.join(costs)}." if costs else ""


def _weigh(before: Interval, after: Interval, stored: Any) -> tuple[Word, str]:
    change = read_interval(stored)
    if change is None or change.low is None or change.high is None:
        return _weigh_apart(before, after)
    # The bootstrap interval is too narrow when few verdicts changed; the exact test is not. Both must agree.
    exact = number(stored.get("mcnemar_p"))
    p = number(stored.get("p")) if exact is None else exact
    test = "McNemar exact" if exact is not None else one_line(str(stored.get("p_method") or "method not stated"), 60)
    told_from_chance = p is None or p < LEVEL
    word: Word = "no measurable change"
    if change.low > 0 and told_from_chance:
        word = "improved"
    elif change.high < 0 and told_from_chance:
        word = "worse"
    gained, lost = number(stored.get("gained")), number(stored.get("lost"))
    moved = ""
    if gained is not None and lost is not None:
        moved = f"{gained:.0f} became compliant and {lost:.0f} ceased to be. "
    return word, (
        f"The same prompts were answered before and after: {moved}The change is {_points(change.value)} percentage "
        f"points (95 % interval {_points(change.low)} to {_points(change.high)}, paired by prompt"
        f"{'' if p is None else f'; {test} p {_p_value(p)}'})."
    )


def _weigh_apart(before: Interval, after: Interval) -> tuple[Word, str]:
    """Without a paired change, only intervals that do not overlap tell one, whatever the correlation."""
    method = "The change was not measured prompt by prompt, so the two averages are compared by their intervals: "
    if before.low is None or before.high is None or after.low is None or after.high is None:
        return "no measurable change", f"{method}one of them has none, so no change can be told from chance."
    if after.low > before.high:
        return "improved", f"{method}they do not overlap."
    if after.high < before.low:
        return "worse", f"{method}they do not overlap."
    return "no measurable change", f"{method}they overlap."


def _points(share: float) -> str:
    return f"{100 * share:+.1f}".replace("-", "−")


def _p_value(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def _prompts(before: Interval, after: Interval) -> str:
    if before.n == after.n:
        return f"{before.n} held-out prompts" if before.n is not None else "a number of prompts that was not recorded"
    return f"{before.n or 'an unknown number of'} and {after.n or 'an unknown number of'} held-out prompts"
