"""Every arm in a few lines: which terms it trains on, given the same pairs, verdicts, model and budget.

An arm is a function `(Task) -> model`. Most only say what their terms are. `ARMS` names them all; an arm with other
settings than TRACE's defaults is the same function behind `with_settings`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random
from typing import Any

from realigner.baselines.task import Responses, Task
from realigner.baselines.terms import IMITATING, Term
from realigner.baselines.training import Training
from realigner.impact import impact_weights
from realigner.impact.gold import draw_gold
from realigner.records import Direction, Outcome

Arm = Callable[[Task], Any]
"""Takes a task, returns the trained model; what it found on the way goes into `task.facts`."""


def train(task: Task, terms: Sequence[Term], start: str = "model") -> Any:
    """Train a fresh copy of a model on terms; return it."""
    training = Training(task.load(start), task.reference, task.loss, task.budget)
    training.run(terms)
    return finish(task, training)


def finish(task: Task, training: Training) -> Any:
    """Keep what the training cost; return its model."""
    cost = training.cost
    task.facts |= {"trained_tokens": cost.trained, "read_tokens": cost.read, "final_alpha_kl": training.control.alpha}
    task.facts["flops"] = cost.flops(training.model.num_parameters())
    return training.model.eval()


def _term(pair: Responses, loss: str, *names: str, anchored: bool = False, **more: Any) -> Term:
    rows = tuple(pair.rows[name] for name in names)
    reference = tuple(pair.reference[name] for name in names)
    anchor = pair.rows["chosen"] if anchored else None
    return Term(pair.id, str(pair.outcome), loss, rows, reference, anchor=anchor, **more)


def _retained(pair: Responses, *, keeps: bool) -> Term:
    """Return the term of a retained pair: an anchor, beside its old preference if it keeps that in training."""
    if keeps:
        return _term(pair, "dpo", "chosen", "rejected", anchored=True, confirm=True)
    return _term(pair, "", anchored=True)


def _also(task: Task) -> str:
    return IMITATING if task.loss.imitate else ""


def trace_terms(task: Task, weights: dict[str, float] | None = None) -> list[Term]:
    """Return TRACE's terms: each conflict by its direction, each retained pair as an anchor.

    Args:
        task: the experiment.
        weights: of the conflicts; those without one are left out. None: 1 for each.
    """
    directions = {item.pair.id: item.direction for item in task.triaged}
    also = _also(task)
    terms = []
    for pair in task.responses:
        weight = 1.0 if weights is None else weights.get(pair.id)
        match directions[pair.id]:
            case Direction.RETAIN:
                terms.append(_retained(pair, keeps=pair.outcome is Outcome.CONFIRM and task.loss.confirm > 0))
            case _ if weight is None:
                continue
            case Direction.REJECTED_OVER_CHOSEN:
                loss = task.loss.invert + also
                terms.append(_term(pair, loss, "rejected", "chosen", weight=weight))
            case Direction.CORRECTION_OVER_CHOSEN:
                terms.append(_term(pair, "dpo" + also, "correction", "chosen", weight=weight))
            case Direction.CORRECTION_OVER_BOTH:
                terms.append(_term(pair, "over-both" + also, "correction", "chosen", "rejected", weight=weight))
            case Direction.SUPPRESS_BOTH:
                terms.append(_term(pair, "suppress", "chosen", "rejected", weight=weight))
    return terms


def trace(task: Task) -> Any:
    """TRACE by the task's settings, `impact.weighting` included."""
    return train(task, trace_terms(task, trace_weights(task)))


def trace_weights(task: Task, model: Any = None) -> dict[str, float] | None:
    """Return impact weights by id, measured at M_ref or at another model; None where they are uniform."""
    if task.impact.weighting == "uniform":
        return None
    weights, gold = impact_weights(
        task.load("model") if model is None else model,
        task.triaged,
        task.encoder.tokenizer,
        impact=task.impact,
        loss=task.loss,
        seed=task.budget.seed,
    )
    task.facts["weights"] = weights.facts() | {"gold": len(gold.pairs)}
    return {row.id: row.weight for row in weights.rows()}


def random_weights(task: Task) -> Any:
    """The impact weights in random order: the same spread, no information."""
    found = trace_weights(_with(task, impact={"weighting": "impact"}))
    assert found is not None
    values = list(found.values())
    Random(task.budget.seed).shuffle(values)
    return train(task, trace_terms(task, dict(zip(found, values, strict=True))))


