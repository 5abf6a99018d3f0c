"""The questions of a triage as batch files, and their answers back into the store of verdicts.

Both walk the very path of triage, with the HTTP judges exchanged: `batch export` writes what they would send, `batch
import` reads what was answered. What the store holds is neither written nor looked for; both can be given again.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from realigner import atomic
from realigner.data import DataTally, read_pairs
from realigner.errors import OracleError, RunDirError
from realigner.oracle import PolicyOracle, RuleJudge
from realigner.oracle.build import build_policy_oracle, store_path
from realigner.oracle.http import HttpJudge
from realigner.oracle.http.batch import (
    MOST_MEGABYTES,
    MOST_REQUESTS,
    RequestFiles,
    Results,
    exporting,
    importing,
    write_faults,
)
from realigner.oracle.meter import Meter
from realigner.oracle.plan import leaves
from realigner.oracle.store import VerdictStore
from realigner.policy import Policy
from realigner.progress import SILENT, Progress
from realigner.recipe import Recipe
from realigner.triaging import CorrectionIndex, triage
from realigner.triaging.plan import proposed

ABOUT = "about.json"


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export wrote."""

    folder: str
    files: tuple[str, ...]
    requests: int
    bytes: int
    judges: tuple[str, ...]
    policy: str


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import found."""

    answers: int
    """Distinct answers of the files that could be taken for one."""
    stored: int
    """Verdicts that are now in the store."""
    unusable: int
    """Answers to open questions that gave no verdict: failed, cut, refused, unreadable."""
    unasked: int
    """Answers to no open question: stored before, or of another recipe, judge or policy."""
    bad_lines: int
    repeated: int
    open: int
    """Questions that still have no verdict: `batch export` writes them again."""
    errors: str | None
    """The file that says what could not be used and why."""


def export_batch(
    recipe: Recipe,
    folder: str | Path,
    *,
    most_requests: int = MOST_REQUESTS,
    most_megabytes: int = MOST_MEGABYTES,
    progress: Progress = SILENT,
) -> Exported:
    """Write the questions that triage would ask its HTTP judges into `folder`, which must not be there yet.

    Raises:
        OracleError: the recipe has no HTTP judge, or one whose output mode is not named.
        RunDirError: the folder is there.
    """
    folder = Path(folder)
    if folder.exists():
        raise RunDirError(f"folder {folder}", "it is there already, and nothing is overwritten", "Name another")
    policy = Policy.load(recipe.policy.path, allow_code=recipe.policy.allow_code)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (
        VerdictStore.open(store_path(recipe.oracle, recipe.output)) as store,
        atomic.writing_directory(folder) as temporary,
    ):
        with RequestFiles(temporary, most_requests, most_megabytes * 10**6) as files:
            judges = _walk(recipe, policy, store, lambda judge: exporting(judge, files), progress)
        name = f"{policy.id} {policy.version} {policy.hash}"
        done = Exported(str(folder), tuple(files.files), files.requests, files.bytes, tuple(judges), name)
        (temporary / ABOUT).write_text(json.dumps(asdict(done), indent=2) + "\n", encoding="utf-8")
    return done


def import_batch(
    recipe: Recipe, results: list[Path], *, errors: str | Path | None = None, progress: Progress = SILENT
) -> Imported:
    """Store the verdicts that answers from batch files give, matched by custom_id.

    Args:
        recipe: the one that the requests were exported with.
        results: files of results, in any order, whole or not.
        errors: where to write what could not be used, as JSON Lines of `{custom_id, line, why}`.
        progress: counts pairs.

    Raises:
        OracleError: a file holds no results, or no answer belongs to a question of this recipe.
    """
    if errors is not None and Path(errors).resolve() in [path.resolve() for path in results]:
        raise OracleError(f"--errors {errors}", "it is one of the files of results", "Name another file")
    policy = Policy.load(recipe.policy.path, allow_code=recipe.policy.allow_code)
    with Results() as read, VerdictStore.open(store_path(recipe.oracle, recipe.output)) as store:
        for path in results:
            read.read(path)
        meter = Meter()
        _walk(recipe, policy, store, lambda judge: importing(judge, read), progress, meter)
        stored, unasked = read.stored(), read.unasked()
        distinct = read.count()
        if errors is not None:
            write_faults(read.faults(), Path(errors))
        if distinct and unasked == distinct and not meter.reused:
            raise OracleError(
                f"{distinct:,} answers, none to a question of this recipe",
                "an answer belongs to the data, the wording of the rules and the judge that it was exported with",
                "Give the recipe of the export; if it has changed since, export again",
            )
        return Imported(
            answers=distinct,
            stored=stored,
            unusable=distinct - stored - unasked,
            unasked=unasked,
            bad_lines=read.tally["unreadable lines"],
            repeated=read.tally["repeated"],
            open=meter.invalid.total(),
            errors=None if errors is None else str(errors),
        )


def _walk(
    recipe: Recipe,
    policy: Policy,
    store: VerdictStore,
    instead: Callable[[HttpJudge], RuleJudge],
    progress: Progress,
    meter: Meter | None = None,
) -> list[str]:
    """Triage with every HTTP judge exchanged, keep nothing of it but the store; return the judges' identities."""
    oracle = build_policy_oracle(recipe.oracle, policy, store, Meter() if meter is None else meter)
    judges = exchange(oracle, instead)
    if not judges:
        raise OracleError(
            f"oracle.kind: {recipe.oracle.kind}",
            "batch files are for judges of kind http, and no rule of this policy is judged by one",
            "Set oracle.llm or oracle.classifier to one",
        )
    with CorrectionIndex(proposed(recipe)) as corrections:
        for _ in triage(
            read_pairs(recipe.data, DataTally()),
            oracle,
            corrections=corrections if len(corrections) else None,
            seed=recipe.seed,
            eval_fraction=recipe.data.eval_fraction,
            batch_size=recipe.oracle.questions_at_a_time,
            progress=progress,
        ):
            pass
    return judges


def exchange(oracle: PolicyOracle, instead: Callable[[HttpJudge], RuleJudge]) -> list[str]:
    """Put another judge in the place of every HTTP judge beneath an oracle; return the identities of these."""
    identities = []
    for judge in oracle.roles.values():
        for leaf, _ in leaves(judge):
            if isinstance(leaf.judge, HttpJudge):
                leaf.judge = instead(leaf.judge)
                identities.append(leaf.judge.identity)
    return list(dict.fromkeys(identities))
