"""From the recipe's words to a client and a judge. Nothing is sent yet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from realigner.endpoint import open_endpoint
from realigner.oracle.http.client import ChatClient
from realigner.oracle.http.judge import HttpJudge
from realigner.oracle.http.modes import pins_file
from realigner.oracle.http.pace import Limits
from realigner.oracle.http.records import ModelSettings
from realigner.oracle.http.retry import Patience
from realigner.recipe_judges import HttpJudgeSettings

if TYPE_CHECKING:
    from realigner.oracle.build import JudgeContext


def http_client(settings: HttpJudgeSettings) -> ChatClient:
    """Return the client that the settings describe, with the key from the environment.

    Raises:
        OracleError: the URL or the key cannot be used, or the key would travel in the clear.
    """
    return ChatClient(
        open_endpoint(
            settings.url, settings.key_env, key_header=settings.key_header, plain_http_key=settings.plain_http_key
        ),
        ModelSettings(
            settings.model, settings.max_tokens, settings.temperature, settings.limit_field, dict(settings.extra)
        ),
        limits=Limits(settings.concurrency, settings.requests_per_minute, settings.tokens_per_minute),
        patience=Patience(budget=settings.budget),
        timeout=settings.timeout,
        connect_timeout=settings.connect_timeout,
        idempotency_header=settings.idempotency_header,
    )


def build_http(settings: HttpJudgeSettings, context: JudgeContext) -> HttpJudge:
    """Return the judge of a recipe; see `oracle/build.py`."""
    return http_judge(settings, may_ask=context.may_ask)


def http_judge(settings: HttpJudgeSettings, pins: Path | None = None, *, may_ask: bool = True) -> HttpJudge:
    """Return the judge that the settings describe.

    Args:
        settings: of one `kind: http`.
        pins: where modes that `output: auto` found are remembered. Default: a file in the user's cache folder.
        may_ask: whether the server may be asked for its mode when the judge has to be identified.

    Raises:
        OracleError: the URL or the key cannot be used, or the key would travel in the clear.
    """
    return HttpJudge(
        http_client(settings),
        output=settings.output,
        deployment=settings.deployment,
        pins=pins_file() if pins is None else pins,
        may_ask=may_ask,
    )
