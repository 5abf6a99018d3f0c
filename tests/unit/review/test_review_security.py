"""One test for each promise: nothing runs, nothing is posted from elsewhere, nothing leaks, nothing escapes."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from review_server import FORM, Client, served
from review_study import KINDS, SYSTEMS, lines, make_study, rows_of, write_study

from realigner.review import Store, load_study
from realigner.review.security import HEADERS, MOST_BYTES, Seal, read_form

HOSTILE = (
    "<script>document.title='run'</script><img src=x onerror=\"document.title='run'\">"
    "\"'><svg/onload=alert(1)></textarea></details><a href='javascript:alert(1)'>x</a>"
    "{{ 7*7 }}{% include '/etc/passwd' %}\u202e\u2066\x00\x1b[31m\ufeff"
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A large study that many people of many tests may join; each finds items that are left."""
    with Store(make_study(tmp_path_factory.mktemp("study"), count=60, annotators=100)) as store:
        yield store


@pytest.fixture(scope="module")
def address(store: Store) -> Iterator[str]:
    with served(store) as address:
        yield address


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Store]:
    """A study of one test's own."""
    with Store(make_study(tmp_path / "study")) as store:
        yield store


@pytest.fixture
def own_address(fresh: Store) -> Iterator[str]:
    with served(fresh) as address:
        yield address


def entries(store: Store) -> int:
    return sum(len(list(store.history(task))) for task in store.study.tasks.values())


# What models and people wrote never runs


