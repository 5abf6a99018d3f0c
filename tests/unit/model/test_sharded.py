"""A model spread over real processes loads, trains, resumes and is saved as one that is whole."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import sharded_training
import torch
from peft import LoraConfig
from safetensors.torch import load_file
from tiny import saved_tiny, tiny_tokenizer
from tiny_training import largest_difference

from realigner.errors import ModelError, StaleKeyError
from realigner.model.load import load_model, wrap_in_adapter
from realigner.model.sharded import layers_of
from realigner.train.checkpoint import SHARDS, refuse_other_layout

TESTS = Path(__file__).resolve().parents[2]
RUNS = ("2", "resumed-2", "resumed-3")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory in which one process, two and three have trained the same models, tied head and biases included."""
    directory = tmp_path_factory.mktemp("sharded")
    saved_tiny("qwen2", directory / "full", layers=1, hidden=16, dtype=torch.float64)
    base = saved_tiny("qwen2", directory / "base", layers=1, hidden=16, dtype=torch.float64)
    how = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    adapter = wrap_in_adapter(load_model(settings(base)), how, 3)
    adapter.save_pretrained(directory / "adapter")
    tiny_tokenizer("qwen2").save_pretrained(directory / "adapter")
    shutil.copytree(directory / "adapter", directory / "chained")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", sharded_training.__file__, str(directory)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    for case in sharded_training.CASES:
        sharded_training.train(directory, directory / f"{case}-1", case)
    return directory


def settings(path: Path) -> Any:
    return sharded_training.settings_of(path.parent, "full").model_copy(update={"path": str(path), "shard": False})


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("case", sharded_training.CASES)
def test_a_sharded_model_is_trained_and_saved_as_a_whole_one(runs: Path, case: str, run: str) -> None:
    """Resumed ones go on from step 4, in as many processes as stored it or in more."""
    alone, spread = (runs / f"{case}-{name}" for name in ("1", run))
    whole, saved = (load_file(next((each / "model").glob("*.safetensors"))) for each in (alone, spread))
    # Other micro-batches round otherwise: the model computes its norms in float32.
    assert largest_difference(whole, saved) < (1e-12 if run.endswith("2") else 1e-5)
    by_trainer = load_file(next((spread / "by-trainer").glob("*model.safetensors")))
    assert case != "full" or largest_difference(saved, by_trainer) == 0.0  # the others are merged models
    files = [sorted(path.name for path in (each / "model").iterdir()) for each in (alone, spread)]
    assert files[0] == files[1]
    one, several = (torch.load(each / "found.pt", weights_only=True) for each in (alone, spread))
    assert several["sharded"] and not one["sharded"]
    assert several["steps"] == pytest.approx(one["steps"], rel=1e-5, abs=1e-6)
    assert several["answers"] == one["answers"]
    assert several["evaluation"] == pytest.approx(one["evaluation"], rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("case", sharded_training.CASES)
def test_a_process_holds_its_part_of_the_model(runs: Path, case: str) -> None:
    found = torch.load(runs / f"{case}-2" / "found.pt", weights_only=True)
    assert found["own"] == pytest.approx(found["all"] / 2, rel=0.01)


def test_sharded_checkpoints_are_read_without_pickle(runs: Path) -> None:
    stored = runs / "full-2" / "checkpoints" / "checkpoint-4" / SHARDS
    assert sorted(path.name for path in stored.iterdir()) == [
        f"shard-0000{i}-model-00001-of-00001.safetensors" for i in (1, 2)
    ]


@pytest.mark.parametrize(("sharded", "remedy"), [(True, "model.shard: false"), (False, "start it by torchrun")])
def test_a_checkpoint_of_the_other_layout_is_refused(tmp_path: Path, sharded: bool, remedy: str) -> None:
    checkpoint = tmp_path / "checkpoint-4"
    (checkpoint if sharded else checkpoint / SHARDS).mkdir(parents=True)
    with pytest.raises(StaleKeyError, match=f"cannot go on from it.*{remedy}"):
        refuse_other_layout(str(checkpoint), sharded=sharded)
    refuse_other_layout(str(checkpoint), sharded=not sharded)
    refuse_other_layout(None, sharded=sharded)


def test_a_model_that_does_not_name_its_layers_is_refused() -> None:
    model = torch.nn.Linear(2, 2)
    model.config = type("Config", (), {"model_type": "plain"})()  # type: ignore[assignment]
    with pytest.raises(ModelError, match=r"model\.shard for a plain model: its class does not name the layers"):
        layers_of(model)
