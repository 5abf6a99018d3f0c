"""Who is shown what: orders by keyed hash, the overlap quota, repetitions."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from review_study import make_study

from realigner.review.assign import REPEAT_GAP, display_order, draw, next_item, quotas, shuffled
from realigner.review.study import Task

KEY = bytes(range(32))


def task(folder: Path, count: int, **settings: object) -> Task:
    return make_study(folder, ["audit"], count, **settings).tasks["audit"]


def walk(task: Task, annotator: str, key: bytes = KEY) -> list[tuple[str, int]]:
    """Answer all that one person is shown, alone."""
    first: list[str] = []
    again: list[str] = []
    steps = []
    wanted = quotas(key, task)
    while (found := next_item(key, task, annotator, wanted, {}, first, again, ())) is not None:
        (first if found.occasion == 1 else again).append(found.item)
        steps.append((found.item, found.occasion))
    return steps


def test_an_order_needs_the_key_and_differs_by_person_item_and_occasion() -> None:
    def orders(key: bytes, annotator: str, occasion: int = 1) -> list[tuple[int, ...]]:
        return [display_order(key, "t", f"item-{i}", annotator, occasion, 3) for i in range(50)]

    assert orders(KEY, "a") == orders(KEY, "a")
    assert (
        len({tuple(o) for o in (orders(KEY, "a"), orders(KEY, "b"), orders(KEY, "a", 2), orders(b"other", "a"))}) == 4
    )
    assert all(sorted(order) == [1, 2, 3] for order in orders(KEY, "a"))


def test_every_order_of_three_responses_comes_up_about_equally_often() -> None:
    found = Counter(display_order(KEY, "t", str(i), "a", 1, 3) for i in range(6000))
    assert len(found) == 6
    # 1000 expected of each, standard deviation 29
    assert all(abs(count - 1000) < 150 for count in found.values())


def test_parts_of_a_draw_cannot_run_into_each_other() -> None:
    assert draw(KEY, "ab", "c") != draw(KEY, "a", "bc")
    assert 0 <= draw(KEY, "ä", "") < 2**64


@pytest.mark.parametrize(("overlap", "several"), [(0.0, 0), (0.25, 5), (0.2, 4), (1.0, 20)])
def test_the_overlap_is_the_stated_share_of_the_items(tmp_path: Path, overlap: float, several: int) -> None:
    wanted = quotas(KEY, task(tmp_path, 20, overlap=overlap, annotators=3))
    assert Counter(wanted.values()) == Counter({3: several, 1: 20 - several})


def test_each_person_gets_every_item_once_in_an_order_of_their_own(tmp_path: Path) -> None:
    given = task(tmp_path, 30, repeat=0.0)
    one, other = walk(given, "a"), walk(given, "b")
    assert sorted(one) == sorted(other) == sorted((item.id, 1) for item in given.items)
    assert one != other
    assert one != walk(given, "a", b"another key")


def test_repetitions_come_at_the_stated_rate_and_far_enough_behind(tmp_path: Path) -> None:
    given = task(tmp_path, 100, repeat=0.1)
    steps = walk(given, "a")
    again = [(place, item) for place, (item, occasion) in enumerate(steps) if occasion == 2]
    assert len(again) == 10
    assert len({item for _, item in again}) == 10
    for place, item in again:
        done = sum(occasion == 1 for _, occasion in steps[:place])
        before = [name for name, occasion in steps[:place] if occasion == 1]
        assert len(before) - before.index(item) > min(REPEAT_GAP, done // 2)


def test_an_item_whose_judge_was_looked_at_is_not_repeated(tmp_path: Path) -> None:
    given = task(tmp_path, 10, repeat=0.5)
    mine = [item.id for item in given.items]
    wanted = quotas(KEY, given)
    assert next_item(KEY, given, "a", wanted, {}, mine, (), mine) is None
    found = next_item(KEY, given, "a", wanted, {}, mine, (), mine[1:])
    assert (found.item, found.occasion) == (mine[0], 2)  # type: ignore[union-attr]


def test_an_item_that_has_its_answers_is_given_to_nobody_else(tmp_path: Path) -> None:
    given = task(tmp_path, 4, overlap=0.5, annotators=2)
    wanted = quotas(KEY, given)
    assert next_item(KEY, given, "z", wanted, wanted, (), (), ()) is None
    one_left = {**wanted, "pair-2/chosen": wanted["pair-2/chosen"] - 1}
    assert next_item(KEY, given, "z", wanted, one_left, (), (), ()).item == "pair-2/chosen"  # type: ignore[union-attr]


def test_what_others_have_begun_comes_first(tmp_path: Path) -> None:
    given = task(tmp_path, 50)
    wanted = quotas(KEY, given)
    for begun in ("pair-7/chosen", "pair-44/chosen"):
        found = next_item(KEY, given, "a", wanted, {begun: 1}, (), (), ())
        assert found.item == begun  # type: ignore[union-attr]


def test_shuffled_loses_nothing() -> None:
    names = [str(i) for i in range(100)]
    assert sorted(shuffled(KEY, names, "x")) == sorted(names)
    assert shuffled(KEY, names, "x") == shuffled(KEY, names[::-1], "x") != shuffled(KEY, names, "y")
