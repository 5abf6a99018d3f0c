"""`realigner migrate`: what a new policy would change in the pairs of an old run, before anybody trains."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from realigner import atomic
from realigner.chain.carry import Carry
from realigner.chain.examples import Examples
from realigner.chain.moves import Moves, pair_rules
from realigner.chain.people import People
from realigner.chain.record import policy_of
from realigner.errors import OracleError, RunDirError
from realigner.oracle import PolicyOracle
from realigner.oracle.build import open_policy_oracle
from realigner.oracle.plan import Plan, Planner
from realigner.policy import Policy
from realigner.policy.record import PolicyRecord
from realigner.progress import SILENT, Progress
from realigner.recipe import Recipe
from realigner.records import Judgement, TriagedPair, Verdict
from realigner.report.migration import render_migration
from realigner.runs import StoredRun, load_run
from realigner.triaging import outcome, read_triage

WINDOW = 4096
"""Pairs that are judged together: enough for a server with many slots never to wait."""
FORMAT = 1
"""Version of migrate.json."""
CONTENT, CHANGES, EXAMPLES, PEOPLE, PAGE, NEXT = (
    *("migrate.json", "changes.csv", "examples.jsonl", "human.jsonl", "report.html", "recipe.yaml"),
)
COLUMNS = (
    "id",
    "split",
    "old_outcome",
    "new_outcome",
    "rules",
    "chosen_was",
    "chosen_is",
    "rejected_was",
    "rejected_is",
)


@dataclass(frozen=True)
class Migration:
    """What a new policy changes; or, of a dry run, only what finding out would take."""

    run: Path
    old: PolicyRecord
    new: PolicyRecord
    plan: Plan | None
    """What judges had to be asked; None where every rule is computed."""
    moves: Moves | None
    verdicts: dict[str, dict[str, int]]
    """By rule: verdicts `carried` over from the run, `computed`, `reused` from the store, `asked` of a judge."""
    asked: dict[str, Any]
    """What judges took: calls, tokens, cost, in all and by judge."""
    people: dict[str, int]
    """Responses `decided` by people in the run, and `kept`: those of which something stands under the new policy."""
    directory: Path | None
    """Where the files are that `files` names."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types: what `migrate.json` holds."""
        return {
            "format": FORMAT,
            "run": str(self.run),
            "old_policy": self.old.as_dict(),
            "new_policy": self.new.as_dict(),
            "plan": None if self.plan is None else self.plan.as_dict(),
            "people": self.people,
            **(
                {}
                if self.moves is None
                else {"verdicts": self.verdicts, "asked": self.asked, "moves": self.moves.as_dict()}
            ),
        }

    @property
    def files(self) -> list[Path]:
        """What was written for people and programs to read; the page first."""
        names = (PAGE, CONTENT, CHANGES, NEXT, *([PEOPLE] if self.people["kept"] else []))
        return [] if self.directory is None else [self.directory / name for name in names]


