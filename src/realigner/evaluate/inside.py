"""Inside view: the direction between compliant and non-compliant answers in hidden states, and who moved along it.

After the persona vectors of Chen et al. (2025, arXiv 2507.21509), with two differences: the direction comes from
answers of the OLD data to the same prompts, as the triage judged them, and it is held against directions that the same
answers give when their labels are flipped by chance.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from realigner.atomic import hash_of, writing
from realigner.errors import DataError, ModelError
from realigner.evaluate.agreement import SIDES
from realigner.evaluate.draw import draw_prompts
from realigner.evaluate.evidence import Evidence, Figure, Source, Table, columns
from realigner.evaluate.paired import mean_level, with_holm
from realigner.evaluate.parts import Comparison, file_identity
from realigner.recipe_evaluate import InsideSettings
from realigner.records import Label, Prompt, TriagedPair, prompt_key
from realigner.triaging import read_triage

if TYPE_CHECKING:
    import pyarrow as pa

    from realigner.model.rows import Row

TRIAGE = "triage.parquet"
AT_A_TIME = 32
"""Pairs that are encoded together; results do not depend on it."""
FEWEST = 8
"""Prompts with both kinds of answers without which there is no direction: flips of 7 signs give no p below 0.01."""


def inputs(settings: InsideSettings) -> dict[str, Any]:
    """Return the identity of the triage that is named.

    Raises:
        RecipeError: it is not there.
    """
    return {"triage": settings.triage and file_identity(settings.triage, "evaluate.inside.triage")}


@dataclass(frozen=True, slots=True)
class Contrast:
    """Two answers to one prompt, of which the policy allows the first."""

    id: str
    prompt: Prompt
    compliant: str
    other: str


@dataclass(frozen=True)
class Probe:
    """What the model before shows: one vector a layer for each pair of answers."""

    differences: np.ndarray
    """(pairs, layers, hidden), float32: mean state over the compliant answer less that over the other one."""

    @property
    def direction(self) -> np.ndarray:
        """(layers, hidden): the mean difference v, divided by its squared length.

        A projection on it counts in gaps: 1 is the distance from the one kind of answers to the other.
        """
        mean = self.differences.mean(axis=0, dtype=np.float64)
        return np.asarray(mean / np.maximum((mean**2).sum(axis=1, keepdims=True), np.finfo(float).tiny))


def measure(settings: InsideSettings, comparison: Comparison) -> Evidence:
    """Find the direction in the model before, and how far the model after has moved along it.

    Raises:
        DataError: there is no triage.
        ModelError: the models differ in layers or width.
    """
    path = Path(settings.triage) if settings.triage else comparison.directory / TRIAGE
    if not path.is_file():
        raise DataError(
            f"evaluate.inside: {path}",
            "there is no such file, and judged pairs show the direction",
            "Set evaluate.inside.triage to the triage.parquet of a run",
        )
    source = Source("triage", hash_of(path).rpartition(":")[2], 0, str(path))
    seed = comparison.seed
    train, held_out = (
        [contrast_of(item) for item in draw_prompts(_contrasts(path, side), settings.pairs, seed, "inside")]
        for side in ("train", "eval")
    )
    prompts = _prompts(comparison, path, settings.prompts)
    before = _before(comparison, train, held_out, prompts) if len(train) >= FEWEST and prompts else {}
    if not before:
        warning = (
            f"{len(train)} training prompts have a compliant and a non-compliant answer that could be read, and "
            f"{len(prompts)} held-out prompts are there; a direction needs {FEWEST}, a shift one. Not measured."
        )
        return Evidence({}, (), (source,), (warning,))
    after = _after(comparison, before, prompts)
    used = Source(source.name, source.sha256, len(train) + len(held_out) + len(prompts), source.origin)
    ids = [prompt_key(prompt) for prompt in prompts]
    figures, table, warnings, rows = _summary(before, after, ids, settings.permutations, seed)
    return Evidence(figures, (table,), (used,), tuple(warnings), rows)


def _prompts(comparison: Comparison, path: Path, count: int) -> list[Prompt]:
    """Return held-out prompts; those that hold a control token, which would be read as structure, are left out."""
    encoders = [comparison.encoder(side) for side in SIDES]
    drawn = [item.pair.prompt for item in draw_prompts(read_triage(path, "eval"), count, comparison.seed, "shift")]
    return [
        prompt
        for prompt in drawn
        if not any(encoder.control_token(turn["content"] for turn in prompt) for encoder in encoders)
    ]


def contrast_of(item: TriagedPair) -> Contrast:
    """Return a pair's compliant answer beside its other one: the two of the data, or an accepted correction.

    Raises:
        ValueError: it has not one of each kind.
    """
    chosen, rejected = item.chosen_verdict.label, item.rejected_verdict.label
    if (chosen, rejected) == (Label.COMPLIANT, Label.NON_COMPLIANT):
        return Contrast(item.pair.id, item.pair.prompt, item.pair.chosen, item.pair.rejected)
    if (chosen, rejected) == (Label.NON_COMPLIANT, Label.COMPLIANT):
        return Contrast(item.pair.id, item.pair.prompt, item.pair.rejected, item.pair.chosen)
    if chosen == Label.NON_COMPLIANT and item.correction is not None:
        return Contrast(item.pair.id, item.pair.prompt, item.correction, item.pair.chosen)
    raise ValueError(f"pair {item.pair.id} has no compliant and non-compliant answer")


def _contrasts(path: Path, side: Any) -> Iterator[TriagedPair]:
    for item in read_triage(path, side):
        labels = {item.chosen_verdict.label, item.rejected_verdict.label}
        corrected = item.correction is not None and item.chosen_verdict.label == Label.NON_COMPLIANT
        if labels == {Label.COMPLIANT, Label.NON_COMPLIANT} or corrected:
            yield item


def _before(
    comparison: Comparison, train: Sequence[Contrast], held_out: Sequence[Contrast], prompts: Sequence[Prompt]
) -> dict[str, np.ndarray]:
    """Return what the model before shows, nothing where too few pairs could be read.

    It is kept until the stage is done, so that an interruption costs one model.
    """
    kept = comparison.scratch / "inside-before.npz"
    if not kept.is_file():
        model, encoder = comparison.load(SIDES[0])
        shown = list(_differences(model, encoder, train, comparison, "inside before: the direction"))
        if len(shown) < FEWEST:
            return {}
        differences = np.stack(shown).astype(np.float32)
        direction = Probe(differences).direction
        # Held-out pairs, which the direction has not seen: projected as they come, so that none is kept.
        seen = _differences(model, encoder, held_out, comparison, "inside before: held-out answers")
        gaps = [(difference * direction).sum(axis=1) for difference in seen]
        mean, projections = _prompt_states(model, encoder, prompts, direction, comparison, SIDES[0])
        arrays = {
            "differences": differences,
            "gaps": np.stack(gaps) if gaps else np.zeros((0, len(direction))),
            "mean": mean,
            "projections": projections,
        }
        with writing(kept) as path, path.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
    with np.load(kept, allow_pickle=False) as found:
        return {name: found[name] for name in found.files}


def _after(comparison: Comparison, before: dict[str, np.ndarray], prompts: Sequence[Prompt]) -> dict[str, np.ndarray]:
    direction = Probe(before["differences"]).direction
    model, encoder = comparison.load(SIDES[1])
    mean, projections = _prompt_states(model, encoder, prompts, direction, comparison, SIDES[1])
    return {"mean": mean, "projections": projections}


def _differences(
    model: Any, encoder: Any, contrasts: Sequence[Contrast], comparison: Comparison, label: str
) -> Iterator[np.ndarray]:
    """Yield (layers, hidden) a pair: what differs between its answers, each the mean over its tokens.

    Pairs that the encoder drops (too long, control tokens) are left out.
    """
    from realigner.model.hidden import hidden_states

    with comparison.progress.task(label, len(contrasts)) as advance:
        for start in range(0, len(contrasts), AT_A_TIME):
            chunk = contrasts[start : start + AT_A_TIME]
            encoded = [encoder.encode(c.id, c.prompt, {"compliant": c.compliant, "other": c.other}) for c in chunk]
            rows = [found[name] for found in encoded if found is not None for name in ("compliant", "other")]
            states: dict[int, np.ndarray] = {}
            for places, found in hidden_states(model, rows):
                states.update(zip(places, found.response.numpy(), strict=True))
            for first in range(0, len(rows), 2):
                yield states[first] - states[first + 1]
            advance(len(chunk))


def _prompt_states(
    model: Any, encoder: Any, prompts: Sequence[Prompt], direction: np.ndarray, comparison: Comparison, side: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean state at the end of the prompts (layers, hidden), and each one's projection (prompts, layers)."""
    from realigner.model.hidden import hidden_states

    rows = [_prompt_row(encoder, prompt) for prompt in prompts]
    total = np.zeros_like(direction)
    projections = np.zeros((len(rows), len(direction)))
    with comparison.progress.task(f"inside {side}: held-out prompts", len(rows)) as advance:
        for places, states in hidden_states(model, rows):
            found = states.prompt.numpy().astype(np.float64)
            if found.shape[1:] != direction.shape:
                raise ModelError(
                    f"the models have (layers, width) {direction.shape} and {found.shape[1:]}",
                    "a direction of one means nothing in another of a different shape",
                    "Set evaluate.inside: null, or compare models of one shape",
                )
            total += found.sum(axis=0)
            projections[places] = (found * direction).sum(axis=2)
            advance(len(places))
    return total / len(rows), projections


