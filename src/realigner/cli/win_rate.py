"""`realigner win-rate`: which of several systems answers better, from files of their answers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from realigner.cli.options import Debug, Json, MaxCalls, Quiet
from realigner.cli.voice import Voice, write_lines

if TYPE_CHECKING:
    from realigner.evaluate.league import League
    from realigner.recipe_evaluate import WinRateSettings


def win_rate(
    answers: Annotated[
        list[str],
        typer.Argument(
            metavar="ANSWERS...", help="[NAME=]FILE of prompt and response (JSONL, Parquet), or a run directory."
        ),
    ],
    judge: Annotated[
        Path | None,
        typer.Option("--judge", metavar="FILE", help="YAML of who chooses: evaluate.win_rate.judge of a recipe."),
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option("--policy", metavar="POLICY", help="Compare by its rules; without --judge, by their checks."),
    ] = None,
    criterion: Annotated[
        str | None, typer.Option("--criterion", metavar="TEXT", help="What the judge goes by, in place of a policy.")
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="JSON of all figures; choices are kept beside it.")
    ] = Path("win-rate.json"),
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the resampling.")] = 0,
    max_calls: MaxCalls = None,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    """Compare answers of two or more systems, each pair in both orders; Bradley-Terry strengths for more than two."""
    with Voice(quiet, as_json, debug) as voice:
        import json

        from realigner.atomic import write_text
        from realigner.evaluate.league import compare_systems
        from realigner.manifest import finite
        from realigner.policy import Policy

        settings = _settings(judge, policy, criterion, max_calls)
        systems = _systems(answers)
        rules = None if policy is None else Policy.load(policy)
        found = compare_systems(
            systems, settings, rules, out.with_suffix(".verdicts.sqlite"), seed=seed, progress=voice.progress
        )
        facts = finite(found.as_dict())
        write_text(out, json.dumps(facts, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
        voice.answer(facts, lambda stream: write_lines(stream, *_lines(found), f"wrote {out}"))
    return voice.code


def _settings(judge: Path | None, policy: str | None, criterion: str | None, max_calls: int | None) -> WinRateSettings:
    import yaml
    from pydantic import ValidationError

    from realigner.errors import OracleError
    from realigner.recipe_evaluate import WinRateSettings
    from realigner.strict_yaml import load_yaml

    if judge is None and (policy is None or criterion is not None):
        raise OracleError(
            "--criterion without --judge" if criterion is not None else "no --judge and no --policy",
            "something has to say which answer is better",
            "Give --judge FILE, or --policy POLICY whose rules have checks",
        )
    content: dict[str, Any] = {"criterion": criterion, "max_calls": max_calls}
    if judge is not None:
        remedy = "Write what evaluate.win_rate.judge of a recipe would be, e.g. {kind: http, url: ..., model: NAME}"
        try:
            content["judge"] = load_yaml(judge.read_text(encoding="utf-8"))
        except OSError as error:
            raise OracleError(f"--judge {judge}", f"it cannot be read ({error.strerror})", remedy) from None
        except (yaml.YAMLError, UnicodeDecodeError):
            raise OracleError(f"--judge {judge}", "it is not valid YAML", remedy) from None
        try:
            return WinRateSettings.model_validate(content)
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            place = ".".join(map(str, fault["loc"]))
            raise OracleError(f"--judge {judge}: {place}", fault["msg"].lower(), remedy) from None
    return WinRateSettings.model_validate(content)


def _systems(answers: list[str]) -> dict[str, Any]:
    from realigner.errors import DataError
    from realigner.evaluate.league import read_answers

    found: dict[str, Any] = {}
    for given in answers:
        name, equals, path = given.rpartition("=")
        read = read_answers(Path(path), name if equals else Path(path).name.partition(".")[0])
        for system in read:
            if system in found:
                raise DataError(f"two systems are called '{system}'", "each needs a name", f"Give NAME={path}")
        found |= read
    return found


def _lines(found: League) -> list[str]:
    width = max(map(len, found.systems))
    lines = [f"{found.prompts:,} answers to the same prompts"]
    for name, count in found.left_out.items():
        if count:
            lines.append(f"{name}: {count:,} more answers, to prompts that another system did not answer, left out")
    lines += ["", f"{'system':<{width}}  win rate (a tie is half)"]
    lines += [f"{name:<{width}}  {_percent(rate)}" for name, rate in found.rates.items()]
    for (a, b), evidence in found.pairs.items():
        figures = evidence.figures
        counts = [round(figures[f"win_rate.{name}"]["value"] * found.prompts) for name in ("wins", "ties", "losses")]
        lines += ["", f"{b} against {a}: {counts[0]} won, {counts[1]} tied, {counts[2]} lost"]
        for name, title in (
            ("after", "win rate"),
            ("length_controlled", "at equal length"),
            ("longest_answer_wins", "if the longest answer won"),
            ("first", "choices of what was shown first"),
        ):
            if f"win_rate.{name}" in figures:
                lines.append(f"  {title:<32} {_percent(figures[f'win_rate.{name}'])}")
        lines += [f"  warning: {warning}" for warning in evidence.warnings]
    if found.strengths:
        lines += ["", "Bradley-Terry strengths, in logits, 95 % interval"]
        lines += [
            f"{name:<{width}}  {figure['value']:+.2f} ({figure['low']:+.2f} to {figure['high']:+.2f})"
            for name, figure in found.strengths.items()
        ]
    elif found.why_not:
        lines += ["", f"no Bradley-Terry strengths: {found.why_not}"]
    return lines


def _percent(figure: Any) -> str:
    return f"{figure['value']:6.1%} ({figure['low']:.1%} to {figure['high']:.1%}), n = {figure['n']}"
