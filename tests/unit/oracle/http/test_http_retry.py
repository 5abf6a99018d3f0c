"""What follows from a failure, and how long is waited."""

from __future__ import annotations

import random
from email.utils import formatdate

import pytest

from realigner.oracle.http.retry import Action, Patience, action_for, retry_after


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 504, 529])
def test_what_may_pass_is_tried_again(status: int) -> None:
    assert action_for(status) is Action.RETRY


@pytest.mark.parametrize("status", [301, 302, 307, 308, 401, 402, 403, 404, 405, 407, 410])
def test_what_no_request_can_change_stops_the_run(status: int) -> None:
    assert action_for(status) is Action.STOP


@pytest.mark.parametrize("status", [400, 413, 414, 415, 422, 431, 451, 501])
def test_what_one_request_is_refused_for_leaves_the_others_alone(status: int) -> None:
    assert action_for(status) is Action.ITEM


def test_a_429_for_want_of_money_is_not_waited_out() -> None:
    assert action_for(429, "insufficient_quota") is Action.STOP
    assert action_for(429, "rate_limit_exceeded") is Action.RETRY


def test_backoff_doubles_up_to_its_longest_and_is_jittered_by_half() -> None:
    patience, draw = Patience(base=0.5, longest=30.0), random.Random(0)
    for attempts in range(1, 40):
        whole = min(30.0, 0.5 * 2 ** (attempts - 1))
        drawn = [patience.backoff(attempts, draw) for _ in range(200)]
        assert 0.5 * whole <= min(drawn) < 0.55 * whole
        assert 0.95 * whole < max(drawn) <= whole
    assert patience.backoff(10_000, draw) <= 30.0


@pytest.mark.parametrize(("value", "seconds"), [("0", 0.0), ("7", 7.0), (" 1.5 ", 1.5), ("3600", 3600.0)])
def test_retry_after_in_seconds(value: str, seconds: float) -> None:
    assert retry_after(value) == seconds


def test_retry_after_as_a_date_counts_from_now() -> None:
    assert retry_after(formatdate(1_000_030, usegmt=True), now=1_000_000.0) == 30.0
    assert retry_after("Fri, 13 Feb 2009 23:31:30 GMT", now=1_234_567_880.0) == 10.0


def test_a_date_in_the_past_waits_no_time() -> None:
    assert retry_after(formatdate(999_000, usegmt=True), now=1_000_000.0) == 0.0


@pytest.mark.parametrize("value", [None, "", "soon", "-5", "1,5", "nan", "inf", "١٢", "Fri, 99 Feb 2009 00:00:00 GMT"])
def test_a_retry_after_that_cannot_be_read_is_none(value: str | None) -> None:
    assert retry_after(value) is None
