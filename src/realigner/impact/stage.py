"""The stage `weigh`: the gold batch, the direction, one weight for each conflict."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import nsmallest
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from realigner.audit.gate import audited_loss
from realigner.errors import DataError
from realigner.impact.gold import GoldBatch, draw_gold
from realigner.impact.score import curvature_rank, encode_gold, weigh
from realigner.impact.slopes import refuse_half_precision
from realigner.impact.weights import Weights, uniform
from realigner.model.encoded import examples_of, row_of
from realigner.model.load import load_model, resolve_device, resolve_dtype
from realigner.model.rows import Row
from realigner.model.stage import encoded_pairs, recipe_encoder
from realigner.recipe import Recipe
from realigner.records import Outcome
from realigner.runs import Run
from realigner.triaging import read_triage

_ROWS = 10_000
"""Rows of weights.parquet that are held as Python objects while it is written."""
_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("outcome", pa.string()),
        ("score", pa.float64()),
        ("weight", pa.float64()),
        ("clamped", pa.bool_()),
        ("tokens", pa.int64()),
    ]
)


def run_weigh(run: Run) -> dict[str, Any]:
    """Write `weights.parquet`; return diagnostics per class, warnings, and the gold batch's ids."""
    recipe = run.recipe
    loss = audited_loss(recipe)
    impact = recipe.impact
    pairs = encoded_pairs(run)
    conflict = _among(pairs, "outcome", [str(o) for o in Outcome if o.is_conflict])
    if not conflict.any():
        raise DataError(
            "no conflict is left to train on",
            "none of the INVERT and PUNISH pairs fits the text limits",
            "Raise text.max_length, or set text.overflow: cut",
        )
    gold, gold_rows = GoldBatch((), frozenset()), []
    found: dict[str, Any] = {}
    if impact.weighting == "uniform":
        weights = uniform(examples_of(pairs, conflict))
    else:
        model = load_model(recipe.model, trainable=True, seed=recipe.seed)
        encoder = recipe_encoder(recipe, model.config)
        gold = draw_gold(read_triage(run.path("triage.parquet"), split="train"), impact.gold, recipe.seed)
        gold_rows = encode_gold(gold.pairs, encoder)
        free = ~_among(pairs, "id", sorted(gold.held_out))
        weights, found = weigh(
            model,
            gold_rows,
            examples_of(pairs, conflict & free),
            _retained_rows(pairs, np.flatnonzero(~conflict & free), impact.fisher_rows, recipe.seed)
            if impact.preconditioner != "identity"
            else [],
            impact,
            loss,
            seed=recipe.seed,
            total=int((conflict & free).sum()),
            progress=run.progress,
        )
    with run.writing("weights.parquet") as path:
        _write(weights, str(path))
    for warning in weights.warnings:
        run.progress.say(f"WARNING {warning}")
    return {
        **impact.model_dump(mode="json", exclude={"gold"}),
        "gold": {
            "kind": impact.gold.kind,
            "size": len(gold.pairs),
            "used": len(gold_rows),
            "parts": {part: sum(p.part == part for p in gold.pairs) for part in {p.part for p in gold.pairs}},
            "ids_held_out": sorted(gold.held_out),
        },
        **found,
        **weights.facts(),
        "epsilon": loss.flip_rate if loss.invert == "robust" else None,
    }


def refuse_impossible(recipe: Recipe) -> None:
    """Refuse a way of scoring that the model's precision does not allow; known before anything is computed.

    Raises:
        ModelError: `impact.method: difference` in half precision.
    """
    if recipe.impact.weighting == "impact":
        refuse_half_precision(recipe.impact.method, resolve_dtype(recipe.model, resolve_device(recipe.model)))


def _among(pairs: Any, column: str, names: Sequence[str]) -> np.ndarray:
    """Say of every pair whether a column holds one of these names, without a Python string for each."""
    found = pc.is_in(pairs.data.column(column), value_set=pa.array(names, type=pa.string()))
    return np.asarray(found.to_numpy(), dtype=bool)


def _retained_rows(pairs: Any, indices: np.ndarray, count: int, seed: int) -> list[Row]:
    ids = pairs.data.column("id")
    drawn = nsmallest(count, map(int, indices), key=lambda i: curvature_rank(ids[i].as_py(), seed))
    return [row_of(example, "chosen") for example in pairs.select(drawn)]


def _write(weights: Weights, path: str) -> None:
    scores = weights.scores
    with pq.ParquetWriter(path, _SCHEMA) as writer:
        for start in range(0, len(scores.ids), _ROWS):
            here = slice(start, start + _ROWS)
            score = scores.values[here]
            columns = [scores.ids[here], scores.outcomes[here], score, weights.values[here], score <= 0.0]
            arrays = [pa.array(c, f.type) for c, f in zip([*columns, scores.tokens[here]], _SCHEMA, strict=True)]
            writer.write_batch(pa.record_batch(arrays, schema=_SCHEMA))
