"""Pairs of mixed treatment as one batch of rows, and what each row is for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from realigner.errors import StaleKeyError
from realigner.losses import PairRatios
from realigner.model.encoded import RESPONSES, responses_read, row_of
from realigner.model.packing import PackedBatch, pack
from realigner.model.retained import gathered
from realigner.model.rows import Row, RowBatch, collate
from realigner.records import Direction, Outcome

Batch = dict[str, Any]


class PairCollator:
    """Lays encoded pairs out as rows: the responses a loss reads, and the anchor y_w of retained pairs.

    Packed rows (`model/packing.py`) carry no padding, and the responses of a pair share its prompt; padded rows are
    the plain way. The batch holds `rows` and `anchor_rows`, tensors and lists of names: `place` is `(pairs, 3)`, the
    row of chosen, rejected and correction or −1; `read` says which of them a loss reads, `reference` is their
    log p_ref; `anchors` are the rows whose KL is taken, `reference_hidden` (or `reference_ids` and `reference_logps`)
    what is kept of the reference there.
    """

    def __init__(self, *, confirm: bool, kl_reference: str = "forward", packed: bool = False) -> None:
        self.confirm, self.kl_reference, self.packed = confirm, kl_reference, packed

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> Batch:
        """Return one micro-batch."""
        rows: list[Row] = []
        anchors: list[int] = []
        retained: list[Mapping[str, Any]] = []
        shape = (len(examples), len(RESPONSES))
        place, read = torch.full(shape, -1, dtype=torch.long), torch.zeros(shape, dtype=torch.bool)
        reference = torch.zeros(shape)
        for i, example in enumerate(examples):
            direction, outcome = Direction(example["direction"]), Outcome(example["outcome"])
            reads = responses_read(direction, outcome, confirm=self.confirm)
            for k, name in enumerate(RESPONSES):
                anchored = name == "chosen" and outcome.is_retained
                if anchored:
                    anchors.append(len(rows))
                    retained.append(example)
                if anchored or name in reads:
                    place[i, k] = len(rows)
                    rows.append(row_of(example, name))
                if name in reads:
                    read[i, k], reference[i, k] = True, _reference_logp(example, name)
        laid = pack(rows) if self.packed else collate(rows)
        return {
            "rows": laid,
            "anchor_rows": self._anchors([rows[i] for i in anchors], rows[0]),
            "input_ids": laid.input_ids,  # where transformers counts tokens
            "place": place,
            "read": read,
            "reference": reference,
            "anchors": torch.tensor(anchors, dtype=torch.long),
            "weights": torch.tensor([float(e.get("weight", 1.0)) for e in examples]),
            "ids": [e["id"] for e in examples],
            "directions": [e["direction"] for e in examples],
            "outcomes": [e["outcome"] for e in examples],
            **gathered(retained, self.kl_reference),
        }

    def _anchors(self, rows: Sequence[Row], stand_in: Row) -> RowBatch | PackedBatch:
        """Lay the retained rows out by themselves, for the reference.

        Where there are none, another row stands in, unscored: every rank then runs the same forwards, which sharded
        models need.
        """
        if self.packed:
            batch = pack(rows or [stand_in])
            return (
                batch
                if rows
                else replace(
                    batch, scored=batch.scored[:0], targets=batch.targets[:0], row_of_token=batch.row_of_token[:0]
                )
            )
        padded = collate(rows or [stand_in])
        return padded if rows else replace(padded, scored=torch.zeros_like(padded.scored))


def _reference_logp(example: Mapping[str, Any], name: str) -> float:
    logp: float | None = example[f"{name}_logp"]
    if logp is None:
        raise StaleKeyError(
            f"pair {example['id']} has no reference log-probability of its {name} response",
            "it was encoded for other losses (loss.confirm?) or not scored",
            "Encode the pairs again with the settings that train",
        )
    return logp


def log_ratios(batch: Batch, row_logps: Tensor) -> PairRatios:
    """Return r(y) of each pair's responses; those that no loss reads are zero and carry no gradient."""
    reference = batch["reference"].to(row_logps.dtype)
    found = row_logps[batch["place"].clamp(min=0)] - reference
    return PairRatios(*torch.where(batch["read"], found, torch.zeros_like(found)).unbind(dim=1))


def count(batch: Batch) -> tuple[int, int, int]:
    """Return the number of conflicts, retained response tokens and CONFIRM pairs in a batch: its denominators."""
    outcomes = [Outcome(name) for name in batch["outcomes"]]
    return (
        sum(o.is_conflict for o in outcomes),
        int(torch.isin(batch["rows"].row_of_token, batch["anchors"]).sum()),
        sum(o == Outcome.CONFIRM for o in outcomes),
    )
