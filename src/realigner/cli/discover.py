"""`realigner discover`: what was old preference data teaching?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from realigner.cli.options import Debug, Json, Quiet
from realigner.cli.voice import DONE, GATE, Voice, write_lines

if TYPE_CHECKING:
    from realigner.recipe import DataSettings

RECIPES = (".yaml", ".yml")


def discover(
    data: Annotated[
        str, typer.Argument(metavar="DATA", help="Old preferences: a path, a hub id, or a recipe whose data it is.")
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="The policy file; figures go beside it, as .json.")
    ] = Path("recovered.yaml"),
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the split and the intervals.")] = 0,
    skip_invalid: Annotated[
        bool, typer.Option("--skip-invalid", help="Leave unusable pairs out and count them.")
    ] = False,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    """Recover the old policy from old preferences (exit code 3 where it cannot be recovered)."""
    with Voice(quiet, as_json, debug) as voice:
        from realigner.data import DataTally, read_pairs
        from realigner.discover import discover as discover_policy

        _refuse_existing(out)
        tally = DataTally()
        pairs = list(read_pairs(_settings(data, skip_invalid), tally))
        found = discover_policy(pairs, name=out.stem, seed=seed, progress=voice.progress)
        written = found.write(out)
        facts: dict[str, Any] = {**found.as_dict(), "data": tally.as_dict(), "files": [str(path) for path in written]}
        lines = [*found.lines(), "", *(f"wrote {path}" for path in written)]
        voice.answer(facts, lambda stream: write_lines(stream, *lines), code=DONE if found.recovered else GATE)
    return voice.code


def _settings(data: str, skip_invalid: bool) -> DataSettings:
    from realigner.recipe import DataSettings, Recipe

    settings = Recipe.load(data).data if Path(data).suffix in RECIPES else DataSettings(path=data)
    return settings.model_copy(update={"on_invalid": "skip"}) if skip_invalid else settings


def _refuse_existing(out: Path) -> None:
    from realigner.errors import RunDirError

    for path in (out, out.with_suffix(".json")):
        if path.exists():
            raise RunDirError(f"--out {out}", f"{path} is there already", "Name another file, or remove it")
    if not out.parent.is_dir():
        raise RunDirError(f"--out {out}", f"{out.parent} is no directory", "Make it first")
