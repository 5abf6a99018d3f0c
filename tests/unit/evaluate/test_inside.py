"""Inside view: a planted shift is found where it is, an unrelated one is not, and labels by chance give no p."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compared import in_memory
from tiny import tiny_model, tiny_tokenizer

from realigner.errors import DataError, ModelError, RecipeError
from realigner.evaluate import inside
from realigner.evaluate.inside import contrast_of
from realigner.evaluate.inside_summary import flip_test
from realigner.model.chat import Encoder
from realigner.recipe import TextSettings
from realigner.recipe_evaluate import InsideSettings
from realigner.records import Direction, Label, Outcome, Pair, TriagedPair, Verdict, user_prompt
from realigner.triaging.store import write_triage

SETTINGS = InsideSettings(pairs=24, prompts=16, permutations=399)


def pair(i: int, split: Any, chosen: Label, rejected: Label, correction: str | None = None) -> TriagedPair:
    kind = Pair(
        f"p{i}", user_prompt(f"Question {i}"), f"bread and flour {i}", f"salt water time {i}", f"made up {i}", None
    )
    outcome, direction = Outcome.CONFIRM, Direction.RETAIN
    return TriagedPair(kind, split, Verdict(chosen), Verdict(rejected), outcome, direction, correction)


def triage(path: Path, train: int = 24, held_out: int = 16) -> Path:
    """Compliant answers speak of bread, the others of salt."""
    labels = (Label.COMPLIANT, Label.NON_COMPLIANT)
    pairs = [pair(i, "train" if i < train else "eval", *labels) for i in range(train + held_out)]
    write_triage(pairs, path / "triage.parquet")
    return path


def sides(after: Any = None, before: Any = None) -> dict[str, tuple[Any, Encoder]]:
    encoder = Encoder(tiny_tokenizer("llama"), TextSettings(), 256)
    before = before or tiny_model("llama")
    return {"before": (before, encoder), "after": (after or before, encoder)}


def pushed(layer: int, push: np.ndarray, layers: int = 2) -> Any:
    model = tiny_model("llama", layers=layers)
    model.model.layers[layer].register_forward_hook(lambda _m, _i, out: out + torch.tensor(push, dtype=out.dtype))
    return model


def direction_of(model: Any, tmp_path: Path) -> np.ndarray:
    """The direction that the probe finds in a model, in its own states."""
    comparison = in_memory(tmp_path, sides(before=model))
    inside.measure(SETTINGS, comparison)
    with np.load(comparison.scratch / "inside-before.npz") as found:
        mean: np.ndarray = found["differences"].mean(axis=0)
    (comparison.scratch / "inside-before.npz").unlink()
    return mean


def test_the_same_model_has_not_moved(tmp_path: Path) -> None:
    found = inside.measure(SETTINGS, in_memory(triage(tmp_path), sides()))
    for layer in (1, 2):
        shift = found.figures[f"inside.layer_{layer}.shift"]
        assert (shift["value"], shift["p"], shift["p_holm"]) == (0.0, 1.0, 1.0)
        assert shift["n"] == 16 and shift["unit"] == "gap"


def test_a_model_pushed_by_half_the_gap_has_moved_by_half_a_gap(tmp_path: Path) -> None:
    """The first of three layers: its own states move by just what is added; later ones by what they make of it."""
    before = tiny_model("llama", layers=3)
    mean = direction_of(before, triage(tmp_path))
    after = pushed(0, 0.5 * mean[0], layers=3)
    found = inside.measure(SETTINGS, in_memory(tmp_path, sides(after, before)))
    shift = found.figures["inside.layer_1.shift"]
    assert shift["value"] == pytest.approx(0.5, abs=1e-3)
    assert shift["low"] <= shift["value"] <= shift["high"]
    assert shift["p"] == pytest.approx(1 / 400) and shift["p_holm"] < 0.01  # no flip of 399 reaches it
    back = inside.measure(SETTINGS, in_memory(tmp_path, sides(pushed(0, -0.5 * mean[0], layers=3), before)))
    assert back.figures["inside.layer_1.shift"]["value"] == pytest.approx(-0.5, abs=1e-3)


def test_the_direction_holds_on_answers_that_it_has_not_seen(tmp_path: Path) -> None:
    found = inside.measure(SETTINGS, in_memory(triage(tmp_path), sides()))
    gap = found.figures["inside.layer_1.gap"]
    assert gap["low"] > 0.5 and gap["n"] == 16  # bread or salt: the words are the same on the held-out side
    assert found.warnings == ()


def test_every_figure_can_be_computed_from_the_rows(tmp_path: Path) -> None:
    found = inside.measure(SETTINGS, in_memory(triage(tmp_path), sides(tiny_model("llama", seed=5))))
    assert found.rows is not None
    for layer in (1, 2):
        rows = [row for row in found.rows.to_pylist() if row["layer"] == layer]
        assert len({row["prompt_id"] for row in rows}) == 16
        mean = float(np.mean([row["after"] - row["before"] for row in rows]))
        assert found.figures[f"inside.layer_{layer}.shift"]["value"] == pytest.approx(mean)
    (source,) = found.sources
    assert source.n == 24 + 16 + 16 and len(source.sha256) == 64


def test_an_interruption_costs_one_model(tmp_path: Path) -> None:
    comparison = in_memory(triage(tmp_path), sides())
    first = inside.measure(SETTINGS, comparison)
    comparison.loads.clear()
    assert inside.measure(SETTINGS, comparison).figures == first.figures
    assert comparison.loads == ["after"]


def test_the_flip_test_is_that_of_all_signs_written_out() -> None:
    rng = np.random.default_rng(0)
    differences, shift = rng.normal(0.3, 1.0, (8, 5)), rng.normal(size=5)

    def length(signs: np.ndarray) -> float:
        mean = (signs[:, None] * differences).mean(axis=0)
        return float(abs(mean @ shift) / np.linalg.norm(mean))

    all_signs = [length(np.array(signs)) for signs in itertools.product((-1, 1), repeat=8)]
    p, baseline = flip_test(differences, shift, permutations=9999, seed=0)
    assert p == pytest.approx(np.mean(np.array(all_signs) >= length(np.ones(8)) - 1e-9))
    assert baseline == pytest.approx(np.quantile(all_signs, 0.95))


def test_labels_without_meaning_give_p_below_5_percent_as_often_as_stated() -> None:
    """300 studies: symmetric differences, a shift that shares their strongest axis but not their signs."""
    rng = np.random.default_rng(1)
    scale = np.array([5.0, 2.0, 1.0, 1.0, 0.5, 0.5])
    ps = []
    for seed in range(300):
        differences, shift = rng.normal(size=(20, 6)) * scale, rng.normal(size=6) * scale
        ps.append(flip_test(differences, shift, permutations=199, seed=seed)[0])
    assert 0.025 <= np.mean(np.array(ps) <= 0.05) <= 0.08


def test_a_corrected_pair_and_both_orders_show_the_contrast_and_others_do_not() -> None:
    yes, no = Label.COMPLIANT, Label.NON_COMPLIANT
    confirm, invert = contrast_of(pair(1, "train", yes, no)), contrast_of(pair(1, "train", no, yes))
    assert (
        (confirm.compliant, confirm.other) == (invert.other, invert.compliant) == ("bread and flour 1", confirm.other)
    )
    corrected = contrast_of(pair(1, "train", no, no, correction="dough"))
    assert (corrected.compliant, corrected.other) == ("dough", "bread and flour 1")
    for labels in ((yes, yes), (no, no), (Label.UNSURE, no), (Label.INVALID, yes)):
        with pytest.raises(ValueError, match="no compliant and non-compliant answer"):
            contrast_of(pair(1, "train", *labels))


def test_too_few_pairs_are_said_not_to_be_measured(tmp_path: Path) -> None:
    found = inside.measure(SETTINGS, in_memory(triage(tmp_path, train=7), sides()))
    assert found.figures == {} and found.tables == ()
    assert found.warnings[0].startswith("7 training prompts have a compliant and a non-compliant answer")


def test_models_of_different_shape_are_refused(tmp_path: Path) -> None:
    other = tiny_model("llama", layers=3)
    with pytest.raises(ModelError, match=r"the models have \(layers, width\) \(2, 32\) and \(3, 32\)"):
        inside.measure(SETTINGS, in_memory(triage(tmp_path), sides(other)))


def test_a_missing_triage_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"triage\.parquet: there is no such file, .* Set evaluate\.inside\.triage"):
        inside.measure(SETTINGS, in_memory(tmp_path, sides()))
    with pytest.raises(RecipeError, match=r"evaluate\.inside\.triage = .*: there is no such file"):
        inside.inputs(InsideSettings(triage=str(tmp_path / "none.parquet")))
