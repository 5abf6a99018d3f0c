"""Limits as arithmetic on times: no test here waits."""

from __future__ import annotations

from bisect import bisect_left

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realigner.oracle.http.pace import Bucket, Limits, Pace


def passed(per_minute: int, sizes: list[int], seconds: float = 300.0) -> list[tuple[float, int]]:
    """Return (time, size) of what a bucket lets through when asked without a pause."""
    bucket, now, times = Bucket(per_minute, 0.0), 0.0, []
    for size in sizes:
        now += bucket.delay(size, now)
        if now > seconds:
            break
        assert bucket.delay(size, now) == 0.0
        bucket.take(size, now)
        times.append((now, size))
    return times


@pytest.mark.parametrize("per_minute", [1, 2, 10, 59, 60, 61, 300, 6000])
def test_no_minute_sees_more_requests_than_allowed_and_nearly_all_are_used(per_minute: int) -> None:
    times = [time for time, _ in passed(per_minute, [1] * (per_minute * 5 + 10))]
    for first, start in enumerate(times):
        assert bisect_left(times, start + 60.0 - 1e-6) - first <= per_minute
    assert len(times) >= 0.9 * 5 * per_minute


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 3000), min_size=20, max_size=200))
def test_tokens_of_unequal_requests_keep_the_rate_in_the_long_run(sizes: list[int]) -> None:
    per_minute = 6000
    times = passed(per_minute, sizes, seconds=1e9)
    # What was let through by the start of the last request is what the rate gave, plus one bucket and one request.
    before = sum(size for _, size in times[:-1])
    assert before <= per_minute / 61.0 * (times[-1][0] + 1.0) + max(sizes)


def test_there_is_no_burst_at_the_start() -> None:
    assert sum(time < 1.0 for time, _ in passed(6000, [1] * 1000)) <= 2 * 6000 / 61 + 1


def test_a_request_larger_than_the_limit_passes_and_is_paid_off() -> None:
    (first, _), (second, _) = passed(600, [1200, 1])
    assert first == 0.0
    # After 1200 tokens the level is 1200 below full; it must rise by 1200 - 600/61 + 1 for one more.
    assert second == pytest.approx((1200 - 600 / 61 + 1) / (600 / 61))


def test_what_the_server_counted_corrects_the_estimate() -> None:
    generous, exact = (Pace(Limits(8, tokens_per_minute=6000), 0.0) for _ in range(2))
    for pace, estimate in ((generous, 2000.0), (exact, 500.0)):
        pace.started(estimate, 0.0)
        pace.succeeded(estimate, 500, 0.0)
    assert generous.delay(100.0, 0.0) == exact.delay(100.0, 0.0) > 0.0


def test_an_overload_halves_the_requests_at_a_time_once_for_all_that_were_under_way() -> None:
    pace = Pace(Limits(64), 0.0)
    for _ in range(64):
        pace.congested(started_at=1.0, now=2.0)
    assert pace.concurrency == 32
    pace.congested(started_at=2.5, now=3.0)
    assert pace.concurrency == 16


def test_one_request_at_a_time_always_remains() -> None:
    pace = Pace(Limits(5), 0.0)
    for second in range(1, 20):
        pace.congested(second, second + 0.5)
    assert pace.concurrency == 1


def test_successes_win_the_limit_back_step_by_step_and_no_more() -> None:
    pace, seen = Pace(Limits(8), 0.0), []
    pace.congested(1.0, 2.0)
    for _ in range(100):
        pace.succeeded(0.0, None, 3.0)
        seen.append(pace.concurrency)
    assert seen[:3] == [4, 4, 4]
    assert seen == sorted(seen)
    assert seen[-1] == 8
    assert seen.index(5) >= 3
    assert seen.index(8) >= 4 + 5 + 6


def test_a_pause_holds_everything_until_its_end_and_is_never_shortened() -> None:
    pace = Pace(Limits(8), 0.0)
    pace.pause(10.0)
    pace.pause(5.0)
    assert pace.delay(0.0, 4.0) == 6.0
    assert pace.delay(0.0, 10.0) == 0.0
