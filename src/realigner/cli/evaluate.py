"""`realigner evaluate --before MODEL --after MODEL`: any two models, without a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, TextIO

import typer

from realigner.cli.voice import Voice

Before = Annotated[
    str | None, typer.Option("--before", metavar="MODEL", help="Compare two models without a run: the first.")
]
After = Annotated[str | None, typer.Option("--after", metavar="MODEL", help="The second model.")]
PolicyName = Annotated[str | None, typer.Option("--policy", metavar="POLICY", help="The policy to judge by.")]
Prompts = Annotated[Path | None, typer.Option("--prompts", metavar="FILE", help="JSONL, Parquet or CSV of prompts.")]
Column = Annotated[str | None, typer.Option("--column", metavar="NAME", help="The column that holds the prompts.")]
Out = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Where the comparison is written.")]


def refuse_mixed(recipe: Path | None, dry_run: bool, needed: Mapping[str, object], column: str | None) -> bool:
    """Say whether two models are to be compared without a run; refuse what belongs to neither way.

    Raises:
        RecipeError: it names the option.
    """
    from realigner.errors import RecipeError

    given = [name for name, value in needed.items() if value is not None]
    if recipe is not None:
        if given or column is not None:
            raise RecipeError(
                f"RECIPE and {(given or ['--column'])[0]}",
                "a run has its own models, policy and prompts",
                "Give RECIPE alone, or the options alone",
            )
        return False
    missing = [name for name in needed if name not in given]
    if missing:
        raise RecipeError(
            "no RECIPE" if not given else f"no {' and no '.join(missing)}",
            f"evaluate takes a RECIPE, or all of {', '.join(needed)}",
            "Give one or the other",
        )
    if dry_run:
        raise RecipeError(
            "--dry-run with --before", "what judges are asked depends on answers that are not there yet", "Leave it out"
        )
    return True


def compare_models(
    voice: Voice,
    before: str,
    after: str,
    policy: str,
    prompts: Path,
    out: Path,
    *,
    settings: Sequence[str],
    column: str | None,
    limits: tuple[int | None, float | None],
    redo: bool,
) -> None:
    """Compare two models and say what came of it."""
    import json
    from dataclasses import replace

    from realigner.planning import with_limits
    from realigner.two_models import compare_two, two_models

    compared = two_models(before, after, policy, prompts, out, settings=tuple(settings), column=column)
    compared = replace(compared, recipe=with_limits(compared.recipe, *limits))
    run = compare_two(compared, progress=voice.progress, redo=redo)
    summary = json.loads(run.path("summary.json").read_text(encoding="utf-8"))

    def tell(stream: TextIO) -> None:
        from realigner.cli.summary import print_comparison

        print_comparison(run.directory, summary, stream)

    voice.answer({"run": str(run.directory), "summary": summary}, tell)
