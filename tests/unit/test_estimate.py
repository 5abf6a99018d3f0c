"""What a run will cost, against what torch counts while it runs."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny import saved_tiny, tiny_model
from tiny_training import lora, mixture, trainer
from torch.utils.flop_counter import FlopCounterMode

from realigner.cli.main import main
from realigner.errors import RecipeError
from realigner.estimate import Lengths, estimate
from realigner.impact.slopes import slopes_along
from realigner.impact.vectors import trainable
from realigner.model.encoded import row_of
from realigner.model.load import attach_lora
from realigner.model.logprobs import score_rows
from realigner.model.rows import Row
from realigner.recipe import LoraSettings, Recipe
from realigner.records import Outcome
from realigner.train.batch import count

LAYERS = 6  # the first is cheaper under LoRA: nothing below it needs a gradient
GIVEN: dict[str, Any] = {"flops": 1e12, "bandwidth": 1e11}
EVERY_OTHER = {"conflict": 0.5, "retained": 0.5, "confirm": 0.25}


def recipe(tmp_path: Path, **changes: Any) -> Recipe:
    model = saved_tiny("llama", tmp_path / "model", hidden=128, layers=LAYERS)
    adapter = changes.pop("lora", {"rank": 4})
    content = {
        "output": str(tmp_path / "run"),
        "model": {"path": str(model), "lora": adapter, "shard": changes.pop("shard", False)},
        "data": {"path": "none.jsonl", "eval_fraction": 0.5},
        "policy": {"path": "none.yaml"},
        **changes,
    }
    return Recipe.parse(content)


def stage(found: Any, name: str) -> Any:
    return next(s for s in found.stages if s.stage == name)


@pytest.mark.parametrize("adapter", [None, lora()], ids=["full", "lora"])
@pytest.mark.parametrize("kept", ["forward", "hidden"])
def test_training_computes_what_was_estimated(adapter: Any, kept: str, tmp_path: Path) -> None:
    model = tiny_model("llama", hidden=128, layers=LAYERS)
    run = trainer(tmp_path, mixture(32), model=model, adapter=adapter, loss={"kl_reference": kept})
    data = run.train_dataset
    batches = [run.data_collator([data[j] for j in range(i, i + 8)]) for i in range(0, 32, 8)]
    run.current_gradient_accumulation_steps = 1
    with FlopCounterMode(display=False) as counter:
        for batch in batches:
            run.training_step(run.model, batch, torch.tensor(count(batch)))
    rows = [(row_of(data[i], "chosen"), row_of(data[i], "correction" if data[i]["correction_ids"] else "rejected"))
            for i in range(32)]  # fmt: skip
    lengths = Lengths(*(sum(n) / 32 for n in zip(
        *((c.start, c.response_tokens, other.response_tokens) for c, other in rows), strict=True
    )))  # fmt: skip
    settings = recipe(
        tmp_path, lora=None if adapter is None else {"rank": 4, "targets": ["q_proj", "v_proj"]},
        loss={"kl_reference": kept},
    )  # fmt: skip
    found = estimate(settings, pairs=64, lengths=lengths, **GIVEN)
    assert found.shares == EVERY_OTHER
    assert stage(found, "train").flops == pytest.approx(counter.get_total_flops(), rel=0.1)


def conflicts(tmp_path: Path, model: Any, pairs: int) -> tuple[list[Row], Lengths]:
    """Return the rows of conflicts, and how long they are on average."""
    data = trainer(tmp_path, mixture(pairs, (Outcome.INVERT,)), model=model).train_dataset
    rows = [row_of(data[i], name) for i in range(pairs) for name in ("chosen", "rejected")]
    responses = ([r.response_tokens for r in rows[start::2]] for start in (0, 1))
    return rows, Lengths(sum(r.start for r in rows[::2]) / pairs, *(sum(n) / pairs for n in responses))


def triaged_as(outcomes: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a run have been triaged with these outcomes."""
    run = SimpleNamespace(facts=lambda stage: {"outcomes": outcomes})
    monkeypatch.setattr("realigner.runs.finished_stages", lambda path: ["triage"])
    monkeypatch.setattr("realigner.runs.load_run", lambda path: run)


