"""`realigner batch export|import`: the questions of a triage as batch files, and their answers back."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from realigner.cli.options import Debug, Json, Quiet, RecipeFile, Set, recipe_of
from realigner.cli.voice import Voice, write_lines

app = typer.Typer(
    name="batch",
    help="Have the questions of a triage answered by a batch API, or by `vllm run-batch` on a cluster.",
    add_completion=False,
    rich_markup_mode=None,
    no_args_is_help=True,
)


@app.command("export")
def export_requests(
    recipe: RecipeFile,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to write; must not be there yet.")],
    max_requests: Annotated[int, typer.Option("--max-requests", min=1, help="Requests of one file, at most.")] = 50_000,
    max_megabytes: Annotated[int, typer.Option("--max-mb", min=1, help="Megabytes of one file, at most.")] = 200,
    settings: Set = None,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    """Write what triage would ask its judges over HTTP, as JSON Lines of batch requests. Asks nothing."""
    with Voice(quiet, as_json, debug) as voice:
        from realigner.atomic import readable
        from realigner.batching import export_batch

        done = export_batch(
            recipe_of(recipe, settings),
            folder,
            most_requests=max_requests,
            most_megabytes=max_megabytes,
            progress=voice.progress,
        )
        lines = [f"{done.requests:,} requests, {readable(done.bytes)}, in {len(done.files)} files"]
        lines += [f"wrote {folder / name}" for name in done.files]
        if done.requests:
            lines.append(f"Next: have them answered, then  realigner batch import {recipe} RESULTS...")
        else:
            lines.append("Every question of this triage has its verdict in the store.")
        voice.answer(asdict(done), lambda out: write_lines(out, *lines))
    return voice.code


@app.command("import")
def import_results(
    recipe: RecipeFile,
    results: Annotated[list[Path], typer.Argument(metavar="RESULTS...", help="Files of answers, whole or not.")],
    errors: Annotated[
        Path | None, typer.Option("--errors", metavar="FILE", help="Write what could not be used, and why, as JSONL.")
    ] = None,
    settings: Set = None,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    """Store the verdicts of batch answers, matched by custom_id; the next triage finds them."""
    with Voice(quiet, as_json, debug) as voice:
        from realigner.batching import import_batch

        done = import_batch(recipe_of(recipe, settings), results, errors=errors, progress=voice.progress)
        lines = [f"{done.answers:,} answers: {done.stored:,} verdicts stored"]
        if done.unusable:
            lines.append(f"{done.unusable:,} gave no verdict: failed, cut, refused or unreadable")
        if done.unasked:
            lines.append(f"{done.unasked:,} belong to no open question: answered before, or exported by another recipe")
        if done.bad_lines:
            lines.append(f"{done.bad_lines:,} lines are no results")
        if done.repeated:
            lines.append(f"{done.repeated:,} answers repeat a custom_id; the first whole one stands")
        if errors is not None:
            lines.append(f"wrote {errors}")
        lines.append(
            f"{done.open:,} questions are still open: export again, or let triage ask them"
            if done.open
            else f"No question is open. Next: realigner triage {recipe}"
        )
        voice.answer(asdict(done), lambda out: write_lines(out, *lines))
    return voice.code
