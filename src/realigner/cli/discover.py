"""`realigner discover`: what was old preference data teaching?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from realigner.cli.options import Debug, Json, MaxCalls, Quiet
from realigner.cli.voice import DONE, GATE, Voice, write_lines

if TYPE_CHECKING:
    from realigner.discover.llm import LlmVoter
    from realigner.policy import Policy
    from realigner.recipe import DataSettings
    from realigner.records import Pair

RECIPES = (".yaml", ".yml")


def discover(
    data: Annotated[
        str, typer.Argument(metavar="DATA", help="Old preferences: a path, a hub id, or a recipe whose data it is.")
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="The policy file; figures go beside it, as .json.")
    ] = Path("recovered.yaml"),
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the split and the intervals.")] = 0,
    most: Annotated[
        int | None, typer.Option("--pairs", min=1, metavar="N", help="Use at most N pairs, drawn by the seed.")
    ] = None,
    new: Annotated[
        str | None,
        typer.Option(
            "--new", metavar="POLICY", help="A new policy by checks: say what it does to the recovered rules."
        ),
    ] = None,
    allow_code: Annotated[
        bool, typer.Option("--allow-code", help="Permit python checks in the new policy: they import and run code.")
    ] = False,
    llm: Annotated[
        Path | None,
        typer.Option(
            "--llm", metavar="FILE", help="YAML of a judge of kind http, which proposes rules and votes, too."
        ),
    ] = None,
    max_calls: MaxCalls = None,
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
        from realigner.discover import draw

        _refuse_out(out)
        new_policy = _new_policy(new, allow_code)
        tally = DataTally()
        with _voter(llm, out, seed, max_calls, voice) as voter, _in_words_of_the_command(data):
            pairs = draw(read_pairs(_settings(data, skip_invalid), tally), most, seed)
            # The id of a policy is one word; the name of a file may be several.
            name = "-".join(out.stem.split())
            found = discover_policy(pairs, name=name, seed=seed, voter=voter, progress=voice.progress)
        written = found.write(out)
        facts: dict[str, Any] = {**found.as_dict(), "data": tally.as_dict(), "files": [str(path) for path in written]}
        if voter is not None:
            facts["asked"] = voter.meter.as_dict()
        lines = [*found.lines(), "", *(f"wrote {path}" for path in written)]
        if new_policy is not None and found.recovered:
            facts["new"], said = _beside(out, new_policy, pairs, voice)
            lines += ["", *said]
        elif new_policy is not None:
            lines += ["", f"{new}: not compared, as no old policy was recovered"]
        voice.answer(facts, lambda stream: write_lines(stream, *lines), code=DONE if found.recovered else GATE)
    return voice.code


def _new_policy(new: str | None, allow_code: bool) -> Policy | None:
    """Return the new policy, refused before anything is computed if its checks cannot decide it."""
    if new is None:
        return None
    from realigner.policy import Policy

    policy = Policy.load(new, allow_code=allow_code)
    policy.refuse_without_judge()
    return policy


def _beside(out: Path, new: Policy, pairs: list[Pair], voice: Voice) -> tuple[dict[str, Any], list[str]]:
    """Return what the new policy changes, and what becomes of each recovered rule, as facts and as lines."""
    from realigner.discover.use import OldPolicy, cross_table
    from realigner.oracle import RuleOracle
    from realigner.policy.compare import compare
    from realigner.triaging import triage

    old = OldPolicy.load(out)
    triaged = triage(pairs, RuleOracle(new), progress=voice.progress)
    table = cross_table(old, ((item.pair, item.outcome) for item in triaged))
    changes = compare(old.policy, new)
    facts = {"diff": changes.as_dict(), "cross_table": table.as_dict()}
    return facts, [*table.lines(), "", "The policies, rule by rule (by id)", *changes.lines()]


@contextmanager
def _voter(llm: Path | None, out: Path, seed: int, max_calls: int | None, voice: Voice) -> Iterator[LlmVoter | None]:
    """Open the language model, if one is named; its answers are remembered beside `out`."""
    if llm is None:
        yield None
        return
    from realigner.discover.llm import LlmVoter, read_judge
    from realigner.oracle.http.build import http_judge
    from realigner.oracle.meter import Meter
    from realigner.oracle.store import VerdictStore

    judge = http_judge(read_judge(llm))
    voice.progress.say(judge.check())
    with VerdictStore.open(out.with_suffix(".verdicts.sqlite")) as store:
        yield LlmVoter(
            judge,
            store,
            proposals=out.with_suffix(".proposals.json"),
            meter=Meter(max_calls=max_calls),
            seed=seed,
            progress=voice.progress,
        )


@contextmanager
def _in_words_of_the_command(data: str) -> Iterator[None]:
    """Say, where a remedy names keys of a recipe and none was given, where these keys would stand."""
    from realigner.errors import DataError

    try:
        yield
    except DataError as error:
        if Path(data).suffix in RECIPES or "data." not in error.remedy:
            raise
        where = "(Keys data.… stand in a recipe, which DATA may be; --skip-invalid is data.on_invalid: skip)"
        raise DataError(error.given, error.rule, f"{error.remedy} {where}") from None


def _settings(data: str, skip_invalid: bool) -> DataSettings:
    from realigner.recipe import DataSettings, Recipe

    settings = Recipe.load(data).data if Path(data).suffix in RECIPES else DataSettings(path=data)
    return settings.model_copy(update={"on_invalid": "skip"}) if skip_invalid else settings


def _refuse_out(out: Path) -> None:
    """Refuse, before anything is computed, a name that could not be written or read again."""
    import os

    from realigner.errors import RunDirError

    if out.suffix not in RECIPES:
        raise RunDirError(f"--out {out}", "a policy file ends in .yaml, and its figures go beside it", "Add .yaml")
    for path in (out, out.with_suffix(".json")):
        if path.exists():
            raise RunDirError(f"--out {out}", f"{path} is there already", "Name another file, or remove it")
    if not out.parent.is_dir():
        raise RunDirError(f"--out {out}", f"{out.parent} is no directory", "Make it first")
    if not os.access(out.parent, os.W_OK):
        raise RunDirError(f"--out {out}", f"{out.parent} cannot be written to", "Name a file in another directory")
