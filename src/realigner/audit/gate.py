"""What an audit permits: training behind the floor `oracle.min_accuracy`, and ε of the robust loss from people.

The floor is held against the LOWER end of the 95 % interval of accuracy, not against the estimate: an audit of a few
items shows little, and the burden of proof is the judge's. Responses that an incomplete audit does not speak of count
as wrong.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from realigner.audit.stored import current_audit, read_stored
from realigner.errors import GateNotMet
from realigner.manifest import MANIFEST
from realigner.recipe import LossSettings, Recipe
from realigner.records import Outcome
from realigner.runs import load_run

FROM_AUDIT = "audit"


def needs_audit(recipe: Recipe) -> bool:
    """Say whether training waits for an audit of the triage."""
    return recipe.oracle.min_accuracy is not None or recipe.loss.epsilon == FROM_AUDIT


def refuse_unaudited(recipe: Recipe) -> None:
    """Refuse to train on verdicts that people have not found good enough, where the recipe asks for that.

    Raises:
        GateNotMet: no audit of the run's triage was scored, or its accuracy is not shown to reach the floor.
    """
    if recipe.oracle.min_accuracy is not None:
        _refuse_below(recipe, recipe.oracle.min_accuracy)
    audited_loss(recipe)


def _refuse_below(recipe: Recipe, floor: float) -> None:
    accuracy = _audit(recipe, f"oracle.min_accuracy = {floor}")["accuracy"]
    if accuracy is None:
        raise GateNotMet(
            "the audit's accuracy: not measured, as no item was decided by both people and judge",
            f"it must be shown to reach oracle.min_accuracy = {floor}",
            "Audit more responses, or mend the judge so that it decides",
        )
    shown = accuracy["low"] * accuracy["covered"]
    if shown < floor:
        part = "" if accuracy["covered"] == 1 else f", of {accuracy['covered']:.1%} of the responses, the rest unknown"
        raise GateNotMet(
            f"the judge's accuracy in the audit: {accuracy['value']:.1%} ({accuracy['low']:.1%} to "
            f"{accuracy['high']:.1%}, 95 % interval, n {accuracy['n']}{part})",
            f"the lower end of its interval must reach oracle.min_accuracy = {floor}",
            "Look at the errors by rule in audit.json and mend the judge or the policy; or, where only the interval is "
            f"too wide, audit more: realigner audit sample {recipe.output} --n N",
        )


def audited_loss(recipe: Recipe) -> LossSettings:
    """Return the recipe's losses with ε as a number: `audit` becomes the share of wrong verdicts on INVERT pairs.

    Raises:
        GateNotMet: no audit of the run's triage was scored, it saw no INVERT pair, or ε is a half or more.
    """
    loss = recipe.loss
    if loss.epsilon != FROM_AUDIT:
        return loss
    outcomes = _audit(recipe, "loss.epsilon: audit")["outcomes"]
    epsilon = outcomes.get(Outcome.INVERT.value, {}).get("epsilon")
    if epsilon is None:
        if not load_run(recipe.output).facts("triage")["outcomes"][Outcome.INVERT.value]:
            return loss.model_copy(update={"epsilon": 0.0})  # there is no pair that it could act on
        raise GateNotMet(
            "ε of INVERT pairs: not measured, as the audit decided none on both sides",
            "loss.epsilon: audit needs it",
            f"Audit more: realigner audit sample {recipe.output} --n N; or set loss.epsilon to a number",
        )
    if epsilon["value"] >= 0.5:
        raise GateNotMet(
            f"ε of INVERT pairs in the audit: {epsilon['value']:.3f}",
            "a robust loss needs ε < 0.5: with more, the reversed preferences are wrong more often than right",
            "Mend the judge or the policy; training on these verdicts would teach the opposite",
        )
    return loss.model_copy(update={"epsilon": epsilon["value"]})


def epsilon_in_key(recipe: Recipe) -> float | str:
    """Return ε as it decides the key of a stage: the number, or the word `audit` while there is none."""
    try:
        return audited_loss(recipe).flip_rate if _is_run(recipe) else recipe.loss.epsilon
    except GateNotMet:
        return FROM_AUDIT


def _audit(recipe: Recipe, why: str) -> dict[str, Any]:
    run = recipe.output
    audit = current_audit(load_run(run), "triage") if _is_run(recipe) else None
    if audit is None:
        stale = _is_run(recipe) and "triage" in read_stored(Path(run))
        raise GateNotMet(
            why,
            "the run's verdicts changed since they were audited"
            if stale
            else "no audit of the run's triage has been scored",
            f"Run: realigner audit sample {run}; let people fill in its sheets; then: realigner audit score {run} "
            "SHEET...; then this again",
        )
    return audit


def _is_run(recipe: Recipe) -> bool:
    return (Path(recipe.output) / MANIFEST).is_file()
