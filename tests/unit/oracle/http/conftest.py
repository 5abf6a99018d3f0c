"""A fault server for all tests of this folder, and clients of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import fault_server
import pytest
from fault_server import FaultServer

from realigner.oracle.http import ChatClient, HttpJudge, Limits, ModelSettings, Patience, open_endpoint

Connect = Callable[..., ChatClient]


@pytest.fixture(scope="session")
def server() -> Iterator[FaultServer]:
    with fault_server.running() as running:
        yield running


@pytest.fixture
def connect(server: FaultServer) -> Iterator[Connect]:
    """Return a function that makes a client whose model name is the fault that it will meet."""
    made: list[ChatClient] = []

    def connect(
        model: str, *, budget: float = 5.0, timeout: float = 5.0, concurrency: int = 8, **more: Any
    ) -> ChatClient:
        header = more.pop("idempotency_header", None)
        client = ChatClient(
            open_endpoint(server.url, more.pop("key_env", None), environment=more.pop("environment", {})),
            ModelSettings(model, **more),
            limits=Limits(concurrency),
            patience=Patience(budget=budget, base=0.02),
            timeout=timeout,
            idempotency_header=header,
        )
        made.append(client)
        return client

    yield connect
    for client in made:
        client.close()


@pytest.fixture
def judge(connect: Connect) -> Callable[..., HttpJudge]:
    """Return a function that makes a judge; keyword arguments of the judge itself are `output` and `pins`."""

    def judge(model: str, **settings: Any) -> HttpJudge:
        own = {key: settings.pop(key) for key in ("output", "pins", "deployment") if key in settings}
        return HttpJudge(connect(model, **settings), **{"output": "json_schema", **own})

    return judge
