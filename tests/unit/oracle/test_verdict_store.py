"""The file that remembers verdicts: what is kept, what never is, and what becomes of it when things go wrong."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realigner.errors import DataError, OracleError
from realigner.oracle import VerdictStore
from realigner.oracle import store as store_module
from realigner.records import Judgement, Label, Message, RuleVerdict, user_prompt

GOOD, BAD, UNSURE, INVALID = Label.COMPLIANT, Label.NON_COMPLIANT, Label.UNSURE, Label.INVALID


def question(prompt: str, response: str) -> Judgement:
    return Judgement(user_prompt(prompt), response)


def put(store: VerdictStore, asked: Judgement, label: Label = GOOD, rule: str = "h1", judge: str = "j") -> None:
    store.add(judge, asked, [(rule, RuleVerdict("r", label, f"because {asked.response}"))], {"tokens": 7})


def labels(store: VerdictStore, asked: Sequence[Judgement], rule: str = "h1", judge: str = "j") -> list[Label | None]:
    return [found[rule][0] if rule in found else None for found in store.find(judge, asked, [rule])]


def test_a_vote_is_found_by_rule_judge_prompt_and_response_and_by_nothing_less(tmp_path: Path) -> None:
    asked = question("q", "a")
    with VerdictStore.open(tmp_path / "v.sqlite") as store:
        put(store, asked, BAD)
    with VerdictStore.open(tmp_path / "v.sqlite") as store:
        assert store.find("j", [asked], ["h1"]) == [{"h1": (BAD, "because a")}]
        assert labels(store, [asked], rule="h2") == [None]
        assert labels(store, [asked], judge="other") == [None]
        assert labels(store, [question("q", "b"), question("p", "a"), asked, asked]) == [None, None, BAD, BAD]
        other_role = Judgement((Message(role="system", content="q"),), "a")
        assert labels(store, [other_role]) == [None]


def test_votes_are_only_added_and_the_first_one_stands(tmp_path: Path) -> None:
    asked = question("q", "a")
    with VerdictStore.open(tmp_path / "v.sqlite") as store:
        put(store, asked, BAD)
        put(store, asked, GOOD)
        assert labels(store, [asked]) == [BAD]
        votes = list(store.votes())
    assert [(vote["number"], vote["label"]) for vote in votes] == [(0, "non_compliant"), (1, "compliant")]
    assert votes[0]["prompt"] == [{"role": "user", "content": "q"}]
    assert (votes[0]["response"], votes[0]["rule"], votes[0]["rule_hash"]) == ("a", "r", "h1")
    assert (votes[0]["judge"], votes[0]["facts"], votes[0]["reason"]) == ("j", {"tokens": 7}, "because a")
    assert votes[0]["time"].startswith("20")
    with sqlite3.connect(tmp_path / "v.sqlite") as database, pytest.raises(sqlite3.IntegrityError, match="only added"):
        database.execute("UPDATE votes SET label = 'compliant'")
    database.close()


def test_an_invalid_verdict_is_never_stored(tmp_path: Path) -> None:
    with VerdictStore.open(tmp_path / "v.sqlite") as store:
        with pytest.raises(ValueError, match="never stored"):
            put(store, question("q", "a"), INVALID)
        assert store.counts()["votes"] == 0
    database = sqlite3.connect(tmp_path / "v.sqlite")
    with pytest.raises(sqlite3.IntegrityError, match="CHECK"):
        database.execute("INSERT INTO votes VALUES (1, 1, 1, 0, 'invalid', '', '{}', '')")
    database.close()


def test_what_is_set_aside_lasts_until_the_store_is_closed(tmp_path: Path) -> None:
    asked = question("q", "a")
    with VerdictStore.open(tmp_path / "v.sqlite") as store:
        store.set_aside("j", asked, [("h1", RuleVerdict("r", INVALID, "timeout"))])
        assert store.find_aside("j", asked) == {"h1": (INVALID, "timeout")}
        assert labels(store, [asked]) == [None]
    with VerdictStore.open(tmp_path / "v.sqlite") as store:
        assert store.find_aside("j", asked) == {}


def test_a_collision_of_digests_serves_no_other_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "digest_of", lambda *_: b"same")
    first, second = question("q", "a"), question("q", "b")
    third = question("p", "a")
    with VerdictStore.open(tmp_path / "v.sqlite") as store:
        put(store, first, BAD)
        assert labels(store, [first, second, third]) == [BAD, None, None]
        put(store, second, GOOD)
        put(store, third, UNSURE)
        assert labels(store, [third, second, first]) == [UNSURE, GOOD, BAD]


@settings(max_examples=12, deadline=None)
@given(
    st.lists(
        st.tuples(st.text(max_size=5), st.text(max_size=5), st.sampled_from("xyz"), st.sampled_from([GOOD, BAD])),
        max_size=12,
    )
)
def test_the_store_is_a_dictionary(entries: list[tuple[str, str, str, Label]]) -> None:
    entries = [e for e in entries if not any("\ud800" <= c <= "\udfff" for part in e[:2] for c in part)]
    expected: dict[tuple[str, str, str], Label] = {}
    with VerdictStore.temporary() as store:
        for prompt, response, rule, label in entries:
            expected.setdefault((prompt, response, rule), label)
            put(store, question(prompt, response), label, rule)
        for prompt, response, _, _ in entries:
            for rule in "xyz":
                assert labels(store, [question(prompt, response)], rule) == [expected.get((prompt, response, rule))]


def test_half_a_surrogate_is_refused_before_it_is_asked() -> None:
    broken, message = [question("q", "x\ud83d")], r"'\\ud83d'.*must be valid Unicode"
    with VerdictStore.temporary() as store:
        with pytest.raises(DataError, match=message):
            store.find("j", broken, ["h1"])
        put(store, question("q", "a"))
        with pytest.raises(DataError, match=message):
            store.find("j", broken, ["h1"])


def test_a_reader_sees_what_a_writer_has_stored_while_it_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "v.sqlite"
    stop, failed = threading.Event(), []

    def read() -> None:
        seen = 0
        while not stop.is_set():
            with VerdictStore.read(path) as reader:
                count = reader.counts()["votes"]
                if count < seen or len(list(reader.votes())) < count:
                    failed.append(count)
                seen = count

    with VerdictStore.open(path) as store:
        put(store, question("q", "0"))
        thread = threading.Thread(target=read)
        thread.start()
        for number in range(1, 200):
            put(store, question("q", str(number)))
        stop.set()
        thread.join()
        with VerdictStore.read(path) as reader:
            assert reader.counts()["votes"] == 200
    assert failed == []


def test_a_second_writer_is_refused_and_told_who_writes(tmp_path: Path) -> None:
    path = tmp_path / "v.sqlite"
    with VerdictStore.open(path):
        message = rf"v\.sqlite: process {os.getpid()} is writing to it, and only one may\. Wait .* or set oracle\.store"
        with pytest.raises(OracleError, match=message), VerdictStore.open(path):
            pass
    with VerdictStore.open(path) as store:
        assert store.counts()["votes"] == 0


def test_a_file_that_is_no_store_is_refused_and_stays_as_it_is(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("my notes, " * 100, encoding="utf-8")
    for opener in (VerdictStore.open, VerdictStore.read):
        with pytest.raises(OracleError, match="it is no verdict store, or it is damaged"), opener(text):
            pass
    assert text.read_text(encoding="utf-8") == "my notes, " * 100
    foreign = tmp_path / "foreign.sqlite"
    with sqlite3.connect(foreign) as database:
        database.execute("CREATE TABLE things (id)")
    database.close()
    for opener in (VerdictStore.open, VerdictStore.read):
        with pytest.raises(OracleError, match="a SQLite file of another program"), opener(foreign):
            pass
    with pytest.raises(OracleError, match=r"none\.sqlite: no such file"), VerdictStore.read(tmp_path / "none.sqlite"):
        pass
    with pytest.raises(OracleError, match="it cannot be written"), VerdictStore.open(text / "v.sqlite"):
        pass


def test_a_store_of_a_newer_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "v.sqlite"
    with VerdictStore.open(path):
        pass
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    message = "its schema is 99: this version of realigner reads schema 1"
    with pytest.raises(OracleError, match=message), VerdictStore.open(path):
        pass


def test_a_damaged_store_is_named_when_it_is_met(tmp_path: Path) -> None:
    path = tmp_path / "v.sqlite"
    with VerdictStore.open(path) as store:
        for number in range(300):
            put(store, question("q", f"{number} {'x' * 200}"))
        store.compact()
    raw = bytearray(path.read_bytes())
    raw[4096:] = os.urandom(len(raw) - 4096)
    path.write_bytes(raw)
    with pytest.raises(OracleError, match="or it is damaged"), VerdictStore.open(path) as store:
        list(store.votes())


def test_compacting_gives_room_back_and_keeps_what_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "v.sqlite"
    with VerdictStore.open(path) as store:
        for number in range(200):
            put(store, question("q", f"{number} {'x' * 500}"), rule="old")
        put(store, question("q", "kept"), BAD, rule="new")
        assert store.compact() == 0
        full = path.stat().st_size
        assert store.compact(keep=["new"]) == 200
        assert path.stat().st_size < full / 4
        assert labels(store, [question("q", "kept")], rule="new") == [BAD]
        counts = store.counts()
        assert (counts["questions"], counts["votes"], counts["judges"]) == (1, 1, {"j": 1})
        assert counts["rules"] == [{"rule": "r", "hash": "new", "votes": 1}]
        put(store, question("q", "kept"), BAD, rule="old")


_WRITER = """
import sys
from realigner.oracle import VerdictStore
from realigner.records import Judgement, Label, RuleVerdict, user_prompt
with VerdictStore.open(sys.argv[1]) as store:
    number = 0
    while True:
        store.add("j", Judgement(user_prompt("q"), str(number)), [("h1", RuleVerdict("r", Label.COMPLIANT, "x"))], {})
        print(number, flush=True)
        number += 1
"""


def test_every_answer_that_was_stored_survives_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "v.sqlite"
    for _ in range(2):
        writer = subprocess.Popen([sys.executable, "-c", _WRITER, str(path)], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        for _ in range(50):
            last = int(writer.stdout.readline())
        writer.send_signal(signal.SIGKILL)
        rest = writer.stdout.read().splitlines()
        writer.wait()
        writer.stdout.close()
        stored = max([last, *map(int, rest[:-1])])
        with VerdictStore.open(path) as store:
            found = labels(store, [question("q", str(number)) for number in range(stored + 1)])
        assert found == [GOOD] * (stored + 1)
