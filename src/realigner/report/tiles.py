"""One line for each part of the evidence, for the summary at the top: it says no more than the intervals do."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from realigner.report.interval import Figure
from realigner.report.parts import PARTS, Evidence, changes_in
from realigner.report.rundir import Part
from realigner.report.text import one_line

LEVEL = 0.05
_ATTACK = re.compile(r"stress\.[^.]+\.after")


@dataclass(frozen=True)
class Tile:
    """What the summary says of a part."""

    title: str
    value: str
    """Empty where it was not measured."""
    note: str
    section: str


def make_tiles(measured: Mapping[str, Part[Evidence]], sections: Mapping[str, tuple[str, ...]]) -> list[Tile]:
    """Return a tile for each part, in order; `sections` says where each part is shown."""
    tiles = []
    for name, found in measured.items():
        section = next((section for section, names in sections.items() if name in names), "others")
        title = PARTS.get(name, one_line(name.replace("_", " "), 40).capitalize())
        if found.value is None:
            tiles.append(Tile(title, "", "why", section))
        else:
            tiles.append(Tile(title, *_key(found.value.figures), section))
    return tiles


def moved(figure: Figure) -> bool:
    """Say whether a change can be told from chance: by its corrected p where there is one, else by its interval."""
    p = figure.p_holm if figure.p_holm is not None else figure.p
    low, high = figure.interval.low, figure.interval.high
    excludes = low is not None and high is not None and (low > 0 or high < 0)
    return excludes if p is None else p < LEVEL and (excludes or low is None)


def _key(figures: Mapping[str, Figure]) -> tuple[str, str]:
    """Return the most telling words: against the margin, else how many changes are told from chance, else a figure."""
    bound = [figure for figure in figures.values() if figure.non_inferior is not None]
    if bound:
        kept = sum(figure.non_inferior is True for figure in bound)
        return f"{kept} of {len(bound)}", "shown to be no worse than the margin allows"
    after = {name.split(".")[1]: figure for name, figure in figures.items() if _ATTACK.fullmatch(name)}
    attacks = {name: figure for name, figure in after.items() if name not in ("unattacked", "any")}
    refused = figures.get("over_refusal.xstest.after") or figures.get("over_refusal.newly_allowed.after")
    if attacks:
        name, figure = max(attacks.items(), key=lambda item: item[1].interval.value)
        beside = "" if refused is None else f"; {refused.interval.shown('share')} of harmless requests refused"
        return figure.interval.shown("share"), f"the strongest attack succeeds ({one_line(name, 40)}){beside}"
    if refused is not None:
        return refused.interval.shown("share"), "of harmless requests refused"
    if (won := figures.get("win_rate.after")) is not None:
        return won.interval.shown(won.shown_unit), f"{won.interval.shown_range(won.shown_unit)}; a tie is half a win"
    changes = changes_in(figures).values()
    if changes:
        return f"{sum(map(moved, changes))} of {len(changes)}", "changes told from chance"
    return f"{len(figures)}", "figures"
