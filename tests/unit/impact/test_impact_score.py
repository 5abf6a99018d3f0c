"""From triaged text to weights: what is held out, what is read, what is independent of what, what is refused."""

from __future__ import annotations

import logging
import random
from typing import Any

import numpy as np
import pytest
import torch
from reference.naive_impact import inner, naive_gold_gradient, naive_pair_gradient
from tiny import Float64Throughout, tiny_model, tiny_tokenizer
from tiny_pairs import population, random_conflicts, random_rows, triaged

from realigner.errors import GoldError, ModelError, TemplateError, WeightsError
from realigner.impact import impact_weights, weigh
from realigner.impact.gold import GoldBatch, GoldPair, draw_gold
from realigner.impact.score import curvature_rank, encode_gold
from realigner.model.chat import Encoder
from realigner.model.encoded import encode_triaged, responses_read, row_of
from realigner.model.load import attach_lora
from realigner.recipe import GoldSettings, ImpactSettings, LoraSettings, LossSettings, TextSettings
from realigner.records import Direction, Outcome, TriagedPair, user_prompt

GOLD = GoldSettings(size=6)


def model_of(mode: str = "lora") -> Any:
    model = tiny_model("llama", dtype=torch.float64)
    if mode == "full":
        return model.requires_grad_(True)
    return attach_lora(model.requires_grad_(False), LoraSettings(rank=2), 0).double().eval()


def data() -> list[TriagedPair]:
    pairs = population(CONFIRM=6, NEUTRAL=4, INVERT=8, PUNISH=8, UNDECIDED=3)
    return [*pairs, *(triaged(i, Outcome.PUNISH, correction=f"Ask {i}, please.") for i in range(90, 93))]


def weights_of(pairs: list[TriagedPair], model: Any = None, **changes: Any) -> tuple[dict[str, float], GoldBatch]:
    settings = ImpactSettings(**{"gold": GOLD, "normalize": "none", **changes})
    model = model_of() if model is None else model
    weights, gold = impact_weights(model, pairs, tiny_tokenizer("llama"), impact=settings, seed=1)
    return {w.id: w.score for w in weights.rows()}, gold


@pytest.mark.parametrize("mode", ["full", "lora"])
def test_from_text_to_scores_equals_a_gradient_per_sample(mode: str) -> None:
    pairs, model, loss = data(), model_of(mode), LossSettings()
    encoder = Encoder(tiny_tokenizer("llama"), TextSettings(), 256)
    with Float64Throughout():
        found, gold = weights_of(pairs, model)
        target = naive_gold_gradient(model, encode_gold(gold.pairs, encoder), loss.beta)
        conflicts = (p for p in pairs if p.outcome.is_conflict and p.pair.id not in gold.held_out)
        expected = {}
        for example in encode_triaged(conflicts, encoder):
            direction = Direction(example["direction"])
            names = responses_read(direction, Outcome(example["outcome"]), confirm=False)
            rows = {name: row_of(example, name) for name in names}
            expected[example["id"]] = inner(target, naive_pair_gradient(model, rows, direction, loss))
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert {p.direction for p in pairs if p.pair.id in found} == {
        *(Direction.REJECTED_OVER_CHOSEN, Direction.SUPPRESS_BOTH, Direction.CORRECTION_OVER_CHOSEN)
    }


def test_every_conflict_has_a_weight_but_those_of_the_gold_batch() -> None:
    pairs = data()
    found, gold = weights_of(pairs)
    conflicts = {p.pair.id for p in pairs if p.outcome.is_conflict}
    assert len(gold.held_out & conflicts) == 4
    assert set(found) == conflicts - gold.held_out


@pytest.mark.parametrize("preconditioner", ["identity", "diagonal", "cg"])
def test_weights_do_not_depend_on_the_order_of_the_data(preconditioner: Any) -> None:
    pairs, mixed = data(), data()
    random.Random(5).shuffle(mixed)
    options = {"preconditioner": preconditioner, "fisher_rows": 3, "cg_steps": 3}
    with Float64Throughout():
        (first, gold), (second, same_gold) = weights_of(pairs, **options), weights_of(mixed, **options)
    assert gold == same_gold
    assert first == pytest.approx(second, rel=1e-9)


def test_a_preconditioner_changes_the_ranking_and_reads_retained_pairs_that_are_not_gold() -> None:
    pairs = data()
    plain, gold = weights_of(pairs)
    bent, _ = weights_of(pairs, preconditioner="cg", cg_steps=3)
    ids = sorted(plain)
    assert sorted(ids, key=lambda i: plain[i]) != sorted(ids, key=lambda i: bent[i])
    retained = [p.pair.id for p in pairs if p.outcome.is_retained and p.pair.id not in gold.held_out]
    ranked = sorted(retained, key=lambda i: curvature_rank(i, 1))
    assert ranked != sorted(retained, key=lambda i: curvature_rank(i, 2))


def test_uniform_weighting_is_honoured_and_draws_no_gold() -> None:
    pairs = data()
    weights, gold = impact_weights(
        model_of(), pairs, tiny_tokenizer("llama"), impact=ImpactSettings(weighting="uniform")
    )
    assert weights.values.tolist() == [1.0] * sum(p.outcome.is_conflict for p in pairs)
    assert gold == GoldBatch((), frozenset())


def test_a_gold_batch_that_is_given_is_used() -> None:
    pairs = data()
    given = draw_gold(pairs, GOLD, seed=77)
    _, gold = impact_weights(model_of(), pairs, tiny_tokenizer("llama"), gold=given, seed=1)
    assert gold is given


