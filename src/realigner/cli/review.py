"""`realigner review …`: people audit the judge, vote blind, write corrections and clear what nobody could decide."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from realigner.cli.options import Debug, Json, Quiet
from realigner.cli.review_text import links_lines, made_lines, scored_lines, status_lines
from realigner.cli.voice import Voice, write_lines

if TYPE_CHECKING:
    from realigner.review.serve import Links

app = typer.Typer(
    name="review",
    help="Audits of the judge, blind votes, corrections and undecided pairs, by people on a local page.",
    add_completion=False,
    rich_markup_mode=None,
    no_args_is_help=True,
)
What = Literal["answers", "corrections", "verdicts"]
StudyFolder = Annotated[Path, typer.Argument(metavar="STUDY", help="A study: the directory with study.yaml.")]


@app.command()
def serve(
    study: StudyFolder,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes any free one.")] = 8420,
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on; beyond loopback, joining needs a code.")
    ] = ("127.0.0.1"),
    names: Annotated[
        list[str] | None,
        typer.Option("--name", metavar="HOST", help="A host name under which the page may be reached; repeatable."),
    ] = None,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    """Serve the page until Ctrl-C. Answers are on disk before the next item is shown."""
    with Voice(quiet, as_json, debug) as voice:
        from dataclasses import asdict

        from realigner.review.serve import refuse_without_server
        from realigner.review.serve import serve as serve_study
        from realigner.review.store import Store
        from realigner.review.study import load_study

        refuse_without_server()
        with Store(load_study(study)) as store:

            def announce(links: Links) -> None:
                voice.answer(asdict(links), lambda out: write_lines(out, *links_lines(links)))

            try:
                serve_study(store, host=host, port=port, names=names or (), announce=announce)
            except KeyboardInterrupt:
                voice.progress.say(f"stopped; the answers are in {store.path}")
    return voice.code


@app.command()
def new(
    study: Annotated[Path, typer.Argument(metavar="STUDY", help="Where to write; a directory that is not there yet.")],
    run: Annotated[
        Path | None, typer.Option("--run", metavar="RUN", help="The run directory that the items come from.")
    ] = None,
    audit: Annotated[
        int, typer.Option("--audit", min=0, metavar="N", help="Audit the judge's verdicts on N responses.")
    ] = 0,
    audit_answers: Annotated[
        int, typer.Option("--audit-answers", min=0, metavar="N", help="Audit its verdicts on N answers of the models.")
    ] = 0,
    preference: Annotated[
        int, typer.Option("--preference", min=0, metavar="N", help="Compare answers to N held-out prompts, blind.")
    ] = 0,
    against: Annotated[
        list[Path] | None,
        typer.Option("--against", metavar="RUN", help="Another run whose model takes part; repeatable."),
    ] = None,
    responses: Annotated[
        Path | None,
        typer.Option("--responses", metavar="FILE", help="Compare the responses of this JSONL file instead."),
    ] = None,
    corrections: Annotated[
        int, typer.Option("--corrections", min=0, metavar="N", help="Have N PUNISH pairs corrected.")
    ] = 0,
    undecided: Annotated[
        bool, typer.Option("--undecided", help="Have people decide what no judge could decide.")
    ] = False,
    policy: Annotated[
        Path | None, typer.Option("--policy", metavar="FILE", help="The policy to show. Default: the run's.")
    ] = None,
    annotators: Annotated[
        int, typer.Option("--annotators", min=1, help="How many people answer an item that several are to answer.")
    ] = 3,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of every draw.")] = 0,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    """Make a study from a run, or from a file of responses."""
    with Voice(quiet, as_json, debug) as voice:
        from dataclasses import asdict

        from realigner.review.make import Wanted, new_study

        wanted = Wanted(audit, audit_answers, preference, tuple(against or ()), responses, corrections, undecided)
        made = new_study(study, wanted, run=run, policy=policy, annotators=annotators, seed=seed)
        facts = {**asdict(made), "directory": str(made.directory)}
        voice.answer(facts, lambda out: write_lines(out, *made_lines(made)))
    return voice.code


@app.command()
def status(study: StudyFolder, quiet: Quiet = False, as_json: Json = False, debug: Debug = False) -> int:
    """Show progress, time and agreement as they stand. Nothing is un-blinded."""
    with Voice(quiet, as_json, debug) as voice:
        from dataclasses import asdict

        from realigner.review.figures import task_figures
        from realigner.review.store import Store
        from realigner.review.study import load_study

        loaded = load_study(study)
        with Store(loaded) as store:
            figures = [task_figures(store, task) for task in loaded.tasks.values()]
            facts = {"study": loaded.hash, "unblinded": store.unblinded, "tasks": [asdict(task) for task in figures]}
        lines = [line for task in figures for line in status_lines(task)]
        voice.answer(facts, lambda out: write_lines(out, *lines))
    return voice.code


@app.command("export")
def export_answers(
    study: StudyFolder,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A file that ends in .jsonl or .csv.")],
    what: Annotated[
        What,
        typer.Option("--as", help="All answers, or the file that corrections.path or human.path of a recipe takes."),
    ] = "answers",
    history: Annotated[
        bool, typer.Option("--history", help="With answers: everything that was done, not only what counts.")
    ] = False,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    """Write answers to a file, or what people corrected or decided as the file that a recipe takes."""
    with Voice(quiet, as_json, debug) as voice:
        from realigner.errors import ReviewError
        from realigner.review.results import Rows, correction_rows, verdict_rows, voted_rows
        from realigner.review.store import Store
        from realigner.review.study import load_study
        from realigner.review.transfer import export_rows, write_rows

        if what != "answers" and out.suffix != ".jsonl":
            raise ReviewError(f"{out}", f"{what} are written as .jsonl", "Name the file so")
        loaded = load_study(study)
        with Store(loaded) as store:
            if what == "answers":
                rows = Rows(voted_rows(store, list(export_rows(store, loaded.tasks.values(), history))), {})
            else:
                rows = correction_rows(store) if what == "corrections" else verdict_rows(store)
            write_rows(rows.rows, out)
        left = [f"left out: {count}, {reason}" for reason, count in rows.left_out.items()]
        facts = {"file": str(out), "rows": len(rows.rows), "left_out": rows.left_out}
        voice.answer(facts, lambda stream: write_lines(stream, f"wrote {out}: {len(rows.rows)} {what}", *left))
    return voice.code


@app.command("import")
def import_file(
    study: StudyFolder,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSONL or CSV, or a filled-in sheet of an audit.")],
    task: Annotated[str | None, typer.Option("--task", help="The task of rows that name none.")] = None,
    annotator: Annotated[
        str | None, typer.Option("--annotator", help="The person of rows that name none. Default: the file's name.")
    ] = None,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    """Take in answers that were made elsewhere: all of a file, or nothing where a row is wrong."""
    with Voice(quiet, as_json, debug) as voice:
        from dataclasses import asdict

        from realigner.review.store import Store
        from realigner.review.study import load_study
        from realigner.review.transfer import import_answers

        with Store(load_study(study)) as store:
            found = import_answers(store, file, task=task, annotator=annotator)
        line = f"{found.answers} answers taken in, {found.known} known already, {found.empty} rows without an answer"
        voice.answer(asdict(found), lambda out: write_lines(out, line))
    return voice.code


@app.command()
def unblind(
    study: StudyFolder,
    early: Annotated[bool, typer.Option("--early", help="Even though votes are missing.")] = False,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    """End the votes for ever, and show whose responses were chosen."""
    with Voice(quiet, as_json, debug) as voice:
        from realigner.review.results import score_task, unblind_study
        from realigner.review.store import Store
        from realigner.review.study import load_study

        with Store(load_study(study)) as store:
            tasks = unblind_study(store, early=early)
            scores = [score_task(store, task) for task in tasks]
            facts = {"unblinded": store.unblinded, "tasks": [found.as_dict() for found in scores]}
        voice.answer(facts, lambda out: write_lines(out, *(line for found in scores for line in scored_lines(found))))
    return voice.code


@app.command()
def score(
    study: StudyFolder,
    run: Annotated[
        Path | None, typer.Option("--run", metavar="RUN", help="Where the audit was drawn, if the run was moved.")
    ] = None,
    partial: Annotated[bool, typer.Option("--partial", help="Score an audit where questions are left open.")] = False,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    """Score what there is: the audit (into its run, as `audit score` does), and votes that were un-blinded."""
    with Voice(quiet, as_json, debug) as voice:
        from realigner.review.results import score_task
        from realigner.review.store import Store
        from realigner.review.study import load_study

        loaded = load_study(study)
        with Store(loaded) as store:
            scores = [score_task(store, task, run=run, partial=partial) for task in loaded.tasks.values()]
            facts = {
                "study": loaded.hash,
                "unblinded": store.unblinded,
                "tasks": [found.as_dict() for found in scores],
            }
        voice.answer(facts, lambda out: write_lines(out, *(line for found in scores for line in scored_lines(found))))
    return voice.code
