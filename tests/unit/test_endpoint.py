"""Base URLs and keys: refused early, never shown."""

from __future__ import annotations

import pickle

import pytest

from realigner.endpoint import Secret, check_extra, check_key_name, check_url, is_loopback, open_endpoint
from realigner.errors import OracleError

KEY = "sk-very-secret-0123456789"


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("https://api.example.com/v1", "https://api.example.com/v1"),
        ("https://api.example.com/v1/", "https://api.example.com/v1"),
        ("http://localhost:8000/v1", "http://localhost:8000/v1"),
        ("http://[::1]:8000", "http://[::1]:8000"),
    ],
)
def test_a_base_url_is_taken_without_its_last_slash(url: str, base: str) -> None:
    assert open_endpoint(url).completions == f"{base}/chat/completions"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "not an http or https URL"),
        ("api.example.com/v1", "not an http or https URL"),
        ("localhost:8000/v1", "not an http or https URL"),
        ("file:///etc/passwd", "not an http or https URL"),
        ("ftp://example.com", "not an http or https URL"),
        ("https:///v1", "not an http or https URL"),
        ("http://host:0/v1", "not an http or https URL"),
        ("http://host:99999/v1", "cannot be read as a URL"),
        ("http://[::1/v1", "cannot be read as a URL"),
        ("http://host/v 1", "white space or control"),
        ("http://host/v1\r\nX: y", "white space or control"),
        ("http://host/v1#x", "a query or a fragment"),
        ("https://host/v1/chat/completions", "which is added to it"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused(url: str, message: str) -> None:
    with pytest.raises(OracleError, match=message):
        check_url(url)


@pytest.mark.parametrize(
    "url",
    [
        f"https://user:{KEY}@host/v1",
        f"https://{KEY}@host/v1",
        f"https://host/v1?api-key={KEY}",
        f"https://host/#{KEY}",
        f"https://user:{KEY}@ho st/v1",
        f"https://user:{KEY}@host:99999/v1",
        f"https://us[er:{KEY}@host/v1",
    ],
)
def test_a_url_with_a_secret_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(OracleError) as caught:
        check_url(url)
    assert KEY not in str(caught.value)
    assert "key" in caught.value.remedy.lower() or "base URL" in caught.value.remedy


def test_a_key_comes_from_the_environment_and_goes_into_the_header_only() -> None:
    endpoint = open_endpoint("https://api.example.com/v1", "MY_KEY", environment={"MY_KEY": f" {KEY}\n"})
    assert endpoint.headers()["Authorization"] == f"Bearer {KEY}"
    assert KEY not in f"{endpoint} {endpoint!r} {endpoint.key} {endpoint.key!r} {endpoint.place} {vars(OracleError)}"


def test_another_header_carries_the_bare_key() -> None:
    endpoint = open_endpoint("https://a.example/v1", "MY_KEY", key_header="api-key", environment={"MY_KEY": KEY})
    assert endpoint.headers()["api-key"] == KEY
    assert "Authorization" not in endpoint.headers()


def test_a_key_cannot_be_pickled_formatted_or_listed() -> None:
    secret = Secret(KEY)
    with pytest.raises(TypeError, match="not to be stored"):
        pickle.dumps(secret)
    assert KEY not in f"{secret} {secret!r:>40} {[secret]} {secret.__class__.__dict__}"
    assert not hasattr(secret, "__dict__")


def test_an_echoed_key_is_taken_out_of_texts() -> None:
    assert Secret(KEY).scrub(f"Incorrect API key provided: {KEY}.") == "Incorrect API key provided: [key]."


def test_a_placeholder_that_is_no_secret_does_not_spoil_texts() -> None:
    assert Secret("EMPTY").scrub("EMPTY words") == "EMPTY words"


@pytest.mark.parametrize("environment", [{}, {"MY_KEY": ""}, {"MY_KEY": "  "}])
def test_a_key_that_is_not_set_is_named_when_it_is_needed(environment: dict[str, str]) -> None:
    endpoint = open_endpoint("https://api.example.com/v1", "MY_KEY", environment=environment)
    with pytest.raises(OracleError, match=r"key_env: MY_KEY: this environment variable is not set. export MY_KEY="):
        endpoint.require_key()
    open_endpoint("https://api.example.com/v1").require_key()


@pytest.mark.parametrize("value", [f"{KEY}\r\nX-Evil: 1", f"{KEY} {KEY}", f"{KEY}é", f"{KEY}\x00"])
def test_a_key_that_no_header_can_carry_is_refused_without_repeating_it(value: str) -> None:
    with pytest.raises(OracleError, match="no HTTP header can carry") as caught:
        open_endpoint("https://api.example.com/v1", "MY_KEY", environment={"MY_KEY": value})
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("name", [KEY, "abcdef0123456789", "", "MY KEY", "A" * 65])
def test_a_key_given_in_the_place_of_its_name_is_refused_without_repeating_it(name: str) -> None:
    with pytest.raises(OracleError, match="must be the NAME of an environment variable") as caught:
        check_key_name(name)
    assert not name or name not in str(caught.value)


def test_a_key_is_not_sent_in_the_clear_but_to_this_machine_or_on_demand() -> None:
    environment = {"MY_KEY": KEY}
    with pytest.raises(OracleError, match="over http the key could be read on the way"):
        open_endpoint("http://api.example.com/v1", "MY_KEY", environment=environment)
    for url, allowed in (("http://127.0.0.1:1/v1", False), ("http://localhost/v1", False), ("http://node7/v1", True)):
        assert open_endpoint(url, "MY_KEY", plain_http_key=allowed, environment=environment).key is not None


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.9.9.9", "::1", "a.localhost"])
def test_loopback_is_known(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["localhost.example.com", "127.0.0.1.example.com", "10.0.0.1", "0.0.0.0"])
def test_other_hosts_are_not_loopback(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize("name", ["model", "messages", "stream", "n", "max_tokens", "response_format"])
def test_extra_cannot_set_what_has_a_setting(name: str) -> None:
    with pytest.raises(OracleError, match=f"extra: {name}: it has a setting of its own"):
        check_extra({name: 1})


@pytest.mark.parametrize("name", ["api_key", "API-Key", "Authorization", "password"])
def test_extra_cannot_hold_a_secret(name: str) -> None:
    with pytest.raises(OracleError, match="secrets do not belong into files") as caught:
        check_extra({name: KEY})
    assert KEY not in str(caught.value)
