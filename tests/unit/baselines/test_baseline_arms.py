"""Arms: what they train on, and that the loop computes what TraceTrainer computes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from realigner.baselines import ARMS, BY_ANSWER, UNTRAINED, Budget, Task, Term, Training
from realigner.baselines.arms import trace_terms, with_settings
from realigner.baselines.terms import IMITATING
from realigner.baselines.training import rate
from realigner.baselines.u2a import marginal_gains
from realigner.impact.gold import draw_gold
from realigner.impact.score import encode_gold
from realigner.impact.vectors import dot, gradients
from realigner.lab.aligned import encoder_for
from realigner.lab.experiment import Setting, judged
from realigner.lab.plan import PAPER
from realigner.lab.shifts import SHIFTS, draw_shift_pairs
from realigner.lab.small_model import Size, make_model, make_tokenizer
from realigner.losses import dpo_loss
from realigner.model.head import evaluating
from realigner.model.logprobs import row_logps, score_rows
from realigner.model.rows import collate
from realigner.recipe import GoldSettings, ImpactSettings, LossSettings
from realigner.records import Direction, Outcome
from realigner.train import TraceConfig, TraceTrainer

SIZE = Size(hidden=32, intermediate=48, layers=1, heads=2, context=192)


@pytest.fixture(scope="module")
def make_task() -> Callable[..., Task]:
    shift = SHIFTS["safety"]
    pairs = draw_shift_pairs(shift, 60, 0)
    tokenizer = make_tokenizer([t for p in pairs for t in (p.prompt, p.chosen, p.rejected)], 500)
    models = {name: make_model(tokenizer, SIZE, seed) for name, seed in (("model", 0), ("base", 1))}

    def make(**changes: Any) -> Task:
        values: dict[str, Any] = {
            "load": lambda name: copy.deepcopy(models[name]).requires_grad_(True),
            "encoder": encoder_for(tokenizer, SIZE.context),
            "pairs": judged(pairs, shift.changes, Setting(), 0),
            "corrected": 1.0,
            "loss": LossSettings(alpha_kl=0.5),
            "impact": ImpactSettings(weighting="uniform", gold=GoldSettings(kind="corrected", size=6)),
            "budget": Budget(steps=2, batch=8, learning_rate=1e-3),
        }
        return Task(**{**values, **changes})

    return make


@pytest.mark.parametrize(("confirm", "imitate"), [(0.0, 0.0), (0.7, 0.0), (0.7, 0.3)])
def test_the_loop_computes_the_objective_of_trace_trainer(
    make_task: Callable[..., Task], confirm: float, imitate: float, tmp_path: Any
) -> None:
    task = make_task(loss=LossSettings(beta=0.3, alpha_kl=0.5, confirm=confirm, imitate=imitate), corrected=0.5)
    model = task.load("model")
    with torch.no_grad():
        for p in model.parameters():  # away from the reference, so that no term is trivial
            p += 0.01 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
    terms = trace_terms(task)[:16]
    assert {t.loss.removesuffix(IMITATING) for t in terms} >= {"", "dpo", "over-both", "suppress"}
    assert any(t.loss.endswith(IMITATING) for t in terms) == (imitate > 0)
    ours = Training(model, task.reference, task.loss, task.budget).value(terms)
    arguments = TraceConfig(output_dir=str(tmp_path), loss=task.loss, use_cpu=True, per_device_train_batch_size=16)
    kept = {t.id for t in terms}
    trainer = TraceTrainer(
        model,
        arguments,
        [t for t in task.triaged if t.pair.id in kept],
        processing_class=task.encoder.tokenizer,
        ref_model=task.load("model"),
    )
    batch = next(iter(trainer.get_train_dataloader()))
    assert sorted(batch["ids"]) == sorted(kept)
    theirs = trainer.compute_loss(model, batch)
    torch.testing.assert_close(ours.detach(), theirs.detach(), atol=2e-5, rtol=1e-5)


def test_the_way_a_batch_is_cut_changes_nothing(
    make_task: Callable[..., Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make_task()
    terms = trace_terms(task)[:12]
    values = []
    for chunk in (64, 100_000):
        monkeypatch.setattr("realigner.baselines.training.CHUNK", chunk)
        value = Training(task.load("base"), task.reference, task.loss, task.budget).value(terms)
        values.append(float(value.detach()))
    assert values[0] == pytest.approx(values[1], rel=1e-5)


@pytest.mark.parametrize("arm", [a for a in ARMS if a not in ("impact-refreshed", "impact-cosine", "impact-cg")])
def test_every_arm_trains_a_model_of_its_own_and_leaves_m_ref_alone(make_task: Callable[..., Task], arm: str) -> None:
    task = make_task()
    before = [p.clone() for p in task.reference.parameters()]
    model = ARMS[arm](task)
    assert all(torch.equal(p, q) for p, q in zip(before, task.reference.parameters(), strict=True))
    changed = any(not torch.equal(p, q) for p, q in zip(before, model.parameters(), strict=True))
    assert changed == (arm not in UNTRAINED)


def terms_of(task: Task, arm: str, monkeypatch: pytest.MonkeyPatch) -> list[Term]:
    """Return what an arm would train on."""
    caught: list[Term] = []
    monkeypatch.setattr("realigner.baselines.arms.train", lambda _, terms, start="model": caught.extend(terms))
    ARMS[arm](task)
    return caught


def test_naive_swaps_both_conflicts_and_trace_tells_them_apart(
    make_task: Callable[..., Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make_task(corrected=0.0, loss=LossSettings(imitate=0.0))
    by_id = {r.id: r for r in task.responses}
    for term in terms_of(task, "naive", monkeypatch):
        pair = by_id[term.id]
        first = "chosen" if pair.outcome.is_retained else "rejected"
        assert term.loss == "dpo" and term.rows[0] == pair.rows[first]
    losses = {by_id[t.id].outcome: t.loss for t in trace_terms(task)}
    assert losses == {
        Outcome.INVERT: "dpo",
        Outcome.PUNISH: "suppress",
        Outcome.CONFIRM: "dpo",
        Outcome.NEUTRAL: "",
    }


def test_dpo_gold_puts_the_correction_over_the_old_answer_and_keeps_the_rest_in_order(
    make_task: Callable[..., Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make_task(corrected=0.0)
    by_id = {r.id: r for r in task.responses}
    terms = terms_of(task, "dpo-gold", monkeypatch)
    assert len(terms) == len(task.responses)
    for term in terms:
        pair = by_id[term.id]
        best = {Outcome.PUNISH: "correction", Outcome.INVERT: "rejected"}.get(pair.outcome, "chosen")
        assert term.rows[0] == pair.rows[best] and term.anchor is None


def test_unlearning_arms_read_every_answer_that_does_not_comply_and_no_other(
    make_task: Callable[..., Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make_task()
    bad = sum(not ok for pair in task.responses for n, ok in pair.complies.items() if n != "correction")
    for arm, loss in (("npo", "npo"), ("ascent", "ascent")):
        terms = terms_of(task, arm, monkeypatch)
        assert len(terms) == bad and {t.loss for t in terms} == {loss}


def test_robust_dpo_is_told_the_true_flip_rate(make_task: Callable[..., Task], monkeypatch: pytest.MonkeyPatch) -> None:
    task = make_task()
    terms_of(task, "rdpo", monkeypatch)
    flipped = sum(r.outcome is Outcome.INVERT for r in task.responses) / len(task.responses)
    assert task.loss.epsilon == flipped == task.facts["epsilon"]


def test_random_weights_are_the_impact_weights_in_another_order(
    make_task: Callable[..., Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = {
        arm: {t.id: t.weight for t in terms_of(make_task(), arm, monkeypatch) if t.loss}
        for arm in ("impact", "random-weights")
    }
    assert weights["impact"] != weights["random-weights"]
    assert sorted(weights["impact"].values()) == pytest.approx(sorted(weights["random-weights"].values()))


def test_class_means_keep_each_class_s_total_and_tell_no_pair_from_another(
    make_task: Callable[..., Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes = {r.id: r.outcome for r in make_task().responses}
    weights: dict[str, dict[Outcome, list[float]]] = {}
    for arm in ("paper-mean", "paper-class-means"):
        for term in terms_of(make_task(), arm, monkeypatch):
            if term.loss:
                weights.setdefault(arm, {}).setdefault(outcomes[term.id], []).append(term.weight)
    means = weights["paper-class-means"]
    assert {outcome: len(set(own)) for outcome, own in means.items()} == {Outcome.INVERT: 1, Outcome.PUNISH: 1}
    for outcome, own in weights["paper-mean"].items():
        assert sum(means[outcome]) == pytest.approx(sum(own)) and len(set(own)) > 1


def test_the_uniform_control_trains_on_the_very_conflicts_that_impact_weights_train_on(
    make_task: Callable[..., Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = {
        arm: {t.id: t.weight for t in terms_of(make_task(), arm, monkeypatch) if t.loss}
        for arm in ("impact", "uniform", "trace")
    }
    assert trained["uniform"].keys() == trained["impact"].keys() < trained["trace"].keys()
    assert set(trained["uniform"].values()) == {1.0}
    assert sum(trained["impact"].values()) == pytest.approx(sum(trained["uniform"].values()))


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_stated_share_of_corrections_is_used(make_task: Callable[..., Task], share: float) -> None:
    triaged = make_task(corrected=share).triaged
    punished = [t for t in triaged if t.outcome is Outcome.PUNISH]
    used = sum(t.direction is Direction.CORRECTION_OVER_BOTH for t in punished)
    assert abs(used - share * len(punished)) < 1


def test_other_settings_leave_the_task_as_it_was(make_task: Callable[..., Task]) -> None:
    task = make_task()
    seen: list[Task] = []
    with_settings(lambda t: seen.append(t), loss={"alpha_kl": 3.0}, impact={"gold": {"size": 3}})(task)
    assert (seen[0].loss.alpha_kl, seen[0].impact.gold.size, seen[0].impact.gold.kind) == (3.0, 3, "corrected")
    assert task.loss.alpha_kl == 0.5 and seen[0].responses is task.responses


def test_u2a_scores_the_true_change_of_the_gold_loss(make_task: Callable[..., Task]) -> None:
    task = make_task()
    model = task.load("base").double()
    gold = encode_gold(draw_gold(task.triaged, task.impact.gold, 0).pairs, task.encoder)
    row = task.responses[0].rows["chosen"]
    reference = (float(score_rows(model, [row])[0]),)
    term = Term("a", "PUNISH", "npo", (row,), reference)
    before = score_rows(task.load("model").double(), [row for pair in gold for row in pair]).reshape(-1, 2).tolist()
    (found,) = marginal_gains(model, [term], gold, before, 0.3)
    # A step of unlearning moves θ by −η ∇ log p(y); the gold loss falls by η times the score.
    rows = [row for pair in gold for row in pair]
    with evaluating(model):
        own = gradients(row_logps(model, collate([row])).sum(), model)
        ratios = (row_logps(model, collate(rows)) - torch.tensor(before).flatten()).reshape(-1, 2)
        target = gradients(dpo_loss(ratios[:, 0] - ratios[:, 1], 0.3).mean(), model)
    assert found == pytest.approx(dot(target, own), rel=1e-6)


def test_arms_of_single_answers_take_as_many_answers_a_step_as_pairs_have(
    make_task: Callable[..., Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make_task()
    sizes: dict[str, set[int]] = {}
    value = Training.value

    def watched(self: Training, batch: Any) -> Any:
        sizes.setdefault(arm, set()).add(sum(len(term.rows) for term in batch))
        return value(self, batch)

    monkeypatch.setattr(Training, "value", watched)
    for arm in (*BY_ANSWER, "dpo-gold"):
        ARMS[arm](task)
    assert sizes == {arm: {2 * task.budget.batch} for arm in (*BY_ANSWER, "dpo-gold")}


def test_a_second_run_goes_on_in_the_order_where_the_first_stopped(make_task: Callable[..., Task]) -> None:
    task = make_task(budget=Budget(steps=11, batch=8, learning_rate=1e-3))
    terms = trace_terms(task)
    seen: list[list[list[str]]] = []
    for parts in ((None,), (3, 4, None)):
        training = Training(task.load("model"), task.reference, task.loss, task.budget)
        batches: list[list[str]] = []

        def value(batch: Any, batches: list[list[str]] = batches, training: Training = training) -> Any:
            batches.append([term.id for term in batch])
            return Training.value(training, batch)

        training.value = value  # type: ignore[method-assign]
        for steps in parts:
            training.run(terms, steps)
        seen.append(batches)
    assert seen[0] == seen[1] and len(seen[0]) == 11


def test_rpo_is_dpo_gold_with_a_supervised_term(
    make_task: Callable[..., Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make_task()
    ours, theirs = (terms_of(task, arm, monkeypatch) for arm in ("rpo", "dpo-gold"))
    assert [replace(term, loss="dpo") for term in ours] == theirs
    assert {term.loss for term in ours} == {"dpo" + IMITATING}


def test_the_papers_arms_imitate_nothing(make_task: Callable[..., Task], monkeypatch: pytest.MonkeyPatch) -> None:
    task = make_task(loss=LossSettings(imitate=0.2))
    assert any(term.loss.endswith(IMITATING) for term in terms_of(task, "trace", monkeypatch))
    for arm in ("no-imitation", *PAPER):
        assert not any(term.loss.endswith(IMITATING) for term in terms_of(task, arm, monkeypatch)), arm


@pytest.mark.parametrize("arm", PAPER)
def test_the_papers_arms_set_the_weights_of_their_losses_themselves(
    make_task: Callable[..., Task], monkeypatch: pytest.MonkeyPatch, arm: str
) -> None:
    """So their cells in a study do not depend on TRACE's defaults (`realigner.lab.plan.PAPER`)."""
    seen: list[tuple[LossSettings, list[Term]]] = []
    monkeypatch.setattr("realigner.baselines.arms.train", lambda task, terms: seen.append((task.loss, terms)))
    changes: dict[str, float]
    for changes in ({}, {"alpha_kl": 7.0, "confirm": 0.6, "imitate": 0.4}):
        ARMS[arm](make_task(loss=LossSettings(**changes)))
    (one, terms), (two, others) = seen
    assert one == two and (one.alpha_kl, one.confirm, one.imitate) == (0.1, 0, 0)
    assert [(t.id, t.loss, t.weight, t.confirm) for t in terms] == [(t.id, t.loss, t.weight, t.confirm) for t in others]


def test_without_triage_all_pairs_whose_preferred_answer_complies_are_treated_alike(
    make_task: Callable[..., Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    for confirm, imitate in ((0.0, 0.0), (1.0, 0.0), (1.0, 0.2)):
        task = make_task(loss=LossSettings(confirm=confirm, imitate=imitate))
        by_id = {r.id: r for r in task.responses}
        for term in terms_of(task, "no-triage", monkeypatch):
            pair = by_id[term.id]
            if pair.complies["chosen"]:
                expected = ("dpo" if confirm else "", confirm > 0, pair.rows["chosen"])
            else:
                expected = ("dpo" + (IMITATING if imitate else ""), False, None)
            assert (term.loss, term.confirm, term.anchor) == expected


def test_the_rate_rises_then_falls_and_ends_near_nothing() -> None:
    budget = Budget(steps=50, learning_rate=1.0)
    rates = [rate(budget, step) for step in range(50)]
    assert rates[0] == pytest.approx(0.2) and max(rates) == 1.0 and rates[-1] < 0.02
    assert rates[:5] == sorted(rates[:5]) and rates[5:] == sorted(rates[5:], reverse=True)
