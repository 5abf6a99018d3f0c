"""`realigner report`, `gate` and `card`: what is shown of a run, what it must reach, what travels with its model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from realigner.cli.options import Debug, Json, Quiet, RedoThis, RunFolder, Set, recipe_of
from realigner.cli.voice import DONE, GATE, Voice, write_lines

Runs = Annotated[
    list[Path], typer.Argument(metavar="RUN...", help="Run directories or recipes; with --compare, studies too.")
]
Compare = Annotated[bool, typer.Option("--compare", help="Write one page with all of them side by side.")]
Out = Annotated[
    Path | None, typer.Option("--out", metavar="DIR", help="Where a comparison is written. Default: ./comparison.")
]


def report(
    runs: Runs,
    compare: Compare = False,
    out: Out = None,
    settings: Set = None,
    redo: RedoThis = False,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    """Write the report: the page, its tables as CSV and JSON, the gate's verdict, and the card beside the model."""
    with Voice(quiet, as_json, debug) as voice:
        from realigner.errors import RecipeError

        if compare:
            if settings or redo:
                rule = "a comparison reads runs as they are"
                raise RecipeError("--compare with --set or --redo", rule, "Leave them out")
            _compare(voice, runs, out or Path("comparison"))
        elif out is not None:
            raise RecipeError("--out without --compare", "a run's report lies in its directory", "Leave it out")
        else:
            _reports(voice, runs, settings, redo)
    return voice.code


def gate(
    directory: RunFolder,
    file: Annotated[
        Path | None, typer.Argument(metavar="[GATE]", help="Conditions on figures. Default: report.gate of the recipe.")
    ] = None,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    """Hold a run against conditions on its figures (exit code 3 if one does not hold or was not measured)."""
    with Voice(quiet, as_json, debug) as voice:
        from realigner.errors import RecipeError
        from realigner.report.gate import check_gate, read_gate
        from realigner.runs import load_run

        named = file or load_run(directory).recipe.report.gate
        if named is None:
            rule = "neither the command nor the recipe names conditions"
            raise RecipeError(f"gate of {directory}", rule, "Give a file: realigner gate RUN GATE.yaml")
        load_run(directory)
        found = check_gate(directory, read_gate(named))
        facts = {"run": str(directory), "gate": str(named), **found.as_dict()}
        voice.answer(facts, lambda out: write_lines(out, *found.lines()), code=DONE if found.met else GATE)
    return voice.code


def card(
    directory: RunFolder,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Default: RUN/model/README.md.")] = None,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    """Write the model card: policy, judge, audit, figures with intervals, limits. Your own card is never touched."""
    with Voice(quiet, as_json, debug) as voice:
        from realigner.report.card import write_card
        from realigner.runs import load_run

        load_run(directory)
        path = write_card(directory, path=out)
        voice.answer({"run": str(directory), "card": str(path)}, lambda stream: write_lines(stream, f"wrote {path}"))
    return voice.code


def _reports(voice: Voice, runs: list[Path], settings: list[str] | None, redo: bool) -> None:
    from realigner import pipeline
    from realigner.runs import load_run

    facts: list[dict[str, Any]] = []
    for path in runs:
        result = pipeline.run(recipe_of(path, settings), only="report", progress=voice.progress, redo=redo)
        facts.append({"run": str(result.directory), "stage": "report", **load_run(result.directory).stages["report"]})
    written = [f"wrote {Path(fact['run']) / output}" for fact in facts for output in fact["outputs"]]
    answer = facts[0] if len(facts) == 1 else {"reports": facts}
    voice.answer(answer, lambda stream: write_lines(stream, *written))


def _compare(voice: Voice, runs: list[Path], out: Path) -> None:
    from realigner.report.compare import write_comparison

    page = write_comparison(runs, out)
    voice.answer({"report": str(page)}, lambda stream: write_lines(stream, f"wrote {page}"))
