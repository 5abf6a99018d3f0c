"""The arguments and options that verbs share, so that each reads and is explained the same everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe file, or a run directory.")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory: the `output` of a recipe.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=VALUE", help="Override a setting of the recipe; repeatable.")
]
Redo = Annotated[
    bool, typer.Option("--redo", help="Redo stages that were computed from other inputs, and all after them.")
]
RedoThis = Annotated[bool, typer.Option("--redo", help="Redo this stage even if it is done, and drop all after it.")]
MaxCalls = Annotated[
    int | None, typer.Option("--max-calls", min=0, metavar="N", help="The most calls that judges may take now.")
]
MaxCost = Annotated[
    float | None, typer.Option("--max-cost", min=0, metavar="MONEY", help="The most that judges may cost now.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what judges would be asked, and ask nothing.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Show warnings and errors only.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object on stdout.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks and the warnings of other libraries.")]


def recipe_of(path: Path, settings: list[str] | None) -> Any:
    """Return the recipe of a file or of a run directory, with overrides."""
    from realigner.recipe import Recipe
    from realigner.runs import RECIPE, load_run

    if not path.is_dir():
        return Recipe.load(path, settings or [])
    recipe = load_run(path).recipe
    return Recipe.load(path / RECIPE, [f"output={recipe.output}", *settings]) if settings else recipe
