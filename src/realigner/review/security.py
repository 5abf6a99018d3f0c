"""What stands between a browser and the answers: whose requests are served, which forms are believed, what pages do.

* A request must name a host that was allowed, so that no other site's name can be pointed at this server.
* A form must come from a page of this server: by its Origin, by what the browser says of the fetch, and by a token
  that only such a page holds.
* A body is small, and of one type.
* Every answer forbids scripts and styles but the server's own, framing, sniffing and keeping.
"""

from __future__ import annotations

import hmac
import secrets
import time
from collections.abc import Callable, Collection, Mapping, MutableMapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

MOST_BYTES = 512 * 1024
"""Of a body. The longest correction, each character sent as twelve bytes, fits."""
MOST_FIELDS = 200
FORM = "application/x-www-form-urlencoded"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Not no-referrer: with it, browsers send forms of this very page with the Origin "null".
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cache-Control": "no-store",
}


class Guard:
    """ASGI middleware: refuses what is not meant for this server, and adds the headers to every answer."""

    def __init__(self, app: ASGIApp, hosts: Collection[str] = LOOPBACK) -> None:
        """Take the application to guard, and the host names under which it may be reached (without port)."""
        self._app, self._hosts = app, frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve or refuse one request."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                kept = [(name, value) for name, value in message.get("headers", []) if name.lower() != b"server"]
                own = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*kept, *own]}
            await send(message)

        headers = _headers(scope)
        refusal = self._refuse(scope["method"], headers)
        if refusal is None and scope["method"] == "POST":
            body = await _read(receive)
            if body is None:
                refusal = 413, f"A body has at most {MOST_BYTES:,} bytes."
            else:
                receive = _replay(body, receive)
        if refusal is not None:
            await _answer(send_with_headers, *refusal)
            return
        await self._app(scope, receive, send_with_headers)

    def _refuse(self, method: str, headers: Mapping[str, list[str]]) -> tuple[int, str] | None:
        """Return status and reason where a request is refused by its first lines alone."""
        hosts = headers.get("host", [])
        if len(hosts) != 1 or _host_name(hosts[0]) not in self._hosts:
            return 421, "This server is not known under that name."
        if method in ("GET", "HEAD"):
            return None
        if method != "POST":
            return 405, "Only GET, HEAD and POST are served."
        origins = headers.get("origin", [])
        if any(origin not in (f"http://{hosts[0]}", f"https://{hosts[0]}") for origin in origins):
            return 403, "The form was sent from another site."
        if any(site != "same-origin" for site in headers.get("sec-fetch-site", [])):
            return 403, "The form was sent from another site."
        types = headers.get("content-type", [])
        if len(types) != 1 or types[0].partition(";")[0].strip().lower() != FORM:
            return 415, f"A form is sent as {FORM}."
        lengths = headers.get("content-length", [])
        if any(not length.isdecimal() or int(length) > MOST_BYTES for length in lengths):
            return 413, f"A body has at most {MOST_BYTES:,} bytes."
        return None


def read_form(body: bytes) -> dict[str, list[str]] | None:
    """Return the values of a form by field name; None where it is no form in UTF-8, or has too many fields."""
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MOST_FIELDS)
    except ValueError:  # UnicodeDecodeError is one
        return None
    fields: dict[str, list[str]] = {}
    for name, value in pairs:
        fields.setdefault(name, []).append(value)
    return fields


@dataclass(frozen=True, slots=True)
class Ticket:
    """What a form of an item carries: it is good for one act on one revision of one step of one person."""

    once: str
    """Names the act."""
    revision: int
    made: float
    """Unix time at which the page was made."""


class Seal:
    """Signs what a page carries and must bring back. The key stays in the study's database."""

    def __init__(self, key: bytes, clock: Callable[[], float] = time.time) -> None:
        """Take the key, and a clock of Unix time."""
        self._key, self._clock = key, clock

    def form_token(self, visitor: str) -> str:
        """Return the token of a visitor's forms. Another site cannot know it, nor can another visitor."""
        return self._sign("form", visitor)

    def is_form_token(self, visitor: str, token: str) -> bool:
        """Whether a form's token is this visitor's."""
        return hmac.compare_digest(self.form_token(visitor).encode(), token.encode("utf-8", "replace"))

    def ticket(self, place: str, revision: int) -> str:
        """Return a fresh ticket for a place (task, person and number)."""
        head = f"{int(self._clock() * 1000):x}.{secrets.token_hex(8)}.{revision}"
        return f"{head}.{self._sign('ticket', place, head)}"

    def read_ticket(self, place: str, text: str) -> Ticket | None:
        """Return what a ticket of `ticket` says, or None where it was not made for this place."""
        head, _, sign = text.rpartition(".")
        if not hmac.compare_digest(self._sign("ticket", place, head).encode(), sign.encode("utf-8", "replace")):
            return None
        made, once, revision = head.split(".")
        return Ticket(once, int(revision), int(made, 16) / 1000)

    def _sign(self, *parts: str) -> str:
        text = "\0".join(parts).encode("utf-8", "replace")
        return hmac.digest(self._key, text, "sha256").hex()[:32]


def _headers(scope: MutableMapping[str, object]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    raw = scope["headers"]
    assert isinstance(raw, list | tuple)
    for name, value in raw:
        found.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
    return found


def _host_name(host: str) -> str:
    """Return the name in a Host header, without port: `[::1]:80` names `::1`."""
    if host.startswith("["):
        name, bracket, port = host[1:].partition("]")
        if not bracket or (port and not port[1:].isdecimal()):
            return ""
        return name.lower()
    name, colon, port = host.partition(":")
    return name.lower() if not colon or port.isdecimal() else ""


async def _read(receive: Receive) -> bytes | None:
    """Return the body of a request, or None as soon as it is too long."""
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return b"".join(parts)
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > MOST_BYTES:
            return None
        if not message.get("more_body", False):
            return b"".join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives the body that was read already, then whatever comes."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return waiting.pop() if waiting else await receive()

    return again


async def _answer(send: Send, status: int, reason: str) -> None:
    body = (reason + "\n").encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*headers, (b"connection", b"close")]})
    await send({"type": "http.response.body", "body": body})
