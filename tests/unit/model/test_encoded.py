"""Triaged pairs as tokens with the reference's log-probabilities, on disk under a key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from reference.naive_impact import naive_logp
from tiny import tiny_model, tiny_tokenizer
from tiny_pairs import population, triaged

from realigner.errors import StaleKeyError, TemplateError
from realigner.losses import PairRatios, pair_losses
from realigner.model import encoded
from realigner.model.chat import Encoder
from realigner.model.encoded import (
    RESPONSES,
    SCHEMA,
    add_reference,
    encode_together,
    encode_triaged,
    load_encoded,
    responses_read,
    row_of,
    write_encoded,
)
from realigner.recipe import LossSettings, TextSettings
from realigner.records import Direction, Outcome


def encoder(**settings: Any) -> Encoder:
    return Encoder(tiny_tokenizer("llama"), TextSettings(**settings), 256)


def pairs() -> list[Any]:
    found = population(INVERT=3, PUNISH=3, CONFIRM=3, NEUTRAL=2, UNDECIDED=4)
    return [*found, triaged(50, Outcome.PUNISH, correction="Ask a doctor.")]


@pytest.mark.parametrize("direction", [d for d in Direction if d not in (Direction.RETAIN, Direction.NONE)])
def test_the_responses_read_are_those_the_loss_has_a_gradient_in(direction: Direction) -> None:
    ratios = {name: torch.zeros(1, requires_grad=True) for name in RESPONSES}
    pair_losses(PairRatios(**ratios), [direction], LossSettings()).sum().backward()
    reached = {name for name, r in ratios.items() if r.grad is not None and r.grad.item() != 0}
    assert set(responses_read(direction, Outcome.PUNISH, confirm=False)) == reached


@pytest.mark.parametrize(
    ("outcome", "confirm", "read"),
    [
        (Outcome.CONFIRM, True, ("chosen", "rejected")),
        (Outcome.CONFIRM, False, ()),
        (Outcome.NEUTRAL, True, ()),
    ],
)
def test_a_retained_pair_is_read_only_where_its_old_preference_is_trained(
    outcome: Outcome, confirm: bool, read: tuple[str, ...]
) -> None:
    assert responses_read(Direction.RETAIN, outcome, confirm=confirm) == read
    assert responses_read(Direction.NONE, Outcome.UNDECIDED, confirm=confirm) == ()


def test_pairs_are_encoded_in_order_without_the_undecided() -> None:
    given = pairs()
    examples = list(encode_triaged(iter(given), encoder()))
    assert [e["id"] for e in examples] == [p.pair.id for p in given if p.outcome != Outcome.UNDECIDED]
    for example, item in zip(examples, [p for p in given if p.outcome != Outcome.UNDECIDED], strict=True):
        assert (example["outcome"], example["direction"]) == (item.outcome, item.direction)
        assert set(example) == set(SCHEMA.names)
        expected = encoder().encode("x", item.pair.prompt, {"chosen": item.pair.chosen})
        assert expected is not None
        assert row_of(example, "chosen") == expected["chosen"]
        assert (example["correction_ids"] is None) == (item.correction is None)


class OneOfTwo:
    """Stands for `ranks` in one of two processes; the other's share is made here too."""

    def __init__(self, rank: int, other: Encoder) -> None:
        self.rank, self.other, self.own_work = rank, other, 0

    def shares(self) -> int:
        return 2

    def share(self, items: list[Any]) -> list[Any]:
        self.others = encoded._encode_share(items[1 - self.rank :: 2], self.other)
        self.own_work += len(items[self.rank :: 2])
        return items[self.rank :: 2]

    def collect(self, part: Any) -> list[Any]:
        parts = json.loads(json.dumps([part, self.others]))
        return list(parts if self.rank == 0 else parts[::-1])


