"""Where a guard model runs: on this machine, or behind a server. Both take prompts and yield what was written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

from realigner.endpoint import Endpoint, open_endpoint
from realigner.errors import OracleError
from realigner.oracle.guards.family import Family, GuardPrompt
from realigner.oracle.http import ChatClient, ChatRequest, Limits, ModelSettings, Patience
from realigner.oracle.judge import JudgeCosts
from realigner.oracle.local_prompt import control_tokens, without_control_tokens
from realigner.recipe import LoraSettings
from realigner.recipe import ModelSettings as LocalModel
from realigner.recipe_judges import GuardJudgeSettings, ServerSettings


@dataclass(frozen=True, slots=True)
class Written:
    """What a guard wrote, or why it wrote nothing whole."""

    text: str = ""
    error: str = ""
    input_tokens: int | None = None
    output_tokens: int | None = None
    seconds: float = 0.0
    model: str = ""


class Guard(Protocol):
    """Answers prompts. Equal identities give equal answers, as far as a model does."""

    costs: JudgeCosts

    @property
    def identity(self) -> str:
        """The model, its precision or place, and what is told to its template."""
        ...

    def check(self) -> str:
        """Say in a line that it can be asked, or raise OracleError or ModelError."""
        ...

    def ask(self, prompts: Sequence[GuardPrompt]) -> Iterator[tuple[int, Written]]:
        """Yield (place, written) once a prompt, in any order."""
        ...


def open_guard(family: Family, settings: GuardJudgeSettings) -> Guard:
    """Return where the recipe says that the model runs. Nothing is loaded or sent yet."""
    tokens = settings.max_tokens or family.max_tokens
    if settings.server is not None:
        return ServedGuard(settings.server, settings, tokens)
    return LocalGuard(settings, tokens)


@dataclass(frozen=True, slots=True)
class _Request(ChatRequest):
    prompt: GuardPrompt = field(default_factory=GuardPrompt)


@dataclass(frozen=True, slots=True)
class _Asked(ModelSettings):
    """The body of a request to a guard: a chat with arguments for its template, or a text to go on from."""

    def body(self, request: ChatRequest) -> dict[str, Any]:
        body = ModelSettings.body(self, request)
        prompt = request.prompt if isinstance(request, _Request) else GuardPrompt()
        if prompt.text:
            del body["messages"]
            body["prompt"] = prompt.text
        elif prompt.arguments:
            body["chat_template_kwargs"] = {**body.get("chat_template_kwargs", {}), **dict(prompt.arguments)}
        return body


class _TextEndpoint(Endpoint):
    """The place for texts to go on from: `URL/completions`."""

    @property
    def completions(self) -> str:
        return f"{self.url}/completions"


class ServedGuard:
    """A guard behind an OpenAI-compatible server: chats for those with a template, texts for the others."""

    def __init__(self, server: ServerSettings, settings: GuardJudgeSettings, max_tokens: int) -> None:
        self._server, self._arguments, self._max_tokens = server, dict(settings.template_arguments), max_tokens
        self.costs = JudgeCosts(
            model=server.model,
            paid=server.key_env is not None,
            max_output_tokens=max_tokens,
            concurrency=server.concurrency,
            requests_per_minute=server.requests_per_minute,
            tokens_per_minute=server.tokens_per_minute,
        )

    @property
    def identity(self) -> str:
        """`MODEL@PLACE`, or `MODEL@DEPLOYMENT`, and what every request says."""
        place = self._server.deployment or Endpoint(self._server.url.rstrip("/")).place
        said = sorted({**self._server.extra, **self._arguments}.items())
        return f"{self._server.model}@{place}:{said!r}"

    def check(self) -> str:
        """Ask for a few tokens."""
        [(_, completion)] = self._chats.complete([ChatRequest([{"role": "user", "content": "Hello"}], max_tokens=8)])
        line = f"{self._server.model} at {self._chats.endpoint.place}"
        if completion.status != 200:
            raise OracleError(f"guard {line}", f"it cannot be asked ({completion.error})", "Check its server")
        return line

    def ask(self, prompts: Sequence[GuardPrompt]) -> Iterator[tuple[int, Written]]:
        """Yield answers as the server sends them."""
        if not prompts:
            return
        client = self._texts if prompts[0].text else self._chats
        requests = (_Request(prompt.messages, prompt=prompt) for prompt in prompts)
        for place, completion in client.complete(requests):
            yield (
                place,
                Written(
                    client.endpoint.scrub(completion.text),
                    "" if completion.ok else completion.error,
                    completion.prompt_tokens,
                    completion.completion_tokens,
                    round(completion.seconds, 4),
                    completion.model,
                ),
            )

    @cached_property
    def _chats(self) -> ChatClient:
        return self._client(self._endpoint)

    @cached_property
    def _texts(self) -> ChatClient:
        found = self._endpoint
        return self._client(_TextEndpoint(found.url, found.key, found.key_header))

    @property
    def _endpoint(self) -> Endpoint:
        server = self._server
        return open_endpoint(
            server.url, server.key_env, key_header=server.key_header, plain_http_key=server.plain_http_key
        )

    def _client(self, endpoint: Endpoint) -> ChatClient:
        server = self._server
        extra: dict[str, Any] = dict(server.extra)
        if self._arguments and endpoint.completions.endswith("/chat/completions"):
            extra["chat_template_kwargs"] = self._arguments
        return ChatClient(
            endpoint,
            _Asked(server.model, self._max_tokens, 0.0, "max_tokens", extra),
            limits=Limits(server.concurrency, server.requests_per_minute, server.tokens_per_minute),
            patience=Patience(budget=server.budget),
            timeout=server.timeout,
            connect_timeout=server.connect_timeout,
        )


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
    def _model_settings(self) -> LocalModel:
        wanted = self._settings
        return LocalModel(
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
