"""A whole run of a tiny model through the command line: killed and interrupted in training, resumed, replayed."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import tiny

from realigner.runs import load_run

from .conftest import POLICY, Say

RECIPE = """
output: run
model: {path: model, lora: {rank: 4, alpha: 8}}
data: {path: old.jsonl}
policy: {path: policy.yaml}
impact: {gold: {size: 3}}
train: {batch_size: 4, micro_batch: 4, epochs: 1, save_every: 2, evaluate_every: 100}
generate: {prompts: 2, max_new_tokens: 4}
evaluate: {retained: 3}
"""
ANSWERS = ("It is your fault.", "Let us look at it.", "Ask a nurse.", "That is your fault, and late.")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a run was killed in training, resumed, interrupted there, and resumed to its end."""
    folder = tmp_path_factory.mktemp("project")
    tiny.saved_tiny("qwen2", folder / "model")
    draw = random.Random(0)
    pairs = [(f"Why does disk {i} fail?", *draw.sample(ANSWERS, 2)) for i in range(60)]
    rows = [{"prompt": prompt, "chosen": chosen, "rejected": rejected} for prompt, chosen, rejected in pairs]
    (folder / "old.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "policy.yaml").write_text(POLICY)
    (folder / "recipe.yaml").write_text(RECIPE)
    stop_in_training(folder, signal.SIGKILL, after=2)
    (folder / "killed").write_text(metrics(folder))
    done = stop_in_training(folder, signal.SIGINT, after=6)
    (folder / "interrupted").write_text(f"{done.returncode} {done.stderr}")
    finished = subprocess.run(command(), cwd=folder, capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stderr
    (folder / "finished").write_text(finished.stdout)
    return folder


def command() -> list[str]:
    return [
        sys.executable,
        "-c",
        "import sys; from realigner.cli.main import main; sys.exit(main())",
        "run",
        "recipe.yaml",
    ]


def stop_in_training(folder: Path, how: signal.Signals, after: int) -> subprocess.CompletedProcess[str]:
    """Start the run and stop it as soon as a checkpoint of at least `after` steps is on disk."""
    with subprocess.Popen(command(), cwd=folder, stdout=-1, stderr=-1, text=True) as process:
        end = time.monotonic() + 240
        while max(checkpoints(folder), default=0) < after:
            assert process.poll() is None, "the run ended before it could be stopped"
            assert time.monotonic() < end, "training wrote no checkpoint"
            time.sleep(0.005)
        process.send_signal(how)
        out, err = process.communicate(timeout=60)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def checkpoints(folder: Path) -> Iterator[int]:
    for state in folder.glob("run/.scratch/train-*/checkpoint-*/trainer_state.json"):
        yield int(state.parent.name.rpartition("-")[2])


def metrics(folder: Path) -> str:
    return (folder / "run" / "metrics.jsonl").read_text()


def test_the_run_leaves_the_files_that_are_promised_and_no_others(project: Path) -> None:
    names = {path.name for path in (project / "run").iterdir() if not path.name.startswith("replay-")}
    promised = {"recipe.yaml", "manifest.json", "triage.parquet", "weights.parquet", "metrics.jsonl"}
    promised |= {"responses.parquet", "judgements.parquet", "summary.json", "report.html", "tables", "model"}
    assert names == promised | {".lock", "reference.arrow", "completions.jsonl"}
    manifest = json.loads((project / "run" / "manifest.json").read_text())
    outputs = {name for record in manifest["stages"].values() for name in record["outputs"]}
    assert outputs == names - {"recipe.yaml", "manifest.json", ".lock"}


def test_the_promised_columns_are_there(project: Path) -> None:
    columns = {
        "triage.parquet": {"id", "prompt", "chosen", "rejected", "outcome", "verdicts", "reasons"},
        "weights.parquet": {"id", "outcome", "score", "weight", "clamped"},
        "responses.parquet": {
            "id",
            "prompt_id",
            "pair_id",
            "outcome",
            "model",
            "prompt",
            "response",
            "seed",
            "settings",
        },
        "judgements.parquet": {"response_id", "label", "rules", "reason"},
    }
    for name, wanted in columns.items():
        assert wanted <= set(pq.read_schema(project / "run" / name).names), name
    summary = json.loads((project / "run" / "summary.json").read_text())
    assert {"counts", "agreement", "kl", "perplexity", "seconds", "oracle", "policy", "warnings"} <= set(summary)


def test_training_resumed_inside_its_stage_after_kill_9_and_after_sigint(project: Path) -> None:
    record = load_run(project / "run").stages["train"]
    assert record["attempts"] == 3
    steps = [json.loads(line)["step"] for line in metrics(project).splitlines() if "loss" in json.loads(line)]
    assert steps == sorted(set(steps))
    assert len(steps) == load_run(project / "run").facts("train")["steps"]
    first = [json.loads(line) for line in (project / "killed").read_text().splitlines()]
    resumed = {line["step"]: line for line in map(json.loads, metrics(project).splitlines()) if "loss" in line}
    assert [line["loss"] for line in first if "loss" in line] == [
        resumed[line["step"]]["loss"] for line in first if "loss" in line
    ]


def test_an_interrupted_training_says_how_to_resume(project: Path) -> None:
    code, *_ = (project / "interrupted").read_text().split(" ")
    assert code == "130"
    last = (project / "interrupted").read_text().splitlines()[-1]
    assert last.endswith(
        f"interrupted during 'train', nothing is half-written; resume with: realigner run {project}/run"
    )


def test_the_answer_on_stdout_is_the_summary_alone(project: Path) -> None:
    text = (project / "finished").read_text()
    assert text.startswith("Policy kind 1: No blame\n\nOld preferences under the new policy\n")
    assert text.endswith(f"Run     {project}/run\n")
    for part in ("INVERT", "Agreement with the policy", "rule no-blame", "perplexity", "KL from before", "Report "):
        assert part in text


def test_a_replay_of_the_twice_stopped_run_agrees_number_by_number(project: Path, say: Say) -> None:
    spoken = say("replay", project / "run", "--json")
    assert spoken.code == 0, spoken.out
    found = {item["name"]: item["agreement"] for item in json.loads(spoken.out)["comparisons"]}
    names = {"outcomes", "impact scores", "weights", "training loss by step", "responses", "agreement before"}
    assert found == dict.fromkeys(names | {"agreement after", "kl", "perplexity before", "perplexity after"}, "exact")


def test_check_says_that_the_run_will_be_resumed_and_changes_nothing(project: Path, say: Say) -> None:
    before = {path: path.stat().st_mtime_ns for path in (project / "run").rglob("*")}
    spoken = say("check", project / "recipe.yaml")
    assert spoken.code == 0, spoken.out
    assert f"ok       output  {project}/run will be resumed after 'report'" in spoken.out
    assert {path: path.stat().st_mtime_ns for path in (project / "run").rglob("*")} == before


def test_check_names_a_setting_that_a_stored_stage_does_not_have(project: Path, say: Say) -> None:
    spoken = say("check", project / "recipe.yaml", "--set", "loss.beta=0.1")
    assert spoken.code == 2
    assert "stage 'weigh': loss.beta 0.3 -> 0.1" in spoken.out


def test_another_model_in_the_same_place_is_refused(project: Path, say: Say) -> None:
    config = project / "model" / "generation_config.json"
    content = config.read_text()
    try:
        config.write_text(content + "\n")
        spoken = say("run", project / "recipe.yaml")
    finally:
        config.write_text(content)
    assert spoken.code == 2
    assert "stage 'reference': model.content" in spoken.error


def test_the_model_is_exported_as_adapter_or_merged(project: Path, say: Say, tmp_path: Path) -> None:
    assert say("export", project / "run", tmp_path / "adapter").out == f"wrote {tmp_path}/adapter\n"
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()
    assert say("export", project / "run", tmp_path / "merged", "--merge").code == 0
    assert (tmp_path / "merged" / "model.safetensors").is_file()
    spoken = say("export", project / "run", tmp_path / "merged")
    assert spoken.code == 2
    assert "it exists and is not empty. Choose another directory" in spoken.error
