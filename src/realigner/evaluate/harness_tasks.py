"""Benchmark tasks, ours over local documents or lm_eval's by name, and what a model scores on their documents.

lm_eval's own entry (`simple_evaluate`) seeds the global generators, asks git and the hub, and bootstraps what is not
used here; so its inner function `evaluate` is called.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml
from lm_eval.api.task import ConfigurableTask
from lm_eval.evaluator import evaluate

from realigner.errors import DataError, RecipeError, did_you_mean
from realigner.evaluate.harness import HubCode, no_code_from_the_hub, quiet
from realigner.evaluate.utility import definition
from realigner.evaluate.utility_docs import Leaf
from realigner.recipe_evaluate import UtilityTask
from realigner.records import text_hash


@dataclass(frozen=True)
class Scored:
    """One document as one model answered it."""

    leaf: str
    document: str
    """Its id, or its number in a task of lm_eval's."""
    metric: str
    filter: str
    """How the answer was read off the text, where there are several ways; else `none`."""
    value: float
    target: str
    said: str
    """What the model wrote, or the log-probabilities of the choices in nats, as JSON."""
    prompt: str
    """What it was asked, with examples and template."""


@dataclass(frozen=True)
class Ready:
    """A task that can be asked: lm_eval's tasks by name, and which documents of each."""

    name: str
    tasks: Mapping[str, Any]
    metric: str
    filter: str
    ids: Mapping[str, Sequence[str]]
    """By task, the ids of its documents in their order; the documents' numbers where lm_eval has them."""
    chosen: Mapping[str, list[int]] = field(default_factory=dict)
    """By task, the numbers of the documents that are asked; all of a task that is not named."""

    @property
    def documents(self) -> int:
        """How many documents are asked."""
        return sum(len(self.chosen.get(name, ids)) for name, ids in self.ids.items())


def our_task(task: UtilityTask, found: Sequence[Leaf], max_new_tokens: int) -> Ready:
    """Return a task of ours over local documents. Nothing is read from a network."""
    tasks = {leaf.name: _configured(task, leaf, max_new_tokens) for leaf in found}
    metric, filter_ = _primary(next(iter(tasks.values())), task)
    return Ready(
        task.name, tasks, metric, filter_, {leaf.name: [document.id for document in leaf.asked] for leaf in found}
    )


def named_task(task: UtilityTask, limit: int | None, seed: int, manager: Any) -> Ready:
    """Return a task of lm_eval's by its name (or a group of them); its data come from the hub or the local cache.

    Raises:
        RecipeError: there is no such task, or it runs code that a model wrote, or it needs more than text.
        DataError: its data cannot be had.
    """
    from huggingface_hub.errors import HfHubHTTPError

    known_task(task.name, manager)
    given = f"evaluate.utility: task '{task.name}'"
    try:
        with quiet(), no_code_from_the_hub() as refused:
            tasks = manager.load([task.name])["tasks"]
    except HubCode as error:
        refused, tasks = [str(error)], {}
    except (OSError, ValueError, HfHubHTTPError) as error:
        reason = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
        raise DataError(
            given, f"its data cannot be had ({reason})", "Give a local file with `path`, or run where the hub is"
        ) from error
    if refused:
        raise RecipeError(
            given, f"it runs code from the hub ({refused[0]}) to score answers", "Name a task that does not"
        )
    for leaf in tasks.values():
        if getattr(leaf, "UNSAFE_CODE", False):
            raise RecipeError(given, "it runs code that the model wrote", "Name a task that does not")
        if getattr(leaf, "MULTIMODAL", False):
            raise RecipeError(given, "it needs more than text", "Name a task of text alone")
        leaf.set_config(key="num_fewshot", value=task.shots)
        leaf.set_fewshot_seed(seed=seed)
    ids = {name: [str(number) for number in range(len(leaf.eval_docs))] for name, leaf in tasks.items()}
    metric, filter_ = _primary(next(iter(tasks.values())), task)
    places = [(name, number) for name, numbers in ids.items() for number in range(len(numbers))]
    ranked = sorted(places, key=lambda place: text_hash(str(seed), "utility", place[0], str(place[1])))[:limit]
    chosen = {name: sorted(number for leaf, number in ranked if leaf == name) for name in ids}
    kept = {name: leaf for name, leaf in tasks.items() if chosen[name]}
    return Ready(task.name, kept, metric, filter_, {name: ids[name] for name in kept}, chosen)