@pytest.mark.parametrize("rank", [0, 1])
def test_processes_that_share_the_encoding_have_what_one_has(rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    long = triaged(1, Outcome.INVERT, prompt="bread " * 60)
    given, settings = [*pairs(), long, *pairs()], {"max_length": 48, "overflow": "drop"}
    alone, own = encoder(**settings), encoder(**settings)
    expected = list(encode_triaged(given, alone))
    assert alone.tally["dropped_long_prompt"] == 1
    process = OneOfTwo(rank, encoder(**settings))
    monkeypatch.setattr(encoded, "ranks", process)
    assert list(encode_together(iter(given), own)) == expected
    assert own.tally == alone.tally
    assert abs(process.own_work - len(given) / 2) < 1


@pytest.mark.parametrize("rank", [0, 1])
def test_every_process_refuses_the_first_pair_that_one_of_them_cannot_encode(
    rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (triaged(i, Outcome.INVERT, prompt="bread " * 60) for i in (71, 72))
    given = [*pairs()[:4], first, second]
    with pytest.raises(TemplateError) as alone:
        list(encode_triaged(given, encoder(max_length=48)))
    assert first.pair.id in str(alone.value)
    monkeypatch.setattr(encoded, "ranks", OneOfTwo(rank, encoder(max_length=48)))
    with pytest.raises(TemplateError) as together:
        list(encode_together(given, encoder(max_length=48)))
    assert str(together.value) == str(alone.value)


def test_a_pair_that_does_not_fit_is_left_out_and_counted() -> None:
    small = encoder(max_length=48, overflow="drop")
    long = triaged(1, Outcome.INVERT, prompt="bread " * 60)
    examples = list(encode_triaged([long, triaged(2, Outcome.INVERT)], small))
    assert [e["id"] for e in examples] == ["invert-2"]
    assert small.tally["dropped_long_prompt"] == 1


@pytest.mark.parametrize("confirm", [False, True])
def test_reference_log_probs_are_those_of_the_naive_loop_and_only_where_they_are_read(confirm: bool) -> None:
    model = tiny_model("llama")
    examples = list(encode_triaged(pairs(), encoder()))
    add_reference(examples, model, LossSettings(confirm=float(confirm)))
    filled = 0
    for example in examples:
        read = responses_read(Direction(example["direction"]), Outcome(example["outcome"]), confirm=confirm)
        for name in RESPONSES:
            if name in read:
                with torch.no_grad():
                    expected = naive_logp(model, row_of(example, name)).item()
                assert example[f"{name}_logp"] == pytest.approx(expected, rel=1e-5)
                filled += 1
            else:
                assert example[f"{name}_logp"] is None
    assert filled == 2 * (3 + 3 + 1 + (3 if confirm else 0))


def written(path: Path, **changes: Any) -> int:
    arguments: dict[str, Any] = {"key": "model|data", "loss": LossSettings(), **changes}
    return write_encoded(iter(pairs()), encoder(), tiny_model("llama"), path, **arguments)


def test_what_is_written_is_what_is_read_back_to_the_last_digit(tmp_path: Path) -> None:
    examples = list(encode_triaged(pairs(), encoder()))
    add_reference(examples, tiny_model("llama"), LossSettings())
    assert written(tmp_path / "pairs.arrow") == len(examples)
    assert list(load_encoded(tmp_path / "pairs.arrow", key="model|data")) == examples


def test_the_file_does_not_depend_on_how_the_stream_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path / "whole.arrow")
    monkeypatch.setattr(encoded, "_CHUNK", 3)
    written(tmp_path / "cut.arrow")
    whole, cut = (load_encoded(tmp_path / f"{name}.arrow", key="model|data") for name in ("whole", "cut"))
    assert len(cut.data.to_batches()) > len(whole.data.to_batches())
    for a, b in zip(whole, cut, strict=True):
        logps = [f"{name}_logp" for name in RESPONSES]
        assert {k: v for k, v in a.items() if k not in logps} == {k: v for k, v in b.items() if k not in logps}
        assert [a[k] for k in logps] == [b[k] if b[k] is None else pytest.approx(b[k], rel=1e-6) for k in logps]


def test_another_key_is_refused_with_both_keys(tmp_path: Path) -> None:
    written(tmp_path / "pairs.arrow")
    with pytest.raises(StaleKeyError, match=r"computed with key model\|data, this run needs other\|data") as error:
        load_encoded(tmp_path / "pairs.arrow", key="other|data")
    assert "reference log-probabilities hold for one model, tokenizer, template, adapter" in error.value.rule
    assert "--redo" in error.value.remedy


def test_a_file_without_a_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pairs.arrow"
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, SCHEMA):
        pass
    with pytest.raises(StaleKeyError, match="computed with key none, this run needs mine"):
        load_encoded(path, key="mine")


def test_a_stream_of_nothing_writes_an_empty_file(tmp_path: Path) -> None:
    count = write_encoded([], encoder(), tiny_model("llama"), tmp_path / "none.arrow", key="k", loss=LossSettings())
    assert count == 0
    assert len(load_encoded(tmp_path / "none.arrow", key="k")) == 0
