"""The stage `train` of a run: killed and resumed, its files, its model, its start from an adapter."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny import saved_tiny, tiny_model, tiny_tokenizer
from tiny_training import lora, write_bread
from transformers import AutoModelForCausalLM, AutoTokenizer

from realigner import pipeline
from realigner.cli.main import main
from realigner.errors import RecipeError
from realigner.model.export import export_model
from realigner.model.load import wrap_in_adapter
from realigner.recipe import Recipe
from realigner.report.card import write_card
from realigner.runs import load_run
from realigner.train.stage import Completions, last_checkpoint, mean_loss

TRAIN = {"batch_size": 4, "micro_batch": 2, "epochs": 3, "learning_rate": 3e-3, "save_every": 2, "evaluate_every": 7}


@pytest.fixture(autouse=True)
def _same_environment() -> Iterator[None]:
    """The command line sets the switches of libraries; other tests must not see them."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def weighed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose `run` has done everything before training."""
    folder = tmp_path_factory.mktemp("weighed")
    saved_tiny("llama", folder / "model", hidden=16)
    wrap_in_adapter(tiny_model("llama", hidden=16), lora(init_lora_weights=False), seed=3).save_pretrained(
        folder / "adapter"
    )
    settings = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    settings["base_model_name_or_path"] = str(folder / "model")
    (folder / "adapter" / "adapter_config.json").write_text(json.dumps(settings))
    tiny_tokenizer("llama").save_pretrained(folder / "adapter")
    write_bread(folder)
    pipeline.run(recipe(folder), until="weigh")
    return folder


def recipe(folder: Path, model: str = "model", output: str = "run", **train: Any) -> Recipe:
    content = {
        "output": output,
        "model": {"path": model, "lora": {"rank": 4, "dropout": 0.1}},
        "data": {"path": "old.jsonl"},
        "policy": {"path": "policy.yaml"},
        "impact": {"gold": {"size": 3}},
        "loss": {"kl_budget": 0.01},
        "train": {**TRAIN, **train},
        "generate": {"prompts": 2, "max_new_tokens": 4},
    }
    return Recipe.parse(content, base=folder)


def copy(weighed: Path, name: str) -> Path:
    shutil.copytree(weighed / "run", weighed / name)
    return weighed / name


@pytest.fixture(scope="module")
def whole(weighed: Path) -> Path:
    """A run whose training nobody disturbed, with TensorBoard."""
    run = copy(weighed, "whole")
    pipeline.run(recipe(weighed, output="whole", report_to=["tensorboard"]), only="train")
    return run


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_killed_in_training_the_same_command_resumes_and_ends_in_the_same_bits(weighed: Path, whole: Path) -> None:
    run = copy(weighed, "killed")
    path = weighed / "killed.yaml"
    path.write_text(recipe(weighed, output="killed").to_yaml())
    program = "import sys; from realigner.cli.main import main; sys.exit(main(['train', sys.argv[1]]))"
    with subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=-1, stderr=-1, text=True) as process:
        end = time.monotonic() + 120
        while not any(run.glob(".scratch/train-*/checkpoint-*/trainer_state.json")):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end, "training wrote no checkpoint"
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=20)
    assert process.returncode == -9
    assert not load_run(run).is_done("train")
    with (run / "completions.jsonl").open("a") as file:
        file.write('{"step": 1, "completions": [{"pro')  # as a kill in the middle of a write leaves it

    assert main(["train", str(path), "--quiet"]) == 0
    steps = [line["step"] for line in lines(run) if "loss" in line]
    assert steps == list(range(1, len(steps) + 1))
    assert len(steps) == load_run(run).facts("train")["steps"]
    assert lines(run) == lines(whole)
    assert (run / "completions.jsonl").read_bytes() == (whole / "completions.jsonl").read_bytes()
    found, expected = (load_file(each / "model" / "adapter_model.safetensors") for each in (run, whole))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    facts, whole_facts = (load_run(each).facts("train") for each in (run, whole))
    assert facts == whole_facts


def test_nothing_is_printed_and_scratch_is_gone(weighed: Path, capfd: pytest.CaptureFixture[str], whole: Path) -> None:
    run = copy(weighed, "short")
    pipeline.run(recipe(weighed, output="short", max_steps=2), only="train")
    out, _ = capfd.readouterr()
    assert out == ""
    assert not (run / ".scratch").exists()
    assert not (run / "tensorboard").exists()


def test_what_training_came_to_is_stated(whole: Path) -> None:
    facts = load_run(whole).facts("train")
    losses = [line["loss"] for line in lines(whole) if "loss" in line]
    assert facts["mean_loss"] == pytest.approx(sum(losses) / len(losses))
    assert facts["pairs"] == sum(facts["pairs_by_outcome"].values())
    assert set(facts["pairs_by_outcome"]) == {"INVERT", "PUNISH", "CONFIRM", "NEUTRAL"}
    assert facts["trainable_parameters"] == 2 * 4 * (16 + 16 + 16 + 8)
    assert facts["alpha_kl"] == [line["alpha_kl"] for line in lines(whole) if "loss" in line][-1]


