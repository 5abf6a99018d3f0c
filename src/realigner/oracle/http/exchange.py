"""What comes of one HTTP exchange."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole reply."""

    status: int
    raw: bytes
    retry_after: str | None
    location: str | None


@dataclass(frozen=True, slots=True)
class Broken:
    """No whole reply came."""

    why: str
    unreachable: bool = False
    """Not even a connection: wrong host, wrong port, no trust in the certificate."""
    garbled: bool = False
    """A reply came that made no sense, and may have been paid for."""
