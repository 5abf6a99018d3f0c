"""One HTTP exchange: bytes out; a reply or the words for what went wrong. No error of the HTTP library leaves here."""

from __future__ import annotations

import asyncio
import socket
from hashlib import sha256
from urllib.request import getproxies, proxy_bypass

import aiohttp
from aiohttp.client_exceptions import ClientConnectorDNSError

from realigner.endpoint import Endpoint
from realigner.oracle.http.exchange import Broken, Reply

LARGEST_REPLY = 8 * 2**20
"""Bytes of a reply's body; what is longer is not read on."""


class Transport:
    """Posts to one endpoint over kept-alive connections. Belongs to one event loop.

    Args:
        endpoint: where to, and with which key.
        connections: the most at a time.
        timeout: seconds that one exchange may take, however slowly its bytes drip.
        connect_timeout: seconds until the connection must stand.
        idempotency_header: header for the key of a request; None: none is sent.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        connections: int,
        timeout: float,
        connect_timeout: float,
        idempotency_header: str | None = None,
    ) -> None:
        self._endpoint, self._idempotency_header = endpoint, idempotency_header
        self._timeout = timeout
        self._url = endpoint.completions
        self._proxy = proxy_for(endpoint.url)
        self._session = aiohttp.ClientSession(
            headers=endpoint.headers(),
            # A connection that does not come up must be told from an answer that does not come.
            timeout=aiohttp.ClientTimeout(total=timeout, sock_connect=min(connect_timeout, 0.9 * timeout)),
            connector=aiohttp.TCPConnector(limit=connections, ttl_dns_cache=60),
            # Cookies would tie requests to each other, and .netrc would add credentials that nobody named here.
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
        )

    async def post(self, body: bytes, anew: int | None = None) -> Reply | Broken:
        """Send one body. Redirects are not followed: the key is for the host that the user named.

        Args:
            body: what is sent.
            anew: how often it was answered already, in vain. Where the server takes idempotency keys, an equal body
                with an equal number is to it the same request, also from another process. None: no key is sent.
        """
        headers = None
        if self._idempotency_header is not None and anew is not None:
            headers = {self._idempotency_header: f"{sha256(body).hexdigest()[:32]}-{anew}"}
        try:
            async with self._session.post(
                self._url, data=body, headers=headers, allow_redirects=False, proxy=self._proxy
            ) as response:
                raw = await _read(response)
                if raw is None:
                    response.close()
                    return Broken(f"the reply is longer than {LARGEST_REPLY // 2**20} MiB", garbled=True)
                said = response.headers
                return Reply(response.status, raw, said.get("Retry-After"), said.get("Location"))
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return self._explain(error)

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    def _explain(self, error: Exception) -> Broken:
        """Put an error into our own words: those of the library can hold the request with its headers."""
        place = self._endpoint.place
        if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientSSLError):
            return Broken(f"the certificate or encryption of {place} is not trusted ({_cause(error)})", True)
        if isinstance(error, ClientConnectorDNSError | socket.gaierror):
            return Broken(f"the host of {place} is not known", True)
        if isinstance(error, aiohttp.ClientProxyConnectionError):
            return Broken("the proxy of the environment cannot be reached", True)
        if isinstance(error, aiohttp.ClientHttpProxyError):
            return Broken(f"the proxy of the environment refused with status {error.status}", True)
        if isinstance(error, aiohttp.ConnectionTimeoutError | aiohttp.ClientConnectorError):
            return Broken(f"no connection to {place} ({_cause(error)})", True)
        if isinstance(error, asyncio.TimeoutError):
            return Broken(f"no whole reply within {self._timeout:g} s")
        if isinstance(error, aiohttp.ClientPayloadError):
            return Broken("the reply broke off")
        if isinstance(error, aiohttp.ClientResponseError | aiohttp.InvalidURL | ValueError):
            return Broken("the reply is not valid HTTP")
        return Broken(f"the connection was lost ({_cause(error)})")


def proxy_for(url: str) -> str | None:
    """Return the proxy that the environment (HTTPS_PROXY, HTTP_PROXY, NO_PROXY) names for a URL."""
    scheme, _, rest = url.partition("://")
    proxy = getproxies().get(scheme)
    if proxy is None or proxy_bypass(rest.partition("/")[0]):
        return None
    return proxy


async def _read(response: aiohttp.ClientResponse) -> bytes | None:
    """Return the body, or None where it is too long."""
    pieces, size = [], 0
    while piece := await response.content.readany():
        size += len(piece)
        if size > LARGEST_REPLY:
            return None
        pieces.append(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _cause(error: BaseException) -> str:
    """Name an error by the system's words or by its type: neither holds what was sent."""
    system = getattr(error, "os_error", error)
    reason = getattr(system, "reason", None) or getattr(system, "strerror", None)
    # A verification error's own text names host, issuer and reason; it has seen no header.
    detail = getattr(getattr(error, "certificate_error", None), "verify_message", None)
    return str(detail or reason or type(error).__name__)