class Tags(HTMLParser):
    """All tags and attributes of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: set[tuple[str, str, str]] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.add((tag, "", ""))
        self.found |= {(tag, name, value or "") for name, value in attributes}


def test_no_page_holds_a_tag_or_a_handler_that_a_model_wrote(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "study", count=2)
    for kind in KINDS:
        rows = rows_of(kind, 2)
        for row in rows:
            row["prompt"] = [{"role": "user", "content": HOSTILE}, {"role": "assistant", "content": HOSTILE}]
            for key in ("response", "chosen", "rejected"):
                if key in row:
                    row[key] = HOSTILE + row[key]
            if "responses" in row:
                row["responses"] = [HOSTILE + text for text in row["responses"]]
            if "judge" in row:
                row["judge"] = {"label": "unsure", "reason": HOSTILE, "rules": [HOSTILE]}
        lines(folder / f"{kind}.jsonl", rows)
    policy = {
        "id": "p",
        "version": HOSTILE[:100],
        "title": HOSTILE.replace("\x00", ""),
        "rules": [{"id": "r", "text": "x"}],
    }
    policy["rules"][0]["text"] = HOSTILE  # type: ignore[index]
    (folder / "policy.yaml").write_text(json.dumps(policy))
    note = HOSTILE.replace("\0", "")
    with Store(load_study(folder)) as store, served(store) as address:
        client = Client(address).join("<b>Ada</b>")
        pages = [client.get(path) for path in ("/", "/policy", *(f"/task/{kind}" for kind in KINDS))]
        for kind in ("audit", "undecided"):
            client.answer(kind, label="unsure", note=note)
            reveal = client.get(f"/task/{kind}").form(r".*/reveal")
            pages += [client.get(client.submit(reveal).location)]
        client.answer("preference", choice="1", note=note)
        client.answer("correction", text=note)
        for kind in KINDS:
            pages += [client.get(f"/task/{kind}"), client.get(f"/task/{kind}/mine"), client.get(f"/task/{kind}/1")]
        pages += [client.get("/task/correction/2?from=1"), client.get(f"/coordinator/{store.secret('coordinator')}")]
    for page in pages:
        assert page.status == 200
        tags = Tags(page.text).found
        assert not {tag for tag, _, _ in tags} & {"img", "svg", "iframe", "object", "base"}
        assert {value for tag, name, value in tags if tag == "script" and name == "src"} == {"/static/review.js"}
        assert page.text.count("<script") == 1
        assert not [name for _, name, _ in tags if name.startswith("on") or name == "style"]
        assert not [
            value for _, name, value in tags if name in ("href", "action", "src") and not value.startswith(("/", "#"))
        ]
        assert "49" not in re.findall(r"\b49\b", page.text.split("{{ 7")[0])
        assert "root:" not in page.text
        shown = re.sub(r"<textarea.*?</textarea>", "", page.text, flags=re.S)  # there, what was typed stays as it was
        assert not re.search("[\u202e\u2066\x00\x1b\ufeff]", shown)


def test_the_headers_forbid_scripts_but_the_pages_own_on_every_answer(address: str) -> None:
    client = Client(address).join()
    asked = [
        client.get("/"),
        client.get("/task/audit"),
        client.get("/static/review.js"),
        client.get("/none"),
        client.send("GET", "/", headers={"Host": "evil.example"}),
        client.post("/join", {"token": "wrong"}),
        client.send("DELETE", "/"),
        client.send("GET", "/task/audit"),
    ]
    assert {page.status for page in asked} == {200, 404, 421, 403, 405, 303}
    for page in asked:
        for name, value in HEADERS.items():
            assert page.headers[name] == value
        assert "server" not in page.headers
    policy = HEADERS["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy


# Nothing is posted from another site


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "http://127.0.0.1.evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Content-Type": "text/plain"},
        {"Content-Type": "multipart/form-data; boundary=x"},
        {"Content-Type": "application/json"},
    ],
)
def test_a_form_from_another_site_is_refused_even_with_the_right_token(
    store: Store, address: str, headers: dict[str, str]
) -> None:
    client, before = Client(address).join(), entries(store)
    form = client.get("/task/audit").form(r"/task/audit/\d+")
    refused = client.submit(form, {"label": "compliant"}, **headers)
    assert refused.status in (403, 415)
    assert entries(store) == before


def test_a_form_without_the_token_of_its_visitor_is_refused(store: Store, address: str) -> None:
    ada, eve, before = Client(address).join("Ada"), Client(address).join("Eve"), entries(store)
    form = ada.get("/task/audit").form(r"/task/audit/\d+")
    hers = eve.get("/task/audit").form(r"/task/audit/\d+")
    for token in ("", "0" * 32, hers.fields["token"][0], "ü"):
        assert ada.submit(form, {"label": "compliant", "token": token}).status == 403
    assert ada.submit(form, {"label": "compliant", "ticket": hers.fields["ticket"][0]}).status == 403
    assert ada.submit(form, {"label": "compliant", "ticket": form.fields["ticket"][0][:-1] + "x"}).status == 403
    assert entries(store) == before
    assert ada.submit(form, {"label": "compliant"}).status == 303
    assert entries(store) == before + 1


def test_joining_needs_a_form_of_this_page_too(fresh: Store, own_address: str) -> None:
    assert Client(own_address).post("/join", {"name": "Mallory"}).status == 403
    other = Client(own_address).get("/").form("/join")
    assert Client(own_address).submit(other, {"name": "Mallory"}).status == 403
    assert fresh.annotators() == []


def test_cookies_are_out_of_reach_of_scripts_and_of_other_sites_forms(address: str) -> None:
    client = Client(address)
    done = client.submit(client.get("/").form("/join"), {"name": "Ada"})
    for cookie in done.headers.get_all("set-cookie") or [""]:
        assert "HttpOnly" in cookie
        assert "SameSite=lax" in cookie


def test_nothing_is_changed_by_get(store: Store, address: str) -> None:
    client, before = Client(address).join(), entries(store)
    client.get("/task/audit")
    for path in ("/join", "/leave", "/texts", "/task/audit/1/undo", "/task/audit/1/reveal"):
        assert client.get(path).status == 405
    assert entries(store) == before


# Nothing is reached under another name


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8420", "127.0.0.1.evil.example", "localhost.evil.example", "", "[::1", "x y"]
)
def test_another_host_name_is_refused(address: str, host: str) -> None:
    page = Client(address).send("GET", "/", headers={"Host": host})
    assert page.status in (400, 421)
    assert b"spring" not in page.body


def raw(address: str, request: bytes) -> bytes:
    parts = urlsplit(address)
    with socket.create_connection((parts.hostname, parts.port), timeout=20) as connection:
        connection.sendall(request)
        found = b""
        while chunk := connection.recv(65536):
            found += chunk
    return found


def test_two_host_names_or_none_are_refused(address: str) -> None:
    port = urlsplit(address).port
    for head in (
        f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nHost: evil.example\r\nConnection: close\r\n\r\n",
        "GET / HTTP/1.0\r\n\r\n",
    ):
        answer = raw(address, head.encode())
        assert answer.split(b"\r\n", 1)[0].split()[1] in (b"400", b"421")
        assert b"spring" not in answer


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "localhost:9999", "LOCALHOST", "[::1]:80"])
def test_loopback_names_are_served_whatever_the_port_of_a_tunnel(address: str, host: str) -> None:
    assert Client(address).send("GET", "/", headers={"Host": host}).status == 200


def test_a_name_that_was_allowed_is_served(store: Store) -> None:
    with served(store, hosts=("review.example",)) as address:
        assert Client(address).send("GET", "/", headers={"Host": "review.example"}).status == 200
        assert Client(address).send("GET", "/").status == 421


# Nothing leaks


def test_no_byte_that_is_sent_or_logged_names_a_system(
    fresh: Store, own_address: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Every page, address, header, cookie and log line of a whole study, searched for names, ids, and the file."""
    client = Client(own_address).join()
    paths = ["/", "/policy", "/static/review.css", "/static/review.js", "/task/preference/mine", "/none"]
    for number in range(1, 6):
        client.answer("preference", choice=str(1 + number % 3), note="n")
        paths.append(f"/task/preference/{number}")
    assert client.answer("preference").status == 422
    client.answer("preference", choice="tie")
    client.submit(client.get("/task/preference/3").form(r".*/undo"))
    for path in (*paths, "/task/preference", f"/coordinator/{fresh.secret('coordinator')}"):
        client.get(path)
    sent = b"\n".join(client.received).lower()
    assert len(client.received) > 40
    logged = (caplog.text + "".join(capfd.readouterr())).lower().encode()
    for secret in (*SYSTEMS, "systems.jsonl", "item-"):
        assert secret.lower().encode() not in sent
        assert secret.lower().encode() not in logged
    # Not in the database either: who looks into it while the study runs stays blind.
    files = b"".join(file.read_bytes() for file in fresh.study.directory.glob("answers.sqlite*"))
    assert not [name for name in SYSTEMS if name.encode() in files]