def test_tensorboard_files_stay_with_the_run(whole: Path) -> None:
    (events,) = (whole / "tensorboard").glob("events.*")
    found = EventAccumulator(str(events))
    found.Reload()
    assert {"train/PUNISH/loss", "train/INVERT/accuracy", "eval/kl"} <= set(found.Tags()["scalars"])


def test_completions_are_written_at_every_evaluation(whole: Path) -> None:
    written = [json.loads(line) for line in (whole / "completions.jsonl").read_text().splitlines()]
    assert [line["step"] for line in written] == [line["step"] for line in lines(whole) if "eval_loss" in line]
    assert len(written) >= 3
    assert all(len(line["completions"]) == 3 for line in written)


def logits(path: Path) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(path).eval()
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=torch.arange(3, 40).unsqueeze(0)).logits
    return found


def test_adapter_and_merged_export_give_the_same_logits(whole: Path, weighed: Path, tmp_path: Path) -> None:
    card = write_card(whole)
    assert ModelCard.load(card).data.to_dict()["library_name"] == "peft"
    merged = export_model(whole, tmp_path / "merged", merge=True)
    assert ModelCard.load(merged / "README.md").data.to_dict()["library_name"] == "transformers"
    card.unlink()
    assert not (merged / "adapter_config.json").exists()
    assert torch.allclose(logits(merged), logits(whole / "model"), atol=1e-5)
    assert not torch.allclose(logits(merged), logits(weighed / "model"), atol=1e-2)
    for path in (merged, whole / "model"):
        assert AutoTokenizer.from_pretrained(path).chat_template == tiny_tokenizer("llama").chat_template


def test_a_run_from_an_adapter_takes_the_merged_model_as_reference_and_is_saved_whole(weighed: Path) -> None:
    settings = recipe(weighed, model="adapter", output="from-adapter", epochs=1)
    pipeline.run(settings, until="train")
    run = weighed / "from-adapter"
    first = lines(run)[0]
    assert first["INVERT/loss"] == pytest.approx(0.693147, rel=1e-4)
    assert first["kl"] == pytest.approx(0.0, abs=1e-7)
    assert not (run / "model" / "adapter_config.json").exists()
    assert (run / "model" / "model.safetensors").is_file()
    assert AutoTokenizer.from_pretrained(run / "model").chat_template
    start = wrap_in_adapter(tiny_model("llama", hidden=16), lora(init_lora_weights=False), seed=3)
    with torch.no_grad():
        before = start.eval()(input_ids=torch.arange(3, 40).unsqueeze(0)).logits
    moved, far = ((logits(path) - before).abs().mean() for path in (run / "model", weighed / "model"))
    assert 1e-4 < moved < 0.3 * far  # one epoch away from the aligned model, not from its base


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"micro_batch": 3}, "train.micro_batch = 3 does not divide"),
        ({"report_to": ["tensorbord"]}, "tensorbord is no"),
    ],
)
def test_settings_that_cannot_train_are_refused_before_the_first_stage(
    train: dict[str, Any], message: str, weighed: Path
) -> None:
    with pytest.raises(RecipeError, match=message):
        pipeline.run(recipe(weighed, output="never", **train))
    assert not (weighed / "never").exists()


# -- checkpoints ----------------------------------------------------------------------------------------------------


@pytest.fixture
def checkpoints(tmp_path: Path) -> Path:
    for step in (2, 10):
        folder = tmp_path / f"checkpoint-{step}"
        tiny_model("llama", hidden=16, layers=1).save_pretrained(folder)
        torch.save({"state": torch.ones(500)}, folder / "optimizer.pt")
        (folder / "trainer_state.json").write_text('{"global_step": 1}')
    return tmp_path


@pytest.mark.parametrize("name", ["trainer_state.json", "model.safetensors", "optimizer.pt"])
def test_a_checkpoint_that_was_cut_short_is_passed_over(name: str, checkpoints: Path) -> None:
    assert last_checkpoint(checkpoints) == str(checkpoints / "checkpoint-10")
    file = checkpoints / "checkpoint-10" / name
    file.write_bytes(file.read_bytes()[:-7])
    assert last_checkpoint(checkpoints) == str(checkpoints / "checkpoint-2")
    (checkpoints / "checkpoint-2" / "trainer_state.json").unlink()
    assert last_checkpoint(checkpoints) is None


def test_the_mean_loss_counts_every_step_once() -> None:
    history = [{"step": 1, "loss": 4.0}, {"step": 4, "loss": 2.0}, {"step": 4, "eval_loss": 9.0}]
    assert mean_loss(history) == pytest.approx((4.0 + 3 * 2.0) / 4)
    assert mean_loss([]) == 0.0


def test_completions_of_steps_after_the_checkpoint_are_dropped(weighed: Path, tmp_path: Path) -> None:
    path = tmp_path / "completions.jsonl"
    whole = [json.dumps({"step": n, "text": "a\u2028b"}, ensure_ascii=False) + "\n" for n in (2, 4, 6)]
    path.write_text("".join(whole) + '{"step": 7, "te', encoding="utf-8")
    callback = Completions(path, None, recipe(weighed), [])  # type: ignore[arg-type]
    callback.on_train_begin(None, type("State", (), {"global_step": 4, "is_world_process_zero": True}), None)
    assert path.read_text(encoding="utf-8") == "".join(whole[:2])
