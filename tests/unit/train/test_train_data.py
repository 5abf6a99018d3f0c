"""What a trainer takes as data, and how a batch is laid out."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from tiny import tiny_model, tiny_tokenizer
from tiny_training import CYCLE, config, largest_difference, lora, mixture, trained, trainer, triaged, weights_of

from realigner.errors import DataError, ModelError, StaleKeyError, WeightsError
from realigner.losses import PairRatios
from realigner.model.encoded import load_encoded, row_of, write_encoded
from realigner.recipe import LossSettings, TextSettings
from realigner.records import Outcome
from realigner.train import TraceTrainer
from realigner.train.batch import PairCollator, count, log_ratios
from realigner.train.dataset import WeightedPairs


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The pairs of `mixture(8)` as the stage `reference` writes them."""
    return encode(tmp_path_factory.mktemp("encoded") / "reference.arrow", LossSettings())


def encode(path: Path, loss: LossSettings) -> Any:
    from realigner.model import Encoder

    encoder = Encoder(tiny_tokenizer("llama"), TextSettings(), 256)
    write_encoded(mixture(8), encoder, tiny_model("llama", hidden=16), path, key="k", loss=loss)
    return load_encoded(path, key="k")


def test_every_accepted_form_trains_the_same_model(encoded: Any, tmp_path: Path) -> None:
    """A list, a generator, encoded pairs, a view of them; with and without a tokenizer."""
    weights = weights_of(mixture(8))

    def train(data: Any, **others: Any) -> dict[str, torch.Tensor]:
        run = TraceTrainer(tiny_model("llama", hidden=16), config(tmp_path), data, peft_config=lora(), **others)
        run.train()
        return trained(run.model)

    tokenizer = tiny_tokenizer("llama")
    expected = train(mixture(8), processing_class=tokenizer, weights=weights)
    forms = [
        train((item for item in mixture(8)), processing_class=tokenizer, weights=iter(weights)),
        train(encoded, processing_class=tokenizer, weights=weights),
        train(encoded, weights=weights),
        train(WeightedPairs(encoded, weights)),
    ]
    assert [largest_difference(expected, found) for found in forms] == [0.0] * 4


def test_undecided_pairs_are_left_out(tmp_path: Path) -> None:
    run = trainer(tmp_path, [*mixture(8), triaged(9, Outcome.UNDECIDED)])
    assert len(run.train_dataset) == 8


def test_conflicts_without_a_weight_and_held_out_pairs_are_left_out(encoded: Any) -> None:
    weights = weights_of(mixture(8))
    pairs = WeightedPairs(encoded, weights[1:], held_out=frozenset({"confirm-1"}))
    ids = [pairs[i]["id"] for i in range(len(pairs))]
    assert ids == [name for name in encoded["id"] if name not in (weights[0].id, "confirm-1")]
    assert pairs[ids.index(weights[1].id)]["weight"] == 0.0
    assert pairs.outcomes == [pairs[i]["outcome"] for i in range(len(pairs))]


def test_pairs_dropped_for_their_length_are_counted_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="realigner"):
        run = trainer(tmp_path, mixture(8), text=TextSettings(max_length=100, max_response=12, overflow="drop"))
    dropped = 8 - len(run.train_dataset)
    assert dropped > 0
    assert f"text to tokens: {{'dropped_long_response': {dropped}}}; {8 - dropped} pairs are left" in caplog.text


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ([], DataError, "a data set without a pair"),
        ([triaged(1, Outcome.UNDECIDED)], DataError, "a data set without a pair: there is nothing to train on"),
        ([{"prompt": "a", "chosen": "b"}], DataError, "a data set of dict: a trainer takes triaged pairs. Use real"),
        (Dataset.from_dict({"prompt": ["a"], "chosen": ["b"]}), DataError, "columns prompt, chosen: encoded pairs ha"),
    ],
    ids=["empty", "undecided", "rows", "raw columns"],
)
def test_data_that_cannot_train_are_refused(data: Any, error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        trainer(tmp_path, data)


def test_text_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="processing_class = None: text needs a tokenizer"):
        TraceTrainer(tiny_model("llama", hidden=16), config(tmp_path), mixture(4))


