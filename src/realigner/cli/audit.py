"""`realigner audit sample|score`: how far can the judge be trusted, and what are the figures when it is corrected?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from realigner.cli.options import Debug, Json, Quiet, RunFolder
from realigner.cli.voice import Voice, write_lines

if TYPE_CHECKING:
    from realigner.audit.estimate import Rate
    from realigner.audit.keyfile import Key
    from realigner.audit.run import Drawn
    from realigner.audit.score import AuditScore, Corrected

app = typer.Typer(
    name="audit",
    help="Have people check the judge, and correct every figure by what they find.",
    add_completion=False,
    rich_markup_mode=None,
    no_args_is_help=True,
)
Of = Literal["triage", "evaluation"]


@app.command()
def sample(
    directory: RunFolder,
    of: Annotated[Of, typer.Option("--of", help="Verdicts on the old data, or on the models' answers.")] = "triage",
    n: Annotated[int, typer.Option("--n", min=1, help="Responses to draw.")] = 500,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the draw.")] = 0,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Where the sheets go. Default: RUN/audit/.")
    ] = None,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    """Draw judged responses for people to check, and write sheets without the verdicts."""
    with Voice(quiet, as_json, debug) as voice:
        from realigner.audit.run import sample_run

        drawn = sample_run(directory, subject=of, n=n, seed=seed, out=out, progress=voice.progress)
        voice.answer(_drawn_facts(drawn), lambda out: write_lines(out, *_drawn_lines(drawn, directory)))
    return voice.code


@app.command()
def score(
    directory: RunFolder,
    sheets: Annotated[list[Path], typer.Argument(metavar="SHEET...", help="Filled-in sheets, JSONL or CSV.")],
    partial: Annotated[
        bool, typer.Option("--partial", help="Score what was answered where questions are left open.")
    ] = False,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    """Score the sheets: accuracy, precision and recall, agreement between people, corrected rates, ε."""
    with Voice(quiet, as_json, debug) as voice:
        from realigner.audit.run import score_run

        key, found = score_run(directory, sheets, partial=partial, progress=voice.progress)
        facts = {"run": str(directory), "audit": key.id, "of": key.subject, **found.as_dict()}
        voice.answer(facts, lambda out: write_lines(out, *_score_lines(key, found, directory)))
    return voice.code


def _drawn_facts(drawn: Drawn) -> dict[str, Any]:
    key = drawn.key
    return {
        "audit": key.id,
        "of": key.subject,
        "drawn": len(key.sample),
        "questions": len(key.sample.questions),
        "by": key.sample.by,
        "files": [str(file) for file in drawn.files],
        "strata": [
            {"name": s.name, "size": s.size, "drawn": s.drawn, "chance": s.chance, "weight": s.weight}
            for s in key.sample.strata
        ],
    }


def _drawn_lines(drawn: Drawn, directory: Path) -> list[str]:
    sample = drawn.key.sample
    width = max(len(s.name) for s in sample.strata)
    total = sum(s.size for s in sample.strata)
    shared = len(sample) - len(sample.questions)
    return [
        f"{len(sample)} of {total:,} responses, by {sample.by}"
        + (f"; {len(sample.questions)} questions, as {shared} share their text with another" if shared else ""),
        *(f"  {s.name:<{width}}  {s.drawn:>5} of {s.size:,}" for s in sample.strata),
        *(f"wrote {file}" for file in drawn.files),
        "Give each annotator a copy of one sheet and the policy; they fill in label and rules. Then:",
        f"  realigner audit score {directory} SHEET...",
    ]


def _score_lines(key: Key, found: AuditScore, directory: Path) -> list[str]:
    lines = [
        f"Audit {key.id} of the {key.subject}: {found.questions - found.missing} questions answered by "
        f"{len(found.annotators)} ({', '.join(found.annotators)})",
    ]
    if found.missing:
        lines.append(f"WARNING {found.missing} questions have no answer: they are taken to be like the others")
    if found.alpha is not None:
        alpha = found.alpha
        lines.append(
            f"Krippendorff's α  {alpha.value:.3f} ({alpha.low:.3f} to {alpha.high:.3f}; {alpha.items} items), "
            f"raw agreement {alpha.raw:.1%}"
        )
    else:
        lines.append("Krippendorff's α  not measured: it needs two people on the same items, and both labels")
    lines += [
        f"People unsure     {_rate(found.unsure)}",
        f"Judge abstains    {found.abstained:.1%}",
        f"Accuracy          {_rate(found.accuracy)}",
    ]
    for name, rate in (*found.by_group.items(), *found.by_outcome.items()):
        lines.append(f"  {name:<15} {_rate(rate)}")
    for name, label in found.labels.items():
        lines.append(f"{name:<17} precision {_rate(label.precision)}, recall {_rate(label.recall)}")
    for name, rule in found.rules.items():
        lines.append(f"rule {name}: broken, precision {_rate(rule.precision)}, recall {_rate(rule.recall)}")
    lines.append("Compliant, as the judge says and corrected:")
    lines += [
        f"  {name:<15} {_corrected(rate)}" for part in ("all", "group") for name, rate in found.rates[part].items()
    ]
    if found.change is not None:
        lines.append(f"Corrected change, after − before: {_rate(found.change)}")
    for name, outcome in found.outcomes.items():
        lines.append(f"{name:<9} precision {_rate(outcome.precision)}, ε {_rate(outcome.epsilon)}")
    return [*lines, f"wrote {directory / 'audit.json'}", *_next(key, directory)]


def _next(key: Key, directory: Path) -> list[str]:
    if key.subject == "evaluation":
        from realigner.runs import load_run

        if "triage" not in load_run(directory).stages:  # two models were compared without a run
            return ["To show it in the report, give the same `realigner evaluate` again with --redo"]
        return [f"To show it in the report: realigner report {directory} --redo"]
    return [f"Next: realigner run {directory}"]


def _rate(rate: Rate | None) -> str:
    if rate is None:
        return "not measured"
    part = "" if rate.covered == 1 else f", of {rate.covered:.0%} of the responses"
    return f"{rate.value:.1%} ({rate.low:.1%} to {rate.high:.1%}; n {rate.n}{part})"


def _corrected(rate: Corrected) -> str:
    return f"{rate.raw:.1%} -> {_rate(rate.corrected)}"
