"""The value-leakage report: numbers by hand, quiet where there is nothing, loud where something was planted."""

from __future__ import annotations

import math
import random
from collections import Counter
from typing import Any

import pytest
from correcting_kit import pair

from realigner.corrections.leakage import LeakageSample, leakage, lines
from realigner.corrections.shift import agreement, lengths, openings, phrases, word_shift
from realigner.records import Direction, Label, Outcome, TriagedPair, Verdict

GOOD, BAD, UNSURE, INVALID = Label.COMPLIANT, Label.NON_COMPLIANT, Label.UNSURE, Label.INVALID
TEXT = "the cat sat on a mat and saw what it could see of the wide world before the rain came down"
WORDS = TEXT.split()


def texts(count: int, seed: int, length: int = 20, before: str = "") -> list[list[str]]:
    draw = random.Random(seed)
    return [[*before.split(), *(draw.choice(WORDS) for _ in range(length))] for _ in range(count)]


def test_agreement_by_hand() -> None:
    both = {(GOOD, GOOD): 40, (BAD, BAD): 30, (GOOD, BAD): 10, (UNSURE, INVALID): 5, (UNSURE, GOOD): 15}
    found = agreement(both)
    assert found["candidates"] == 100
    assert found["rate"] == pytest.approx(0.75)  # unsure and invalid are both "no decision"
    # Rows: 50, 30, 20. Columns: compliant 55, non_compliant 40, no decision 5.
    chance = 0.50 * 0.55 + 0.30 * 0.40 + 0.20 * 0.05
    assert found["kappa"] == pytest.approx((0.75 - chance) / (1 - chance))
    low, high = found["interval"]
    assert (low, high) == (pytest.approx(0.6570, abs=1e-3), pytest.approx(0.8245, abs=1e-3))
    assert sum(count for *_, count in found["table"]) == 100


def test_agreement_of_judges_who_always_say_the_same_has_no_kappa() -> None:
    assert agreement({(GOOD, GOOD): 7})["kappa"] is None
    assert agreement({})["rate"] is None


def test_lengths_by_hand() -> None:
    found = lengths([3, 3, 5], [1, 3], seed=0)
    # Longer in (3,1) (3,1) (5,1) (5,3) and half of (3,3) (3,3): 5 of 6.
    assert found["longer"] == pytest.approx(5 / 6)
    assert found["corrections"] == {"mean": pytest.approx(11 / 3), "median": 3.0}
    assert found["ratio_of_means"] == pytest.approx((11 / 3) / 2)
    low, high = found["interval"]
    assert low <= found["longer"] <= high


def test_equal_lengths_are_no_shift() -> None:
    found = lengths([10] * 50, [10] * 50, seed=0)
    assert (found["longer"], found["interval"]) == (0.5, [0.5, 0.5])


def test_divergence_is_zero_for_equal_words_one_for_disjoint_ones_and_by_hand_between() -> None:
    same = [["a", "b"]] * 20
    assert word_shift(same, same, 0)["divergence"] == pytest.approx(0.0)
    assert word_shift(same, [["c"]] * 20, 0)["divergence"] == pytest.approx(1.0)
    # p = (1, 0), q = (1/2, 1/2), m = (3/4, 1/4): [log2(4/3) + ½ log2(2/3) + ½ log2 2] / 2
    expected = (math.log2(4 / 3) + 0.5 * math.log2(2 / 3) + 0.5) / 2
    assert word_shift([["a", "a"]] * 20, same, 0)["divergence"] == pytest.approx(expected)


def test_two_draws_of_one_kind_differ_no_more_than_by_chance() -> None:
    inside = [
        (shift := word_shift(texts(60, seed), texts(60, seed + 100), seed))["divergence"] <= shift["by_chance"]
        for seed in range(20)
    ]
    assert sum(inside) >= 15  # 95 % in expectation


def test_a_planted_phrase_stands_out_and_its_parts_are_not_repeated() -> None:
    new, old = texts(100, 1, before="as a careful assistant"), texts(100, 2)
    shift = word_shift(new, old, 0)
    assert shift["divergence"] > shift["by_chance"]
    top = phrases(new, old)[0]
    assert top["phrase"] in "as a careful assistant"
    assert (top["share"], top["share_in_others"]) == (1.0, 0.0)
    shown = [item["phrase"] for item in phrases(new, old)]
    assert not any(a != b and a in b for a in shown for b in shown)
    assert phrases(old, old) == []


def test_a_text_that_repeats_itself_counts_once() -> None:
    old = texts(100, 2)
    loud = [["buy", "now"] * 50, *texts(99, 3)]
    assert "buy" not in {item["phrase"] for item in phrases(loud, old)}


def test_openings_are_compared_with_the_retained_ones() -> None:
    new = texts(30, 1, before="of course here") + texts(10, 2)
    first = openings(new, texts(40, 3))[0]
    assert first == {"opening": "of course here", "share": 0.75, "share_in_retained": 0.0}


def triaged(number: int, outcome: Outcome, correction: str | None = None) -> TriagedPair:
    verdict = Verdict(GOOD if outcome.is_retained else BAD)
    direction = Direction.RETAIN if outcome.is_retained else Direction.SUPPRESS_BOTH
    return TriagedPair(pair(number), "train", verdict, verdict, outcome, direction, correction)


def report(sample: LeakageSample, **given: Any) -> dict[str, Any]:
    asked: dict[str, Any] = {"writer": "w", "judge": "j", "second": None, "both": {}, "same_model": False}
    return leakage(sample, **{**asked, **given})


def test_corrections_are_compared_with_the_preferred_answers_of_retained_pairs() -> None:
    sample = LeakageSample(0)
    for number in range(25):
        sample.add(triaged(number, Outcome.CONFIRM))
        sample.add(triaged(number, Outcome.PUNISH, f"a new and longer answer to question {number}"))
        sample.add(triaged(number, Outcome.PUNISH))
        sample.add(triaged(number, Outcome.INVERT))
    assert set(sample.retained) == {pair(number).chosen for number in range(25)}
    found = report(sample, second="k", both={(GOOD, GOOD): 3, (GOOD, BAD): 1}, same_model=True)
    assert found["texts"] == {"corrections": 25, "retained": 25, "least": 20}
    assert found["length"]["longer"] == 1.0
    said = "\n".join(lines(found))
    assert "written by w, accepted by j" in said
    assert "second judge k; the judges agreed on 75.0% of 4 candidates, κ 0.00" in said
    assert "WARNING: a judge is the model that wrote" in said
    assert "corrections have 8 words on average, compliant retained answers 4" in said


def test_few_texts_are_not_compared() -> None:
    sample = LeakageSample(0)
    for number in range(5):
        sample.add(triaged(number, Outcome.PUNISH, "text"))
    found = report(sample, writer=None)
    assert (found["length"], found["words"], found["openings"]) == (None, None, None)
    assert lines(found) == [
        "leakage: written by people (a file), accepted by j",
        "leakage: 5 corrections and 0 retained answers are too few to compare (at least 20 of each)",
    ]


def test_the_draw_is_fair_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("realigner.corrections.leakage.SAMPLE", 20)
    counts: Counter[str] = Counter()
    for seed in range(200):
        sample = LeakageSample(seed)
        for number in range(100):
            sample.add(triaged(number, Outcome.PUNISH, str(number)))
        assert len(sample.corrections) == 20
        counts.update(sample.corrections)
    thirds = [sum(counts[str(n)] for n in range(start, start + 25)) / 4000 for start in range(0, 100, 25)]
    assert all(0.2 < share < 0.3 for share in thirds)
