from __future__ import annotations

import math
import random
from collections import Counter

import pytest
from audited import NO, RULES, pair, verdict, world
from hypothesis import given
from hypothesis import strategies as st

from realigner.audit import Unit, draw, draw_sample
from realigner.audit.sample import LEAST, allocate, units_of
from realigner.errors import AuditError
from realigner.records import user_prompt


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=40), st.integers(1, 3000))
def test_an_allocation_adds_up_to_n_and_takes_no_more_than_there_is(sizes: list[int], n: int) -> None:
    n += sum(min(LEAST, size) for size in sizes)
    drawn = allocate(sizes, n)
    assert all(min(LEAST, size) <= count <= size for count, size in zip(drawn, sizes, strict=True))
    assert sum(drawn) == min(n, sum(sizes))


def test_an_allocation_by_hand() -> None:
    # A floor of 10 each leaves 70, which √100 : √400 : √2500 = 10 : 20 : 50 share.
    assert allocate([100, 400, 2500], 100) == [19, 27, 54]
    assert allocate([3, 400, 2500], 100) == [3, 32, 65]
    assert allocate([4, 5], 100) == [4, 5]


def test_the_inclusion_probabilities_are_what_was_drawn() -> None:
    pairs = world(1000)
    sample = draw_sample(pairs, 200, seed=1)
    assert len(sample) == 200
    counts = Counter(item.stratum for item in sample)
    sizes: Counter[int] = Counter()
    for row in sample.frame:
        sizes[row.stratum] += row.size
    for place, stratum in enumerate(sample.strata):
        assert (stratum.drawn, stratum.size) == (counts[place], sizes[place])
        assert stratum.chance * stratum.weight == pytest.approx(1)
    assert sum(sizes.values()) == 2000
    assert sum(sample.strata[item.stratum].weight for item in sample) == pytest.approx(2000)


def test_every_response_of_a_stratum_has_the_same_chance() -> None:
    pairs = world(60)
    draws = 600
    seen = Counter(item.unit for seed in range(draws) for item in draw_sample(pairs, 40, seed))
    chances = {stratum.name: stratum.chance for stratum in draw_sample(pairs, 40, 0).strata}
    whole = draw_sample(pairs, 120, 0)
    assert len(whole) == 120
    for item in whole:
        chance = chances[whole.strata[item.stratum].name]
        assert abs(seen[item.unit] / draws - chance) < 4.5 * math.sqrt(0.25 / draws), item.unit


def test_a_draw_does_not_depend_on_the_order_of_the_data() -> None:
    pairs = world(300)
    shuffled = random.Random(0).sample(pairs, len(pairs))
    assert draw_sample(pairs, 60, 3).items == draw_sample(shuffled, 60, 3).items
    assert draw_sample(pairs, 60, 3).items != draw_sample(pairs, 60, 4).items


def test_a_response_that_breaks_several_rules_counts_for_the_rarest() -> None:
    pairs = world(2000)
    sample = draw_sample(pairs, 400, 0)
    for item in sample:
        if item.kind.rule("short") is NO:
            assert sample.strata[item.stratum].name.endswith("· short")
    rare = [stratum for stratum in sample.strata if stratum.name.endswith("· short")]
    assert rare
    assert all(stratum.drawn >= min(stratum.size, 5) for stratum in rare)


def test_strata_are_coarser_where_n_is_small_and_refused_where_it_is_too_small() -> None:
    pairs = world(2000)
    assert draw_sample(pairs, 400, 0).by == "outcome, side, verdict, rule"
    assert draw_sample(pairs, 40, 0).by == "outcome, side, verdict"
    assert draw_sample(pairs, 14, 0).by == "side, verdict"
    with pytest.raises(AuditError, match=r"n = 5: the judge's verdicts make 6 strata, and each needs 2\. Ask for 12"):
        draw_sample(pairs, 5, 0)
    for n in (400, 40, 14):
        assert all(s.drawn >= min(LEAST, s.size) for s in draw_sample(pairs, n, 0).strata), n


def test_nothing_to_draw_from_is_refused() -> None:
    with pytest.raises(AuditError, match="0 responses: there is nothing to draw from"):
        draw_sample([], 10)


def test_a_text_that_is_drawn_twice_is_asked_about_once() -> None:
    same = [
        Unit(f"{i}/chosen", user_prompt("q"), "the same" if i < 4 else f"other {i}", verdict(), "NEUTRAL", "chosen")
        for i in range(8)
    ]
    sample = draw(lambda: same, 8, 0)
    assert len(sample) == 8
    assert len(sample.questions) == 5
    assert {item.id for item in sample.questions} == {item.id for item in sample}


def test_the_order_of_the_items_tells_nothing_of_the_verdict() -> None:
    sample = draw_sample(world(2000), 400, 0)
    half = [item.kind.label is NO for item in sample][:200]
    whole = [item.kind.label is NO for item in sample]
    assert abs(sum(half) / 200 - sum(whole) / 400) < 0.1
    assert all("chosen" not in item.id and "rejected" not in item.id for item in sample)


def test_rules_are_named_in_the_order_of_the_policy() -> None:
    sample = draw_sample([pair("a", verdict(["short"]), verdict()), pair("b", verdict(), verdict(["cite"]))], 8)
    assert sample.rules == RULES
    assert [unit.group for unit in units_of(pair("a", verdict(), verdict()))] == ["chosen", "rejected"]