def _prompt_row(encoder: Any, prompt: Prompt) -> Row:
    """Return a prompt as a row; the end token behind it is never looked at."""
    from realigner.model.rows import Row

    ids = encoder.prompt_ids(prompt, 1)
    return Row((*ids, encoder.stop_ids[0]), len(ids))


def flip_test(differences: np.ndarray, shift: np.ndarray, permutations: int, seed: int) -> tuple[float, float]:
    """Return (p, baseline) of a shift along the mean of differences, one layer.

    Were the labels of the two answers without meaning, each difference could as well have the other sign. The
    statistic is the length of the shift's projection on the mean difference of unit length; p is how often flipped
    signs give a projection at least as long, those observed counted among them; the baseline is the length that 95 %
    of the flipped directions stay below.

    Args:
        differences: (pairs, hidden).
        shift: (hidden,), the mean change of states.
        permutations: flips that are drawn; all of them are made where there are no more than that.
        seed: of the draw.
    """
    from scipy.stats import permutation_test

    values = differences.astype(np.float64)
    along, gram = values @ shift, values @ values.T  # what is needed of the hidden width, whatever its size

    def length(signs: Any, axis: int = -1) -> Any:
        signs = np.moveaxis(np.asarray(signs), axis, -1)
        norm = np.sqrt(np.maximum(((signs @ gram) * signs).sum(axis=-1), np.finfo(float).tiny))
        return np.abs(signs @ along) / norm

    found = permutation_test(
        (np.ones(len(values)),),
        length,
        permutation_type="samples",
        vectorized=True,
        alternative="greater",
        n_resamples=permutations,
        batch=256,
        rng=np.random.default_rng(seed),
    )
    return float(found.pvalue), float(np.quantile(found.null_distribution, 0.95))


