"""The stage `triage`: the OLD data and the NEW policy's oracle in, triage.parquet out."""

from __future__ import annotations

import json
import logging
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from realigner.chain.previous import write_previous
from realigner.corrections.leakage import lines as leakage_lines
from realigner.corrections.stage import ACCEPTED, CANDIDATES, LEAKAGE, correcting
from realigner.data import DataTally, read_pairs
from realigner.errors import DataError
from realigner.oracle import Oracle, PolicyOracle, open_oracle
from realigner.oracle.build import asked_facts, judged_by, judges_of
from realigner.oracle.remember import NotRemembered
from realigner.policy import Policy
from realigner.policy.record import PolicyRecord
from realigner.records import Label, Outcome
from realigner.runs import Run
from realigner.triaging.corrections import CorrectionIndex
from realigner.triaging.human import read_human_verdicts
from realigner.triaging.old_policy import follow_old_policy, old_policy_lines
from realigner.triaging.plan import plan_triage, proposed, writer_lines
from realigner.triaging.store import write_triage
from realigner.triaging.stream import triage
from realigner.triaging.tally import SIDES, TriageTally

logger = logging.getLogger(__name__)

TRIAGE = "triage.parquet"


def run_triage(run: Run) -> dict[str, Any]:
    """Write `triage.parquet`; return what was read, and what was found by outcome, split, side and rule.

    With a writer in the recipe also `corrections.jsonl`, `candidates.jsonl` and `leakage.json`.

    Raises:
        DataError: the data are unusable, there is nothing to re-align, or nothing to measure it on.
    """
    recipe = run.recipe
    policy = Policy.load(recipe.policy.path, allow_code=recipe.policy.allow_code)
    with open_oracle(recipe.oracle, policy, recipe.output, run.spent) as oracle:
        judged = judged_by(oracle)
        done = _triage(run, policy, oracle) if judged is None else _triage_asking(run, policy, oracle, judged)
        asked = asked_facts(oracle)
    write_previous(run, policy, judges_of(oracle))
    for line in (*found_lines(done.found), *done.lines):
        run.progress.say(line)
    if done.found.corrections_unknown:
        logger.warning("%d corrections belong to no pair of the data", done.found.corrections_unknown)
    lost = done.found.human.unknown + done.found.human.other_text
    if lost:
        logger.warning("%d verdicts of people belong to no response of the data, or to another text", lost)
    return {
        "data": done.read.as_dict(),
        "policy": PolicyRecord.of(policy).as_dict(),
        "oracle": oracle.identity,
        "judges": judges_of(oracle),
        **asked,
        **done.facts,
        **done.found.as_dict(),
    }


@dataclass
class _Done:
    """What triage read, what it found, and what became of corrections."""

    read: DataTally = field(default_factory=DataTally)
    found: TriageTally = field(default_factory=TriageTally)
    facts: dict[str, Any] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)


def _triage_asking(run: Run, policy: Policy, oracle: Oracle, judged: PolicyOracle) -> _Done:
    """Triage where a judge may be asked: say before what it will be asked, and refuse what passes a limit."""
    try:
        with judged.recalling():  # a second triage of the same data needs no plan: it ends here
            done = _triage(run, policy, oracle)
        run.progress.say("every verdict is known: no judge is asked")
        return done
    except NotRemembered:
        plan = plan_triage(run.recipe, judged, run.progress)
    for line in (*plan.lines(), *writer_lines(run.recipe, plan)):
        run.progress.say(line)
    plan.refuse_over(judged.meter)
    with judged.asking(plan.calls, run.progress):
        return _triage(run, policy, oracle)


def _triage(run: Run, policy: Policy, oracle: Oracle) -> _Done:
    """Write `triage.parquet`; return what was read and what was found."""
    recipe, done = run.recipe, _Done()
    with ExitStack() as stack:
        corrections = stack.enter_context(CorrectionIndex(proposed(recipe)))
        writes = recipe.corrections is not None and recipe.corrections.generate is not None
        out = {name: stack.enter_context(run.writing(name)) for name in (ACCEPTED, CANDIDATES) if writes}
        made = stack.enter_context(correcting(recipe, policy, oracle, spent=run.spent, out=out, progress=run.progress))
        triaged = triage(
            read_pairs(recipe.data, done.read),
            oracle,
            corrections=corrections if len(corrections) else None,
            correct=None if made is None else made.corrector,
            over="chosen" if recipe.corrections is None else recipe.corrections.over,
            human=read_human_verdicts(recipe.human.path, policy) if recipe.human else None,
            seed=recipe.seed,
            eval_fraction=recipe.data.eval_fraction,
            batch_size=recipe.oracle.questions_at_a_time,
            tally=done.found,
            progress=run.progress,
        )
        with run.writing(TRIAGE) as path:
            write_triage(triaged if made is None else made.passing(triaged), path)
            refuse_nothing_to_do(done.found, f"{policy.id} {policy.version}", recipe.data.eval_fraction)
            if recipe.old_policy is not None:
                done.facts |= follow_old_policy(path, recipe.old_policy, recipe.seed)
                done.lines += old_policy_lines(done.facts["old_policy"])
        if made is not None:
            done.facts["corrections_written"] = made.facts()
            report = made.report()
            done.lines += [*made.corrector.tally.lines(), *leakage_lines(report)]
            with run.writing(LEAKAGE) as path:
                path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return done


def found_lines(found: TriageTally) -> list[str]:
    """Return what triage found, for people: pairs by outcome, and by rule how often each side breaks it."""
    counts = ", ".join(f"{outcome} {found.count(outcome):,}" for outcome in Outcome)
    lines = [f"{found.pairs:,} pairs: {counts}"]
    if found.human.used:
        lines.append(f"people decided {found.human.used:,} responses, {found.human.changed:,} unlike the oracle")
    for rule in dict.fromkeys(rule for rule, _, _ in found.rules):
        chosen, rejected = (found.rules[rule, side, Label.NON_COMPLIANT] for side in SIDES)
        lines.append(f"rule {rule}: broken by {chosen:,} chosen and {rejected:,} rejected responses")
    return lines


def refuse_nothing_to_do(found: TriageTally, policy: str, eval_fraction: float) -> None:
    """Stop before anything expensive when the data hold nothing to train on or to measure with.

    Raises:
        DataError: no conflict on the training side, or no prompt held out.
    """
    train = {outcome: found.count(outcome, "train") for outcome in Outcome}
    counts = ", ".join(f"{outcome} {count:,}" for outcome, count in train.items())
    if train[Outcome.INVERT] + train[Outcome.PUNISH] == 0:
        raise DataError(
            f"policy {policy} on {found.pairs:,} pairs (training side: {counts})",
            "no conflicts: nothing to re-align",
            "Check the policy's rules, or give data that it changes",
        )
    if found.pairs == sum(train.values()):
        raise DataError(
            f"data.eval_fraction = {eval_fraction} of the prompts of {found.pairs:,} pairs",
            "no prompt was held out, so nothing could be measured",
            "Raise data.eval_fraction, or give more prompts",
        )
