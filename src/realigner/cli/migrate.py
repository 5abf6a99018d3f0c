"""`realigner migrate`: what a new policy would move, as tables."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from realigner.cli.options import Debug, DryRun, Json, MaxCalls, MaxCost, Quiet, RunFolder, Set, recipe_of
from realigner.cli.voice import DONE, Voice

if TYPE_CHECKING:
    from realigner.chain.migrate import Migration
    from realigner.cli.summary import Writer


def migrate(
    run: RunFolder,
    policy: Annotated[str, typer.Argument(metavar="POLICY", help="The new policy, a file or realigner:NAME.")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Where to write. Default: migrate-HASH in the run.")
    ] = None,
    settings: Set = None,
    dry_run: DryRun = False,
    max_calls: MaxCalls = None,
    max_cost: MaxCost = None,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    """Show which pairs of a run change outcome under a new policy, by rule. Only changed rules are judged."""
    with Voice(quiet, as_json, debug) as voice:
        from realigner.chain.migrate import migrate as migrate_run
        from realigner.cli.summary import Writer
        from realigner.planning import with_limits
        from realigner.runs import load_run

        load_run(run)
        recipe = with_limits(recipe_of(run, settings), max_calls, max_cost)
        found = migrate_run(run, policy, recipe=recipe, out=out, dry_run=dry_run, progress=voice.progress)
        voice.answer(found.as_dict(), lambda stream: _print(found, Writer(stream)), code=DONE)
    return voice.code


def _print(found: Migration, write: Writer) -> None:
    write.line(f"{found.old.name} -> {found.new.name}")
    if found.moves is None:
        lines = ["its rules are computed, no judge is asked"] if found.plan is None else found.plan.lines()
        for line in [*lines, "nothing was asked"]:
            write.line(line)
        return
    moves = found.moves.as_dict()
    debt = moves["debt"]
    write.table("Pairs by outcome: rows under the old policy, columns under the new one", *matrix_rows(moves))
    write.table("By rule", *rule_rows(moves, found.verdicts))
    share = debt["pairs"] / max(moves["pairs"], 1)
    write.line(
        f"\nAlignment debt: {debt['pairs']:,} of {moves['pairs']:,} pairs ({share:.1%}): "
        f"{debt['new_conflicts']:,} retained ones become conflicts, {debt['turned']:,} conflicts turn, "
        f"{debt['released']:,} conflicts are released"
    )
    people = found.people
    if people["decided"]:
        write.line(
            f"People decided {people['decided']:,} responses of the run. What they said of unchanged rules stands for "
            f"{people['kept']:,} of them, in the next run too; all else was left to the judge"
        )
    for file in found.files:
        write.line(f"wrote {file}")


def matrix_rows(moves: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return the matrix of old and new outcomes; outcomes that occur in neither are left out."""
    matrix = moves["matrix"]
    names = [n for n in matrix if sum(matrix[n].values()) or sum(row[n] for row in matrix.values())]
    rows = [[name, *(f"{matrix[name][after]:,}" for after in names)] for name in names]
    return ["", *names], rows


def rule_rows(moves: dict[str, Any], verdicts: dict[str, dict[str, int]]) -> tuple[list[str], list[list[str]]]:
    """Return, for each rule, what became of it, the pairs it moves, and how its verdicts were had."""
    rows = []
    for rule in moves["rules"]:
        counts = verdicts.get(rule["rule"], {})
        name = rule["rule"] if rule["was"] in (None, rule["rule"]) else f"{rule['rule']} (was {rule['was']})"
        had = [f"{counts.get(kind, 0):,}" for kind in ("carried", "computed", "reused", "asked")]
        rows.append([name, rule["status"], f"{rule['changed']:,}", *had])
    return ["rule", "is", "pairs moved", "verdicts carried over", "computed", "from the store", "asked"], rows
