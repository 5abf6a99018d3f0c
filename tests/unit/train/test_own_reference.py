"""A recipe whose frozen reference is not the model that it starts from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from reference.naive_training import logits_of, naive
from safetensors.torch import load_file
from tiny import saved_tiny
from tiny_training import largest_difference, write_bread

from realigner import pipeline
from realigner.check import check
from realigner.errors import ModelError, RecipeError, StaleKeyError
from realigner.estimate import Lengths, estimate
from realigner.model.encoded import encode_triaged
from realigner.model.load import load_model, load_model_config
from realigner.model.stage import encoded_pairs, recipe_encoder
from realigner.recipe import Recipe
from realigner.runs import load_run
from realigner.triaging import read_triage


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reference")
    saved_tiny("llama", folder / "first", hidden=16)
    saved_tiny("llama", folder / "same", hidden=16)
    saved_tiny("llama", folder / "second", hidden=16, seed=1)
    saved_tiny("qwen2", folder / "other")
    saved_tiny("llama", folder / "large", hidden=32)
    write_bread(folder)
    return folder


def recipe(folder: Path, output: str, reference: str | None, **more: Any) -> Recipe:
    content = {
        "output": output,
        "model": {"path": "second", "lora": {"rank": 4}},
        "reference": None if reference is None else {"path": reference},
        "data": {"path": "old.jsonl"},
        "policy": {"path": "policy.yaml"},
        "loss": {"alpha_kl": 1.0},
        "train": {"batch_size": 8, "micro_batch": 4, "learning_rate": 1e-2},
        "generate": {"prompts": 2, "max_new_tokens": 4},
    }
    return Recipe.parse({**content, **more}, base=folder)


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def weights(run: Path) -> dict[str, torch.Tensor]:
    (file,) = (run / "model").glob("*.safetensors")
    found: dict[str, torch.Tensor] = load_file(file)
    return found


@pytest.mark.parametrize("lora", [{"rank": 4}, None], ids=["lora", "full"])
@pytest.mark.parametrize("kept", ["forward", "hidden"])
def test_the_model_itself_named_as_the_reference_changes_no_bit(folder: Path, lora: Any, kept: str) -> None:
    found, trained = [], []
    for name in (None, "same"):
        output = f"itself-{name}-{kept}-{lora is None}"
        model = {"path": "first", "lora": lora}
        settings = recipe(folder, output, name, model=model, loss={"kl_reference": kept})
        pipeline.run(settings, until="train")
        found.append(
            [
                {k: v for k, v in line.items() if "runtime" not in k and "per_second" not in k}
                for line in metrics(folder / output)
            ]
        )
        trained.append(weights(folder / output))
    assert found[0] == found[1]
    assert any("loss" in line for line in found[0])
    assert largest_difference(*trained) == 0.0


@pytest.mark.parametrize("kept", ["forward", "hidden", "top_k"])
def test_log_ratios_and_kl_are_against_the_reference_that_is_named(folder: Path, kept: str) -> None:
    """On the pairs of training, and on those that are held out, which are scored by themselves; nothing moves here."""
    output = f"named-{kept}"
    loss = {"kl_reference": kept, "kl_top_k": 400, "alpha_kl": 1.0}
    everything = {"batch_size": 44, "micro_batch": 44, "max_steps": 1, "learning_rate": 1e-12}
    settings = recipe(folder, output, "first", loss=loss, train=everything)
    pipeline.run(settings, until="train")
    first, second = (logits_of(load_model(model)) for model in (settings.reference_model, settings.model))
    encoder = recipe_encoder(settings, load_model_config(settings.model))
    held_out = encode_triaged(read_triage(folder / output / "triage.parquet", split="eval"), encoder)
    lines = metrics(folder / output)
    for prefix, pairs in (("", encoded_pairs(load_run(folder / output))), ("eval_", held_out)):
        how = {"beta": settings.loss.beta, "imitate": settings.loss.imitate}
        terms = naive(second, first, pairs, **how, confirm=True, weighted=False)
        (line,) = (line for line in lines if f"{prefix}loss" in line)
        expected = terms.means()
        assert expected["kl"] > 0.01
        assert sum("logp_change" in name for name in expected) >= 2
        for name, value in expected.items():
            if not name.endswith("accuracy"):
                assert line[prefix + name] == pytest.approx(value, rel=2e-3, abs=1e-5), name


def test_a_reference_decides_the_key_of_what_it_decides_and_of_nothing_before(folder: Path) -> None:
    plain = pipeline.stage_inputs(recipe(folder, "keys", None))
    named = pipeline.stage_inputs(recipe(folder, "keys", "first"))
    assert plain["triage"] == named["triage"]
    assert "reference" not in plain["reference"]
    same = pipeline.stage_inputs(recipe(folder, "keys", "same"))
    assert named["reference"] == same["reference"] != plain["reference"]  # by content, not by path
    pipeline.run(recipe(folder, "keys", None), until="reference")
    with pytest.raises(StaleKeyError):
        pipeline.run(recipe(folder, "keys", "first"), until="reference")


def test_a_run_with_a_reference_goes_to_its_report_and_compares_with_the_model_before(folder: Path) -> None:
    settings = recipe(folder, "report", "first", train={"batch_size": 44, "micro_batch": 44, "learning_rate": 1e-12})
    found = pipeline.run(settings)
    assert found.report.is_file()
    assert metrics(folder / "report")[0]["kl"] > 0.01
    assert found.summary["kl"]["value"] == pytest.approx(0, abs=1e-6)  # nothing moved


def test_a_reference_with_other_tokens_is_refused_before_anything_is_judged(folder: Path) -> None:
    settings = recipe(folder, "tokens", "other")
    with pytest.raises(ModelError, match=r"reference\.path = .*its tokens are not the model's \(another tokenizer\)"):
        pipeline.run(settings)
    assert not (folder / "tokens").exists()
    (line,) = (str(each) for each in check(settings) if each.topic == "reference")
    assert line.startswith("error")
    assert "other" in line


def test_a_reference_of_a_shorter_context_is_refused(folder: Path) -> None:
    saved_tiny("llama", folder / "short", hidden=16)
    path = folder / "short" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "max_position_embeddings": 64}))
    with pytest.raises(ModelError, match="its context is 64 tokens, and a pair may have"):
        pipeline.run(recipe(folder, "context", "short"))
    pipeline.run(recipe(folder, "context", "short", text={"max_length": 64}), until="reference")


def test_one_that_is_not_there_is_named_by_its_key(folder: Path) -> None:
    with pytest.raises(ModelError, match=r"reference\.path = .*there is no such directory"):
        pipeline.run(recipe(folder, "gone", "./gone"))
    (line,) = (str(each) for each in check(recipe(folder, "gone", "./gone")) if each.topic == "reference")
    assert "no such directory" in line
    assert [each.level for each in check(recipe(folder, "there", "first")) if each.topic == "reference"] == ["ok"]


def test_impact_weights_are_refused_beside_it(folder: Path) -> None:
    with pytest.raises(RecipeError, match="weighting: impact belongs to a model that is its own reference"):
        recipe(folder, "impact", "first", impact={"weighting": "impact"})


def test_the_estimate_counts_the_second_model_where_training_holds_it(folder: Path) -> None:
    def memory(reference: str | None, kept: str) -> float:
        settings = recipe(folder, "estimate", reference, loss={"kl_reference": kept})
        found = estimate(settings, pairs=1000, lengths=Lengths(20, 20, 20), flops=1e12, bandwidth=1e11)
        return next(stage.memory for stage in found.stages if stage.stage == "train")

    size = sum(p.numel() for p in load_model(recipe(folder, "estimate", None).model).parameters())
    assert memory("first", "forward") - memory(None, "forward") == 4 * size
    assert memory("first", "hidden") == memory(None, "hidden")
    assert memory("large", "forward") - memory("first", "forward") > 2 * size
