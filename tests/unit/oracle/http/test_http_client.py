"""The client against a server that fails on purpose, over real sockets."""

from __future__ import annotations

import contextlib
import gc
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import fault_server
import pytest
from fault_server import FaultServer

from realigner.errors import JudgeError, OracleError
from realigner.oracle.http import ChatClient, ChatRequest, Completion, Limits, ModelSettings, open_endpoint
from realigner.oracle.http import transport as transport_module
from realigner.records import Message

Connect = Callable[..., ChatClient]


def asking(*numbers: int) -> list[ChatRequest]:
    return [ChatRequest([Message(role="user", content=f"item-{number}")]) for number in numbers]


def answers(client: ChatClient, *numbers: int) -> dict[int, Completion]:
    found = list(client.complete(asking(*numbers)))
    assert len(found) == len(numbers)
    return dict(found)


def _slowly(stream: Iterator[tuple[int, Completion]]) -> Iterator[tuple[int, Completion]]:
    """Take completions so slowly that others succeed while one fails."""
    for item in stream:
        yield item
        time.sleep(0.01)


def test_each_request_is_answered_once_in_the_order_of_arrival(connect: Connect) -> None:
    found = list(connect("ok,ok").complete(asking(*range(50))))
    assert sorted(place for place, _ in found) == list(range(50))
    assert all(f"item {place}" in completion.text for place, completion in found)


def test_nothing_asked_is_nothing_answered(connect: Connect) -> None:
    assert list(connect("ok").complete([])) == []


@pytest.mark.parametrize(
    ("fault", "attempts"),
    [
        *(("500", 2), ("503,503", 3), ("429", 2), ("429-now,429-now", 3), ("408", 2)),
        *(("reset", 2), ("close,reset,half", 4), ("badjson", 2), ("html,nochoices", 3), ("huge", 2), ("drip", 1)),
    ],
)
def test_a_fault_that_passes_is_outlasted(connect: Connect, server: FaultServer, fault: str, attempts: int) -> None:
    found = answers(connect(fault), 1, 2)
    assert [(c.ok, c.attempts) for c in found.values()] == [(True, attempts)] * 2
    assert server.good(fault) == {"1": 1, "2": 1}


def test_a_server_that_hangs_is_left_after_the_timeout_and_asked_again(connect: Connect) -> None:
    found = answers(connect("hang", timeout=0.3), 1)
    assert found[0].ok
    assert found[0].attempts == 2


def test_a_reply_that_drips_for_ever_is_bounded_by_the_timeout(connect: Connect) -> None:
    found = answers(connect("endless-drip", timeout=0.3), 1)
    assert found[0].attempts == 2


def test_a_reply_without_end_is_not_read_on(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport_module, "LARGEST_REPLY", 2**16)
    assert answers(connect("huge"), 5)[0].attempts == 2


@pytest.mark.parametrize("fault", ["429-second", "429-date"])
def test_retry_after_is_obeyed(connect: Connect, server: FaultServer, fault: str) -> None:
    answers(connect(fault), 1)
    first, second = (at for kind, item, at in server.log()["order"] if kind == "asked" and item == f"{fault}/1")
    # A date has whole seconds: the second that was asked for may have begun.
    assert second - first >= (0.99 if fault == "429-second" else 0.0)


def test_while_one_request_is_told_to_wait_no_other_starts(connect: Connect, server: FaultServer) -> None:
    client = connect("11=429-second", concurrency=1)
    answers(client, 11, 12, 13)
    order = [at for kind, item, at in server.log()["order"] if kind == "asked" and item.startswith("11=429-second/")]
    assert len([gap for gap in (b - a for a, b in pairwise(order)) if gap >= 0.99]) == 1


def test_overload_lowers_the_requests_at_a_time_and_loses_nothing(connect: Connect, server: FaultServer) -> None:
    client = connect("429,429", concurrency=16)
    answers(client, *range(64))
    assert (client.tally.overloads, client.tally.requests, client.tally.retries) == (128, 192, 128)
    assert set(server.good("429,429").values()) == {1}


def test_never_more_requests_at_a_time_than_allowed(connect: Connect) -> None:
    with fault_server.running() as own:
        client = ChatClient(open_endpoint(own.url), ModelSettings("ok"), limits=Limits(3))
        answers(client, *range(30))
        assert own.log()["most_open"] == 3
        client.close()


@pytest.mark.parametrize("fault", ["refusal", "length", "filter", "empty", "null"])
def test_a_withheld_answer_is_an_answer_and_not_asked_again(connect: Connect, server: FaultServer, fault: str) -> None:
    found = answers(connect(fault + "*"), 1)
    assert not found[0].ok
    assert found[0].error
    assert server.asked(fault + "*") == {"1": 1}


