"""The verbs of `realigner`. Each is a few lines: read what was given, call the library, say what came of it."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from realigner import __version__
from realigner.cli.audit import app as audit_app
from realigner.cli.batch import app as batch_app
from realigner.cli.calibrate import calibrate
from realigner.cli.correct import correct
from realigner.cli.discover import discover
from realigner.cli.estimate import estimate
from realigner.cli.evaluate import After, Before, Column, Out, PolicyName, Prompts, compare_models, refuse_mixed
from realigner.cli.lab import app as lab_app
from realigner.cli.lab import study
from realigner.cli.migrate import migrate
from realigner.cli.options import (
    Debug,
    DryRun,
    Json,
    MaxCalls,
    MaxCost,
    Quiet,
    RecipeFile,
    Redo,
    RedoThis,
    RunFolder,
    Set,
)
from realigner.cli.options import recipe_of as _recipe
from realigner.cli.policy import app as policy_app
from realigner.cli.ranks import done, helps_only
from realigner.cli.report import card, gate, report
from realigner.cli.review import app as review_app
from realigner.cli.verdicts import app as verdicts_app
from realigner.cli.voice import DONE, FAILED, GATE, INTERRUPTED, WRONG_INPUT, Voice, complain, write_lines
from realigner.cli.win_rate import win_rate
from realigner.ranks import world

app = typer.Typer(
    name="realigner",
    help="Re-align a language model to a new policy with the preference data you already have.",
    epilog="Exit codes: 0 done, 1 failed, 2 wrong input, 3 a stated requirement does not hold, 130 interrupted.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
)
app.add_typer(policy_app)
app.add_typer(audit_app)
app.add_typer(review_app)
app.add_typer(verdicts_app)
app.add_typer(batch_app)
app.command()(migrate)
app.add_typer(lab_app)
app.command()(study)


@app.command()
def init(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where to write; made if it is not there.")],
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    """Write a commented recipe and policy to start from. Overwrites nothing."""
    with Voice(quiet, as_json, debug) as voice:
        from realigner.cli.scaffold import write_scaffold

        files = write_scaffold(directory)
        facts = {"files": [str(file) for file in files]}
        hint = f"Next: edit them, then  realigner check {files[0]}"
        voice.answer(facts, lambda out: write_lines(out, *(f"wrote {file}" for file in files), hint))
    return voice.code


@app.command()
def check(
    recipe: RecipeFile, settings: Set = None, quiet: Quiet = False, as_json: Json = False, debug: Debug = False
) -> int:
    """Validate everything a run needs, in seconds. Changes nothing."""
    with Voice(quiet, as_json, debug) as voice:
        from realigner.check import check as check_recipe

        findings = check_recipe(_recipe(recipe, settings), voice.progress)
        wrong = any(finding.level == "error" for finding in findings)
        facts = {"findings": [finding.as_dict() for finding in findings]}
        voice.answer(facts, lambda out: write_lines(out, *map(str, findings)), code=WRONG_INPUT if wrong else DONE)
    return voice.code


@app.command()
def run(
    recipe: RecipeFile,
    settings: Set = None,
    redo: Redo = False,
    dry_run: DryRun = False,
    max_calls: MaxCalls = None,
    max_cost: MaxCost = None,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    """Run all stages, resuming where a stopped run got to."""
    with Voice(quiet, as_json, debug) as voice:
        from realigner import pipeline
        from realigner.planning import with_limits

        limited = with_limits(_recipe(recipe, settings), max_calls, max_cost)
        if dry_run:
            _forecast(voice, limited)
        else:
            _conclude(voice, pipeline.run(limited, progress=voice.progress, redo=redo))
    return voice.code


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", metavar="DIR", help="Where to write.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the demo's world, model and run.")] = 0,
    redo: Redo = False,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    """Make a small aligned model and an old preference set, and re-align it to a new policy. Needs no network."""
    with Voice(quiet, as_json, debug) as voice:
        from realigner import pipeline
        from realigner.lab import build_demo

        recipe = build_demo(output, seed=seed, progress=voice.progress)
        _conclude(voice, pipeline.run(recipe, progress=voice.progress, redo=redo))
    return voice.code


def _one_stage(voice: Voice, name: str, recipe: Any, redo: bool) -> None:
    from realigner import pipeline
    from realigner.runs import load_run

    result = pipeline.run(recipe, only=name, progress=voice.progress, redo=redo)
    record = load_run(result.directory).stages[name]
    facts = {"run": str(result.directory), "stage": name, **record}
    written = [f"wrote {result.directory / output}" for output in record["outputs"]]
    voice.answer(facts, lambda out: write_lines(out, *written))


def _judge_stage(
    voice: Voice,
    name: str,
    recipe: Path,
    settings: list[str] | None,
    redo: bool,
    dry_run: bool,
    max_calls: int | None,
    max_cost: float | None,
) -> None:
    from realigner.planning import with_limits

    limited = with_limits(_recipe(recipe, settings), max_calls, max_cost)
    if dry_run:
        _forecast(voice, limited, name)
    else:
        _one_stage(voice, name, limited, redo)


def _judging_verb(name: str, text: str) -> None:
    """Add the verb that runs one stage in which a judge may be asked."""

    def one_stage(
        recipe: RecipeFile,
        settings: Set = None,
        redo: RedoThis = False,
        dry_run: DryRun = False,
        max_calls: MaxCalls = None,
        max_cost: MaxCost = None,
        quiet: Quiet = False,
        as_json: Json = False,
        debug: Debug = False,
    ) -> int:
        with Voice(quiet, as_json, debug) as voice:
            _judge_stage(voice, name, recipe, settings, redo, dry_run, max_calls, max_cost)
        return voice.code

    app.command(name, help=text)(one_stage)


def _stage_verb(name: str, text: str) -> None:
    """Add the verb that runs one stage."""

    def one_stage(
        recipe: RecipeFile,
        settings: Set = None,
        redo: RedoThis = False,
        quiet: Quiet = False,
        as_json: Json = False,
        debug: Debug = False,
    ) -> int:
        with Voice(quiet, as_json, debug) as voice:
            _one_stage(voice, name, _recipe(recipe, settings), redo)
        return voice.code

    app.command(name, help=text)(one_stage)


_judging_verb("triage", "Stage 1: judge both responses of every pair by the new policy.")
for _name, _text in {
    "reference": "Compute the reference log-probabilities of the responses.",
    "weigh": "Weigh every conflict: 1 for each, or its alignment impact.",
    "train": "Re-align the model.",
    "generate": "Answer the held-out prompts, before and after.",
}.items():
    _stage_verb(_name, _text)


@app.command()
def evaluate(
    recipe: Annotated[Path | None, typer.Argument(metavar="RECIPE", help="A recipe file, or a run directory.")] = None,
    settings: Set = None,
    before: Before = None,
    after: After = None,
    policy: PolicyName = None,
    prompts: Prompts = None,
    column: Column = None,
    out: Out = None,
    redo: RedoThis = False,
    dry_run: DryRun = False,
    max_calls: MaxCalls = None,
    max_cost: MaxCost = None,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    """Judge the answers of a run's models, or of any two models; measure KL and perplexity in a run."""
    with Voice(quiet, as_json, debug) as voice:
        named = {"--before": before, "--after": after, "--policy": policy, "--prompts": prompts, "--out": out}
        if refuse_mixed(recipe, dry_run, named, column):
            assert before and after and policy and prompts and out
            limits = (max_calls, max_cost)
            compare_models(
                voice, before, after, policy, prompts, out,
                settings=settings or [], column=column, limits=limits, redo=redo,
            )  # fmt: skip
        elif recipe is not None:
            _judge_stage(voice, "evaluate", recipe, settings, redo, dry_run, max_calls, max_cost)
    return voice.code


