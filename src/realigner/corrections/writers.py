"""Who writes candidates: a server, or a model on this machine. Both yield drafts as they come."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from realigner.corrections.journal import Draft
from realigner.corrections.prompt import PROMPT_VERSION
from realigner.endpoint import Endpoint, open_endpoint
from realigner.errors import OracleError
from realigner.oracle.judge import JudgeCosts
from realigner.recipe import GenerateSettings, LoraSettings, ModelSettings, TextSettings, WriterModelSettings
from realigner.recipe_corrections import GenerateCorrections, HttpWriterSettings, LocalWriterSettings
from realigner.records import Message, text_hash

if TYPE_CHECKING:
    from realigner.oracle.http import ChatClient, ChatRequest

VERSION = 1


@dataclass(frozen=True, slots=True)
class Order:
    """One candidate to be written."""

    messages: Sequence[Message]
    seed: int


class Writer(Protocol):
    """Writes answers. Everything that can change their distribution is in its identity."""

    costs: JudgeCosts

    @property
    def weights(self) -> str:
        """What a judge's identity contains if it is the same model."""
        ...

    @property
    def identity(self) -> str:
        """Kind, version, model, settings and version of the prompt. Never a secret."""
        ...

    def check(self) -> str:
        """Say in one line that it can write, before anything is asked; raise OracleError or ModelError if not."""
        ...

    def write(self, orders: Sequence[Order]) -> Iterator[tuple[int, Draft]]:
        """Yield (place in `orders`, draft) exactly once an order, in any order, each as soon as it is there."""
        ...


class HttpWriter:
    """Writes through an OpenAI-compatible server."""

    def __init__(self, settings: HttpWriterSettings, generate: GenerateCorrections) -> None:
        self._settings, self._generate = settings, generate
        self.weights = f":{settings.model}@"
        self.costs = JudgeCosts(
            model=settings.model,
            paid=settings.key_env is not None,
            max_output_tokens=generate.max_tokens,
            concurrency=settings.concurrency,
            requests_per_minute=settings.requests_per_minute,
            tokens_per_minute=settings.tokens_per_minute,
        )

    @property
    def identity(self) -> str:
        """`http/VERSION:MODEL@PLACE:prompt-VERSION:SETTINGS`."""
        generate = self._generate
        said = json.dumps([generate.temperature, generate.max_tokens, dict(self._settings.extra)], sort_keys=True)
        # The place follows from the URL: to know who wrote, no key is needed.
        place = f"{self._settings.model}@{Endpoint(self._settings.url.rstrip('/')).place}"
        return f"http/{VERSION}:{place}:prompt-{PROMPT_VERSION}:{text_hash(said)}"

    def check(self) -> str:
        """Ask for one word."""
        request = self._request(Order([Message(role="user", content="Say hello.")], 0))
        [(_, completion)] = self._client.complete([request])
        line = f"{self._settings.model} at {self._client.endpoint.place}"
        if completion.status != 200:
            raise OracleError(
                f"writer {line}", f"it cannot write ({completion.error})", "Check corrections.generate.writer"
            )
        said = completion.finish in ("stop", "length")
        return line if said else f"{line}; WARNING: asked to say hello, it did not ({completion.error})"

    def write(self, orders: Sequence[Order]) -> Iterator[tuple[int, Draft]]:
        """Yield drafts as the server sends them."""
        for place, completion in self._client.complete(map(self._request, orders)):
            yield (
                place,
                Draft(
                    self._client.endpoint.scrub(completion.text),
                    completion.finish,
                    completion.error if not completion.ok else "",
                    completion.model,
                    orders[place].seed,
                    completion.attempts,
                    completion.prompt_tokens,
                    completion.completion_tokens,
                    round(completion.seconds, 4),
                ),
            )

    def _request(self, order: Order) -> ChatRequest:
        from realigner.oracle.http import ChatRequest

        return ChatRequest(order.messages, max_tokens=self._generate.max_tokens, seed=order.seed)

    @cached_property
    def _client(self) -> ChatClient:
        from realigner.oracle.http import ChatClient, Limits, Patience
        from realigner.oracle.http import ModelSettings as Asked

        wanted, generate = self._settings, self._generate
        return ChatClient(
            open_endpoint(
                wanted.url, wanted.key_env, key_header=wanted.key_header, plain_http_key=wanted.plain_http_key
            ),
            Asked(wanted.model, generate.max_tokens, generate.temperature, wanted.limit_field, dict(wanted.extra)),
            limits=Limits(wanted.concurrency, wanted.requests_per_minute, wanted.tokens_per_minute),
            patience=Patience(budget=wanted.budget),
            timeout=wanted.timeout,
            connect_timeout=wanted.connect_timeout,
            idempotency_header=wanted.idempotency_header,
        )