@pytest.mark.parametrize("fault", ["400", "413", "422"])
def test_what_the_server_does_not_take_costs_one_item_only(connect: Connect, fault: str) -> None:
    found = answers(connect(fault + ",ok"), 1)
    assert (found[0].finish, found[0].status) == ("error", int(fault))
    assert f"made to fail with {fault}" in found[0].error


STOPS = {
    "401*": "the server refuses requests without a key (no key_env is set). Give the right key",
    "403*": "the server refuses requests without a key",
    "404*": "the server has no such model, or no API at this url. Correct model, or url",
    "402*": "the account has no credit left",
    "429-quota*": "the account has no credit left",
    "429-hour*": "it asks to wait 3600 s, more than the budget of 5 s",
    "elsewhere*": "the server redirects to http://127.0.0.1:9/v1, and the key is sent nowhere else",
}


@pytest.mark.parametrize("fault", STOPS)
def test_what_no_request_can_change_stops_at_once_and_says_why(
    connect: Connect, server: FaultServer, fault: str
) -> None:
    with pytest.raises((OracleError, JudgeError)) as caught:
        list(connect(fault, concurrency=4).complete(asking(*range(100))))
    assert STOPS[fault] in str(caught.value)
    assert server.url in str(caught.value)
    assert sum(server.asked(fault).values()) <= 4


def test_answers_under_way_arrive_before_the_error_that_stops_the_run(connect: Connect, server: FaultServer) -> None:
    client = connect("drip,401*", concurrency=2)
    found = []
    with pytest.raises(OracleError, match="refuses requests"):
        for place, _ in client.complete(asking(1, 1, 2)):
            found.append(place)
    # Item 1 drips; its second request is refused while it does; item 2 is never asked.
    assert found == [0]
    assert server.asked("drip,401*") == {"1": 2}


def test_a_server_that_never_answers_is_given_up_within_the_budget(connect: Connect) -> None:
    with pytest.raises(OracleError, match=r"attempts in \d+ s without one answer; the last: status 500"):
        list(connect("500*", budget=0.5).complete(asking(1)))


def test_a_page_of_html_is_not_waited_out(connect: Connect, server: FaultServer) -> None:
    with pytest.raises(OracleError, match=r"not JSON; it begins '<html>.*Check that url is the base"):
        list(connect("html*").complete(asking(1)))
    assert server.asked("html*") == {"1": 3}


def test_an_item_that_always_fails_among_others_is_given_up_alone(connect: Connect) -> None:
    client = connect("7=500*", budget=0.6)
    stream = client.complete(
        request for number in range(100) for request in asking(7 if number == 50 else number + 100)
    )
    found = dict(_slowly(stream))
    assert [place for place, completion in found.items() if not completion.ok] == [50]
    assert "status 500: made to fail with 500 (after" in found[50].error


def test_an_item_that_always_fails_and_is_the_last_is_given_up_where_the_server_still_answers(
    connect: Connect, server: FaultServer
) -> None:
    found = answers(connect("8=500*", budget=0.3, concurrency=1), 1, 8)
    assert [found[place].ok for place in (0, 1)] == [True, False]
    assert server.asked("8=500*")["1"] == 2  # asked once more, to see whether the server is there


def test_a_server_that_stops_answering_is_told_from_an_item_at_fault(connect: Connect) -> None:
    with pytest.raises(JudgeError, match=r"without one answer; the last: status 500.*What was answered is kept"):
        answers(connect("ok,500*", budget=0.3, concurrency=1), 1, 1)


def test_an_unreachable_port_is_known_at_once() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    client = ChatClient(open_endpoint(f"http://127.0.0.1:{port}/v1"), ModelSettings("m"))
    with pytest.raises(OracleError, match=r"cannot be reached: no connection to 127.0.0.1:\d+/v1 .*Start the server"):
        list(client.complete(asking(1)))
    client.close()


def test_an_unknown_host_is_known_at_once() -> None:
    client = ChatClient(open_endpoint("http://no-such-host.invalid/v1"), ModelSettings("m"))
    with pytest.raises(OracleError, match=r"cannot be reached: the host of no-such-host.invalid/v1 is not known"):
        list(client.complete(asking(1)))
    client.close()


def test_https_to_a_server_without_encryption_is_known_at_once(server: FaultServer) -> None:
    endpoint = open_endpoint(server.url.replace("http:", "https:"))
    client = ChatClient(endpoint, ModelSettings("m"), connect_timeout=0.5)
    with pytest.raises(OracleError, match="cannot be reached: no connection to"):
        list(client.complete(asking(1)))
    client.close()


def test_a_caller_who_stops_early_cuts_off_what_is_under_way(connect: Connect, server: FaultServer) -> None:
    client = connect("ok,2", concurrency=2)
    stream = client.complete(asking(*range(1000)))
    next(stream)
    stream.close()
    assert sum(server.asked("ok,2").values()) <= 8
    assert len(answers(client, 1, 2)) == 2


