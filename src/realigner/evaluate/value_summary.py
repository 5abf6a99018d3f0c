"""From scored items to what is said of values: figures, tables and warnings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from realigner.evaluate.agreement import SIDES
from realigner.evaluate.drift import Changes, beyond_drift, drift_of
from realigner.evaluate.evidence import Figure, Table, columns
from realigner.evaluate.paired import mean_change, mean_level, score_level, with_holm
from realigner.evaluate.utility import slug

LEVEL = 0.05
"""A value has moved where its p, corrected for the number of values, lies below."""
RARE = 0.1
"""Below this mean probability of either answer, log-odds speak of what the model would hardly say."""


def summarise(
    found: Sequence[Mapping[str, Any]],
) -> tuple[dict[str, Figure], tuple[Table, ...], list[str]]:
    """Return the figures of every value, the tables of sets and values, and what is to be warned of.

    Args:
        found: one row an item: set, value, key, `SIDE_high` and `SIDE_low` (log-probabilities), before, after (leans
            towards the value, nats) and change.
    """
    values: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    sets: dict[str, list[Mapping[str, Any]]] = {}
    for row in found:
        values.setdefault((row["set"], row["value"]), []).append(row)
        sets.setdefault(row["set"], []).append(row)
    changes = {
        place: Changes.of([row["key"] for row in rows], [row["change"] for row in rows])
        for place, rows in values.items()
    }
    drifts = {set_: drift_of([found for (own, _), found in changes.items() if own == set_]) for set_ in sets}
    shown = [
        _value_row(set_, value, rows) | {"beyond_drift": beyond_drift(changes[set_, value], drifts[set_])}
        for (set_, value), rows in values.items()
    ]
    with_holm([row["beyond_drift"] for row in shown])
    for row in shown:
        row["moved"] = _moved(row["beyond_drift"])
    figures: dict[str, Figure] = {}
    names = _names(values)
    for (set_, value), row in zip(values, shown, strict=True):
        name = names[set_, value]
        figures |= {f"{name}.{key}": row[key] for key in ("before", "after", "change", "beyond_drift")}
    of_sets, warnings = [], []
    for set_, rows in sets.items():
        drift = drifts[set_]
        mass = {
            side: score_level([float(np.exp(row[f"{side}_high"]) + np.exp(row[f"{side}_low"])) for row in rows])
            for side in SIDES
        }
        if drift is not None:
            figures |= {f"values.{slug(set_)}.drift": drift.figure}
        else:
            warnings.append(
                f"{set_}: no value has statements of both keys, so a drift towards the high answer (yes) cannot be "
                "told from a movement."
            )
        figures |= {f"values.{slug(set_)}.answered.{side}": figure for side, figure in mass.items() if figure}
        mine = [row for row in shown if row["set"] == set_]
        moved = sum(row["moved"] == "yes" for row in mine)
        of_sets.append(
            {"set": set_, "items": len(rows), "values": len(mine), "moved": moved, "drift": drift and drift.figure}
            | {f"answered_{side}": figure for side, figure in mass.items()}
        )
        if low := [side for side, figure in mass.items() if figure is not None and figure["value"] < RARE]:
            warnings.append(
                f"{set_}: the two answers together have a mean probability below {RARE:g} ({' and '.join(low)}): "
                "their odds speak of what the model would hardly say."
            )
    far = sorted((row for row in shown if row["moved"] == "yes"), key=lambda row: -abs(row["beyond_drift"]["value"]))
    if far:
        first = ", ".join(f"{row['value']} {row['beyond_drift']['value']:+.2f}" for row in far[:5])
        warnings.insert(
            0,
            f"{len(far)} of {len(shown)} values moved (p below {LEVEL:g}, corrected for their number): {first} nats"
            + (" and others." if len(far) > 5 else "."),
        )
    order = {"yes": 0, "no": 1, "not tested": 2}
    shown.sort(key=lambda row: (order[row["moved"]], -abs(row["beyond_drift"]["value"]), row["set"], row["value"]))
    return figures, (_sets_table(of_sets), _values_table(shown)), warnings


def _value_row(set_: str, value: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    before, after = ([row[side] for row in rows] for side in SIDES)
    return {
        "set": set_,
        "value": value,
        "items": len(rows),
        "towards_before": score_level([float(lean > 0) for lean in before]),
        "towards_after": score_level([float(lean > 0) for lean in after]),
        "before": mean_level(before, unit="nats"),
        "after": mean_level(after, unit="nats"),
        "change": mean_change([row["change"] for row in rows], unit="nats"),
    }


def _moved(change: Figure) -> str:
    if "p_holm" not in change:
        return "not tested"
    return "yes" if change["p_holm"] < LEVEL else "no"


def _names(values: Mapping[tuple[str, str], object]) -> dict[tuple[str, str], str]:
    """Return the names of values in figures; two whose names differ only in signs are told apart by a number."""
    found: dict[tuple[str, str], str] = {}
    taken: set[str] = set()
    for set_, value in values:
        own, other = slug(set_), slug(value)
        name = f"values.{other}" if own == other else f"values.{own}.{other}"
        number = 2
        while name in taken:
            name, number = f"values.{own}.{other}_{number}", number + 1
        taken.add(name)
        found[set_, value] = name
    return found


def _sets_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    titles = columns(
        set="Set",
        items="Items",
        values="Values",
        moved="Moved",
        drift="Drift towards the high answer (nats)",
        answered_before="Probability of either answer, before",
        answered_after="After",
    )
    note = (
        "Drift: how much likelier the high answer (yes) became whatever it speaks for, from values that have items of "
        "both keys. It moves the lean towards every value whose items are not balanced by reverse-keyed ones."
    )
    return Table("values.sets", "Sets of statements", titles, rows, note)


def _values_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    titles = columns(
        set="Set",
        value="Value",
        items="Items",
        towards_before="Items answered for the value, before",
        towards_after="After",
        change="Change of the lean (nats)",
        beyond_drift="Beyond the drift (nats)",
        moved="Moved",
    )
    note = (
        "Lean: log p(answer for the value) - log p(answer against it). Change: its mean over the same items. Beyond "
        "the drift: what of it is the value's own and no general drift towards yes; p of that, corrected by Holm for "
        f"all values of all sets; moved: below {LEVEL:g}. With many items a movement can be sure and still small: read "
        "it beside the share of items answered for the value."
    )
    return Table("values.values", "Values", titles, rows, note)