def test_the_program_that_serves_never_keeps_the_key(store: Store) -> None:
    held = [store.study.settings.model_dump_json(), *(repr(task) for task in store.study.tasks.values())]
    assert not [name for name in SYSTEMS for text in held if name in text]


def test_the_judge_is_in_no_byte_before_the_answer_is_saved_and_asked_about(fresh: Store, own_address: str) -> None:
    client = Client(own_address).join()
    client.get("/task/audit")
    client.get("/task/audit/1/judge")
    form = client.get("/task/audit").form(r"/task/audit/\d+")
    client.submit(form, {"label": "unsure"})
    client.get("/task/audit")
    client.get("/task/audit/mine")
    client.get("/task/audit/1/judge")
    assert b"SECRET-OF-THE-JUDGE" not in b"".join(client.received)
    reveal = client.get("/task/audit").form(r"/task/audit/1/reveal")
    assert client.get(client.submit(reveal).location).text.count("SECRET-OF-THE-JUDGE") == 1
    task = fresh.study.tasks["audit"]
    assert [entry.action for entry in fresh.history(task)] == ["answer", "reveal"]


def test_the_judge_cannot_be_asked_about_an_item_that_is_not_answered(fresh: Store, own_address: str) -> None:
    client = Client(own_address).join()
    client.answer("audit", label="compliant")
    reveal = client.get("/task/audit").form(r"/task/audit/1/reveal")
    client.submit(client.get("/task/audit").form(r"/task/audit/1/undo"))
    page = client.get(client.submit(reveal).location)
    assert b"SECRET-OF-THE-JUDGE" not in b"".join(client.received)
    assert page.form(r"/task/audit/1").fields["ticket"]
    assert [entry.action for entry in fresh.history(fresh.study.tasks["audit"])] == ["answer", "withdraw"]


