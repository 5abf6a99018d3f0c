"""What is done about a failure: ask again and when, give the one question up, or stop the whole run."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from enum import StrEnum

CONGESTED = frozenset({429, 503, 529})
"""The server has too much to do: fewer requests are sent at a time for a while."""
_TRANSIENT = frozenset({408, 409, 425, 429})
_HOPELESS = frozenset({401, 402, 403, 404, 405, 407, 410})
_NO_MONEY = ("insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "insufficient_credits")


class Action(StrEnum):
    """What follows from a reply that is no answer."""

    RETRY = "retry"
    ITEM = "item"
    """Only this request is at fault (too long, filtered): it has no answer, the others go on."""
    STOP = "stop"
    """No request can succeed: a wrong key, an unknown model, no money."""


def action_for(status: int, code: str = "") -> Action:
    """Return what follows from an HTTP status other than 200 and the error code in the body."""
    if status == 429 and code in _NO_MONEY:
        return Action.STOP
    if status in _TRANSIENT or status >= 500:
        # 501 and 505 say that the server will never do it.
        return Action.ITEM if status in (501, 505) else Action.RETRY
    return Action.STOP if status in _HOPELESS or 300 <= status < 400 else Action.ITEM


@dataclass(frozen=True, slots=True)
class Patience:
    """How long and in what steps a failing request is tried again."""

    budget: float = 600.0
    """Seconds from a request's first attempt after which it is not tried again."""
    base: float = 0.5
    """Seconds before the second attempt, at most; doubled with each further one."""
    longest: float = 30.0
    """Seconds between attempts, at most, where the server names no time."""
    garbled: int = 3
    """Attempts whose reply had status 200 and made no sense: each may have been paid for."""

    def backoff(self, attempts: int, draw: random.Random) -> float:
        """Return seconds to wait after `attempts` attempts: exponential, between half and whole at random."""
        return min(self.longest, self.base * 2.0 ** min(attempts - 1, 30)) * draw.uniform(0.5, 1.0)


def retry_after(value: str | None, now: float | None = None) -> float | None:
    """Return the seconds that a Retry-After header asks to wait, at least 0; None where it is absent or unreadable.

    Args:
        value: seconds, or an HTTP date.
        now: seconds since 1970, against which a date is taken. Default: the clock.
    """
    if value is None:
        return None
    value = value.strip()
    if value.replace(".", "", 1).isdecimal() and value.isascii():
        return float(value)
    try:
        moment = parsedate_to_datetime(value).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    return max(0.0, moment - (time.time() if now is None else now))
