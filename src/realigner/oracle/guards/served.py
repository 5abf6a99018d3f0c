"""A guard model behind an OpenAI-compatible server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from realigner.endpoint import Endpoint, open_endpoint
from realigner.errors import OracleError
from realigner.oracle.guards.asking import Written
from realigner.oracle.guards.family import GuardPrompt
from realigner.oracle.http import ChatClient, ChatRequest, Limits, ModelSettings, Patience
from realigner.oracle.judge import JudgeCosts
from realigner.recipe_judges import GuardJudgeSettings, ServerSettings


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
            idempotency_header=server.idempotency_header,
        )
