"""How fast a server may be asked: requests at a time, requests a minute, tokens a minute. Pure arithmetic on times."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """What the user allows; the server may allow less, and is then asked less."""

    concurrency: int = 32
    """Requests at a time, at most."""
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    """Of prompts and answers together: estimated before a request, corrected by what the server counted."""


class Bucket:
    """Lets at most `per_minute` units through in any 60 seconds, without a burst at the start.

    A level rises by per_minute/61 a second, to at most what one second brings. So any minute passes at most
    per_minute/61 + 60·per_minute/61 units. A single item larger than that is let through a full bucket, and paid off
    afterwards.
    """

    def __init__(self, per_minute: float, now: float) -> None:
        self._rate = per_minute / 61.0
        self._capacity = max(1.0, self._rate)
        self._level, self._at = self._capacity, now

    def delay(self, units: float, now: float) -> float:
        """Return seconds until `units` may pass; 0 if they may now."""
        self._rise(now)
        missing = min(units, self._capacity) - self._level
        # A float's rounding must not ask for a wait that ends just before the time.
        return 0.0 if missing <= 1e-9 * self._capacity else missing / self._rate

    def take(self, units: float, now: float) -> None:
        """Let `units` pass; the level may fall below 0. Negative units are given back."""
        self._rise(now)
        self._level = min(self._capacity, self._level - units)

    def _rise(self, now: float) -> None:
        self._level = min(self._capacity, self._level + max(0.0, now - self._at) * self._rate)
        self._at = max(self._at, now)


class Pace:
    """The limits as they are at a moment: the user's, halved when the server is overloaded, regained step by step.

    Additive increase, multiplicative decrease: a refusal halves the requests at a time, once for all those that were
    under way together; `limit` successes in a row win back one. Times are seconds of any monotonic clock.
    """

    def __init__(self, limits: Limits, now: float) -> None:
        self._most = limits.concurrency
        self._limit = float(limits.concurrency)
        self._cut_at = float("-inf")
        self._paused_until = float("-inf")
        self._requests = None if limits.requests_per_minute is None else Bucket(limits.requests_per_minute, now)
        self._tokens = None if limits.tokens_per_minute is None else Bucket(limits.tokens_per_minute, now)

    @property
    def concurrency(self) -> int:
        """Requests at a time, now."""
        return int(self._limit)

    @property
    def counts_tokens(self) -> bool:
        """Whether the size of requests matters."""
        return self._tokens is not None

    def delay(self, tokens: float, now: float) -> float:
        """Return seconds until one more request of this many tokens may start; 0 if it may now."""
        wait = max(0.0, self._paused_until - now)
        if self._requests is not None:
            wait = max(wait, self._requests.delay(1, now))
        if self._tokens is not None:
            wait = max(wait, self._tokens.delay(tokens, now))
        return wait

    def started(self, tokens: float, now: float) -> None:
        """Count a request that starts."""
        if self._requests is not None:
            self._requests.take(1, now)
        if self._tokens is not None:
            self._tokens.take(tokens, now)

    def succeeded(self, estimated: float, counted: int | None, now: float) -> None:
        """Take note of an answer, and of the tokens that the server counted for it."""
        if self._limit < self._most:
            self._limit = min(float(self._most), self._limit + 1.0 / self._limit)
        if self._tokens is not None and counted is not None:
            self._tokens.take(counted - estimated, now)

    def congested(self, started_at: float, now: float) -> None:
        """Take note that a request which started at `started_at` was refused for overload."""
        if started_at > self._cut_at:
            self._limit, self._cut_at = max(1.0, self._limit / 2.0), now

    def pause(self, until: float) -> None:
        """Start nothing before `until`."""
        self._paused_until = max(self._paused_until, until)
