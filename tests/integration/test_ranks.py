"""`torchrun realigner run`: two and three processes end in the numbers of one, and only the first writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from safetensors.torch import load_file

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "stories"
RANKS = ("1", "2", "3")


def recipe(directory: Path, shared: Path, **loss: Any) -> Path:
    """The stories example, cut to a few seconds."""
    content = yaml.safe_load((EXAMPLE / "recipe.yaml").read_text(encoding="utf-8"))
    content["output"] = str(directory / "run")
    content["model"] |= {"path": str(shared / "models" / "stories260k"), "dtype": "float32", "lora": None}
    content["data"] |= {"path": str(EXAMPLE / "pairs.jsonl"), "limit": 48, "eval_fraction": 0.2}
    content["policy"] = {"path": str(EXAMPLE / "policy.yaml")}
    content["loss"] = {**content.get("loss", {}), **loss}
    content["train"] = {"batch_size": 12, "micro_batch": 2, "learning_rate": 1e-4, "max_steps": 2}
    content["generate"] = {"prompts": 5, "max_new_tokens": 12, "batch_size": 2}
    content["evaluate"] = {"retained": 10}
    content["impact"] = {"gold": {"size": 6}}
    file = directory / "recipe.yaml"
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    return file


def run(directory: Path, shared: Path, ranks: str, *options: str) -> Path:
    directory.mkdir()
    # Nothing is imitated: with it a few gradients all but cancel, and Adam makes a part of a step of their rounding.
    file = recipe(directory, shared, kl_reference="hidden", imitate=0.0)
    command = [str(Path(sys.executable).with_name("realigner")), "run", str(file), *options]
    if ranks != "1":
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", ranks]
        command = [*launch, "--no-python", *command]
    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stderr[-5000:]
    return directory / "run"


def column(path: Path, name: str) -> list[Any]:
    return list(pq.read_table(path).column(name).to_pylist())


def tokens(run: Path) -> tuple[list[Any], Any]:
    """What text became, which each process did a share of, and what the stage says of it."""
    with pa.memory_map(str(run / "reference.arrow")) as source:
        table = pa.ipc.open_stream(source).read_all()
    stages = json.loads((run / "manifest.json").read_text(encoding="utf-8"))["stages"]
    return table.select(["id", "chosen_ids", "rejected_ids", "chosen_start"]).to_pylist(), stages["reference"]["facts"]


def evidence(run: Path) -> dict[str, Any]:
    figures = json.loads((run / "evidence" / "stress.json").read_text(encoding="utf-8"))["figures"]
    return {name: figure["value"] for name, figure in figures.items()}


def answers_before(run: Path) -> list[str]:
    rows = pq.read_table(run / "responses.parquet").to_pylist()
    return [row["response"] for row in rows if row["model"] == "before"]


@pytest.mark.shared
def test_a_run_does_not_depend_on_the_number_of_processes(shared_path: Path, tmp_path: Path) -> None:
    stress = {"prompts": str(shared_path / "data/advbench/harmful_behaviors.csv"), "limit": 2, "attacks": ["role_play"]}
    attacked = ("--set", f"evaluate.stress={json.dumps(stress | {'max_new_tokens': 8})}")
    one, two, three = (run(tmp_path / n, shared_path, n, *(attacked if n == "2" else ())) for n in RANKS)
    models = {each: load_file(each / "model" / "model.safetensors") for each in (one, two, three)}
    for each in (two, three):
        assert tokens(each) == tokens(one)
        assert column(each / "weights.parquet", "id") == column(one / "weights.parquet", "id")
        expected = column(one / "weights.parquet", "weight")
        assert column(each / "weights.parquet", "weight") == pytest.approx(expected, rel=1e-4, abs=1e-6)
        assert column(each / "responses.parquet", "id") == column(one / "responses.parquet", "id")
        assert answers_before(each) == answers_before(one)
        for name, value in models[one].items():
            assert float((models[each][name] - value).abs().max()) < 2e-4, name  # steps of 1e-4 that rounding can turn
        ours, theirs = (json.loads((d / "summary.json").read_text(encoding="utf-8")) for d in (each, one))
        assert ours["kl"]["value"] == pytest.approx(theirs["kl"]["value"], rel=0.05)
        assert ours["perplexity"]["before"]["value"] == pytest.approx(theirs["perplexity"]["before"]["value"], rel=1e-5)
    assert sorted(p.name for p in three.iterdir()) == sorted(p.name for p in one.iterdir())
    # Two processes that share the weights as well: the same work in each, so the same numbers.
    sharded = run(tmp_path / "sharded", shared_path, "2", *attacked, "--set", "model.shard=true")
    saved = load_file(sharded / "model" / "model.safetensors")
    assert saved.keys() == models[two].keys()
    assert max(float((saved[name] - value).abs().max()) for name, value in models[two].items()) < 1e-6
    assert column(sharded / "weights.parquet", "weight") == pytest.approx(
        column(two / "weights.parquet", "weight"), rel=1e-4, abs=1e-6
    )
    assert column(sharded / "responses.parquet", "response") == column(two / "responses.parquet", "response")
    manifest = json.loads((sharded / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["stages"]["weigh"]["facts"]["scoring"]["refused"] == []  # its embeddings are tied to its head
    assert evidence(sharded) == pytest.approx(evidence(two))  # asked by the first process alone
    assert sorted(p.name for p in sharded.iterdir()) == sorted(p.name for p in two.iterdir())
