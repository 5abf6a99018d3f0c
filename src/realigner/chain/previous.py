"""The run before this one: the policies that led here, and what the newest of them moved."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

from realigner.atomic import write_text
from realigner.chain.moves import Moves, pair_rules
from realigner.chain.record import policy_of
from realigner.errors import RunDirError
from realigner.policy import Policy
from realigner.policy.record import PolicyRecord
from realigner.recipe import Recipe
from realigner.records import Label, Outcome, RuleVerdict, TriagedPair, Verdict
from realigner.runs import Run, StoredRun, load_run
from realigner.triaging import read_triage

PREVIOUS = "previous.json"
FORMAT = 1


def load_previous(recipe: Recipe) -> StoredRun | None:
    """Return the run that `previous` names, triaged; None where the recipe names none.

    Raises:
        RunDirError: it is no run, it was not triaged, or it is this run itself.
    """
    if recipe.previous is None:
        return None
    if Path(recipe.previous).resolve() == Path(recipe.output).resolve():
        raise RunDirError(f"previous = {recipe.previous}", "a run cannot follow itself", "Name the run before it")
    run = load_run(recipe.previous)
    run.require("triage")
    return run


def previous_identity(recipe: Recipe) -> dict[str, Any]:
    """Return what of the run before decides this one: the key of its triage. Empty where there is none."""
    run = load_previous(recipe)
    return {} if run is None else {"previous": {"triage": run.stages["triage"]["key"]}}


def chain_of(run: StoredRun) -> list[dict[str, Any]]:
    """Return the policies from the first run of the chain to this one: {run, policy}, oldest first.

    Raises:
        RunDirError: the run does not know its policy any more, or its record of earlier ones is damaged.
    """
    return [*stored_chain(run.path(PREVIOUS)), {"run": str(run.directory), "policy": policy_of(run).as_dict()}]


def stored_chain(path: Path) -> list[dict[str, Any]]:
    """Return the chain of a `previous.json`; empty where there is none.

    Raises:
        RunDirError: the file is damaged, or of another version.
    """
    if not path.is_file():
        return []
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']}")
        for link in content["chain"]:
            PolicyRecord.read(link["policy"])
        return list(content["chain"])
    except (ValueError, KeyError, TypeError) as error:
        rule = f"it is no record of earlier policies that this version reads ({error})"
        raise RunDirError(f"{path}", rule, "Triage that run again") from None


def write_previous(run: Run, policy: Policy, judges: dict[str, str]) -> None:
    """Write `previous.json` beside `triage.parquet`: the chain of policies, and what moved since the last.

    Args:
        run: whose pairs have just been triaged.
        policy: of this run.
        judges: who judged the rules of each `by`.

    Raises:
        RunDirError: the run before does not know its policy any more.
    """
    before = load_previous(run.recipe)
    if before is None:
        return
    moves = Moves(pair_rules(policy_of(before), PolicyRecord.of(policy)))
    compare(read_triage(before.path("triage.parquet")), read_triage(run.path("triage.parquet")), moves)
    judged = before.facts("triage").get("judges", {})
    content = {
        "format": FORMAT,
        "chain": chain_of(before),
        "other_judges": sorted(by for by in judges if by in judged and judged[by] != judges[by]),
        "moves": moves.as_dict(),
    }
    with run.writing(PREVIOUS) as path:
        write_text(path, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def compare(old: Iterable[TriagedPair], new: Iterable[TriagedPair], moves: Moves) -> None:
    """Count what became of each pair that both have; pairs belong together by their id. Memory stays flat."""
    # The empty name is SQLite's private temporary database: what does not fit into memory lies on disk.
    with closing(sqlite3.connect("", isolation_level=None)) as database:
        database.execute("PRAGMA synchronous = OFF")
        database.execute("CREATE TABLE old (id TEXT PRIMARY KEY, verdicts TEXT, met INTEGER DEFAULT 0) WITHOUT ROWID")
        database.execute("BEGIN")
        database.executemany("INSERT INTO old (id, verdicts) VALUES (?, ?)", ((i.pair.id, _pack(i)) for i in old))
        for item in new:
            row = database.execute("UPDATE old SET met = 1 WHERE id = ? RETURNING verdicts", (item.pair.id,)).fetchone()
            if row is None:
                moves.only_new += 1
                continue
            outcome, chosen, rejected = _unpack(row[0])
            moves.add((chosen, rejected), (item.chosen_verdict, item.rejected_verdict), (outcome, item.outcome))
        moves.only_old += int(database.execute("SELECT COUNT(*) FROM old WHERE met = 0").fetchone()[0])


def _pack(item: TriagedPair) -> str:
    sides = (item.chosen_verdict, item.rejected_verdict)
    return json.dumps([item.outcome, *([v.label, [[r.rule, r.label] for r in v.rules]] for v in sides)])


def _unpack(text: str) -> tuple[Outcome, Verdict, Verdict]:
    outcome, *sides = json.loads(text)
    chosen, rejected = (
        Verdict(Label(label), tuple(RuleVerdict(rule, Label(found), "") for rule, found in rules))
        for label, rules in sides
    )
    return Outcome(outcome), chosen, rejected
