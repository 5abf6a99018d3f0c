"""Serving a study until it is stopped: the socket, the links to print, and uvicorn."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from realigner.errors import ReviewError
from realigner.review.security import LOOPBACK
from realigner.review.store import Store

if TYPE_CHECKING:
    import uvicorn

NEEDS = ("starlette", "uvicorn")
INSTALL = "pip install 'realigner[review]'"


@dataclass(frozen=True, slots=True)
class Links:
    """What the coordinator is told when the page is up."""

    annotators: str
    coordinator: str
    """It opens the coordinator's page to who has it."""
    invitation: str | None
    """What people must know to join, where the page can be reached from other machines."""


def refuse_without_server() -> None:
    """Refuse early where what serves the page is not installed.

    Raises:
        ReviewError: with the line that installs it.
    """
    missing = [name for name in NEEDS if find_spec(name) is None]
    if missing:
        raise ReviewError(
            f"the review page needs {' and '.join(missing)}", "an extra of realigner, not installed", f"Run: {INSTALL}"
        )


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    return host in LOOPBACK


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens; port 0 takes any free one.

    Raises:
        ReviewError: the address cannot be taken.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind, protocol)
        try:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind(address)
            found.listen(128)
        except BaseException:
            found.close()
            raise
        return found
    except OSError as error:
        raise ReviewError(
            f"{host} port {port}", f"it cannot be listened on ({error.strerror or error})", "Choose another --port"
        ) from None


def settings(app: Any) -> uvicorn.Config:
    """Return how the application is served: addresses go into no log, and nothing is told of the server."""
    import uvicorn

    return uvicorn.Config(app, log_level="error", access_log=False, server_header=False, timeout_graceful_shutdown=3)


def serve(
    store: Store,
    *,
    host: str = "127.0.0.1",
    port: int = 8420,
    names: Sequence[str] = (),
    announce: Callable[[Links], None],
) -> None:
    """Serve the page until SIGINT or SIGTERM.

    Args:
        store: of the answers.
        host: address to listen on. Beyond loopback, people need an invitation to join.
        port: of it; 0 takes a free one.
        names: host names under which the page may be reached, beside the loopback names and `host`.
        announce: told the links when the page can be reached.

    Raises:
        ReviewError: the address cannot be taken, or what serves is not installed.
    """
    refuse_without_server()
    import uvicorn

    from realigner.review.app import make_app

    bound = listen(host, port)
    invitation = None if is_loopback(host) else store.secret("invitation")
    app = make_app(store, hosts={*LOOPBACK, host, *names}, invitation=invitation)
    config = settings(app)
    shown = names[0] if names else host
    address = f"http://{f'[{shown}]' if ':' in shown else shown}:{bound.getsockname()[1]}"

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            announce(Links(f"{address}/", f"{address}/coordinator/{store.secret('coordinator')}", invitation))

    with bound:
        Server(config).run(sockets=[bound])
