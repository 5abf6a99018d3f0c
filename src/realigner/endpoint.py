"""Where requests go and with which key. Both are checked before the first request, and the key is never shown."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NoReturn
from urllib.parse import urlsplit

from realigner.errors import OracleError

KEY_NAME = re.compile(r"[A-Z_][A-Z0-9_]{0,63}")
"""Names of environment variables that may hold a key. So narrow that a key pasted by mistake does not match."""
SHORTEST_SECRET = 8
"""Shorter values (`EMPTY`, `none`) are placeholders that local servers ask for, and are not looked for in texts."""
HIDDEN = "[key]"
COMPLETIONS = "/chat/completions"


OWN_KEYS = ("model", "messages", "response_format", "stream", "n", "temperature", "max_tokens", "max_completion_tokens")
"""Keys of a request's body that `extra` may not set."""
SECRET_NAMES = ("api_key", "apikey", "key", "secret", "token", "password", "authorization", "headers", "extra_headers")


class Secret:
    """A key that does not show in repr, str, format, a pickle or a traceback; `reveal` is called in one place."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def __repr__(self) -> str:
        return HIDDEN

    def __reduce__(self) -> NoReturn:
        raise TypeError("a key is not to be stored")

    def reveal(self) -> str:
        """Return the key itself, for the header of a request."""
        return self._value

    def scrub(self, text: str) -> str:
        """Return `text` without the key, should a server have echoed it."""
        if len(self._value) < SHORTEST_SECRET or self._value not in text:
            return text
        return text.replace(self._value, HIDDEN)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An OpenAI-compatible server: base URL without a slash at its end, and the key if it wants one."""

    url: str
    key: Secret | None = None
    key_header: str = "Authorization"
    key_env: str | None = None
    """The variable that the key comes from, whether or not it is set."""

    @property
    def completions(self) -> str:
        """The URL that chat completions are posted to."""
        return self.url + COMPLETIONS

    @property
    def place(self) -> str:
        """Host, port and path: what stands for the server in identities and messages."""
        return self.url.partition("://")[2]

    def require_key(self) -> None:
        """Refuse to go on where a key is wanted and not there.

        Raises:
            OracleError: with the variable to set.
        """
        if self.key_env is not None and self.key is None:
            raise OracleError(
                f"key_env: {self.key_env}",
                "this environment variable is not set",
                f"export {self.key_env}=…, and try again",
            )

    def headers(self) -> dict[str, str]:
        """Return the headers of every request, the key among them."""
        headers = {"Content-Type": "application/json", "Accept": "application/json", "Accept-Encoding": "identity"}
        if self.key is not None:
            scheme = "Bearer " if self.key_header.lower() == "authorization" else ""
            headers[self.key_header] = scheme + self.key.reveal()
        return headers

    def scrub(self, text: str) -> str:
        """Return a text of the server's without the key."""
        return text if self.key is None else self.key.scrub(text)


def open_endpoint(
    url: str,
    key_env: str | None = None,
    *,
    key_header: str = "Authorization",
    plain_http_key: bool = False,
    environment: Mapping[str, str] = os.environ,
) -> Endpoint:
    """Check the URL, read the key from the environment, and return both.

    A key that is not set is refused when the first request is sent (`require_key`): a judge whose verdicts are all
    stored is asked nothing, and needs none.

    Args:
        url: base URL, e.g. `https://api.example.com/v1`; requests go to `URL/chat/completions`.
        key_env: NAME of the environment variable that holds the key; None for a server without one.
        key_header: the header that carries the key; `Authorization` carries it as a bearer token.
        plain_http_key: allow a key to travel unencrypted to a host that is not this machine.
        environment: where to look the variable up.

    Raises:
        OracleError: the URL or the key cannot be used, or the key would be sent in the clear.
    """
    base = check_url(url)
    if key_env is None:
        return Endpoint(base)
    if urlsplit(base).scheme == "http" and not (plain_http_key or is_loopback(str(urlsplit(base).hostname))):
        raise OracleError(
            f"url {base} with a key",
            "over http the key could be read on the way",
            "Use https, or set plain_http_key: true where the network is trusted",
        )
    return Endpoint(base, read_key(key_env, environment), key_header, key_env)


def check_url(url: str) -> str:
    """Return a base URL without a slash at its end.

    Raises:
        OracleError: it cannot be used; credentials in it are not repeated in the message.
    """
    wanted = "Give a base URL such as https://api.example.com/v1 or http://localhost:8000/v1"
    if re.search(r"[\s\x00-\x1f\x7f]", url):
        raise OracleError("the url of the judge", "it contains white space or control characters", wanted)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise OracleError("the url of the judge", "it cannot be read as a URL", wanted) from None
    if "@" in parts.netloc:
        raise OracleError(
            "the url of the judge",
            "it contains a user name or a password",
            "Put the key into an environment variable, and the variable's name into key_env",
        )
    if parts.query or parts.fragment or "?" in url or "#" in url:
        raise OracleError(
            "the url of the judge",
            "it has a query or a fragment, where keys would end up in files",
            f"Remove what follows '?' or '#'. {wanted}",
        )
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise OracleError(f"url {url!r}", "it is not an http or https URL with a host", wanted)
    base = url.rstrip("/")
    if base.endswith(COMPLETIONS):
        raise OracleError(f"url {url!r}", f"it ends in {COMPLETIONS}, which is added to it", "Give the part before")
    return base


def check_key_name(name: str) -> None:
    """Refuse a name of an environment variable that is none.

    Raises:
        OracleError: it does not repeat the name, which may be the key itself.
    """
    if not KEY_NAME.fullmatch(name):
        raise OracleError(
            "key_env",
            "it must be the NAME of an environment variable, in capitals, digits and '_' (what was given is not shown: "
            "it may be a key)",
            "Write e.g. key_env: OPENAI_API_KEY, and put the key into that variable",
        )


def check_extra(names: Iterable[str]) -> None:
    """Refuse keys of a request's body that have a setting of their own, or would hold a secret in a file.

    Raises:
        OracleError: with the key, never with its value.
    """
    for name in names:
        if name in OWN_KEYS:
            raise OracleError(f"extra: {name}", "it has a setting of its own, or is fixed", "Remove it from extra")
        if name.lower().replace("-", "_") in SECRET_NAMES:
            raise OracleError(f"extra: {name}", "secrets do not belong into files", "Use key_env for the API key")


def read_key(name: str, environment: Mapping[str, str] = os.environ) -> Secret | None:
    """Return the key that an environment variable holds; None where it is not set.

    Raises:
        OracleError: the name is none (it is not repeated: it may be the key itself), or the value cannot stand in a
            header.
    """
    check_key_name(name)
    value = environment.get(name, "").strip()
    if not value.isascii() or not value.isprintable() or " " in value:
        raise OracleError(
            f"the key in {name}",
            "it has a character that no HTTP header can carry",
            "Set it again without line breaks, blanks and quotation marks",
        )
    return Secret(value) if value else None


def is_loopback(host: str) -> bool:
    """Say whether a host name or address is this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
