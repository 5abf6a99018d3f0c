"""`realigner review …`: people audit the judge, vote blind, write corrections and clear what nobody could decide."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from realigner.cli.options import Debug, Json, Quiet
from realigner.cli.voice import Voice, write_lines

if TYPE_CHECKING:
    from realigner.review.figures import TaskFigures
    from realigner.review.serve import Links

app = typer.Typer(
    name="review",
    help="Audits of the judge, blind votes, corrections and undecided pairs, by people on a local page.",
    add_completion=False,
    rich_markup_mode=None,
    no_args_is_help=True,
)
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
                voice.answer(asdict(links), lambda out: write_lines(out, *_links(links)))

            try:
                serve_study(store, host=host, port=port, names=names or (), announce=announce)
            except KeyboardInterrupt:
                voice.progress.say(f"stopped; the answers are in {store.path}")
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
        lines = [line for task in figures for line in _status(task)]
        voice.answer(facts, lambda out: write_lines(out, *lines))
    return voice.code


def _links(links: Links) -> list[str]:
    lines = [
        f"Annotators:   {links.annotators}",
        f"Coordinator:  {links.coordinator}",
        "The coordinator's link opens progress and agreement to whoever has it. Stop with Ctrl-C.",
    ]
    if links.invitation is not None:
        lines[1:1] = [
            f"Invitation:   {links.invitation}",
            "Other machines can reach this page, unencrypted: put TLS before it, and pass its name with --name.",
        ]
    return lines


def _status(task: TaskFigures) -> list[str]:
    answers = f"{task.given} of {task.wanted} answers, {task.complete} of {task.items} items complete"
    lines = [f"{task.task} ({task.kind}): {answers}"]
    if task.prevalence:
        lines.append("  answers      " + ", ".join(f"{name} {count}" for name, count in task.prevalence.items()))
    if task.alpha is not None:
        alpha = task.alpha
        lines.append(f"  α            {alpha.value:.3f} [{alpha.low:.3f}, {alpha.high:.3f}] on {alpha.items} items")
    for name, share in (("agreement", task.raw), ("consistency", task.consistency)):
        if share is not None:
            lines.append(f"  {name:<12} {share['value']:.1%} [{share['low']:.1%}, {share['high']:.1%}], n {share['n']}")
    if task.places:
        lines.append("  by place     " + ", ".join(f"{place}: {count}" for place, count in task.places.items()))
    if task.withdrawn or task.after_reveal:
        lines.append(f"  taken back   {task.withdrawn}; changed after a look at the judge {task.after_reveal}")
    for person in task.people:
        median = "–" if person.median_seconds is None else f"{person.median_seconds:.0f} s"
        again = f", {person.again} repeated" if person.again else ""
        lines.append(f"  {person.name} ({person.annotator}): {person.answered} answers{again}, median {median}")
    return lines