def test_weights_of_other_pairs_are_refused_instead_of_training_on_none(encoded: Any) -> None:
    others = weights_of([triaged(i, Outcome.INVERT) for i in (70, 71)])
    with pytest.raises(WeightsError, match="2 weights and 4 conflicts without a common id"):
        WeightedPairs(encoded, others)


def test_weights_beside_a_view_that_has_its_own_are_refused(encoded: Any, tmp_path: Path) -> None:
    weights = weights_of(mixture(8))
    with pytest.raises(WeightsError, match="weights beside a WeightedPairs: it carries its own"):
        trainer(tmp_path, WeightedPairs(encoded, weights), weights=weights)


def test_pairs_scored_for_another_loss_are_refused_by_name(tmp_path: Path) -> None:
    encoded = encode(tmp_path / "reference.arrow", LossSettings(confirm=0.0))
    run = trainer(tmp_path, encoded, loss={"confirm": 0.5})
    with pytest.raises(StaleKeyError, match="pair confirm-1 has no reference log-probability of its chosen response"):
        run.train()


# -- the layout of a batch ------------------------------------------------------------------------------------------


def test_a_batch_holds_the_responses_that_are_read_and_the_anchors(encoded: Any) -> None:
    pairs = WeightedPairs(encoded, weights_of(mixture(8)))
    examples = [pairs[i] for i in range(8)]
    batch = PairCollator(confirm=False)(examples)
    rows = batch["rows"]
    expected = {"INVERT": [1, 1, 0], "CONFIRM": [1, 0, 0], "PUNISH": [1, 1, 0], "NEUTRAL": [1, 0, 0]}
    for i, item in enumerate(examples):
        laid_out = [1, 0, 1] if item["direction"] == "correction_over_chosen" else expected[item["outcome"]]
        assert (batch["place"][i] >= 0).int().tolist() == laid_out
        assert batch["read"][i].any() == Outcome(item["outcome"]).is_conflict
        for k, name in enumerate(("chosen", "rejected", "correction")):
            if laid_out[k]:
                at = int(batch["place"][i, k])
                row = row_of(item, name)
                assert rows.input_ids[at, : len(row.ids)].tolist() == list(row.ids)
                assert int(rows.scored[at].sum()) == row.response_tokens
    assert batch["anchors"].tolist() == [int(batch["place"][i, 0]) for i in (1, 3, 5, 7)]
    tokens = sum(row_of(examples[i], "chosen").response_tokens for i in (1, 3, 5, 7))
    assert count(batch) == (4, tokens, 2)
    assert batch["weights"].tolist() == [example["weight"] for example in examples]


def test_anchors_are_the_retained_rows_at_their_own_length(encoded: Any) -> None:
    collate = PairCollator(confirm=False)
    retained = [encoded[i] for i in (1, 3)]
    long = max((encoded[i] for i in range(8)), key=lambda e: len(e["rejected_ids"]))
    alone, beside = collate(retained)["anchor_rows"], collate([*retained, long])["anchor_rows"]
    assert torch.equal(alone.input_ids, beside.input_ids[:2, : alone.input_ids.shape[1]])
    assert alone.input_ids.shape[1] == max(len(e["chosen_ids"]) for e in retained)
    nothing = collate([encoded[0]])["anchor_rows"]
    assert nothing.input_ids.shape[0] == 1
    assert not nothing.scored.any()


def test_log_ratios_of_responses_that_are_not_read_are_zero(encoded: Any) -> None:
    batch = PairCollator(confirm=True)([{**encoded[i], "chosen_logp": -3.0, "rejected_logp": -5.0} for i in (1, 3)])
    ratios = log_ratios(batch, torch.arange(3.0))
    assert isinstance(ratios, PairRatios)
    assert ratios.chosen.tolist() == [3.0, 0.0]  # NEUTRAL is an anchor only
    assert ratios.rejected.tolist() == [6.0, 0.0]
    assert ratios.correction.tolist() == [0.0, 0.0]


def test_the_cycle_of_these_tests_has_every_class() -> None:
    assert {o for o in Outcome if o != Outcome.UNDECIDED} == set(CYCLE)
