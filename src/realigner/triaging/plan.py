"""What triage will ask of a judge, counted over the whole data before anything is asked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import islice

from realigner.data import DataTally, read_corrections, read_pairs
from realigner.oracle import PolicyOracle
from realigner.oracle.plan import Plan, Planner
from realigner.progress import SILENT, Progress
from realigner.recipe import Recipe
from realigner.records import Correction, Judgement
from realigner.triaging.corrections import CorrectionIndex

WINDOW = 2048
"""Pairs that are looked up together."""


def proposed(recipe: Recipe) -> Iterable[Correction]:
    """Return the corrections of the recipe's file, if it names one."""
    path = None if recipe.corrections is None else recipe.corrections.path
    return () if path is None else read_corrections(path)


def writer_lines(recipe: Recipe, plan: Plan | None = None) -> list[str]:
    """Return what is known before triage of the calls that corrections take; empty where the recipe has no writer.

    Args:
        recipe: it may have a writer.
        plan: of its triage; it says how many pairs there are at most.
    """
    generate = None if recipe.corrections is None else recipe.corrections.generate
    if generate is None:
        return []
    judges = 1 + (generate.second is not None)
    return [
        f"corrections: {generate.candidates} candidates for each PUNISH pair by {generate.writer.kind} writer, each "
        f"judged {'once' if judges == 1 else 'twice'}; how many pairs that is, triage will show"
        + (f", at most {plan.pairs:,}: {plan.pairs * generate.candidates:,} calls of the writer" if plan else "")
    ]


def plan_triage(recipe: Recipe, oracle: PolicyOracle, progress: Progress = SILENT) -> Plan:
    """Read the data once and return what their triage takes. Corrections count as perhaps: only PUNISH pairs use them.

    Raises:
        DataError: the data or the corrections are unusable.
    """
    corrections, count = proposed(recipe), 0
    with Planner(oracle) as planner, CorrectionIndex(corrections) as index:
        with progress.task("Looking up verdicts", None) as advance:
            pairs = read_pairs(recipe.data, DataTally())
            while window := list(islice(pairs, WINDOW)):
                planner.add([Judgement(pair.prompt, text) for pair in window for text in (pair.chosen, pair.rejected)])
                if len(index):
                    found = ((pair.prompt, index.find(pair.id)) for pair in window)
                    planner.add([Judgement(prompt, item.text) for prompt, item in found if item], sure=False)
                count += len(window)
                advance(len(window))
        return replace(planner.plan(), pairs=count)