def class_means(task: Task) -> Any:
    """Each conflict weighs what impact weights give its class on average: how much of each class, not which pairs."""
    found = trace_weights(_with(task, impact={"weighting": "impact"}))
    assert found is not None
    classes = {item.pair.id: item.outcome for item in task.triaged}
    values: dict[Outcome, list[float]] = {}
    for id_, weight in found.items():
        values.setdefault(classes[id_], []).append(weight)
    means = {outcome: sum(own) / len(own) for outcome, own in values.items()}
    return train(task, trace_terms(task, {id_: means[classes[id_]] for id_ in found}))


def uniform(task: Task) -> Any:
    """Weight 1 for each conflict that impact weights would train on: their gold pairs are left out here too."""
    gold = draw_gold(task.triaged, task.impact.gold, task.budget.seed)
    kept = [item.pair.id for item in task.triaged if item.outcome.is_conflict and item.pair.id not in gold.held_out]
    return train(task, trace_terms(task, dict.fromkeys(kept, 1.0)))


def refreshed_weights(task: Task) -> Any:
    """Impact weights measured again at the half of training, as if the model as it is then were the reference."""
    task.impact = task.impact.model_copy(update={"weighting": "impact"})
    training = Training(task.load("model"), task.reference, task.loss, task.budget)
    training.run(trace_terms(task, trace_weights(task)), task.budget.steps // 2)
    training.run(trace_terms(task, trace_weights(task, training.model)))
    return finish(task, training)


def no_triage(task: Task) -> Any:
    """Every pair whose preferred answer does not comply is inverted, whatever the other answer is.

    The others are anchored by KL, and keep their old preference where CONFIRM pairs do: nobody tells them apart.
    """
    keeps, loss = task.loss.confirm > 0, "dpo" + _also(task)
    return train(
        task,
        [
            _retained(pair, keeps=keeps) if pair.complies["chosen"] else _term(pair, loss, "rejected", "chosen")
            for pair in task.responses
        ],
    )


def dpo_gold(task: Task, loss: str = "dpo", start: str = "model") -> Any:
    """All pairs relabelled by the new policy: y_c over y_w where neither complies, the others in their right order."""
    sides = {
        Outcome.INVERT: ("rejected", "chosen"),
        Outcome.PUNISH: ("correction", "chosen"),
        Outcome.CONFIRM: ("chosen", "rejected"),
        Outcome.NEUTRAL: ("chosen", "rejected"),
    }
    return train(task, [_term(pair, loss, *sides[pair.outcome]) for pair in task.responses], start)


def ipo(task: Task) -> Any:
    """DPO-Gold's data under the IPO loss."""
    return dpo_gold(task, "ipo")


def rpo(task: Task) -> Any:
    """DPO-Gold that also imitates what it prefers, at TRACE's weight: the supervised term of Pang et al. 2024."""
    return dpo_gold(task, "dpo" + IMITATING)


def retrain(task: Task) -> Any:
    """DPO on the relabelled pairs from the model before it learned the old policy."""
    reference = task.load("base").requires_grad_(False).eval()
    fresh = replace(task, facts=task.facts)
    fresh.__dict__["reference"] = reference
    return dpo_gold(fresh, start="base")


def naive(task: Task) -> Any:
    """Swap the pair wherever the preferred answer does not comply; DPO on all pairs."""
    return train(
        task,
        [
            _term(pair, "dpo", *(("chosen", "rejected") if pair.complies["chosen"] else ("rejected", "chosen")))
            for pair in task.responses
        ],
    )


def rdpo(task: Task) -> Any:
    """Robust DPO on the OLD pairs, given the true rate at which the new policy flips them; no oracle per pair."""
    flipped = sum(pair.outcome is Outcome.INVERT for pair in task.responses) / len(task.responses)
    task.facts["epsilon"] = flipped
    task.loss = task.loss.model_copy(update={"epsilon": min(flipped, 0.49)})
    return train(task, [_term(pair, "robust", "chosen", "rejected") for pair in task.responses])


def _non_compliant(task: Task, loss: str) -> list[Term]:
    return [
        _term(pair, loss, name) for pair in task.responses for name in ("chosen", "rejected") if not pair.complies[name]
    ]


def by_answer(task: Task) -> Task:
    """Return the task for an arm whose terms are single answers: a batch has as many answers as one of pairs has."""
    return _changed(task, budget=replace(task.budget, batch=2 * task.budget.batch))


def npo(task: Task) -> Any:
    """Negative preference optimisation on every answer that does not comply."""
    return train(by_answer(task), _non_compliant(task, "npo"))


def ascent(task: Task) -> Any:
    """Gradient ascent on every answer that does not comply."""
    return train(by_answer(task), _non_compliant(task, "ascent"))


def sft(task: Task) -> Any:
    """Supervised training on one compliant answer a pair."""
    best = {Outcome.INVERT: "rejected", Outcome.PUNISH: "correction"}
    return train(task, [_term(pair, "imitate", best.get(pair.outcome, "chosen")) for pair in task.responses])


def untrained(task: Task) -> Any:
    """M_ref as it is: the floor, and the model that gets the policy in its prompt."""
    return task.reference


def with_settings(arm: Arm, *, loss: dict[str, Any] | None = None, impact: dict[str, Any] | None = None) -> Arm:
    """Return an arm with other settings; what is not named stays as the task has it."""
    return lambda task: arm(_with(task, loss=loss, impact=impact))


def _with(task: Task, *, loss: dict[str, Any] | None = None, impact: dict[str, Any] | None = None) -> Task:
    """Return a task with other settings that shares the data already computed."""
    gold = (impact or {}).get("gold")
    changes = dict(impact or {})
    if gold is not None:
        changes["gold"] = task.impact.gold.model_copy(update=gold)
    return _changed(task, loss=task.loss.model_copy(update=loss or {}), impact=task.impact.model_copy(update=changes))


PAPER_LOSS = {"confirm": 0.0, "alpha_kl": 0.1, "imitate": 0.0}
"""What the paper's arms set themselves, whatever the task says."""
_PAPER_GOLD = {"gold": {"kind": "paper"}}
_IMPACT = {"weighting": "impact", "score": "dot", "preconditioner": "identity", "normalize": "mean", "per_class": False}


def _impact(**changes: Any) -> Arm:
    return with_settings(trace, impact={**_IMPACT, **changes})


def _uncorrected(arm: Arm) -> Arm:
    """Return an arm that has no corrections."""
    return lambda task: arm(_changed(task, corrected=0.0))


def over_chosen(task: Task) -> Any:
    """TRACE whose corrections are preferred to the chosen answer alone; nothing is said of the rejected one."""
    return trace(_changed(task, over="chosen"))


def _changed(task: Task, **changes: Any) -> Task:
    """Return a task whose pairs are triaged otherwise; what was scored is shared."""
    other = replace(task, **changes)
    for name in ("reference", "responses"):
        other.__dict__[name] = getattr(task, name)
    return other


def _u2a(task: Task) -> Any:
    from realigner.baselines.u2a import u2a

    return u2a(task)


ARMS: dict[str, Arm] = {
    "m-ref": untrained,
    "policy-prompt": untrained,
    "trace": trace,
    "dpo-gold": dpo_gold,
    "naive": naive,
    "npo": npo,
    "ascent": ascent,
    "u2a": _u2a,
    "rdpo": rdpo,
    "ipo": ipo,
    "rpo": rpo,
    "sft": sft,
    "retrain": retrain,
    "no-triage": no_triage,
    "no-kl": with_settings(trace, loss={"alpha_kl": 0.0}),
    "no-confirm": with_settings(trace, loss={"confirm": 0.0}),
    "over-chosen": over_chosen,
    "no-imitation": with_settings(trace, loss={"imitate": 0.0}),
    "no-corrections": _uncorrected(trace),
    "no-corrections-impact": with_settings(_uncorrected(trace), impact={**_IMPACT, **_PAPER_GOLD}),
    "uniform": uniform,
    "random-weights": random_weights,
    "impact": _impact(),
    "paper": with_settings(_uncorrected(trace), loss=PAPER_LOSS, impact={**_IMPACT, "normalize": "sum", **_PAPER_GOLD}),
    "paper-mean": with_settings(_uncorrected(trace), loss=PAPER_LOSS, impact={**_IMPACT, **_PAPER_GOLD}),
    "paper-class-means": with_settings(_uncorrected(class_means), loss=PAPER_LOSS, impact=_PAPER_GOLD),
    "paper-uniform": with_settings(_uncorrected(uniform), loss=PAPER_LOSS, impact=_PAPER_GOLD),
    "impact-sum": _impact(normalize="sum"),
    "impact-class": _impact(per_class=True),
    "impact-cosine": _impact(score="cosine"),
    "impact-length": _impact(score="per_token"),
    "impact-paper-gold": _impact(gold={"kind": "paper"}),
    "impact-diagonal": _impact(preconditioner="diagonal"),
    "impact-cg": _impact(preconditioner="cg"),
    "impact-refreshed": refreshed_weights,
}
BY_ANSWER = ("npo", "ascent", "u2a")
"""Arms whose terms are single answers; see `by_answer`."""
UNTRAINED = ("m-ref", "policy-prompt")
"""Arms without training: no learning rate is searched for them."""