def migrate(
    run: str | Path,
    policy: str | Path,
    *,
    recipe: Recipe | None = None,
    out: str | Path | None = None,
    dry_run: bool = False,
    progress: Progress = SILENT,
) -> Migration:
    """Judge the pairs of a run by a new policy, as far as it differs from the run's own, and compare the outcomes.

    Verdicts of unchanged rules are taken over from the run; only the others are computed or asked.

    Args:
        run: a run directory whose stage `triage` is done.
        policy: the new policy, a file or a shipped one.
        recipe: the run's recipe with other settings of the oracle. Default: as it is.
        out: where to write. Default: `migrate-HASH` in the run directory. An earlier migration there is replaced.
        dry_run: only say what judges would be asked; writes nothing.
        progress: counts pairs.

    Raises:
        RunDirError: the run was not triaged, or does not know its own policy any more; or `out` holds something else.
        PolicyError: the new policy cannot be used.
        OracleError: the run's oracle judges no single rules, or judges are missing.
        LimitReached: a limit on calls or money stands against it.
    """
    stored = load_run(run)
    if out is not None:
        _free(Path(out))
    old = policy_of(stored)
    settings = recipe or stored.recipe
    judged = Policy.load(policy, allow_code=settings.policy.allow_code)
    new = PolicyRecord.of(judged)
    with _oracle(settings, judged, reading=dry_run) as oracle:
        facts = stored.facts("triage")
        people = People(old, new, facts.get("human", {}).get("used", 0))
        carry = Carry(old, facts.get("judges", {}), new, oracle, people)
        plan = _plan(stored, oracle, carry, progress) if oracle.roles else None
        if plan is not None and not dry_run:
            for line in plan.lines():
                progress.say(line)
            plan.refuse_over(oracle.meter)
        if dry_run:
            return Migration(stored.directory, old, new, plan, None, {}, {}, _counted(people), None)
        directory = _free(Path(out) if out is not None else stored.directory / f"migrate-{new.hash}")
        moves = Moves(pair_rules(old, new))
        with atomic.writing_directory(directory) as temporary:
            with _Rows(temporary, moves, people, new.name) as rows, oracle.asking(plan.calls if plan else 0, progress):
                total = sum(facts["outcomes"].values())
                _judge(read_triage(stored.path("triage.parquet")), oracle, carry, rows, progress, total)
            verdicts, asked = _verdicts(new, carry, oracle), oracle.meter.as_dict()
            found = Migration(stored.directory, old, new, plan, moves, verdicts, asked, _counted(people), directory)
            content = json.dumps(found.as_dict(), indent=1, ensure_ascii=False, allow_nan=False)
            (temporary / CONTENT).write_text(content + "\n", encoding="utf-8")
            decided = directory / PEOPLE if people.kept else None
            following = next_recipe(stored, settings, policy, new, decided)
            (temporary / NEXT).write_text(following.to_yaml(), encoding="utf-8")
            (temporary / PAGE).write_text(render_migration(temporary, EXAMPLES), encoding="utf-8")
    return found


def next_recipe(
    stored: StoredRun, settings: Recipe, policy: str | Path, new: PolicyRecord, people: Path | None = None
) -> Recipe:
    """Return a recipe that starts the new run: the new policy, the run before it, and the model that it left.

    Args:
        stored: the run before.
        settings: its recipe.
        policy: the new policy.
        new: its record.
        people: what people decided and still stands; their decisions under the old policy are left out.
    """
    content = settings.model_dump()
    content["human"] = None if people is None else {"path": str(people.resolve())}
    base = Path.cwd()
    content["policy"]["path"] = str(policy)
    content["previous"] = str(stored.directory.resolve())
    folder = stored.directory.resolve().parent
    names = (f"{new.id}-{new.version}".replace("/", "-"), f"{new.id}-{new.hash}")
    content["output"] = str(next((folder / name for name in names if not (folder / name).exists()), folder / names[-1]))
    if (stored.directory / "model").is_dir():
        # What the run before was held to holds the next one too, so that drift does not add up over a chain.
        left_out = stored.recipe.reference is not None and settings.reference is None
        if settings.impact.weighting == "uniform" and not left_out:  # impact weights are measured at the reference
            content["reference"] = {name: getattr(settings.reference_model, name) for name in ("path", "revision")}
        content["model"]["path"] = str((stored.directory / "model").resolve())
    return Recipe.parse(content, base=base)


@contextmanager
def _oracle(recipe: Recipe, policy: Policy, reading: bool) -> Iterator[PolicyOracle]:
    settings = recipe.oracle
    if settings.kind == "scripted":
        raise OracleError(
            "oracle.kind: scripted",
            "verdicts on whole responses belong to one policy and say nothing of another",
            "Name an oracle that judges rules, e.g. --set oracle.kind=rules --set oracle.path=null",
        )
    if settings.noise is not None:
        raise OracleError(
            "oracle.noise", "the run's outcomes hold mistakes made on purpose", "Migrate from a run without noise"
        )
    with open_policy_oracle(settings, policy, recipe.output, reading=reading) as oracle:
        yield oracle


