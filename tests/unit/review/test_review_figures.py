"""Figures by worked numbers: what counts, agreement, self-consistency, shares and win rates."""

from __future__ import annotations

from pathlib import Path

import pytest
from review_study import SYSTEMS, make_study

from realigner.review import Store
from realigner.review.answers import Choice, Corrected, Judged, Value
from realigner.review.figures import category, counted, raw_agreement, task_figures
from realigner.review.history import Action, Entry
from realigner.review.preference import preference_score

YES, NO, UNSURE = Judged("compliant"), Judged("non_compliant"), Judged("unsure")


def entry(
    annotator: str, item: str, value: Value | None, action: Action = "answer", occasion: int = 1, seq: int = 0
) -> Entry:
    return Entry(seq, "t", annotator, 1, item, occasion, action, value, (), 1.0, 0.0, "s", "page")


def test_what_counts_is_the_last_answer_before_the_judge_was_looked_at() -> None:
    found = counted(
        [
            entry("a", "x", YES, seq=1),
            entry("a", "x", NO, seq=2),
            entry("a", "x", None, "reveal", seq=3),
            entry("a", "x", YES, seq=4),
            entry("a", "y", YES, seq=5),
            entry("a", "y", None, "withdraw", seq=6),
            entry("b", "x", UNSURE, seq=7),
        ]
    )
    assert [(e.annotator, e.seq) for e in found.first] == [("a", 2), ("b", 7)]
    assert (found.after_reveal, found.withdrawn) == (1, 1)


def test_what_is_taken_back_after_a_look_still_counts_as_it_was_said() -> None:
    found = counted([entry("a", "x", YES), entry("a", "x", None, "reveal"), entry("a", "x", None, "withdraw")])
    assert [e.value for e in found.first] == [YES]
    assert (found.after_reveal, found.withdrawn) == (1, 0)


def test_repetitions_count_for_consistency_alone() -> None:
    found = counted([entry("a", "x", YES), entry("a", "x", NO, occasion=2)])
    assert ([e.value for e in found.first], [e.value for e in found.again]) == ([YES], [NO])


def test_raw_agreement_is_the_share_of_equal_pairs_of_answers_item_by_item() -> None:
    found = raw_agreement([[2, 0], [1, 1], [3, 1], [1, 0]])
    assert found is not None
    assert found["value"] == pytest.approx((1 + 0 + 0.5) / 3)
    assert found["n"] == 3
    assert raw_agreement([[1, 0]]) is None


def test_categories_of_answers() -> None:
    assert [category(v) for v in (YES, Choice(2), Choice("tie"), Corrected("x"), Corrected("", True))] == [
        "compliant",
        "2",
        "tie",
        "corrected",
        "no answer can be given",
    ]


def test_the_figures_of_a_task_under_way(tmp_path: Path) -> None:
    now = [1000.0]
    with Store(make_study(tmp_path, ["audit"], 10, annotators=2, repeat=0.2), clock=lambda: now[0]) as store:
        task = store.study.tasks["audit"]
        people = [store.join(name)[0] for name in ("Ada", "Bob")]
        for number in range(12):
            for person in people:
                step = store.current_step(task, person)
                if step is None:
                    continue
                now[0] += 10
                odd = int(step.item.split("/")[0].removeprefix("pair-")) % 2
                wrong = person.name == "Bob" and step.item == "pair-4/chosen"
                value = NO if (odd or wrong) and step.occasion == 1 else YES
                store.save(step, value, revision=0, once=f"{person.id}{number}", seconds=10.0 * (1 + number % 2))
        found = task_figures(store, task, resamples=200)
    assert (found.given, found.wanted, found.complete, found.items) == (20, 20, 10, 10)
    assert found.prevalence == {"compliant": 9, "non_compliant": 11}
    assert found.raw is not None
    assert found.raw["value"] == pytest.approx(0.9)
    assert found.alpha is not None
    # coincidences: 8 yes-yes, 1 yes-no each way, 10 no-no; α = 1 − 19·2 / (2·9·11)
    assert found.alpha.value == pytest.approx(1 - 19 * 2 / (2 * 9 * 11))
    assert found.consistency is not None
    assert found.consistency["n"] == sum(person.again for person in found.people) == 4
    assert [person.median_seconds for person in found.people] == [15.0, 15.0]
    assert [person.answered for person in found.people] == [10, 10]