def test_a_gold_pair_s_own_direction_has_a_positive_score() -> None:
    """⟨g, g⟩ > 0: a conflict equal to the only gold pair is what the gold batch asks for; its reverse is clamped."""
    item = triaged(3, Outcome.INVERT)
    pair = GoldPair("g", "FILE", item.pair.prompt, item.pair.rejected, item.pair.chosen)
    reverse = GoldPair("g", "FILE", item.pair.prompt, item.pair.chosen, item.pair.rejected)
    tokenizer, settings = tiny_tokenizer("llama"), ImpactSettings(score="cosine", normalize="none")
    preference = LossSettings(imitate=0.0)  # what it imitates is not what the gold batch asks for
    weights, _ = impact_weights(
        model_of("full"), [item], tokenizer, impact=settings, loss=preference, gold=GoldBatch((pair,), frozenset())
    )
    assert weights.scores.values[0] == pytest.approx(1.0, abs=1e-6)
    with pytest.raises(WeightsError, match="all 1 conflicts"):
        impact_weights(model_of("full"), [item], tokenizer, loss=preference, gold=GoldBatch((reverse,), frozenset()))


def test_beta_scales_the_scores_and_cancels_in_the_weights() -> None:
    gold, examples = list(zip(random_rows(4, seed=1), random_rows(4, seed=2), strict=True)), random_conflicts(9)
    found = {}
    with Float64Throughout():
        for beta in (0.1, 0.5):
            model = tiny_model("llama", dtype=torch.float64).requires_grad_(True)
            loss = LossSettings(beta=beta, imitate=0.0)
            found[beta], _ = weigh(model, gold, examples, [], ImpactSettings(), loss, seed=0)
    np.testing.assert_allclose(found[0.5].scores.values, 25 * found[0.1].scores.values, rtol=1e-9)
    np.testing.assert_allclose(found[0.5].values, found[0.1].values, rtol=1e-9)


# -- what is refused ------------------------------------------------------------------------------------------------


def gold_pair(text: str, prompt: str = "Why?") -> GoldPair:
    return GoldPair(f"gold {text[:5]}", "FILE", user_prompt(prompt), text, "No.")


def small_encoder() -> Encoder:
    return Encoder(tiny_tokenizer("llama"), TextSettings(max_length=40, overflow="drop"), 256)


def test_gold_pairs_that_do_not_fit_are_left_out_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        rows = encode_gold([gold_pair("Because."), gold_pair("bread " * 60)], small_encoder())
    assert len(rows) == 1
    assert "1 of 2 gold pairs do not fit the text limits" in caplog.text


def test_a_gold_batch_of_which_nothing_fits_is_refused() -> None:
    with pytest.raises(GoldError, match="all 2 gold pairs: none fits into the model's context") as error:
        encode_gold([gold_pair("bread " * 60), gold_pair("salt " * 60)], small_encoder())
    assert "text.max_length" in error.value.remedy


def test_a_gold_pair_that_is_too_long_is_refused_where_nothing_may_be_cut() -> None:
    encoder = Encoder(tiny_tokenizer("llama"), TextSettings(max_length=40), 256)
    with pytest.raises(TemplateError, match="gold bread"):
        encode_gold([gold_pair("bread " * 60)], encoder)


def test_a_gold_batch_that_says_nothing_is_refused() -> None:
    model = tiny_model("llama").requires_grad_(False)
    model.get_input_embeddings().weight.requires_grad_(True)
    model.get_input_embeddings().weight.data.zero_()
    model.model.norm.weight.data.zero_()  # every logit is zero, whatever the embeddings
    gold = [(random_rows(2)[0], random_rows(2)[1])]
    with pytest.raises(GoldError, match=r"the gradient of 1 gold pairs: it is zero"):
        weigh(model, gold, random_conflicts(2), [], ImpactSettings(), LossSettings(), seed=0)


def test_a_model_with_nothing_to_train_is_refused() -> None:
    with pytest.raises(ModelError, match="a model without trainable parameters"):
        weights_of(data(), tiny_model("llama").requires_grad_(False))


def test_attention_that_does_more_than_is_known_is_scored_on_padded_rows_and_has_no_curvature(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for layer in (model := model_of("full")).model.layers:
        plain = layer.self_attn.forward
        monkeypatch.setattr(layer.self_attn, "forward", lambda *a, plain=plain, **k: plain(*a, cu_seq_lens_q=1.0, **k))
    weights, _ = impact_weights(model, data(), tiny_tokenizer("llama"), impact=ImpactSettings(gold=GOLD), seed=1)
    assert "exact on packed rows: attention with cu_seq_lens_q" in weights.warnings[-1]
    with pytest.raises(ModelError, match=r"preconditioner = cg for a llama model with attention with cu_s") as error:
        weights_of(data(), model, preconditioner="cg")
    assert "identity or diagonal" in error.value.remedy


def test_a_model_with_a_broken_weight_is_refused_by_the_names_of_its_pairs() -> None:
    model = tiny_model("llama").requires_grad_(True)
    gold = [(random_rows(2)[0], random_rows(2)[1])]
    with torch.no_grad():
        model.get_parameter("model.norm.weight")[0] = float("nan")
    with pytest.raises(WeightsError, match=r"impact scores of pair-0, pair-1, pair-2: they are not finite"):
        weigh(model, gold, random_conflicts(3), [], ImpactSettings(), LossSettings(), seed=0)
