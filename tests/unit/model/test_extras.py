"""Extras fail in the first second, with the line that installs them; nothing changes where they are not asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from tiny import saved_tiny
from tiny_pairs import random_rows

from realigner.errors import ModelError, RecipeError
from realigner.impact.direction import target_gradient
from realigner.impact.slopes import TOLERANCE, choose
from realigner.inputs import reference_inputs, train_inputs
from realigner.model import extras
from realigner.model.extras import refuse_absent_extras
from realigner.model.load import load_model
from realigner.model.logprobs import score_rows
from realigner.progress import SILENT
from realigner.recipe import LoraSettings, ModelSettings, Recipe
from realigner.train.config import config_from_recipe


def recipe(model: dict[str, Any] | None = None, **train: Any) -> Recipe:
    files = {"output": "run", "data": {"path": "d"}, "policy": {"path": "p"}}
    return Recipe.parse({**files, "model": {"path": "m", "device": "cpu", **(model or {})}, "train": train})


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names that are taken to be installed; none at first."""
    names: set[str] = set()
    monkeypatch.setattr(extras, "find_spec", lambda name: name if name in names else None)
    return names


def test_quantised_weights_without_their_package_are_refused_with_the_install_line(installed: set[str]) -> None:
    with pytest.raises(ModelError, match=r"quantize = nf4: it needs bitsandbytes, .* pip install 'realigner\[qlora\]'"):
        refuse_absent_extras(recipe({"quantize": "nf4"}))
    with pytest.raises(ModelError, match="it needs bitsandbytes"):
        load_model(ModelSettings(path="m", device="cpu", quantize="nf4"))
    installed.add("bitsandbytes")
    refuse_absent_extras(recipe({"quantize": "nf4"}))


def test_quantised_weights_need_an_adapter_and_a_whole_model_below_it(installed: set[str], tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=r"model\.quantize needs model\.lora"):
        ModelSettings(path="m", quantize="nf4", lora=None)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "b"}), encoding="utf-8")
    installed.add("bitsandbytes")
    with pytest.raises(
        ModelError, match=r"an adapter, with model\.quantize = nf4: .* realigner export RUN OUT --merge"
    ):
        refuse_absent_extras(recipe({"path": str(tmp_path), "quantize": "nf4"}))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"impact": {"preconditioner": "cg"}}, r"preconditioner = cg with model\.shard: curvature .* identity"),
        ({"train": {"liger": True}}, r"liger = true with model\.shard: .* Leave one of them out"),
    ],
)
def test_what_sharded_weights_do_not_go_with_is_refused_early(settings: dict[str, Any], message: str) -> None:
    wanted = recipe({"shard": True}).model_dump()
    with pytest.raises(RecipeError, match=message):
        refuse_absent_extras(Recipe.parse({**wanted, **settings}))
    refuse_absent_extras(recipe({"shard": True}))
    with pytest.raises(ValidationError, match=r"model\.shard does not spread 4-bit weights"):
        ModelSettings(path="m", quantize="nf4", shard=True)


def test_sharing_the_weights_changes_no_key(tmp_path: Path) -> None:
    path = {"path": str(saved_tiny("llama", tmp_path / "model"))}
    assert reference_inputs(recipe({**path, "shard": True}), SILENT) == reference_inputs(recipe(path), SILENT)


def test_liger_kernels_without_their_package_or_a_gpu_are_refused(installed: set[str]) -> None:
    with pytest.raises(RecipeError, match=r"liger-kernel, which is not installed. pip install 'realigner\[liger\]'"):
        refuse_absent_extras(recipe(liger=True))
    installed.add("liger_kernel")
    with pytest.raises(RecipeError, match=r"train\.liger = true on cpu: its kernels run on CUDA devices"):
        refuse_absent_extras(recipe(liger=True))


def test_liger_kernels_are_those_of_layers_only_and_change_no_key_where_they_are_off() -> None:
    args = [config_from_recipe(recipe(liger=on), "out", steps_per_epoch=40, device="cpu") for on in (False, True)]
    assert [a.use_liger_kernel for a in args] == [False, True]
    assert args[0].liger_kernel_config is None
    assert args[1].liger_kernel_config == {"cross_entropy": False, "fused_linear_cross_entropy": False}
    assert "liger" not in train_inputs(recipe(), SILENT)["train"]
    assert train_inputs(recipe(liger=True), SILENT)["train"]["liger"] is True


@pytest.mark.filterwarnings("ignore")  # bitsandbytes looks for kernels of newer CPUs
def test_quantised_weights_are_scored_by_their_own_gradient_and_keep_their_adapter_apart(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="an extra: pip install 'realigner[qlora]'")
    saved_tiny("llama", tmp_path / "base", hidden=64, layers=1)
    settings = ModelSettings(path=str(tmp_path / "base"), device="cpu", quantize="nf4", lora=LoraSettings(rank=4))
    model = load_model(settings, trainable=True)
    assert {type(m).__name__ for n, m in model.named_modules() if n.endswith("base_layer")} == {"Linear4bit"}
    rows = random_rows(8, seed=1)
    gold = list(zip(random_rows(4, seed=2), random_rows(4, seed=3), strict=True))
    chosen = choose(model, target_gradient(model, gold, beta=0.3), rows, "auto")
    assert chosen.relative_error < TOLERANCE
    assert bool((chosen.slopes(rows) != 0).all())

    model.save_pretrained(tmp_path / "adapter")
    again = load_model(settings.model_copy(update={"path": str(tmp_path / "adapter")}))
    assert hasattr(again, "disable_adapter")
    torch.testing.assert_close(score_rows(again, rows), score_rows(model, rows))


def test_flex_attention_without_a_gpu_is_refused_and_the_default_asks_for_none() -> None:
    with pytest.raises(
        RecipeError, match=r"model\.attention = flex on cpu: FlexAttention's kernels for training run on"
    ):
        refuse_absent_extras(recipe({"attention": "flex"}))
    refuse_absent_extras(recipe())


def test_packed_rows_attend_as_the_recipe_says_and_flex_is_about_them_alone(tmp_path: Path) -> None:
    asked = {"auto": "auto", "flex": "flex", "sdpa": "segments", "eager": "segments", "flash_attention_2": "segments"}
    for attention, expected in asked.items():
        args = config_from_recipe(recipe({"attention": attention}), "out", steps_per_epoch=40, device="cpu")
        assert args.packed_attention == expected
    path = str(saved_tiny("llama", tmp_path / "m", layers=1))
    found = [load_model(ModelSettings(path=path, device="cpu", attention=how)) for how in ("auto", "flex")]
    assert len({model.config._attn_implementation for model in found}) == 1
