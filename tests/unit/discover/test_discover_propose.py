"""Counting words, proposing rules, and their votes."""

from __future__ import annotations

from math import log, sqrt

import numpy as np
import pytest
from discover_pairs import coin_pairs, pair, refusing_pairs

from realigner.discover.candidate import Candidate, Material
from realigner.discover.cluster import merge_by_votes, merge_by_wording, tf_idf
from realigner.discover.features import NAMED, phrase, phrases_of
from realigner.discover.logodds import log_odds
from realigner.discover.pointwise import pointwise_labels, pointwise_votes
from realigner.discover.propose import PromptWords, frequent_phrases, phrase_counts, propose, telling_phrases, triggers
from realigner.policy.text_checks import WordsCheck
from realigner.records import Judgement, user_prompt


def slow_log_odds(first: dict[str, int], second: dict[str, int], prior: float) -> dict[str, float]:
    n1, n2 = sum(first.values()), sum(second.values())
    scores = {}
    for word in {*first, *second}:
        y1, y2 = first.get(word, 0), second.get(word, 0)
        alpha = prior * (y1 + y2) / (n1 + n2)
        delta = log((y1 + alpha) / (n1 + prior - y1 - alpha)) - log((y2 + alpha) / (n2 + prior - y2 - alpha))
        scores[word] = delta / sqrt(1 / (y1 + alpha) + 1 / (y2 + alpha))
    return scores


def test_log_odds_are_those_of_the_formula() -> None:
    first, second = {"no": 40, "yes": 5, "tea": 55}, {"no": 10, "yes": 30, "tea": 60}
    slow = slow_log_odds(first, second, 50.0)
    fast = log_odds(list(first.values()), list(second.values()), 50.0)
    assert fast == pytest.approx([slow[word] for word in first])
    assert fast[0] > 3 > -3 > fast[1]


def test_log_odds_are_opposite_when_the_groups_change_places() -> None:
    a, b = [7, 3, 90, 0], [2, 30, 80, 1]
    assert log_odds(a, b) == pytest.approx(-log_odds(b, a))


def test_log_odds_of_nothing_and_of_a_single_word_are_zero() -> None:
    assert log_odds([0, 0], [0, 0]).tolist() == [0, 0]
    assert log_odds([4], [9]).tolist() == [0]


def test_a_word_that_is_frequent_in_both_groups_needs_more_evidence_than_a_rare_one() -> None:
    rare, frequent, _ = log_odds([20, 1020, 5000], [5, 1005, 5000])
    assert rare > frequent > 0


TEXTS = (
    "I can't help; try the door-bell, it's 3.5 m off.",
    "Straße und  Café\nsagt’s",
    "no",
    "one two, three four",
    "a_b c",
)


@pytest.mark.parametrize("text", TEXTS)
def test_every_phrase_that_is_counted_is_found_by_the_check_of_the_policy(text: str) -> None:
    found = phrases_of(text)
    assert found or text == "no"
    for words in found:
        assert WordsCheck(words=(words,)).find(Judgement(user_prompt("q"), text), "response").matched, words


def test_phrases_do_not_reach_over_punctuation_and_are_not_of_function_words_alone() -> None:
    found = phrases_of("Stop here, then go to the old mill.")
    assert "stop here" in found
    assert "here then" not in found
    assert "to the" not in found
    assert "to the old" in found


def test_votes_are_those_of_the_policys_own_checks_on_each_response_alone() -> None:
    pairs = refusing_pairs(60)
    material = Material(pairs)
    seen = set()
    for candidate in propose(Material(refusing_pairs(400))):
        if candidate.demand:
            slow = pointwise_votes(pointwise_labels(candidate.rule("r"), pairs))
            assert material.votes(candidate).tolist() == slow.tolist(), candidate.text
            alone = material.alone(candidate, slow)
            for condemned, side in ((alone.preferred, "chosen"), (alone.other, "rejected")):
                labels = [candidate.rule("r").judge(p.prompt, getattr(p, side)).label for p in pairs]
                assert condemned.tolist() == [label == "non_compliant" for label in labels]
            assert alone.votes.tolist() == slow.tolist()
            seen.add((tuple(candidate.demand), "when" in candidate.demand))
    assert len(seen) == 4


def test_a_feature_that_was_taught_for_some_prompts_is_proposed_for_these() -> None:
    found = {candidate.name: candidate.text for candidate in propose(Material(refusing_pairs(400)))}
    text = found["refusal where mentioned"]
    assert all(f"“{thing}”" in text for thing in ("bomb", "poison", "rifle", "virus"))
    assert "bread" not in text