_stage_verb("measure", "Measure the parts that `evaluate` of the recipe asks for; those that are there are kept.")
app.command()(report)
app.command()(gate)
app.command()(card)
app.command()(calibrate)
app.command()(correct)
app.command()(discover)
app.command()(estimate)
app.command("win-rate")(win_rate)


@app.command()
def replay(directory: RunFolder, quiet: Quiet = False, as_json: Json = False, debug: Debug = False) -> int:
    """Repeat a run and say whether the numbers agree (exit code 3 if they do not)."""
    with Voice(quiet, as_json, debug) as voice:
        from realigner.replay import replay as replay_run

        found = replay_run(directory, voice.progress)
        voice.answer(found.as_dict(), lambda out: write_lines(out, *found.lines()), code=DONE if found.agrees else GATE)
    return voice.code


@app.command()
def export(
    directory: RunFolder,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A directory that is not there yet.")],
    merge: Annotated[bool, typer.Option("--merge", help="Merge a LoRA adapter into its base model.")] = False,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    """Copy the re-aligned model out of a run, as `from_pretrained` loads it."""
    with Voice(quiet, as_json, debug) as voice:
        from realigner.model.export import export_model

        export_model(directory, out, merge=merge)
        voice.answer({"model": str(out), "merged": merge}, lambda stream: write_lines(stream, f"wrote {out}"))
    return voice.code


@app.command()
def version(quiet: Quiet = False, as_json: Json = False, debug: Debug = False) -> int:
    """Print the version."""
    with Voice(quiet, as_json, debug) as voice:
        from realigner.manifest import versions

        facts = {"version": __version__, "versions": versions()}
        voice.answer(facts, lambda out: write_lines(out, f"realigner {__version__}"))
    return voice.code


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    # Triage holds thousands of small records at a time; with the default threshold a sixth of its time goes into
    # looking for cycles among them.
    gc.set_threshold(20_000, 20, 20)
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a character shows '?', instead of ending the run.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    several = world() > 1
    if several and helps_only(arguments):
        return DONE
    command = typer.main.get_command(app)
    try:
        with command.make_context("realigner", arguments) as context:
            code: int = command.invoke(context)
            if several and code == DONE:
                done(arguments)
            return code
    except typer.Exit as leaving:  # --help
        return leaving.exit_code
    except KeyboardInterrupt:  # outside any verb, or a second one while the first is being handled
        complain("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of a pipe went away; Python would complain once more at exit while flushing.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as error:
        return _usage_error(error)


def _usage_error(error: Exception) -> int:
    """Say what is wrong with the command line itself."""
    words: Callable[[], str] | None = getattr(error, "format_message", None)
    if words is None:
        raise error
    context: Any = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "realigner"
    if type(error).__name__ == "NoArgsIsHelpError":
        sys.stdout.write(words() + "\n")
        return WRONG_INPUT
    complain(f"error: {words().rstrip('.')}. See: {path} --help")
    return WRONG_INPUT


def _forecast(voice: Voice, recipe: Any, *stages: str) -> None:
    from realigner.planning import JUDGING, forecast

    found = forecast(recipe, stages or JUDGING, voice.progress)
    facts = {"run": recipe.output, **found.as_dict()}
    voice.answer(facts, lambda out: write_lines(out, *found.lines()), code=GATE if found.refusal else DONE)


def _conclude(voice: Voice, result: Any) -> None:
    from realigner.cli.summary import print_summary

    facts = {"run": str(result.directory), "summary": result.summary}
    voice.answer(facts, lambda out: print_summary(result, out))
