"""`realigner calibrate`: the scale of a local judge, fitted to labelled examples."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from realigner.cli.options import Debug, Json, Quiet, RecipeFile, Set, recipe_of
from realigner.cli.voice import Voice, write_lines

Output = Annotated[Path, typer.Option("--output", metavar="FILE", help="Where to write: the judge's `calibration`.")]
Examples = Annotated[
    Path | None,
    typer.Option(
        "--examples",
        metavar="FILE",
        help="JSON Lines of {rule, prompt, response, label}. Default: the examples of the policy's rules.",
    ),
]
Method = Annotated[str, typer.Option("--method", help="platt (slope and offset) or temperature (slope alone).")]
Judge = Annotated[
    str | None, typer.Option("--judge", metavar="PLACE", help="Which, where there are several: oracle.llm")
]


def calibrate(
    recipe: RecipeFile,
    output: Output,
    examples: Examples = None,
    method: Method = "platt",
    judge: Judge = None,
    settings: Set = None,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    """Fit the probabilities of a local judge to labelled examples."""
    with Voice(quiet, as_json, debug) as voice:
        from dataclasses import asdict

        from realigner.oracle.calibrate import calibrate as fit_to_examples

        found = fit_to_examples(recipe_of(recipe, settings), examples, method, judge)  # type: ignore[arg-type]
        found.save(output)
        lines = (
            f"{found.examples} examples: p(compliant) = σ({found.slope:.3g} · log-odds {found.offset:+.3g})",
            f"log loss, nats an example: {found.log_loss_before:.3f} before, {found.log_loss_after:.3f} held out after",
            f"wrote {output}: name it as the judge's `calibration`",
        )
        voice.answer({"file": str(output), **asdict(found)}, lambda out: write_lines(out, *lines))
    return voice.code
