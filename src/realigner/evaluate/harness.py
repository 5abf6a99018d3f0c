"""lm_eval on a model that is already loaded, with our tokens: the only place that imports it.

lm_eval's own entry (`simple_evaluate`) seeds the global generators, asks git and the hub, and bootstraps what is not
used here; so its inner function `evaluate` is called, with tasks made here or loaded by their names. Prompts and
answers become tokens as in training (`Encoder`), not as lm_eval would join them.
"""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

import yaml
from lm_eval.api import task as task_module
from lm_eval.api.task import ConfigurableTask
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM

from realigner.errors import DataError, RecipeError, did_you_mean
from realigner.evaluate.utility_docs import Leaf
from realigner.model.chat import Encoder
from realigner.model.generate import stop_ids, without_defaults
from realigner.progress import SILENT, Advance, Progress
from realigner.recipe_evaluate import UtilityTask
from realigner.records import Message, text_hash


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


class LoadedModel(HFLM):
    """A loaded model for lm_eval.

    Args:
        model: a causal language model, adapters merged.
        encoder: of its tokenizer; `text.format` decides whether prompts are put into a template.
        batch_size: requests in one forward pass.
        progress: shows how far it is.
        label: of what is shown.
    """

    def __init__(
        self, model: Any, encoder: Encoder, batch_size: int, progress: Progress = SILENT, label: str = "utility"
    ) -> None:
        with quiet():
            super().__init__(
                pretrained=model,
                # lm_eval may give the tokenizer a padding token: the encoder's own stays as it is.
                tokenizer=copy.deepcopy(encoder.tokenizer),
                batch_size=batch_size,
                max_length=encoder.context,
                # A chat template brings its own beginning-of-text token, or wants none.
                add_bos_token=False if encoder.settings.format == "chat" else None,
            )
        self.encoder, self._progress, self._label = encoder, progress, label
        self.cut = 0
        """Requests whose beginning was cut because they were longer than the model's context."""

    @property
    def has_turns(self) -> bool:
        """Whether prompts are turns: of the chat template, or of plain text with markers for the roles."""
        settings = self.encoder.settings
        markers = [getattr(role, side) for role in (settings.user, settings.assistant) for side in ("before", "after")]
        return settings.format == "chat" or any(markers)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Return a conversation as the encoder writes it, up to where the model answers.

        A template that refuses a system turn gets it as the beginning of the first user turn.
        """
        turns = tuple(Message(role=turn["role"], content=turn["content"]) for turn in chat_history)
        if add_generation_prompt:
            return self.encoder.header(turns, fold_system=True)
        # The answer is begun by the task (lm_eval's gen_prefix): the header, and what is given of the answer.
        return self.encoder.header(turns[:-1], fold_system=True) + self.encoder.end.lead + turns[-1]["content"]

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:  # noqa: ARG002
        """Return (log p, greedy) of each request."""
        with self._told("likelihoods", len(requests)):
            found: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        return found

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = True) -> list[float]:  # noqa: ARG002
        """Return log p of whole texts."""
        found: list[float] = super().loglikelihood_rolling(requests, disable_tqdm=True)
        return found

    def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:  # noqa: ARG002
        """Return what the model writes after each prompt, up to a stop text."""
        for request in requests:
            context, how = request.args
            room = self.max_length - int(how.get("max_gen_toks", self.max_gen_toks))
            self.cut += len(self.tok_encode(context)) > room
        with self._told("answers", len(requests)):
            found: list[str] = super().generate_until(requests, disable_tqdm=True)
        return found

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        if not self.has_turns:
            plain: tuple[list[int], list[int]] = super()._encode_pair(context, continuation)
            return plain
        prompt, response = self.encoder.split(context, continuation)
        return list(prompt), list(response)

    def _loglikelihood_tokens(self, requests: list[Any], **how: Any) -> list[tuple[float, bool]]:
        self.cut += sum(len(context) + len(said) > self.max_length + 1 for _, context, said in requests)
        found: list[tuple[float, bool]] = super()._loglikelihood_tokens(requests, **how)
        return found

    def _model_generate(self, context: Any, max_length: int, stop: list[str], **how: Any) -> Any:
        with without_defaults(self.model):
            ends = stop_ids(self.model, self.encoder)
            return super()._model_generate(context, max_length, stop, eos_token_id=ends, **how)

    @contextmanager
    def _told(self, what: str, total: int) -> Iterator[None]:
        with self._progress.task(f"{self._label}: {what}", total) as advance:
            self.set_cache_hook(_Told(advance))
            yield


class _Told:
    """lm_eval tells its cache of each answer; there is no cache here, so it can tell how far it is."""

    def __init__(self, advance: Advance) -> None:
        self._advance = advance

    def add_partial(self, attr: str, req: Any, res: Any) -> None:  # noqa: ARG002
        self._advance(1)


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
    except _HubCode as error:
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

    text = files("realigner.evaluate").joinpath("tasks", f"{task.name}.yaml").read_text(encoding="utf-8")
    config = yaml.safe_load(text)
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


class _HubCode(Exception):
    """A task asked for a metric whose code lies on the hub."""


@contextmanager
def no_code_from_the_hub() -> Iterator[list[str]]:
    """Refuse for a block what `evaluate` (the metrics' library) would fetch and run; yield what was asked for.

    Some tasks call it when they are loaded, and lm_eval itself takes a failure there for a missing metric.
    """
    import evaluate as library

    asked: list[str] = []

    def load(path: str, *_: Any, **__: Any) -> Any:
        asked.append(path)
        raise _HubCode(path)

    given = library.load
    library.load = load
    try:
        yield asked
    finally:
        library.load = given


@contextmanager
def quiet() -> Iterator[None]:
    """Keep lm_eval and `datasets` from drawing bars and from logging what is no news; both are put back after it.

    The bar over prompts has no switch, so its name in lm_eval's module is exchanged for the block.
    """
    import datasets

    logger = logging.getLogger("lm_eval")
    level, shown = logger.level, datasets.are_progress_bars_disabled()
    bar = task_module.tqdm
    logger.setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    task_module.tqdm = lambda items, **_: items
    try:
        yield
    finally:
        task_module.tqdm = bar
        logger.setLevel(level)
        if not shown:
            datasets.enable_progress_bars()