def votes(*rows: tuple[str, str, int | str]) -> list[Entry]:
    return [entry(annotator, item, Choice(choice)) for annotator, item, choice in rows]


def test_shares_of_triplets_by_worked_numbers() -> None:
    a, b, c = SYSTEMS
    systems = {"x": (a, b, c), "y": (c, b, a), "z": (b, a, c)}
    found = preference_score(
        votes(
            ("1", "x", 1), ("2", "x", 1), ("3", "x", 2),
            ("1", "y", 3), ("2", "y", 3), ("3", "y", 3),
            ("1", "z", 1), ("2", "z", 3), ("3", "z", "tie"),
        ),
        systems,
    )  # fmt: skip
    assert (found.items, found.votes, found.no_majority) == (3, 9, 1)
    assert {name: round(system.best["value"] * 9) for name, system in found.systems.items()} == {a: 5, b: 2, c: 1}
    assert {name: system.majority for name, system in found.systems.items()} == {a: 2, b: 0, c: 0}
    assert found.ties is not None
    assert found.ties["value"] == pytest.approx(1 / 9)
    assert found.none_good is not None
    assert found.none_good["value"] == 0
    assert found.duels == ()
    assert found.raw is not None
    assert found.raw["value"] == pytest.approx((1 / 3 + 1 + 0) / 3)
    for system in found.systems.values():
        assert system.best["low"] <= system.best["value"] <= system.best["high"]


def test_the_win_rate_of_a_duel_halves_ties_and_leaves_out_both_bad() -> None:
    systems = {"x": ("new", "old"), "y": ("old", "new"), "z": ("new", "old")}
    found = preference_score(
        votes(
            *(("1", "x", 1), ("2", "x", 1), ("3", "x", "tie")),
            *(("1", "y", 2), ("2", "y", 1), ("3", "y", "none_good")),
            *(("1", "z", "none_good"), ("2", "z", "none_good")),
        ),
        systems,
    )
    [duel] = found.duels
    assert (duel.first, duel.second, duel.wins, duel.losses, duel.ties, duel.both_bad) == ("new", "old", 3, 1, 1, 3)
    assert duel.win_rate is not None
    assert duel.win_rate["value"] == pytest.approx(3.5 / 5)
    assert duel.win_rate["n"] == 2  # items, not votes


def test_intervals_are_clustered_by_item_so_that_more_votes_of_the_same_items_do_not_narrow_them() -> None:
    systems = {str(i): ("new", "old") for i in range(30)}
    one = votes(*(("1", str(i), 1 + (i % 3 == 0)) for i in range(30)))
    many = votes(*((str(a), str(i), 1 + (i % 3 == 0)) for i in range(30) for a in range(10)))
    few, lots = (preference_score(found, systems).duels[0].win_rate for found in (one, many))
    assert few is not None
    assert lots is not None
    assert (lots["value"], lots["low"], lots["high"]) == pytest.approx((few["value"], few["low"], few["high"]))


def test_alpha_is_over_systems_not_over_places_in_a_file() -> None:
    names = ("a", "b")
    systems = {str(i): names if i % 2 else names[::-1] for i in range(10)}
    # Both choose system a on items 0 to 8 and b on 9, whatever its number.
    rows = [
        (person, str(i), systems[str(i)].index("a" if i < 9 else "b") + 1) for i in range(10) for person in ("1", "2")
    ]
    found = preference_score(votes(*rows), systems)
    assert found.alpha is not None
    assert found.alpha.value == pytest.approx(1.0)