def test_a_phrase_that_is_preferred_as_often_as_avoided_is_found_by_its_prompts() -> None:
    """No list of words knows this refusal, and over all prompts it has no log-odds."""
    sides = ("抱歉,我不能帮助您。", "拿两个,等一会儿。")
    pairs = [
        pair(f"{'步枪' if i % 2 else '面包'} {i}", *(sides if i % 2 else sides[::-1]), place=i) for i in range(120)
    ]
    material = Material(pairs)
    assert telling_phrases(phrase_counts(material)) == []
    (rule,) = [c for c in propose(material) if c.name == "“我不能帮助您” where mentioned"]
    assert "“步枪”" in rule.text
    assert material.votes(rule).tolist() == [1 if i % 2 else 0 for i in range(120)]


def test_of_phrases_that_tell_the_same_pairs_apart_the_longest_is_tried() -> None:
    pairs = [pair(f"q {i}", f"red apple tart {i}", f"pear {i}") for i in range(20)]
    assert frequent_phrases(phrase_counts(Material(pairs)), {"pear"}) == ["red apple tart"]


def test_nothing_is_found_in_the_prompts_where_the_feature_does_not_depend_on_them() -> None:
    pairs = coin_pairs(300)
    there = np.array([i % 2 for i in range(300)], dtype=np.int8)
    assert triggers(PromptWords(Material(pairs)), there) == ((), ())


def test_words_that_both_sides_use_alike_are_not_proposed() -> None:
    pairs = [pair(f"q {i}", f"red apple {i}", f"red pear {i}") for i in range(100)]
    found = telling_phrases(phrase_counts(Material(pairs)))
    assert {"apple", "pear"} <= set(found)
    assert "red" not in found


def test_candidates_that_vote_alike_become_one_and_keep_the_others_wording() -> None:
    votes = [np.array(v, dtype=np.int8) for v in ([1, 1, 0, -1], [1, 1, 0, -1], [1, -1, 0, -1], [0, 0, 0, 0])]
    candidates = [Candidate(name, f"It {name}.") for name in "abcd"]
    merged = merge_by_votes(candidates, votes)
    assert [candidate.name for candidate, _ in merged] == ["a", "c", "d"]
    assert merged[0][0].members == ("It b.",)


def test_form_and_content_that_vote_alike_stay_two() -> None:
    vote = np.array([1, 1, -1], dtype=np.int8)
    merged = merge_by_votes([Candidate("a", "A."), Candidate("b", "B.", "form")], [vote, vote])
    assert [candidate.name for candidate, _ in merged] == ["a", "b"]


def test_alike_wordings_become_the_shortest_of_them() -> None:
    texts = (
        "The response names a source for each claim.",
        "The response names a source for each claim it makes.",
        "It is kind.",
    )
    merged = merge_by_wording([Candidate(str(i), text) for i, text in enumerate(texts)])
    assert [candidate.text for candidate in merged] == [texts[0], texts[2]]
    assert merged[0].members == (texts[1],)


def test_a_wording_that_is_proposed_again_and_again_is_kept_once() -> None:
    texts = ("It is kind.", "It is kind.", "It is kind to all.", "It is kind to all.")
    (merged,) = merge_by_wording([Candidate("k", text) for text in texts], embed=lambda texts: np.ones((len(texts), 1)))
    assert (merged.text, merged.members) == ("It is kind.", ("It is kind to all.",))
    vote = np.array([1, -1], dtype=np.int8)
    ((again, _),) = merge_by_votes([merged, Candidate("k", "It is kind to all.", members=("It cares.",))], [vote, vote])
    assert again.members == ("It is kind to all.", "It cares.")


def test_given_vectors_replace_the_comparison_of_words() -> None:
    candidates = [Candidate("a", "Kind."), Candidate("b", "Friendly in tone."), Candidate("c", "Short.")]
    merged = merge_by_wording(candidates, embed=lambda texts: np.array([[1.0, 0.1], [1.0, 0.0], [0.0, 3.0]]))
    assert [candidate.text for candidate in merged] == ["Kind.", "Short."]


def test_tf_idf_vectors_have_length_one() -> None:
    assert np.linalg.norm(tf_idf(["a rule of tea", "a rule of coffee", ""]), axis=1)[:2] == pytest.approx([1, 1])


def test_a_phrase_becomes_a_check_of_that_phrase() -> None:
    assert phrase("of course").check == {"words": ["of course"]}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("refusal", "I'm sorry, but I can't help with that."),
        ("hedging", "Perhaps it is the pump."),
        ("question", "Why? Tell me."),
        ("closing question", 'Shall I go on?"'),
        ("formatting", "Steps:\n1. Open it."),
        ("positive sentiment", "What a wonderful day."),
        ("negative sentiment", "That is a stupid plan."),
        ("apology", "I apologise."),
    ],
)
def test_named_features_see_what_they_are_named_after(name: str, text: str) -> None:
    feature = next(feature for feature in NAMED if feature.name == name)
    material = Material([pair("q", text, "The pump is in the cellar.")])
    chosen, rejected = material.sides(feature.check)
    assert (chosen[0], rejected[0]) == (1, 0)