def test_nobody_sees_another_persons_answers_notes_name_or_steps(fresh: Store, own_address: str) -> None:
    ada = Client(own_address).join("Ada Secretname")
    for _ in range(6):
        ada.answer("audit", label="non_compliant", note="ADAS-NOTE", rules="kind")
        ada.answer("correction", text="ADAS-TEXT")
    eve = Client(own_address).join("Eve")
    assert eve.get("/task/audit/1").status == 404
    for _ in range(3):
        eve.answer("audit", label="compliant")
    paths = [
        "/",
        "/task/audit",
        "/task/audit/1",
        "/task/audit/mine",
        "/task/audit/6",
        "/task/correction",
        "/coordinator",
    ]
    for path in paths:
        eve.get(path)
    nobody = Client(own_address)
    for path in paths:
        nobody.get(path)
    for received in (eve.received, nobody.received):
        for secret in (b"ADAS", b"Secretname", fresh.secret("coordinator").encode()):
            assert secret not in b"".join(received)
    assert b"checked" not in eve.get("/task/audit/4").body.replace(b'id="keys" checked', b"")


@pytest.mark.parametrize("path", ["/coordinator", "/coordinator/", "/coordinator/wrong", "/coordinator/%C3%BC"])
def test_the_coordinators_page_opens_to_the_link_alone(address: str, path: str) -> None:
    assert Client(address).join().get(path).status == 404


def test_pages_of_work_are_for_people_who_joined(address: str) -> None:
    client = Client(address)
    for path in ("/task/audit", "/task/audit/1", "/task/audit/mine", "/task/audit/1/judge"):
        page = client.send("GET", path)
        assert (page.status, page.location) == (303, "/")


def test_beyond_loopback_joining_needs_the_invitation(store: Store) -> None:
    with served(store, invitation="open-sesame") as address:
        client = Client(address)
        form = client.get("/").form("/join")
        for wrong in ("", "open-sesam", "Ali"):
            refused = client.submit(form, {"name": "Ali", "invitation": wrong})
            assert refused.status == 422
            assert "not the invitation code" in refused.text
        assert client.submit(form, {"name": "Ali", "invitation": " open-sesame "}).status == 303


# Nothing escapes, nothing is too big


@pytest.mark.parametrize(
    "path",
    [
        "/static/../study.py",
        "/static/..%2fstudy.py",
        "/static/%2e%2e/%2e%2e/study.yaml",
        "/static/..\\study.py",
        "/static//etc/passwd",
        "/static/%00",
        "/static/",
        "/systems.jsonl",
        "/study.yaml",
        "/answers.sqlite",
        "/task/..%2f..%2fetc/1",
        "/task/audit/-1",
        "/task/audit/0",
        "/task/audit/99999999999999999999999",
        "/task/audit/1e3",
        "/task/none",
    ],
)
def test_no_address_leads_to_a_file_or_to_a_fault(address: str, path: str) -> None:
    page = Client(address).join().send("GET", path)
    assert page.status == 404
    assert b"systems" not in page.body
    assert b"import" not in page.body


def test_going_back_leads_nowhere_but_to_an_item(address: str) -> None:
    client = Client(address).join()
    form = client.get("/").form("/texts")
    assert client.submit(form, {"back": "/task/audit/1"}).location == "/task/audit/1"
    for back in ("//evil.example", "https://evil.example", "/task/audit/1/../..", "/task/audit/1\r\nX: y", "/\\evil"):
        assert client.submit(form, {"back": back}).location == "/"


