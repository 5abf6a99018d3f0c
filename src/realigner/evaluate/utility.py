"""What the model can still do: benchmark tasks before and after, document by document, against a margin."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache, partial
from importlib.metadata import version
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from realigner.atomic import hash_of
from realigner.errors import DataError, RecipeError
from realigner.evaluate.agreement import SIDES
from realigner.evaluate.evidence import Evidence, Figure, Source, Table, columns
from realigner.evaluate.paired import mean_difference, mean_level, score_difference, score_level, with_holm
from realigner.evaluate.parts import Comparison, file_identity
from realigner.evaluate.utility_docs import READERS, leaves, read_documents
from realigner.recipe_evaluate import UtilitySettings, UtilityTask
from realigner.records import text_hash

if TYPE_CHECKING:
    import pyarrow as pa

    from realigner.evaluate.harness_tasks import Ready

INSTALL = "Install it: pip install 'realigner[utility]'"


def inputs(settings: UtilitySettings) -> dict[str, Any]:
    """Return the identities of the tasks' files and definitions; files are read once, to refuse broken ones at once.

    Raises:
        RecipeError: lm_eval is not installed or does not know a task, a file is not there, or is given for a task that
            is not defined here.
        DataError: a file cannot be read as documents, or has too few for its examples.
    """
    if find_spec("lm_eval") is None:
        raise RecipeError("evaluate.utility", "lm_eval runs the benchmark tasks, and it is not installed", INSTALL)
    for task in settings.tasks:
        if task.path is not None and task.name not in READERS:
            raise RecipeError(
                f"evaluate.utility: a file for task '{task.name}'",
                f"files are read for {', '.join(READERS)}; other tasks come from lm_eval by their name",
                "Leave out its path, or rename the task",
            )
    _refuse_unknown([task.name for task in settings.tasks if task.path is None])
    local = [task for task in settings.tasks if task.path is not None]
    found: dict[str, Any] = {"lm_eval": version("lm_eval")}  # other releases may score otherwise
    for task in local:
        place = f"evaluate.utility.tasks.{task.name}.path"
        found[task.name] = [file_identity(str(task.path), place), text_hash(definition(task.name))]
        leaves(task, read_documents(task), 1, 0)
    return found


def definition(name: str) -> str:
    """Return the text of a task's definition."""
    return files("realigner.evaluate").joinpath("tasks", f"{name}.yaml").read_text(encoding="utf-8")


def _refuse_unknown(names: Sequence[str]) -> None:
    """Refuse names that lm_eval does not know, now and not after training.

    Its own index reads fourteen thousand files as YAML, which takes half a minute; nearly always a look for the name
    in them is enough.
    """
    if names and (missing := [name for name in names if not _written_in_lm_eval(name)]):
        from realigner.evaluate.harness_tasks import known_task, task_manager

        manager = task_manager()
        for name in missing:
            known_task(name, manager)


@cache
def _written_in_lm_eval(name: str) -> bool:
    """Say whether a file of lm_eval's defines a task, group or tag of this name in so many words."""
    spec = find_spec("lm_eval")
    assert spec is not None and spec.submodule_search_locations is not None
    folder = Path(spec.submodule_search_locations[0]) / "tasks"
    wanted = re.compile(rf"""^\s*(?:-\s*)?(?:task|group|tag):\s*["']?{re.escape(name)}["']?\s*$""", re.MULTILINE)
    likely = sorted(folder.rglob("*.yaml"), key=lambda path: name.split("_")[0] not in path.parts)
    return any(wanted.search(path.read_text(encoding="utf-8", errors="replace")) for path in likely)


def measure(settings: UtilitySettings, comparison: Comparison) -> Evidence:
    """Ask both models every task, and compare the scores of the same documents.

    Raises:
        RecipeError: a task cannot be run.
        DataError: the data of a task cannot be had.
    """
    import pyarrow as pa

    ready, sources, left_out = _prepare(settings, comparison)
    parts: list[pa.Table] = []
    cut: dict[str, int] = {}
    for side in SIDES:
        parts.append(comparison.kept(f"utility-{side}", partial(_ask, settings, comparison, ready, side)))
        cut[side] = int((parts[-1].schema.metadata or {}).get(b"cut", b"0"))
    rows = pa.concat_tables([part.replace_schema_metadata(None) for part in parts])
    figures, table = _compared(settings, rows.to_pylist())
    warnings = [
        f"{count} documents of {name} hold a control token of a tokenizer and were left out."
        for name, count in left_out.items()
        if count
    ]
    if any(cut.values()):
        warnings.append(
            f"Prompts longer than the model's context lost their beginning: {cut['before']} requests before, "
            f"{cut['after']} after."
        )
    return Evidence(figures, (table,), tuple(sources), tuple(warnings), rows, {"cut_requests": cut})


