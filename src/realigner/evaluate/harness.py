"""lm_eval on a model that is already loaded: prompts and answers become tokens as in training (`Encoder`)."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lm_eval.api import task as task_module
from lm_eval.models.huggingface import HFLM

from realigner.model.chat import Encoder
from realigner.model.generate import stop_ids, without_defaults
from realigner.progress import SILENT, Advance, Progress
from realigner.records import Message


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
                # In bfloat16 log-probabilities of choices are so coarse that they tie.
                softmax_dtype="float32",
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


class HubCode(Exception):
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
        raise HubCode(path)

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