def test_requests_are_taken_as_there_is_room_in_the_thread_of_the_caller(connect: Connect) -> None:
    taken: list[int] = []

    def requests() -> Iterator[ChatRequest]:
        for number in range(100):
            assert threading.current_thread() is threading.main_thread()
            taken.append(number)
            yield from asking(number)

    for seen, _ in enumerate(connect("ok,3", concurrency=4).complete(requests())):
        assert len(taken) - seen <= 2 * 4


def test_a_fault_in_the_requests_reaches_the_caller(connect: Connect) -> None:
    def requests() -> Iterator[ChatRequest]:
        yield from asking(1)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(connect("ok").complete(requests()))


def test_a_follow_up_takes_the_place_of_its_completion(connect: Connect) -> None:
    def again(place: int, completion: Completion) -> ChatRequest | None:
        return asking(100 + place)[0] if place == 1 and "item 101" not in completion.text else None

    found = dict(connect("ok").complete(asking(0, 1, 2), again=again))
    assert sorted(found) == [0, 1, 2]
    assert "item 101" in found[1].text


def test_two_callers_share_one_client_and_its_limits(connect: Connect) -> None:
    client = connect("ok,4")
    first, second = client.complete(asking(*range(20))), client.complete(asking(*range(100, 120)))
    for (one, early), (other, late) in zip(first, second, strict=True):
        assert f"item {one}" in early.text
        assert f"item {100 + other}" in late.text
    assert client.tally.completions == 40


def test_a_closed_client_can_be_used_again(connect: Connect) -> None:
    client = connect("ok")
    for _ in range(2):
        assert len(answers(client, 1, 2)) == 2
        client.close()
        client.close()


def test_an_unused_client_leaves_no_thread_behind(server: FaultServer) -> None:
    client = ChatClient(open_endpoint(server.url), ModelSettings("ok"))
    assert len(list(client.complete(asking(1)))) == 1
    assert any(thread.name == "realigner-http" for thread in threading.enumerate())
    del client
    gc.collect()
    deadline = time.monotonic() + 5.0
    while any(thread.name == "realigner-http" for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_limits_per_minute_are_kept_over_the_wire(server: FaultServer) -> None:
    client = ChatClient(open_endpoint(server.url), ModelSettings("ok,5"), limits=Limits(8, requests_per_minute=1200))
    begin = time.monotonic()
    assert len(list(client.complete(asking(*range(40))))) == 40
    # About 20 pass at once, 20 more at 1200/61 a second.
    assert time.monotonic() - begin >= 0.9
    client.close()


def test_a_proxy_of_the_environment_is_used_and_can_be_excepted(
    server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTP_PROXY", server.url.removesuffix("/v1"))
    client = ChatClient(open_endpoint("http://judge.invalid/v1"), ModelSettings("ok,10"))
    assert answers(client, 3)[0].ok
    assert server.last("ok,10")["path"] == "http://judge.invalid/v1/chat/completions"
    client.close()
    monkeypatch.setenv("NO_PROXY", "judge.invalid")
    client = ChatClient(open_endpoint("http://judge.invalid/v1"), ModelSettings("ok,11"))
    with pytest.raises(OracleError, match=r"the host of judge.invalid/v1 is not known"):
        answers(client, 3)
    client.close()


def test_a_proxy_that_cannot_be_reached_is_named_without_its_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://user:sk-very-secret-0123456789@127.0.0.1:9")
    client = ChatClient(open_endpoint("http://judge.invalid/v1"), ModelSettings("m"))
    with pytest.raises(OracleError, match="the proxy of the environment cannot be reached") as caught:
        answers(client, 3)
    assert "sk-very" not in str(caught.value)
    client.close()


def test_a_certificate_that_nobody_vouches_for_is_refused_before_the_key_is_sent(tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl, which makes the certificate, is not installed")
    made = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    files = ["-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "cert.pem")]
    subprocess.run([openssl, *made, *files], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    received: list[bytes] = []

    def serve(listening: socket.socket) -> None:
        with contextlib.suppress(OSError), context.wrap_socket(listening.accept()[0], server_side=True) as stream:
            received.append(stream.recv(1000))

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, args=(listening,))
        thread.start()
        endpoint = open_endpoint(f"https://localhost:{listening.getsockname()[1]}/v1", "K", environment={"K": "k" * 20})
        client = ChatClient(endpoint, ModelSettings("m"))
        with pytest.raises(OracleError, match=r"cannot be reached: the certificate .* is not trusted \(self.signed"):
            answers(client, 1)
        client.close()
        thread.join()
    assert received == []
