"""The store: append-only, once, never stale, safe among threads and processes, and true to one study."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from review_study import make_study, write_study

from realigner.errors import ReviewError, RunDirError
from realigner.review import Store, load_study
from realigner.review.answers import Choice, Corrected, Judged
from realigner.review.history import Annotator, Closed, Stale, Step

YES, NO = Judged("compliant"), Judged("non_compliant", ("kind",), "blames")


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(make_study(tmp_path / "study"), clock=Clock()) as store:
        yield store


Open = Callable[..., Store]


@pytest.fixture
def opened() -> Iterator[Open]:
    """Open stores that are closed after the test."""
    with ExitStack() as stack:
        yield lambda study, clock=Clock(): stack.enter_context(Store(study, clock=clock))  # noqa: B008


def begin(store: Store, kind: str = "audit", name: str = "Ada") -> tuple[Annotator, Step]:
    annotator, _ = store.join(name)
    step = store.current_step(store.study.tasks[kind], annotator)
    assert step is not None
    return annotator, step


def test_what_was_saved_is_there_after_opening_again(store: Store) -> None:
    annotator, step = begin(store)
    saved = store.save(step, NO, revision=0, once="x", seconds=12.5)
    store.close()
    again = Store(load_study(store.study.directory))
    assert again.step(again.study.tasks["audit"], annotator, 1) == saved
    [entry] = again.history(again.study.tasks["audit"])
    assert (entry.value, entry.seconds, entry.study, entry.source) == (NO, 12.5, store.study.hash, "page")
    assert entry.annotator == annotator.id
    again.close()


def test_the_same_step_comes_back_until_it_is_answered(store: Store) -> None:
    annotator, step = begin(store)
    task = store.study.tasks["audit"]
    assert store.current_step(task, annotator) == step
    store.save(step, YES, revision=0, once="x")
    following = store.current_step(task, annotator)
    assert following is not None
    assert following.number == 2
    assert following.item != step.item


def test_a_double_click_writes_one_answer(store: Store) -> None:
    _, step = begin(store)
    first = store.save(step, YES, revision=0, once="click")
    assert store.save(step, YES, revision=0, once="click") == first
    assert len(list(store.history(store.study.tasks["audit"]))) == 1


def test_the_same_page_sent_again_with_another_answer_is_stale(store: Store) -> None:
    _, step = begin(store)
    store.save(step, YES, revision=0, once="click")
    with pytest.raises(Stale) as found:
        store.save(step, NO, revision=0, once="click")
    assert found.value.step.value == YES


def test_an_old_tab_cannot_overwrite_a_newer_answer(store: Store) -> None:
    _, step = begin(store)
    newer = store.save(step, YES, revision=0, once="new tab")
    with pytest.raises(Stale):
        store.save(step, NO, revision=0, once="old tab")
    revised = store.save(step, NO, revision=newer.revision, once="on purpose")
    assert revised.value == NO
    assert [entry.value for entry in store.history(store.study.tasks["audit"])] == [YES, NO]


def test_undo_makes_the_step_unanswered_and_keeps_what_was_said(store: Store) -> None:
    annotator, step = begin(store)
    saved = store.save(step, NO, revision=0, once="x")
    back = store.withdraw(saved, revision=saved.revision, once="y")
    assert (back.answered, back.value) == (False, NO)
    assert store.current_step(store.study.tasks["audit"], annotator) == back
    assert [entry.action for entry in store.history(store.study.tasks["audit"])] == ["answer", "withdraw"]
    with pytest.raises(Stale):
        store.withdraw(saved, revision=saved.revision, once="z")


def test_the_database_itself_refuses_to_change_or_delete_an_answer(store: Store) -> None:
    _, step = begin(store)
    store.save(step, YES, revision=0, once="x")
    with sqlite3.connect(store.path) as other:
        for statement in ("UPDATE history SET value = '{}'", "DELETE FROM history"):
            with pytest.raises(sqlite3.IntegrityError, match="answers are never"):
                other.execute(statement)
    other.close()


def test_a_token_opens_its_own_person_and_is_stored_nowhere(store: Store) -> None:
    annotator, token = store.join("Ada")
    assert store.who(token) == annotator
    assert store.who("0" * 32) is None
    store.close()
    files = [file.read_bytes() for file in store.study.directory.glob("answers.sqlite*")]
    assert all(token.encode() not in content for content in files)


def test_two_people_of_one_name_are_two_people(store: Store) -> None:
    assert store.join("Ada")[0].id != store.join("Ada")[0].id
    assert [person.name for person in store.annotators()] == ["Ada", "Ada"]


def test_an_item_is_asked_of_no_more_people_than_wanted(tmp_path: Path, opened: Open) -> None:
    store = opened(make_study(tmp_path, ["audit"], 5, overlap=0.4, annotators=2))
    task = store.study.tasks["audit"]
    people = [store.join(name)[0] for name in "abc"]
    for turn in range(40):
        step = store.current_step(task, people[turn % 3])
        if step is not None:
            store.save(step, YES, revision=step.revision, once=str(turn))
    counts = [sum(step.item == item.id for step in store.steps(task)) for item in task.items]
    assert sorted(counts) == [1, 1, 1, 2, 2]


def test_an_item_that_somebody_left_open_is_given_to_another_after_an_hour(tmp_path: Path, opened: Open) -> None:
    clock = Clock()
    store = opened(make_study(tmp_path, ["audit"], 1, overlap=0.0), clock)
    task = store.study.tasks["audit"]
    one, _ = store.join("one")
    other, _ = store.join("other")
    left = store.current_step(task, one)
    assert left is not None
    assert store.current_step(task, other) is None
    clock.now += 3601
    taken = store.current_step(task, other)
    assert taken is not None
    assert taken.item == left.item
    # Whoever comes back late still may answer: nothing is lost, the item has one answer more.
    store.save(left, YES, revision=0, once="late")


def test_looking_at_the_judge_is_on_record_for_the_item(store: Store) -> None:
    _, step = begin(store)
    saved = store.save(step, YES, revision=0, once="x")
    assert not store.is_revealed(saved)
    store.reveal(saved, once="y")
    store.reveal(saved, once="z")
    assert store.is_revealed(saved)
    assert [entry.action for entry in store.history(store.study.tasks["audit"])] == ["answer", "reveal"]
    # It is no revision: a tab that was open meanwhile is not stale.
    assert store.save(saved, NO, revision=saved.revision, once="w").value == NO


def test_votes_end_with_the_blindness_and_other_tasks_go_on(store: Store) -> None:
    _, vote = begin(store, "preference")
    _, audit = begin(store, "audit")
    since = store.unblind()
    assert store.unblind() == since == store.unblinded
    with pytest.raises(Closed):
        store.save(vote, Choice(1), revision=0, once="x")
    assert store.save(audit, YES, revision=0, once="y").answered


def test_values_of_every_kind_come_back_as_they_were(store: Store) -> None:
    values = {
        "audit": NO,
        "undecided": Judged("unsure"),
        "preference": Choice("tie", "no \u202e difference"),
        "correction": Corrected("See a doctor.\n\n“Soon.” 🌱"),
    }
    for kind, value in values.items():
        _, step = begin(store, kind)
        assert store.save(step, value, revision=0, once=kind, places=(2, 1, 3)).value == value
        [entry] = store.history(store.study.tasks[kind])
        assert (entry.value, entry.places) == (value, (2, 1, 3))


def test_a_study_that_changed_under_way_is_refused_and_names_the_file(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "study")
    store = Store(load_study(folder))
    _, step = begin(store)
    store.save(step, YES, revision=0, once="x")
    store.close()
    text = (folder / "audit.jsonl").read_text()
    (folder / "audit.jsonl").write_text(text.replace("Question 1", "Question one"))
    with pytest.raises(
        ReviewError, match=r"changed \(audit\.jsonl\) after 1 entries: answers belong to the study as it"
    ):
        Store(load_study(folder))
    (folder / "audit.jsonl").write_text(text)
    with Store(load_study(folder)) as again:
        assert len(list(again.history(again.study.tasks["audit"]))) == 1


def test_a_study_may_be_mended_before_the_first_answer(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "study", ["audit"], count=1)
    store = Store(load_study(folder))
    person, step = begin(store)
    store.close()
    (folder / "audit.jsonl").write_text((folder / "audit.jsonl").read_text().replace("pair-0/chosen", "other"))
    with Store(load_study(folder)) as again:
        found = again.current_step(again.study.tasks["audit"], person)
        assert found is not None
        assert (step.item, found.item) == ("pair-0/chosen", "other")


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    (tmp_path / "answers.sqlite").write_text("these are not answers " * 100)
    with pytest.raises(ReviewError, match="it is no database of answers"):
        Store(study)
    with pytest.raises(RunDirError, match="cannot be opened"):
        Store(study, tmp_path / "none" / "answers.sqlite")


def test_answers_of_a_later_layout_are_refused(store: Store) -> None:
    store.close()
    with sqlite3.connect(store.path) as other:
        other.execute("UPDATE meta SET value = '2' WHERE name = 'layout'")
    other.close()
    with pytest.raises(ReviewError, match="layout 2: this release reads layout 1"):
        Store(store.study)


def test_many_threads_and_two_processes_worth_of_connections_lose_and_double_nothing(
    tmp_path: Path, opened: Open
) -> None:
    study = make_study(tmp_path, ["audit"], 30, overlap=1.0, annotators=2)
    stores = [opened(study), opened(study)]
    people = [stores[0].join(str(number))[0] for number in range(8)]
    task = study.tasks["audit"]

    def work(number: int) -> int:
        store, saved = stores[number % 2], 0
        while (step := store.current_step(task, people[number])) is not None:
            for _ in range(2):  # each click is a double click
                store.save(step, YES, revision=step.revision, once=f"{number}-{step.number}")
            saved += 1
        return saved

    with ThreadPoolExecutor(8) as pool:
        done = sum(pool.map(work, range(8)))
    answers = list(stores[0].history(task))
    assert done == len(answers) == 60
    assert len({(entry.annotator, entry.item) for entry in answers}) == 60


def test_secrets_are_made_once(store: Store) -> None:
    assert store.secret("coordinator") == store.secret("coordinator") != store.secret("other")


def test_the_state_of_a_step_is_what_its_history_adds_up_to(store: Store) -> None:
    annotator, step = begin(store)
    task = store.study.tasks["audit"]
    one = store.save(step, YES, revision=0, once="1")
    two = store.save(one, NO, revision=one.revision, once="2")
    gone = store.withdraw(two, revision=two.revision, once="3")
    store.reveal(gone, once="4")
    entries = list(store.history(task))
    assert [entry.action for entry in entries] == ["answer", "answer", "withdraw", "reveal"]
    acts = [entry for entry in entries if entry.action != "reveal"]
    [state] = store.steps(task)
    assert state.revision == acts[-1].seq
    assert state.answered == (acts[-1].action == "answer")
    assert state.value == [entry.value for entry in acts if entry.action == "answer"][-1]
    assert (store.counts(task), store.answered(task, annotator)) == ({}, 0)
    store.save(state, YES, revision=state.revision, once="5")
    assert (store.counts(task), store.answered(task, annotator)) == ({step.item: 1}, 1)
