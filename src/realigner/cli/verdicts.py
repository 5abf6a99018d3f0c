"""`realigner verdicts info|export|compact`: the store of verdicts, looked into and tidied."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from realigner.cli.options import Debug, Json, Quiet
from realigner.cli.voice import Voice, write_lines

app = typer.Typer(
    name="verdicts",
    help="Look into the store of verdicts, export it, give its unused room back.",
    add_completion=False,
    rich_markup_mode=None,
    no_args_is_help=True,
)

StoreFile = Annotated[Path, typer.Argument(metavar="STORE", help="A verdict store, e.g. runs/verdicts.sqlite.")]


@app.command()
def info(store: StoreFile, quiet: Quiet = False, as_json: Json = False, debug: Debug = False) -> int:
    """Say what a store holds, by judge and by rule; also while a run writes to it."""
    with Voice(quiet, as_json, debug) as voice:
        from realigner.atomic import readable, size_of
        from realigner.oracle import VerdictStore

        with VerdictStore.read(store) as opened:
            counts = opened.counts()
        size = size_of(store)
        lines = [f"{counts['votes']:,} votes on {counts['questions']:,} responses, {readable(size)}"]
        if counts["votes"]:
            lines.append(f"from {counts['first']} to {counts['last']}")
        lines += [f"judge {identity}: {votes:,} votes" for identity, votes in counts["judges"].items()]
        lines += [f"rule {rule['rule']} ({rule['hash']}): {rule['votes']:,} votes" for rule in counts["rules"]]
        voice.answer({"store": str(store), "bytes": size, **counts}, lambda out: write_lines(out, *lines))
    return voice.code


@app.command()
def export(store: StoreFile, quiet: Quiet = False, as_json: Json = False, debug: Debug = False) -> int:
    """Print every vote with its provenance as JSON Lines, with --json all as one object."""
    with Voice(quiet, as_json, debug) as voice:
        from realigner.oracle import VerdictStore

        with VerdictStore.read(store) as opened:
            if as_json:
                voice.answer({"votes": list(opened.votes())}, lambda _: None)
            else:
                voice.answer({}, lambda out: out.writelines(json.dumps(vote) + "\n" for vote in opened.votes()))
    return voice.code


@app.command()
def compact(
    store: StoreFile,
    keep: Annotated[
        list[str] | None,
        typer.Option("--keep", metavar="POLICY", help="Drop votes by rules that are in none of these; repeatable."),
    ] = None,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    """Give unused room back; with --keep, drop the votes of rules that no named policy has. Takes the store's lock."""
    with Voice(quiet, as_json, debug) as voice:
        from realigner.atomic import readable, size_of
        from realigner.oracle import VerdictStore
        from realigner.policy import Policy

        hashes = None if not keep else {rule.hash for policy in keep for rule in Policy.load(policy).rules}
        before = size_of(store)
        with VerdictStore.read(store):
            pass  # a store that is not there is not made
        with VerdictStore.open(store) as opened:
            dropped = opened.compact(hashes)
        after = size_of(store)
        line = f"{dropped:,} votes dropped, {readable(before)} before, {readable(after)} after"
        facts: dict[str, Any] = {"store": str(store), "dropped": dropped, "bytes_before": before, "bytes": after}
        voice.answer(facts, lambda out: write_lines(out, line))
    return voice.code
