"""`realigner correct`: compliant answers for PUNISH pairs, written, judged and accounted for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from realigner.cli.options import Debug, Json, MaxCalls, MaxCost, Quiet, RecipeFile, Set, recipe_of
from realigner.cli.voice import DONE, GATE, Voice, write_lines

Output = Annotated[
    Path, typer.Option("--output", metavar="FILE", help="Where to write: the recipe's `corrections.path` afterwards.")
]
Redo = Annotated[bool, typer.Option("--redo", help="Replace an output that is there.")]


def correct(
    recipe: RecipeFile,
    output: Output = Path("corrections.jsonl"),
    settings: Set = None,
    redo: Redo = False,
    max_calls: MaxCalls = None,
    max_cost: MaxCost = None,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    """Have PUNISH pairs answered anew under the policy, and keep what the judges accept (exit code 3 if nothing)."""
    with Voice(quiet, as_json, debug) as voice:
        from realigner.planning import with_limits
        from realigner.triaging.correct import correct as write_corrections

        limited = with_limits(recipe_of(recipe, settings), max_calls, max_cost)
        found = write_corrections(limited, output, voice.progress, redo)
        lines = (*found.pop("lines"), *(f"wrote {found[name]}" for name in ("corrections", "candidates", "leakage")))
        voice.answer(found, lambda out: write_lines(out, *lines), code=DONE if found["accepted"] else GATE)
    return voice.code