class LocalWriter:
    """Writes by a model of transformers; loaded with the first order."""

    def __init__(self, settings: LocalWriterSettings, generate: GenerateCorrections) -> None:
        self._settings, self._generate = settings, generate
        self.costs = JudgeCosts(model=settings.path, paid=False, max_output_tokens=generate.max_tokens)

    @cached_property
    def weights(self) -> str:
        """The fingerprint of the weights, as identities of local judges hold it."""
        from realigner.model.load import model_fingerprint

        return f":{model_fingerprint(self._model_settings)}:"

    @cached_property
    def identity(self) -> str:
        """`local/VERSION:WEIGHTS:DTYPE:prompt-VERSION:SETTINGS`."""
        from realigner.model.load import resolve_device, resolve_dtype

        model, wanted, generate = self._model_settings, self._settings, self._generate
        dtype = str(resolve_dtype(model, resolve_device(model))).removeprefix("torch.")
        said = json.dumps(
            [generate.temperature, generate.max_tokens, wanted.format, wanted.template_arguments], sort_keys=True
        )
        return f"local/{VERSION}{self.weights}{dtype}:prompt-{PROMPT_VERSION}:{text_hash(said)}"

    def check(self) -> str:
        """Read configuration and tokenizer; no weights."""
        encoder = self._encoder
        return f"{self._settings.path}: context {encoder.context:,}"

    def write(self, orders: Sequence[Order]) -> Iterator[tuple[int, Draft]]:
        """Yield drafts a batch at a time; prompts that leave no room for an answer are not written."""
        from realigner.model.generate import generate

        size = self._settings.batch_size
        for start in range(0, len(orders), size):
            batch = [*range(start, min(start + size, len(orders)))]
            prompts = [self._fitted(orders[place].messages) for place in batch]
            settings = GenerateSettings(
                max_new_tokens=self._generate.max_tokens,
                temperature=self._generate.temperature or 0.0,
                batch_size=size,
            )
            # One seed a batch: it follows from every order in it, so that equal batches are written alike.
            seed = _joint([orders[place].seed for place in batch])
            fitting = [(place, prompt) for place, prompt in zip(batch, prompts, strict=True) if prompt is not None]
            for place in set(batch) - {place for place, _ in fitting}:
                yield place, Draft("", "error", "the prompt leaves no room for an answer, or holds a control token")
            written = generate(self._model, self._encoder, [prompt for _, prompt in fitting], settings, seed=seed)
            for (place, _), response in zip(fitting, written, strict=True):
                yield place, Draft(response.text, response.finish, seed=response.seed, output_tokens=response.tokens)

    def _fitted(self, messages: Sequence[Message]) -> tuple[Message, ...] | None:
        """Return the messages as the template takes them; None where they cannot be asked whole."""
        from realigner.errors import TemplateError

        if self._encoder.control_token([message["content"] for message in messages]):
            return None
        tally = dict(self._encoder.tally)
        for form in (tuple(messages), _without_system(messages)):
            try:
                self._encoder.prompt_ids(form, self._generate.max_tokens)
            except TemplateError:
                continue
            # A prompt that had to be cut has lost its beginning: the rules.
            return form if dict(self._encoder.tally) == tally else None
        return None

    @cached_property
    def _model_settings(self) -> ModelSettings:
        wanted = self._settings
        return WriterModelSettings(
            path=wanted.path, revision=wanted.revision, dtype=wanted.dtype, device=wanted.device, lora=LoraSettings()
        )

    @cached_property
    def _encoder(self) -> Any:
        from realigner.model.chat import Encoder
        from realigner.model.load import context_length, load_tokenizer

        context = context_length(self._model_settings)
        text = TextSettings(
            format=self._settings.format, template_arguments=self._settings.template_arguments, max_length=context
        )
        return Encoder(load_tokenizer(self._model_settings), text, context)

    @cached_property
    def _model(self) -> Any:
        from realigner.model.load import load_model

        return load_model(self._model_settings)


def build_writer(generate: GenerateCorrections) -> Writer:
    """Return the writer that a recipe asks for. Nothing is loaded or sent yet."""
    settings = generate.writer
    if isinstance(settings, HttpWriterSettings):
        return HttpWriter(settings, generate)
    return LocalWriter(settings, generate)


def _without_system(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Return the conversation with the system turn put before the first user turn, for templates that know none."""
    if len(messages) < 2 or messages[0]["role"] != "system":
        return tuple(messages)
    first = Message(role="user", content=f"{messages[0]['content']}\n\n{messages[1]['content']}")
    return (first, *messages[2:])


def _joint(seeds: Sequence[int]) -> int:
    return int.from_bytes(hashlib.sha256(repr(list(seeds)).encode()).digest()[:4]) >> 1