def _plan(stored: StoredRun, oracle: PolicyOracle, carry: Carry, progress: Progress) -> Plan:
    with Planner(oracle) as planner, progress.task("Looking up verdicts", None) as advance:
        items = read_triage(stored.path("triage.parquet"))
        while window := list(islice(items, WINDOW)):
            given = [carry.verdicts(verdict, count=False) for item in window for verdict in _sides(item)]
            planner.add(_questions(window), given=given)
            advance(len(window))
        return planner.plan()


class _Rows:
    """Counts the pairs and writes what there is to say of single ones."""

    def __init__(self, folder: Path, moves: Moves, people: People, policy: str) -> None:
        self._folder, self._moves, self._people, self._policy = folder, moves, people, policy
        self._examples, self._stack = Examples(), ExitStack()

    def __enter__(self) -> _Rows:
        self._table = csv.writer(self._open(CHANGES), lineterminator="\r\n")
        self._table.writerow(COLUMNS)
        self._lines = self._open(PEOPLE) if self._people.decided else None
        return self

    def __exit__(self, *_: object) -> None:
        with self._stack:
            self._examples.write(self._open(EXAMPLES))

    def add(self, item: TriagedPair, new: tuple[Verdict, Verdict]) -> None:
        """Take in one pair with its verdicts under the new policy."""
        now = outcome(new[0].label, new[1].label)
        behind = self._moves.add(_sides(item), new, (item.outcome, now))
        if self._lines is not None:
            self._people.write(item, self._policy, self._lines)
        if now is item.outcome:
            return
        labels = (item.chosen_verdict, new[0], item.rejected_verdict, new[1])
        row = (item.pair.id, item.split, item.outcome.value, now.value, "; ".join(behind))
        self._table.writerow(map(_harmless, (*row, *(verdict.label.value for verdict in labels))))
        self._examples.add(item, new, now, behind)

    def _open(self, name: str) -> TextIO:
        return self._stack.enter_context((self._folder / name).open("w", encoding="utf-8", newline=""))


def _judge(
    items: Iterator[TriagedPair], oracle: PolicyOracle, carry: Carry, rows: _Rows, progress: Progress, total: int
) -> None:
    with progress.task("Migrating", total) as advance:
        while window := list(islice(items, WINDOW)):
            given = [carry.verdicts(verdict) for item in window for verdict in _sides(item)]
            verdicts = oracle.judge_rest(_questions(window), given)
            for item, chosen, rejected in zip(window, verdicts[::2], verdicts[1::2], strict=True):
                rows.add(item, (chosen, rejected))
            advance(len(window))


def _sides(item: TriagedPair) -> tuple[Verdict, Verdict]:
    return item.chosen_verdict, item.rejected_verdict


def _questions(window: Sequence[TriagedPair]) -> list[Judgement]:
    return [Judgement(i.pair.prompt, text) for i in window for text in (i.pair.chosen, i.pair.rejected)]


def _free(directory: Path) -> Path:
    """Return the directory if nothing but an earlier migration would be replaced."""
    earlier = (directory / CONTENT).is_file()
    if directory.exists() and not earlier and not (directory.is_dir() and not any(directory.iterdir())):
        raise RunDirError(
            f"{directory}", "it is there already, and is no earlier migration", "Name another directory with --out"
        )
    return directory


def _counted(people: People) -> dict[str, int]:
    return {"decided": people.decided, "kept": people.kept}


def _verdicts(new: PolicyRecord, carry: Carry, oracle: PolicyOracle) -> dict[str, dict[str, int]]:
    meter = oracle.meter
    counts = {"carried": carry.carried, "computed": meter.computed, "reused": meter.reused, "asked": meter.asked}
    return {rule.id: {name: found[rule.id] for name, found in counts.items()} for rule in new.rules}


def _harmless(cell: str) -> str:
    """Return a cell that no spreadsheet takes for a formula."""
    return f"'{cell}" if cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell
