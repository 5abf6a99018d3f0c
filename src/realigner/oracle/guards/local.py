"""A guard model on this machine. torch and transformers are imported when it is asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

from realigner.errors import OracleError
from realigner.oracle.guards.asking import Written
from realigner.oracle.guards.family import GuardPrompt
from realigner.oracle.judge import JudgeCosts
from realigner.oracle.local_prompt import control_tokens, without_control_tokens
from realigner.recipe import JudgeModelSettings, LoraSettings, ModelSettings
from realigner.recipe_judges import GuardJudgeSettings


class LocalGuard:
    """A guard on this machine, by transformers; loaded with the first prompt."""

    def __init__(self, settings: GuardJudgeSettings, max_tokens: int) -> None:
        assert settings.path is not None  # by GuardJudgeSettings
        self._path, self._settings, self._max_tokens = settings.path, settings, max_tokens
        self.costs = JudgeCosts(model=settings.path, paid=False, max_output_tokens=max_tokens)

    @cached_property
    def identity(self) -> str:
        """The fingerprint of the weights, their precision, and what is told to the template."""
        from realigner.model.load import model_fingerprint, resolve_device, resolve_dtype

        dtype = str(resolve_dtype(self._model_settings, resolve_device(self._model_settings)))
        said = sorted(self._settings.template_arguments.items())
        return f"{model_fingerprint(self._model_settings)}:{dtype.removeprefix('torch.')}:{said!r}"

    def check(self) -> str:
        """Read configuration and tokenizer; no weights."""
        return f"{self._path}: context {self._context:,}"

    def ask(self, prompts: Sequence[GuardPrompt]) -> Iterator[tuple[int, Written]]:
        """Yield answers a batch at a time; a prompt that leaves no room for one is not cut but refused."""
        from realigner.model.complete import complete, stop_tokens

        ids: dict[int, list[int]] = {}
        for place, prompt in enumerate(prompts):
            try:
                ids[place] = self._ids(prompt)
            except OracleError as error:
                yield place, Written(error=str(error))
        room = self._context - self._max_tokens
        for place in [place for place, row in ids.items() if len(row) > room]:
            yield place, Written(error=f"the prompt has {len(ids.pop(place)):,} tokens, the guard reads {room:,}")
        places = list(ids)
        stops = stop_tokens(self._model, self._tokenizer) if places else []
        for number, tokens, ended in complete(
            self._model if places else None,
            [ids[place] for place in places],
            stops=stops,
            max_new_tokens=self._max_tokens,
            batch_size=self._settings.batch_size,
        ):
            # Special tokens stay: harmony's channels are told apart by them.
            text = self._tokenizer.decode(tokens, skip_special_tokens=False)
            why = "" if ended else "the answer was cut at its token limit"
            yield places[number], Written(text, why, len(ids[places[number]]), len(tokens))

    def _ids(self, prompt: GuardPrompt) -> list[int]:
        if prompt.text:
            return list(self._tokenizer(prompt.text)["input_ids"])
        turns = [{**t, "content": without_control_tokens(t["content"], self._control)} for t in prompt.messages]
        try:
            text = self._tokenizer.apply_chat_template(
                turns,
                tokenize=False,
                add_generation_prompt=True,
                **{**self._settings.template_arguments, **dict(prompt.arguments)},
            )
        except Exception as error:  # templates are programs of the model's maker and refuse in their own ways
            raise OracleError(
                f"a conversation of {len(turns)} turns",
                f"the chat template of {self._path} refuses it ({type(error).__name__}: {error})",
                "Look at the conversation, or at the model's tokenizer",
            ) from None
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    @cached_property
    def _control(self) -> list[str]:
        return control_tokens(self._tokenizer)

    @cached_property
    def _model_settings(self) -> ModelSettings:
        wanted = self._settings
        return JudgeModelSettings(
            path=self._path, revision=wanted.revision, dtype=wanted.dtype, device=wanted.device, lora=LoraSettings()
        )

    @cached_property
    def _tokenizer(self) -> Any:
        from realigner.model.load import load_tokenizer

        return load_tokenizer(self._model_settings)

    @cached_property
    def _context(self) -> int:
        from realigner.model.load import context_length

        return context_length(self._model_settings)

    @cached_property
    def _model(self) -> Any:
        from realigner.model.load import load_model

        return load_model(self._model_settings)
