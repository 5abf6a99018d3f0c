"""`realigner lab build` and `realigner study`: the benchmark with known truth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from realigner.cli.options import Debug, Json, Quiet
from realigner.cli.voice import DONE, GATE, Voice, write_lines

app = typer.Typer(
    name="lab",
    help="A small world with known truth: models and old preferences to try things on.",
    no_args_is_help=True,
)


@app.callback()
def _group() -> None:
    """Keep `build` a verb of its own although it is the only one."""


@app.command()
def build(
    shift: Annotated[str, typer.Option("--shift", metavar="NAME", help="Such as safety; docs/lab.md has all.")],
    preset: Annotated[str, typer.Option("--preset", metavar="NAME", help="small or full.")] = "small",
    output: Annotated[Path, typer.Option("--output", metavar="DIR", help="Where to write.")] = Path("runs/lab"),
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the world, the model and the run.")] = 0,
    pairs: Annotated[int, typer.Option("--pairs", min=50, help="Old preference pairs.")] = 2000,
    mix: Annotated[
        str | None, typer.Option("--mix", metavar="NAME", help="Outcomes: pku or even. Default: the shift's own.")
    ] = None,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    """Make an aligned model, its old preferences and a recipe that realigns it; exit code 3 if it is not aligned."""
    with Voice(quiet, as_json, debug) as voice:
        from realigner.lab.recipe import build_shift

        made = build_shift(output, shift, preset=preset, seed=seed, pairs=pairs, mix=mix, progress=voice.progress)
        voice.answer(made.facts(), lambda out: write_lines(out, *made.lines()), code=GATE if made.faults else DONE)
    return voice.code


def study(
    file: Annotated[Path, typer.Argument(metavar="STUDY", help="A study file; docs/lab.md describes it.")],
    quick: Annotated[bool, typer.Option("--quick", help="The same in kind, tiny in size: no conclusions.")] = False,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Processes, one core each.")] = 1,
    block: Annotated[
        list[str] | None, typer.Option("--block", metavar="NAME", help="Run this block only; repeatable.")
    ] = None,
    tables: Annotated[bool, typer.Option("--tables", help="Run nothing, write the tables of what is done.")] = False,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    """Run arms × seeds × settings of the lab's benchmark, going on where it stopped, and write tables and figures."""
    with Voice(quiet, as_json, debug) as voice:
        from realigner.lab.figures import write_figures
        from realigner.lab.plan import Study
        from realigner.lab.report import write_tables
        from realigner.lab.study import Results, quick_study, run_study

        plan = Study.load(file)
        plan = quick_study(plan) if quick else plan
        plan.check_blocks(block or [])
        if tables:
            results = Results(plan.output)
        else:
            results = run_study(plan, jobs=jobs, blocks=block or [], progress=voice.progress)
        written = [str(path) for path in (*write_tables(plan, results), *write_figures(plan, results))]
        facts = {"study": plan.name, "rows": len(results.rows), "files": written}
        voice.answer(facts, lambda out: write_lines(out, *(f"wrote {path}" for path in written)))
    return voice.code