@pytest.mark.parametrize("confirm", [0.0, 1.0])
@pytest.mark.parametrize("adapter", [None, lora()], ids=["full", "lora"])
@pytest.mark.parametrize("kept", ["forward", "hidden"])
def test_training_on_confirm_pairs_computes_what_was_estimated(
    kept: str, adapter: Any, confirm: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model("llama", hidden=128, layers=LAYERS)
    cycle = (Outcome.INVERT, Outcome.CONFIRM)
    loss = {"kl_reference": kept, "confirm": confirm}
    run = trainer(tmp_path, mixture(32, cycle), model=model, adapter=adapter, loss=loss)
    data = run.train_dataset
    batches = [run.data_collator([data[j] for j in range(i, i + 8)]) for i in range(0, 32, 8)]
    run.current_gradient_accumulation_steps = 1
    with FlopCounterMode(display=False) as counter:
        for batch in batches:
            run.training_step(run.model, batch, torch.tensor(count(batch)))
    rows = [(row_of(data[i], "chosen"), row_of(data[i], "rejected")) for i in range(32)]
    lengths = Lengths(*(sum(n) / 32 for n in zip(
        *((c.start, c.response_tokens, r.response_tokens) for c, r in rows), strict=True
    )))  # fmt: skip
    triaged_as({"INVERT": 32, "CONFIRM": 32}, monkeypatch)
    settings = recipe(
        tmp_path, lora=None if adapter is None else {"rank": 4, "targets": ["q_proj", "v_proj"]}, loss=loss
    )
    found = estimate(settings, pairs=64, lengths=lengths, **GIVEN)
    assert found.shares == {"conflict": 0.5, "retained": 0.5, "confirm": 0.5}
    assert stage(found, "train").flops == pytest.approx(counter.get_total_flops(), rel=0.1)


def test_scoring_the_reference_computes_what_was_estimated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama", hidden=128, layers=LAYERS)
    rows, lengths = conflicts(tmp_path, model, 32)
    with FlopCounterMode(display=False) as counter:
        score_rows(model, rows)
    both = counter.get_total_flops()
    with FlopCounterMode(display=False) as counter:
        score_rows(model, rows[::2])
    one = counter.get_total_flops()
    for outcomes, loss, expected in (
        ({"INVERT": 32}, {}, both),
        ({"NEUTRAL": 32}, {}, 0),
        ({"NEUTRAL": 32}, {"kl_reference": "hidden"}, one),
        ({"CONFIRM": 32}, {}, both),
        ({"CONFIRM": 32}, {"kl_reference": "hidden"}, both),
        ({"CONFIRM": 32}, {"confirm": 0.0}, 0),
        ({"CONFIRM": 32}, {"confirm": 0.0, "kl_reference": "hidden"}, one),
    ):
        triaged_as(outcomes, monkeypatch)
        found = estimate(recipe(tmp_path, loss=loss), pairs=64, lengths=lengths, **GIVEN)
        assert stage(found, "reference").flops == pytest.approx(expected, rel=0.1), (outcomes, loss)


@pytest.mark.parametrize("rank", [None, 4], ids=["full", "lora"])
def test_weighing_computes_what_was_estimated(rank: int | None, tmp_path: Path) -> None:
    model = tiny_model("llama", hidden=128, layers=LAYERS)
    rows, lengths = conflicts(tmp_path, model, 8)
    if rank is not None:
        model = attach_lora(model.requires_grad_(False), LoraSettings(rank=rank), 0)
    slopes = slopes_along(model, {name: torch.ones_like(p) for name, p in trainable(model).items()})
    with FlopCounterMode(display=False) as counter:
        slopes(rows)
    settings = recipe(tmp_path, lora=None if rank is None else {"rank": rank}, impact={"weighting": "impact"})
    found = estimate(settings, pairs=32, lengths=lengths, **GIVEN)
    assert stage(found, "weigh").flops == pytest.approx(counter.get_total_flops(), rel=0.1)


def test_the_model_is_counted_without_its_weights(tmp_path: Path) -> None:
    settings = recipe(tmp_path)
    for file in (tmp_path / "model").glob("*.safetensors"):
        file.unlink()
    shape = estimate(settings, pairs=10, lengths=Lengths(5, 5, 5), **GIVEN).shape
    model = tiny_model("llama", hidden=128, layers=LAYERS)
    assert shape.parameters == sum(p.numel() for p in model.parameters())
    assert shape.linear == sum(p.numel() for n, p in model.named_parameters() if "proj" in n)
    assert (shape.hidden, shape.layers, shape.vocabulary) == (128, LAYERS, 400)


def test_cost_is_linear_in_pairs_and_falls_with_devices(tmp_path: Path) -> None:
    settings, lengths = recipe(tmp_path), Lengths(50, 20, 30)
    one, ten = (estimate(settings, pairs=n, lengths=lengths, **GIVEN) for n in (1000, 10_000))
    for name in ("reference", "weigh", "train"):
        assert stage(ten, name).flops == pytest.approx(10 * stage(one, name).flops)
        assert stage(ten, name).memory == stage(one, name).memory
    shared = estimate(settings, pairs=1000, lengths=lengths, devices=4, **GIVEN)
    assert stage(shared, "train").seconds == pytest.approx(stage(one, "train").seconds / 4)


@pytest.mark.parametrize("adapter", [None, {"rank": 4}], ids=["full", "lora"])
def test_sharded_devices_share_weights_and_state_and_gather_two_layers_and_the_ends(
    adapter: Any, tmp_path: Path
) -> None:
    whole, shared = (
        estimate(
            recipe(tmp_path / str(shard), lora=adapter, **{"loss": {"kl_reference": "hidden"}}, shard=shard),
            pairs=64,
            lengths=Lengths(30, 20, 20),
            devices=4,
            **GIVEN,
        )
        for shard in (False, True)
    )
    shape, width = whole.shape, 4
    gathered = (shape.parameters - shape.linear + 2 * shape.linear / LAYERS) * (1 if adapter else 2)
    saved = 0.75 * (shape.parameters + 3 * shape.trained) - gathered
    assert stage(whole, "train").memory - stage(shared, "train").memory == pytest.approx(width * saved)
    assert stage(whole, "train").flops == stage(shared, "train").flops


def test_keeping_hidden_states_costs_disk_and_saves_the_second_model(tmp_path: Path) -> None:
    lengths = Lengths(50, 20, 30)
    forward = estimate(recipe(tmp_path, lora=None), pairs=1000, lengths=lengths, **GIVEN)
    hidden = estimate(
        recipe(tmp_path, lora=None, loss={"kl_reference": "hidden"}), pairs=1000, lengths=lengths, **GIVEN
    )
    more = stage(hidden, "reference").disk - stage(forward, "reference").disk
    assert more == pytest.approx(250 * 20 * 128 * 4)  # retained pairs on the training side, tokens, hidden size, fp32
    assert stage(forward, "train").memory - stage(hidden, "train").memory == pytest.approx(4 * forward.shape.parameters)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--pairs", "0"], "--pairs = 0: it counts something that there is"),
        (["--tflops", "0"], "--tflops = 0"),
        (["--devices", "-1"], "--devices = -1"),
        (["--lengths", "1,2"], "--lengths 1,2: it is three mean numbers of tokens"),
        (["--lengths", "1,2,x"], "--lengths 1,2,x"),
        ([], "none.jsonl"),
    ],
)
def test_what_cannot_be_reckoned_with_is_refused(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(recipe(tmp_path).to_yaml(), encoding="utf-8")
    assert main(["estimate", str(file), *options]) == 2
    assert message in capsys.readouterr().err


def test_the_verb_prints_a_line_a_stage_and_the_same_as_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(recipe(tmp_path).to_yaml(), encoding="utf-8")
    options = ["--pairs", "20000", "--lengths", "130,60,60", "--tflops", "400", "--bandwidth", "3350"]
    assert main(["estimate", str(file), *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "20,000 pairs of 130 + 60 / 60 tokens (conflict 50%, retained 50%, CONFIRM among them 25%)"
    assert [line.split()[0] for line in lines[5:11]] == ["reference", "weigh", "train", "generate", "evaluate", "all"]
    assert main(["estimate", str(file), *options, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["pairs"] == 20_000
    assert facts["hours"] == pytest.approx(sum(s["seconds"] for s in facts["stages"]) / 3600)


def test_devices_are_counted_from_one(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="devices = 0"):
        estimate(recipe(tmp_path), pairs=1, lengths=Lengths(1, 1, 1), devices=0, **GIVEN)