def test_a_body_that_is_too_long_is_refused_whether_its_length_is_told_or_not(store: Store, address: str) -> None:
    client, before = Client(address).join(), entries(store)
    head = {"Content-Type": FORM}
    told = client.send("POST", "/join", b"a" * 10, {**head, "Content-Length": str(MOST_BYTES + 1)})
    assert told.status == 413
    parts = urlsplit(address)
    chunk = b"8000\r\n" + b"a" * 0x8000 + b"\r\n"
    with socket.create_connection((parts.hostname, parts.port), timeout=20) as connection:
        connection.sendall(f"POST /join HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: {FORM}\r\n".encode())
        connection.sendall(b"Transfer-Encoding: chunked\r\n\r\n")
        answer = b""
        try:
            for _ in range(MOST_BYTES // 0x8000 + 2):
                connection.sendall(chunk)
        except (BrokenPipeError, ConnectionResetError):
            pass
        else:
            answer = connection.recv(65536)
    assert answer == b"" or answer.split()[1] == b"413"
    assert entries(store) == before
    assert client.get("/").status == 200


@pytest.mark.parametrize("body", [b"a=%ff", b"\xff", b"&".join(b"a=1" for _ in range(300)), b"a=%ed%a0%80"])
def test_a_form_that_cannot_be_read_is_refused(address: str, body: bytes) -> None:
    assert read_form(body) is None
    assert Client(address).send("POST", "/join", body, {"Content-Type": FORM}).status == 400


@pytest.mark.parametrize(
    ("task", "fields", "message"),
    [
        ("audit", {}, "Choose one of the verdicts"),
        ("audit", {"label": "invalid"}, "Choose one of the verdicts"),
        ("audit", {"label": "non_compliant", "rules": "other"}, "no rule “other”"),
        ("audit", {"label": "compliant", "rules": "kind"}, "only by the verdict non-compliant"),
        ("audit", {"label": "unsure", "note": "x" * 4001}, "4,001 characters; at most 4,000"),
        ("audit", {"label": "unsure", "note": "a\0b"}, "NUL"),
        ("preference", {}, "Choose one of the answers"),
        ("preference", {"choice": "4"}, "Choose one of the answers"),
        ("preference", {"choice": "0"}, "Choose one of the answers"),
        ("preference", {"choice": "²"}, "Choose one of the answers"),
        ("preference", {"choice": "-1"}, "Choose one of the answers"),
        ("correction", {}, "Write an answer, or say that none can be given"),
        ("correction", {"text": " \n "}, "Write an answer"),
        ("correction", {"text": "It is your fault.\r\n"}, "one of the two responses as it stands"),
        ("correction", {"text": "An answer.", "skip": "yes"}, "Either write an answer"),
        ("correction", {"text": "x" * 20_001}, "20,001 characters; at most 20,000"),
    ],
)
def test_a_wrong_answer_is_refused_in_words_and_what_was_entered_stays(
    store: Store, address: str, task: str, fields: dict[str, str], message: str
) -> None:
    client, before = Client(address).join(), entries(store)
    refused = client.answer(task, **fields)
    assert refused.status == 422
    assert message in refused.text
    assert 'role="alert"' in refused.text
    assert entries(store) == before
    kept = refused.form(r"/task/\w+/1").fields
    for name in ("note", "text"):
        if name in fields:
            assert kept[name] == [fields[name]] or "\0" in fields[name] or "\r" in fields[name]


def test_seals_hold_only_what_they_sealed() -> None:
    seal, other = Seal(b"k" * 32, lambda: 1000.0), Seal(b"o" * 32)
    ticket = seal.ticket("audit/a/1", 7)
    found = seal.read_ticket("audit/a/1", ticket)
    assert found is not None
    assert (found.revision, found.made) == (7, 1000.0)
    assert seal.ticket("audit/a/1", 7) != ticket
    for place, text in (("audit/a/2", ticket), ("audit/a/1", ""), ("audit/a/1", ticket + "0"), ("audit/a/1", "é.é")):
        assert seal.read_ticket(place, text) is None
    assert other.read_ticket("audit/a/1", ticket) is None
