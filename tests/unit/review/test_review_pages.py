"""What the pages show and do, over a socket: folding, repeats, undo, closed votes, studies without a policy."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml
from review_server import Client, served
from review_study import KINDS, lines, rows_of, write_study

from realigner.review import Store, load_study
from realigner.review.answers import Judged
from realigner.review.figures import task_figures


class Served:
    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self.store = stack.enter_context(Store(load_study(folder)))
        self.address = stack.enter_context(served(self.store))

    def client(self, name: str = "Ada") -> Client:
        return Client(self.address).join(name)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_looking_at_the_judge_and_taking_back_are_two_acts_of_one_page(stack: ExitStack, tmp_path: Path) -> None:
    study = Served(stack, write_study(tmp_path, ["audit"]))
    client = study.client()
    client.answer("audit", label="compliant")
    page = client.get("/task/audit")
    assert client.get(client.submit(page.form(r".*/reveal")).location).text.count("SECRET-OF-THE-JUDGE") == 1
    client.submit(page.form(r".*/undo"))
    client.submit(page.form(r".*/undo"))  # a double click
    client.answer("audit", label="unsure")
    client.submit(page.form(r".*/reveal"))  # from a page of then
    task = study.store.study.tasks["audit"]
    assert [entry.action for entry in study.store.history(task)] == ["answer", "reveal", "withdraw", "answer"]
    assert task_figures(study.store, task).prevalence == {"compliant": 1}


@pytest.mark.parametrize(("fold", "folded"), [("all", {True}), ("none", {False}), ("flagged", {True, False})])
def test_texts_are_folded_as_the_study_says(stack: ExitStack, tmp_path: Path, fold: str, folded: set[bool]) -> None:
    folder = write_study(tmp_path, ["audit"], fold=fold)
    rows = rows_of("audit", 6)
    lines(folder / "audit.jsonl", [{**row, "sensitive": number % 2 == 0} for number, row in enumerate(rows)])
    study = Served(stack, folder)
    client = study.client()
    seen = set()
    for _ in range(6):
        page = client.get("/task/audit")
        is_folded = 'class="fold"' in page.text
        seen.add(is_folded)
        flagged = int(re.findall(r"Question (\d)", page.text)[0]) % 2 == 0
        assert is_folded == {"all": True, "none": False, "flagged": flagged}[fold]
        client.submit(page.form(r"/task/audit/\d"), {"label": "unsure"})
    assert seen == folded


def test_whether_a_text_is_folded_never_tells_what_the_judge_said(stack: ExitStack, tmp_path: Path) -> None:
    folder = write_study(tmp_path, ["audit"], fold="flagged")
    rows = rows_of("audit", 6)
    labels = ("compliant", "non_compliant", "unsure")
    lines(folder / "audit.jsonl", [{**row, "judge": {"label": labels[n % 3]}} for n, row in enumerate(rows)])
    study = Served(stack, folder)
    client = study.client()
    pages = []
    for _ in range(6):
        page = client.get("/task/audit")
        text = re.sub(r'value="[^"]*"', "", page.text)
        pages.append(re.sub(r"\d+", "0", text.split('class="columns"')[1].split("</form>")[0]))
        client.submit(page.form(r"/task/audit/\d"), {"label": "unsure"})
    assert len(set(pages)) == 1


def test_a_study_without_a_policy_is_worked_through(stack: ExitStack, tmp_path: Path) -> None:
    folder = write_study(tmp_path)
    content: dict[str, Any] = yaml.safe_load((folder / "study.yaml").read_text())
    del content["policy"]
    (folder / "study.yaml").write_text(yaml.safe_dump(content))
    study = Served(stack, folder)
    client = study.client()
    answers = {"label": "compliant"}, {"choice": "1"}, {"text": "Well."}, {"label": "unsure"}
    for kind, answer in zip(KINDS, answers, strict=True):
        assert client.answer(kind, **answer).status == 303
        assert client.get(f"/task/{kind}").status == 200
    assert client.get("/policy").status == 404
    assert client.answer("audit", label="non_compliant", rules="kind").status == 422


def test_a_repeated_item_comes_unannounced_in_another_order_and_counts_for_consistency(
    stack: ExitStack, tmp_path: Path
) -> None:
    study = Served(stack, write_study(tmp_path, ["preference"], count=12, repeat=0.5, annotators=1))
    client = study.client()
    pages = []
    while "nothing is left" not in (page := client.get("/task/preference")).text:
        pages.append(page)
        client.submit(page.form(r"/task/preference/\d+"), {"choice": "1"})
    task = study.store.study.tasks["preference"]
    steps = study.store.steps(task)
    again = [step for step in steps if step.occasion == 2]
    assert (len(pages), len(steps), len(again)) == (18, 18, 6)
    # Nothing on the page says that it is a repetition.
    plain = [re.sub(r"(Question|Response) \d+( to \d+)?|value=\"[^\"]*\"|\d+", "", page.text) for page in pages[2:]]
    assert len(set(plain)) == 1
    shown = {(entry.item, entry.occasion): entry.places for entry in study.store.history(task)}
    assert any(shown[step.item, 1] != shown[step.item, 2] for step in again)
    found = task_figures(study.store, task).consistency
    assert found is not None
    same = sum(shown[step.item, 1][0] == shown[step.item, 2][0] for step in again)
    assert (found["n"], found["value"]) == (6, same / 6)


def test_votes_are_closed_on_the_page_once_the_systems_are_known(stack: ExitStack, tmp_path: Path) -> None:
    study = Served(stack, write_study(tmp_path, ["preference"]))
    client = study.client()
    client.answer("preference", choice="1")
    page = client.get("/task/preference")
    study.store.unblind()
    assert "this vote is closed" in client.get("/task/preference").text
    for form, change in ((page.form(r"/task/preference/2"), {"choice": "1"}), (page.form(r".*/undo"), {})):
        refused = client.submit(form, change)
        assert refused.status == 409
        assert "This vote is closed" in refused.text
    assert len(list(study.store.history(study.store.study.tasks["preference"]))) == 1


def test_work_goes_on_with_the_code_on_another_device_and_ends_by_leaving(stack: ExitStack, tmp_path: Path) -> None:
    study = Served(stack, write_study(tmp_path, ["audit"]))
    one = study.client()
    one.answer("audit", label="unsure")
    code = re.findall(r'<code class="code">(\w+)</code>', one.get("/").text)[0]
    other = Client(study.address)
    wrong = other.submit(other.get("/").form("/resume"), {"code": "0" * 32})
    assert (wrong.status, "belongs to nobody" in wrong.text) == (422, True)
    spaced = " ".join(re.findall("....", code)).upper()
    assert other.submit(other.get("/").form("/resume"), {"code": spaced}).status == 303
    assert "Item 2" in other.get("/task/audit").text
    other.submit(other.get("/").form("/leave"))
    assert other.send("GET", "/task/audit").location == "/"
    assert [person.name for person in study.store.annotators()] == ["Ada"]


@pytest.mark.parametrize("name", ["", "   ", "x" * 61, "tab\there\x07"])
def test_a_name_that_cannot_be_shown_is_refused(stack: ExitStack, tmp_path: Path, name: str) -> None:
    study = Served(stack, write_study(tmp_path, ["audit"]))
    client = Client(study.address)
    refused = client.submit(client.get("/").form("/join"), {"name": name})
    assert (refused.status, "Give a name of 1 to 60 characters" in refused.text) == (422, True)
    assert study.store.annotators() == []


def test_the_coordinator_sees_agreement_as_it_grows_and_no_systems(stack: ExitStack, tmp_path: Path) -> None:
    study = Served(stack, write_study(tmp_path, ["audit"], count=8, annotators=2))
    people = [study.client(name) for name in ("Ada", "Bob")]
    desk = Client(study.address)
    first = desk.get(f"/coordinator/{study.store.secret('coordinator')}")
    assert "not yet" in first.text
    for number in range(8):
        for person in people:
            page = person.get("/task/audit")
            odd = int(re.findall(r"Question (\d)", page.text)[0]) % 2
            label = "compliant" if odd or (person is people[1] and number == 7) else "unsure"
            person.submit(page.form(r"/task/audit/\d"), {"label": label})
    seen = desk.get("/coordinator")
    figures = task_figures(study.store, study.store.study.tasks["audit"])
    assert figures.alpha is not None
    assert f"{figures.alpha.value:.2f}" in seen.text
    assert "16 of 16 answers; 8 of 8 items" in seen.text
    assert "Bob" in seen.text


def test_votes_are_counted_by_place_and_never_called_none_once_there_are_some(stack: ExitStack, tmp_path: Path) -> None:
    study = Served(stack, write_study(tmp_path, ["preference"], count=4, annotators=1))
    desk = Client(study.address)
    assert "none yet" in desk.get(f"/coordinator/{study.store.secret('coordinator')}").text
    person = study.client("Ada")
    person.submit(person.get("/task/preference").form(r"/task/preference/\d"), {"choice": "1"})
    seen = desk.get("/coordinator").text
    assert "none yet" not in seen
    assert "Chosen by place" in seen


def test_the_time_of_an_answer_is_from_its_page_to_its_form(tmp_path: Path) -> None:
    now = [1_800_000_000.0]
    with Store(load_study(write_study(tmp_path, ["audit"])), clock=lambda: now[0]) as store:
        with served(store, clock=lambda: now[0]) as address:
            client = Client(address).join()
            page = client.get("/task/audit")
            now[0] += 42.5
            client.submit(page.form(r"/task/audit/1"), {"label": "unsure"})
            page = client.get("/task/audit/1")
            now[0] += 8
            client.submit(page.form(r"/task/audit/1"), {"label": "compliant"})
        entries = list(store.history(store.study.tasks["audit"]))
    assert [entry.seconds for entry in entries] == [pytest.approx(42.5, abs=0.01), pytest.approx(8, abs=0.01)]
    assert [entry.at for entry in entries] == [1_800_000_042.5, 1_800_000_050.5]


def test_a_fault_of_the_program_is_a_page_without_its_traceback(
    stack: ExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = Served(stack, write_study(tmp_path, ["audit"]))
    client = study.client()
    monkeypatch.setattr(study.store, "current_step", lambda *_: 1 / 0)
    page = client.get("/task/audit")
    assert page.status == 500
    assert "Something went wrong" in page.text
    assert "ZeroDivision" not in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]


def test_an_answer_is_changed_by_its_own_page_and_the_history_keeps_both(stack: ExitStack, tmp_path: Path) -> None:
    study = Served(stack, write_study(tmp_path, ["audit"]))
    client = study.client()
    client.answer("audit", label="non_compliant", rules="kind", note="first")
    form = client.get("/task/audit/1").form(r"/task/audit/1")
    assert (form.fields["label"], form.fields["rules"], form.fields["note"]) == (["non_compliant"], ["kind"], ["first"])
    client.post("/task/audit/1", {**form.fields, "label": "compliant", "rules": []})
    task = study.store.study.tasks["audit"]
    assert [entry.value for entry in study.store.history(task)] == [
        Judged("non_compliant", ("kind",), "first"),
        Judged("compliant", (), "first"),
    ]
