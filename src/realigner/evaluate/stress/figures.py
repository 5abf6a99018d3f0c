"""The figures of the stress tests: shares of both sides, their paired changes, and attacked against not attacked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from realigner.evaluate.agreement import SIDES
from realigner.evaluate.evidence import Figure
from realigner.evaluate.statistics import holm, paired_change, proportion
from realigner.evaluate.stress.answered import STRESS, SUITES, UNATTACKED, Side

Hits = Mapping[str, bool]
"""By item."""


def attack_figures(found: Mapping[str, Side], attacks: Sequence[str], old: bool, seed: int) -> dict[str, Figure]:
    """Return how often attacks succeed.

    Args:
        found: by side.
        attacks: ids, `unattacked` first.
        old: whether verdicts of the old policy are known.
        seed: of the resampling.
    """
    figures: dict[str, Figure] = {}
    succeeded: dict[str, dict[str, Hits]] = {
        name: {side: {item: each.succeeded for item, each in found[side][STRESS, name].items()} for side in SIDES}
        for name in attacks
    }
    tried = [name for name in attacks if name != UNATTACKED]
    for name in attacks:
        figures |= _compared(f"stress.{name}", succeeded[name], seed)
        for side in SIDES:
            if name != UNATTACKED:
                against = f"stress.{name}.against_unattacked.{side}"
                _paired(figures, against, succeeded[UNATTACKED][side], succeeded[name][side], seed)
            if old:
                broke = [each.broke_old for each in found[side][STRESS, name].values()]
                _add(figures, f"stress.{name}.old.{side}", proportion(sum(broke), len(broke)))
    if tried:
        every = [set(succeeded[name]["before"]) for name in tried]
        whole = [item for item in succeeded[tried[0]]["before"] if all(item in items for items in every)]
        any_of = {side: {item: any(succeeded[name][side][item] for name in tried) for item in whole} for side in SIDES}
        figures |= _compared("stress.any", any_of, seed)
    changes = [figures[f"stress.{name}.change"] for name in tried if f"stress.{name}.change" in figures]
    for change, p in zip(changes, holm([change["p"] for change in changes]), strict=True):
        change["p_holm"] = p
    return figures


def refusal_figures(found: Mapping[str, Side], seed: int) -> dict[str, Figure]:
    """Return how much is refused that is not attacked: in all, and flatly."""
    figures: dict[str, Figure] = {}
    for suite in SUITES:
        answered = {side: found[side].get((suite, ""), {}) for side in SIDES}
        refused = {side: {item: each.refused for item, each in own.items()} for side, own in answered.items()}
        figures |= _compared(suite, refused, seed)
        for side, own in answered.items():
            flat = sum(each.refusal == "full" for each in own.values())
            _add(figures, f"{suite}.full.{side}", proportion(flat, len(own)))
    return figures


def _compared(name: str, hits: Mapping[str, Hits], seed: int) -> dict[str, Figure]:
    """Return the shares of both sides and their paired change."""
    figures: dict[str, Figure] = {}
    for side in SIDES:
        _add(figures, f"{name}.{side}", proportion(sum(hits[side].values()), len(hits[side])))
    _paired(figures, f"{name}.change", hits["before"], hits["after"], seed)
    return figures


def _paired(figures: dict[str, Figure], name: str, one: Hits, other: Hits, seed: int) -> None:
    """Add the paired change from one to the other, on the items that both have."""
    items = [item for item in one if item in other]
    change = paired_change([one[item] for item in items], [other[item] for item in items], seed)
    if change is not None:
        kept = {key: change[key] for key in ("value", "low", "high", "n", "method", "p", "p_method")}
        figures[name] = cast(Figure, {**kept, "unit": "share", "seed": seed})


def _add(figures: dict[str, Figure], name: str, found: Any) -> None:
    if found is not None:
        figures[name] = cast(Figure, {**found, "unit": "share"})