def _prepare(settings: UtilitySettings, comparison: Comparison) -> tuple[list[Ready], list[Source], dict[str, int]]:
    """Return the tasks, ready to be asked; nothing that a model computes has begun."""
    from realigner.evaluate.harness_tasks import named_task, our_task, task_manager

    encoders = [comparison.encoder(side) for side in SIDES]
    manager = task_manager() if any(task.path is None for task in settings.tasks) else None
    ready, sources, left_out = [], [], {}
    for task in settings.tasks:
        limit = task.limit or settings.limit
        if task.path is None:
            ready.append(named_task(task, limit, comparison.seed, manager))
            sources.append(Source(task.name, "", ready[-1].documents, "lm_eval, by name"))
            continue
        documents = read_documents(task)
        # A control token in a question would be read as structure. Both models are asked the same documents.
        usable = [d for d in documents if not any(encoder.control_token(d.texts) for encoder in encoders)]
        left_out[task.name] = len(documents) - len(usable)
        if not usable:
            raise DataError(f"file {task.path}", "every document holds a control token", "Give other documents")
        ready.append(our_task(task, leaves(task, usable, limit, comparison.seed), settings.max_new_tokens))
        sources.append(Source(task.name, hash_of(_path(task)).rpartition(":")[2], ready[-1].documents, str(task.path)))
    return ready, sources, left_out


def _path(task: UtilityTask) -> Path:
    assert task.path is not None
    return Path(task.path)


def _ask(settings: UtilitySettings, comparison: Comparison, ready: Sequence[Ready], side: str) -> pa.Table:
    """Return the scored documents of one model as rows."""
    import pyarrow as pa

    from realigner.evaluate.harness import LoadedModel
    from realigner.evaluate.harness_tasks import run_task

    model, encoder = comparison.load(side)
    rows, cut = [], 0
    for task in ready:
        loaded = LoadedModel(model, encoder, settings.batch_size, comparison.progress, f"utility {side}, {task.name}")
        for scored in run_task(task, loaded):
            rows.append(
                {
                    "task": task.name,
                    "leaf": scored.leaf,
                    "document": scored.document,
                    "side": side,
                    "metric": scored.metric,
                    "filter": scored.filter,
                    "score": scored.value,
                    "target": scored.target,
                    "said": scored.said,
                    "prompt": scored.prompt,
                }
            )
        cut += loaded.cut
    return pa.Table.from_pylist(rows).replace_schema_metadata({"cut": str(cut)})


def _compared(settings: UtilitySettings, rows: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Figure], Table]:
    """Return the figures of every task, and the table of them."""
    figures: dict[str, Figure] = {}
    shown = []
    for task in settings.tasks:
        mine = [row for row in rows if row["task"] == task.name]
        before, after = ({(r["leaf"], r["document"]): r for r in mine if r["side"] == side} for side in SIDES)
        if list(before) != list(after):
            raise RuntimeError(f"task {task.name}: the models were not asked the same documents")
        scores = [[row["score"] for row in side.values()] for side in (before, after)]
        levels, difference = compare_scores(scores[0], scores[1], settings.margin)
        name = f"utility.{slug(task.name)}"
        figures |= {f"{name}.before": levels[0], f"{name}.after": levels[1], f"{name}.diff": difference}
        shown.append(
            {
                "task": task.name,
                "metric": mine[0]["metric"] + ("" if mine[0]["filter"] == "none" else f", {mine[0]['filter']}"),
                "shots": task.shots,
                "before": levels[0],
                "after": levels[1],
                "diff": difference,
                "verdict": verdict(difference),
            }
        )
    with_holm([row["diff"] for row in shown])
    note = (
        f"The same documents before and after. Non-inferior: the whole 95 % interval of the difference lies above "
        f"-{settings.margin:g}. Levels depend on the wording of the prompts; compare before with after, not with "
        f"figures published elsewhere. Perplexity on retained responses stands beside agreement and KL."
    )
    titles = columns(
        task="Task", metric="Score", shots="Examples", before="Before", after="After", diff="Difference", verdict=""
    )
    return figures, Table("utility.tasks", "Utility", titles, shown, note)


def compare_scores(
    before: Sequence[float], after: Sequence[float], margin: float
) -> tuple[tuple[Figure, Figure], Figure]:
    """Return the levels and the difference of scores; those beyond [0, 1] have no margin to be compared with."""
    if all(0 <= score <= 1 for score in (*before, *after)):
        levels, difference = (score_level(before), score_level(after)), score_difference(before, after, margin)
    else:
        levels = (mean_level(before, unit="points"), mean_level(after, unit="points"))
        difference = mean_difference(before, after, unit="points")
    assert levels[0] is not None and levels[1] is not None and difference is not None  # there are documents
    return (levels[0], levels[1]), difference


def verdict(difference: Figure) -> str:
    """Return in words what a difference shows against its margin."""
    if "margin" not in difference:
        return "no margin: scores beyond 0 to 1"
    if difference["non_inferior"]:
        return "not worse"
    return "worse" if difference["high"] < -difference["margin"] else "not shown"


def slug(name: str) -> str:
    """Return a name as it stands in figures: lower-case, no dots."""
    return re.sub(r"[^a-z0-9_-]+", "_", name.lower()).strip("_") or "unnamed"