def _summary(
    before: dict[str, np.ndarray], after: dict[str, np.ndarray], ids: Sequence[str], permutations: int, seed: int
) -> tuple[dict[str, Figure], Table, list[str], pa.Table]:
    """Return the figures of every layer, their table, warnings, and one row a prompt and layer."""
    import pyarrow as pa

    probe = Probe(before["differences"])
    shifts = after["projections"] - before["projections"]
    moved = after["mean"] - before["mean"]
    figures: dict[str, Figure] = {}
    shown: list[dict[str, Any]] = []
    for layer in range(shifts.shape[1]):
        gap = mean_level(before["gaps"][:, layer].tolist(), unit="gap")
        shift = mean_level(shifts[:, layer].tolist(), unit="gap")
        assert shift is not None  # there are prompts
        differences = probe.differences[:, layer]
        p, baseline = flip_test(differences, moved[layer], permutations, seed)
        shift["p"], shift["p_method"], shift["seed"] = p, f"flipped labels, {permutations} draws", seed
        length = float(np.linalg.norm(differences.mean(axis=0, dtype=np.float64)))
        shown.append(
            {"layer": layer + 1, "gap": gap, "shift": shift, "baseline": baseline / length if length else None}
        )
        figures[f"inside.layer_{layer + 1}.shift"] = shift
        if gap is not None:
            figures[f"inside.layer_{layer + 1}.gap"] = gap
    with_holm([row["shift"] for row in shown])
    for row in shown:
        row["p_holm"] = row["shift"]["p_holm"]
    warnings = []
    gaps = [row["gap"] for row in shown if row["gap"] is not None]
    if not gaps:
        warnings.append("No held-out prompt has both kinds of answers: whether the direction holds there is not known.")
    elif not any(gap["low"] > 0 for gap in gaps):
        warnings.append("At no layer does the direction tell compliant from other answers on held-out prompts.")
    rows = pa.table(
        {
            "prompt_id": np.repeat(np.array(ids), shifts.shape[1]),
            "layer": np.tile(np.arange(1, shifts.shape[1] + 1), len(shifts)),
            "before": before["projections"].ravel(),
            "after": after["projections"].ravel(),
        }
    )
    return figures, _table(shown, len(probe.differences)), warnings, rows


def _table(rows: Sequence[dict[str, Any]], pairs: int) -> Table:
    note = (
        f"Direction: mean difference between compliant and other answers to the same {pairs} training prompts, mean "
        "over their tokens, in the model before. Unit: the gap between the two kinds there. Gap on held-out prompts: 1 "
        "where the direction holds wholly, 0 where it was chance. Shift: how far the states at the end of held-out "
        "prompts moved along it, towards compliant above 0. Baseline: what 95 % of directions with flipped labels stay "
        "below; p against it, corrected by Holm for the layers. A shift says where the model moved, not what it will "
        "answer."
    )
    titles = columns(
        layer="Layer", gap="Gap on held-out prompts", shift="Shift", baseline="Baseline", p_holm="p, corrected"
    )
    return Table("inside.layers", "Inside view", titles, rows, note)