def known_task(name: str, manager: Any) -> None:
    """Refuse a name that is not in lm_eval's index.

    Raises:
        RecipeError: it is not.
    """
    if name not in manager.all_tasks:
        raise RecipeError(
            f"evaluate.utility: task '{name}'",
            "lm_eval has no task of that name, and no file was given for it",
            f"Name a task of `lm_eval ls tasks`.{did_you_mean(name, manager.all_tasks)}",
        )


def task_manager() -> Any:
    """Return lm_eval's index of tasks; it reads some thousand files, which takes seconds."""
    from lm_eval.tasks import TaskManager

    with quiet():
        return TaskManager()


def run_task(ready: Ready, model: Any) -> list[Scored]:
    """Ask a model every document of a task; return one score a document, in the order of the documents.

    Raises:
        RecipeError: the task has no score of a single document by the metric that is asked for.
    """
    with quiet(), no_code_from_the_hub():
        results = evaluate(
            lm=model,
            task_dict={"tasks": dict(ready.tasks), "groups": {}, "group_map": {}},
            samples={name: list(ready.chosen[name]) for name in ready.tasks} if ready.chosen else None,
            bootstrap_iters=0,
            log_samples=True,
            apply_chat_template=getattr(model, "has_turns", False),
            fewshot_as_multiturn=True,
        )
    return [
        _scored(ready, leaf, sample)
        for leaf in ready.tasks
        for sample in sorted(results["samples"][leaf], key=lambda sample: int(sample["doc_id"]))
        if sample["filter"] == ready.filter
    ]


def _scored(ready: Ready, leaf: str, sample: Mapping[str, Any]) -> Scored:
    value = sample.get(ready.metric)
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        numbers = [name for name in sample["metrics"] if isinstance(sample[name], int | float)]
        raise RecipeError(
            f"evaluate.utility: task '{ready.name}', metric '{ready.metric}'",
            f"it gives no number for a single document ({value!r}), so nothing can be paired",
            f"Set its metric to one of: {', '.join(numbers) or 'none of this task'}",
        )
    said = [answer[0] if isinstance(answer, list | tuple) else answer for answer in sample["filtered_resps"]]
    raw = [answers[0] for answers in sample["resps"]]
    return Scored(
        leaf=leaf,
        document=ready.ids[leaf][int(sample["doc_id"])],
        metric=ready.metric,
        filter=ready.filter,
        value=float(value),
        target=str(sample["target"]),
        said=str(raw[0]) if isinstance(raw[0], str) else json.dumps([float(number) for number in said]),
        prompt=str(sample["arguments"][0][0]),
    )


def _configured(task: UtilityTask, leaf: Leaf, max_new_tokens: int) -> Any:
    """Return lm_eval's task over the documents of one group."""
    from datasets import Dataset

    config = yaml.safe_load(definition(task.name))
    asked = Dataset.from_list([dict(document.fields) for document in leaf.asked])
    splits = {"test": asked}
    if leaf.examples:
        splits["examples"] = Dataset.from_list([dict(document.fields) for document in leaf.examples])
        config["fewshot_split"] = "examples"
        config["fewshot_config"] = {**config.get("fewshot_config", {}), "sampler": "first_n"}
    if config["output_type"] == "generate_until":
        config["generation_kwargs"]["max_gen_toks"] = max_new_tokens
    config.update(task=leaf.name, num_fewshot=len(leaf.examples), custom_dataset=_handed(splits))
    with quiet():
        made = ConfigurableTask(config=config)
    made.set_fewshot_seed(seed=0)
    return made


def _handed(splits: Mapping[str, Any]) -> Callable[..., Mapping[str, Any]]:
    return lambda **_: splits


def _primary(leaf: Any, task: UtilityTask) -> tuple[str, str]:
    """Return the metric and the filter by which a task is compared: those asked for, else its first."""
    higher = leaf.higher_is_better()
    metrics = [name for name in leaf.aggregation() if higher.get(name)]
    if not metrics:
        raise RecipeError(
            f"evaluate.utility: task '{task.name}'", "it has no score of which more is better", "Name another task"
        )
    filters = [found.name for found in getattr(leaf, "_filters", [])] or ["none"]
    metric, _, filter_ = (task.metric or metrics[0]).partition(",")
    for what, given, known in (("metric", metric, metrics), ("filter", filter_ or filters[0], filters)):
        if given not in known:
            raise RecipeError(
                f"evaluate.utility: task '{task.name}' with metric '{task.metric}'",
                f"its {what}s are {', '.join(known)}",
                f"Name one of them.{did_you_mean(given, known)}",
            )
    return metric, filter_ or filters[0]
