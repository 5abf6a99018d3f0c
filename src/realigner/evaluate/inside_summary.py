"""From hidden states to what is said of them: the direction, its baseline of flipped labels, figures and table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from realigner.evaluate.evidence import Figure, Table, columns
from realigner.evaluate.paired import mean_level, with_holm

if TYPE_CHECKING:
    import pyarrow as pa


def direction_of(differences: np.ndarray) -> np.ndarray:
    """Return (layers, hidden): the mean difference v of pairs of answers, divided by its squared length.

    A projection on it counts in gaps: 1 is the distance from the one kind of answers to the other.

    Args:
        differences: (pairs, layers, hidden): mean state over the compliant answer less that over the other one.
    """
    mean = differences.mean(axis=0, dtype=np.float64)
    return np.asarray(mean / np.maximum((mean**2).sum(axis=1, keepdims=True), np.finfo(float).tiny))


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


def summarise(
    before: dict[str, np.ndarray], after: dict[str, np.ndarray], ids: Sequence[str], permutations: int, seed: int
) -> tuple[dict[str, Figure], Table, list[str], pa.Table]:
    """Return the figures of every layer, their table, warnings, and one row a prompt and layer."""
    import pyarrow as pa

    shifts = after["projections"] - before["projections"]
    moved = after["mean"] - before["mean"]
    figures: dict[str, Figure] = {}
    shown: list[dict[str, Any]] = []
    for layer in range(shifts.shape[1]):
        gap = mean_level(before["gaps"][:, layer].tolist(), unit="gap")
        shift = mean_level(shifts[:, layer].tolist(), unit="gap")
        assert shift is not None  # there are prompts
        differences = before["differences"][:, layer]
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
    return figures, _table(shown, len(before["differences"])), warnings, rows


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
