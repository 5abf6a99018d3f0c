"""From old preferences to a policy, or to the statement that there is none."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
from discover_pairs import coin_pairs, longer_pairs, pair, refusing_pairs

from realigner.discover import discover
from realigner.discover.bias import Bias, _score, find_biases
from realigner.discover.candidate import Alone, Candidate
from realigner.discover.controls import _shrunk, controls, lasso
from realigner.discover.run import side_of
from realigner.discover.select import length_alone, margin, passes, right, select, weight_of
from realigner.discover.validate import by_prompt, figures
from realigner.errors import DataError
from realigner.evaluate.statistics import Interval
from realigner.policy import Policy


def votes(*counts: tuple[int, int]) -> np.ndarray:
    return np.concatenate([np.full(count, value, dtype=np.int8) for value, count in counts])


def test_a_policy_that_was_taught_is_found_and_can_be_run(tmp_path: Path) -> None:
    pairs = refusing_pairs(600)
    found = discover(pairs)
    assert found.recovered
    assert found.reconstruction is not None
    assert found.reconstruction["value"] == 1
    assert not [bias for bias in found.biases if bias.named]
    found.write(tmp_path / "recovered.yaml")
    policy = Policy.load(tmp_path / "recovered.yaml")
    assert policy == found.policy
    wrong = [p for p in pairs if policy.judge(p.prompt, p.chosen).label != "compliant"]
    assert len(wrong) <= 0.02 * len(pairs)
    right_refused = [p for p in pairs if policy.judge(p.prompt, p.rejected).label != "non_compliant"]
    assert len(right_refused) <= 0.02 * len(pairs)


def test_the_files_name_the_evidence_of_each_rule(tmp_path: Path) -> None:
    pairs = refusing_pairs(400)
    found = discover(pairs)
    found.write(tmp_path / "r.yaml")
    data = json.loads((tmp_path / "r.json").read_text())
    ids = {p.id for p in pairs}
    for rule in data["rules"]:
        assert set(rule["supports"]) <= ids
        assert rule["reproduced"] == 1
        assert f"supported by: {rule['supports'][0]}" in (tmp_path / "r.yaml").read_text()
    assert "# By its verdicts on single responses the policy gives back 100.0% (" in (tmp_path / "r.yaml").read_text()


def test_at_forty_per_cent_noise_it_abstains_and_writes_no_policy(tmp_path: Path) -> None:
    found = discover(refusing_pairs(1500, noise=0.4))
    assert not found.recovered
    assert found.verdict.startswith("ABSTAINS")
    assert [path.name for path in found.write(tmp_path / "r.yaml")] == ["r.json"]
    assert not (tmp_path / "r.yaml").exists()


def test_rules_that_condemn_most_of_what_was_preferred_are_not_the_policy() -> None:
    found = discover(refusing_pairs(400))
    assert found.recovered
    assert found.preferred_kept is not None
    kept: Interval = {**found.preferred_kept, "value": 0.52, "low": 0.49}
    condemning = replace(found, preferred_kept=kept)
    assert not condemning.recovered
    assert "judging one response alone they find only 52.0%" in condemning.verdict


def test_a_coin_teaches_nothing() -> None:
    found = discover(coin_pairs(500))
    assert not found.recovered
    assert found.rules == ()
    assert found.verdict == "ABSTAINS: no rule tells the old preferences apart beyond chance"
    assert "not measured" in "\n".join(found.lines())


def test_length_is_named_as_a_bias_and_never_written_as_a_rule() -> None:
    found = discover(longer_pairs(600))
    named = [bias for bias in found.biases if bias.named]
    assert [bias.form for bias in named] == ["longer"]
    assert named[0].low > 1
    assert "longer responses: odds × " in "\n".join(found.lines())
    assert "a BIAS, not policy" in "\n".join(found.lines())
    assert found.policy is None or all("longer" not in rule.text for rule in found.policy.rules)
    assert not found.recovered
    # The share of longer preferred responses is 0.9; only they can be explained by length.
    assert len(found.unrelated["longer"]) == pytest.approx(0.9 * 600, rel=0.05)


def test_the_same_pairs_give_the_same_result_in_any_order() -> None:
    pairs = refusing_pairs(400, noise=0.1)
    shuffled = list(pairs)
    Random(1).shuffle(shuffled)
    assert discover(pairs).policy == discover(shuffled).policy


def test_all_pairs_of_a_prompt_are_on_one_side_and_the_seed_moves_them() -> None:
    pairs = [pair(f"prompt {i % 40}", f"a {i}", f"b {i}") for i in range(400)]
    sides = {(p.prompt[0]["content"], side_of(p, 0)) for p in pairs}
    assert len(sides) == 40
    assert {side_of(p, 0) for p in pairs} == {"propose", "validate", "held_out"}
    assert [side_of(p, 0) for p in pairs] != [side_of(p, 1) for p in pairs]


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (refusing_pairs(199), r"199 pairs of 199 prompts: recovering a policy takes at least 200 pairs of 50 prompts"),
        ([pair("the same", f"a {i}", f"b {i}") for i in range(300)], r"300 pairs of 1 prompts: recovering"),
        (
            [pair(f"q {i}", "always this", f"b {i}") for i in range(300)],
            r"300 pairs whose chosen response is always the same: there is nothing to learn from constant data",
        ),
    ],
)
def test_hopeless_data_are_refused(pairs: list, message: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(DataError, match=message):
        discover(pairs)


def test_the_value_of_a_rule_is_twice_accuracy_minus_a_half_times_relevance() -> None:
    pairs = [pair(f"q {i}", f"a {i}", f"b {i}") for i in range(100)]
    found = figures(votes((1, 30), (-1, 10), (0, 60)), pairs, 0)
    assert found.accuracy is not None
    assert found.relevance is not None
    assert found.value is not None
    assert found.accuracy["value"] == 0.75
    assert found.relevance["value"] == 0.4
    assert found.value["value"] == pytest.approx(2 * (0.75 - 0.5) * 0.4)


def test_intervals_are_wider_where_pairs_share_prompts() -> None:
    alone = [pair(f"q {i}", f"a {i}", f"b {i}") for i in range(200)]
    shared = [pair(f"q {i // 20}", f"a {i}", f"b {i}") for i in range(200)]
    vote = votes(*[(1, 20), (-1, 20)] * 5)
    narrow, wide = (figures(vote, pairs, 0).accuracy for pairs in (alone, shared))
    assert narrow is not None
    assert wide is not None
    assert wide["high"] - wide["low"] > 2 * (narrow["high"] - narrow["low"])


def test_values_are_added_up_by_prompt() -> None:
    pairs = [pair("a", "1", "2"), pair("b", "1", "2"), pair("a", "3", "4")]
    assert by_prompt([1.0, 2.0, 4.0], pairs).tolist() == [5.0, 2.0]


def test_a_tie_counts_as_half() -> None:
    assert right(np.array([2.0, 0.0, -1.0])).tolist() == [1.0, 0.5, 0.0]
    assert margin([1.5, 1.5], [votes((1, 2)), votes((-1, 1), (1, 1))], 2).tolist() == [0.0, 3.0]


def test_weight_is_the_log_odds_of_being_right() -> None:
    assert weight_of(votes((1, 29), (-1, 9))) == pytest.approx(np.log(3))


def test_a_rule_needs_relevance_and_more_for_than_against_beyond_chance() -> None:
    assert passes(votes((1, 30), (-1, 10), (0, 100)))
    assert not passes(votes((1, 9), (0, 100))), "too few pairs"
    assert not passes(votes((1, 30), (0, 10_000))), "below the floor of relevance"
    assert not passes(votes((1, 21), (-1, 19), (0, 100))), "chance"


def test_a_word_that_only_follows_length_is_told_from_one_that_does_not() -> None:
    rng = np.random.default_rng(0)
    longer = rng.choice([1, -1], 400, p=[0.8, 0.2]).astype(np.int8)
    assert length_alone(rng.choice([1, -1], 400, p=[0.8, 0.2]).astype(np.int8), longer) == "clear"
    # It stands in either response by chance; the longer one is preferred.
    assert length_alone(rng.choice([1, -1], 400).astype(np.int8), longer) == "length"
    assert length_alone(longer, longer) == "cannot be told from length"


def selected(two: list[np.ndarray], condemned: list[float], alone: list[Alone] | None = None) -> list[str]:
    known = [Alone(vote < 0, vote > 0) for vote in two] if alone is None else alone
    kept = select([Candidate("a", "A."), Candidate("b", "B.")], two, two, condemned, votes((0, len(two[0]))), known)
    return [item.candidate.name for item in kept]


def test_a_rule_that_adds_nothing_is_not_kept() -> None:
    assert selected([votes((1, 80), (-1, 20))] * 2, [0.1, 0.2]) == ["a"]


def test_of_rules_that_add_alike_the_one_that_condemns_least_is_kept() -> None:
    assert selected([votes((1, 80), (-1, 20))] * 2, [0.5, 0.2]) == ["b"]


def test_rules_are_chosen_by_what_their_policy_gives_back_judged_alone() -> None:
    """The second rule votes on other pairs than the first, and condemns both responses of those that the first decides:
    a sum of votes gains by it, and a policy loses.
    """
    first, second = votes((1, 60), (0, 40)), votes((0, 60), (1, 40))
    harmless = Alone(np.zeros(100, bool), second > 0)
    assert selected([first, second], [0.0, 0.0], [Alone(first < 0, first > 0), harmless]) == ["a", "b"]
    greedy = Alone(first > 0, np.ones(100, bool))
    assert greedy.votes.tolist() == second.tolist()
    assert selected([first, second], [0.0, 0.6], [Alone(first < 0, first > 0), greedy]) == ["a"]


def test_what_a_rule_adds_must_be_beyond_chance_for_all_candidates_together() -> None:
    vote = votes((1, 30), (-1, 16), (0, 54))
    for count, kept in ((1, 1), (300, 0)):
        alone = [Alone(vote < 0, vote > 0)] * count
        rules = [Candidate(str(i), "A.") for i in range(count)]
        assert len(select(rules, [vote] * count, [vote] * count, [0.1] * count, votes((0, 100)), alone)) == kept


LENGTH = ("longer", "shorter")


def biases_of(form: np.ndarray, *content: np.ndarray, prompts: list[int] | None = None) -> list[Bias]:
    turned = [vote.astype(np.int8) for vote in content]
    return find_biases({LENGTH: form.astype(np.int8)}, {LENGTH: turned}, prompts or list(range(len(form))))


def test_form_that_repeats_what_content_says_is_no_bias() -> None:
    rng = np.random.default_rng(0)
    content = rng.choice([1, -1], 500, p=[0.8, 0.2])
    (found,) = biases_of(np.where(rng.random(500) < 0.7, content, -content), content)
    assert not found.named
    (found,) = biases_of(np.where(rng.random(500) < 0.7, content, -content))
    assert found.named, "without the content it looks like one"


def test_form_that_never_differs_where_content_is_equal_cannot_be_told_from_it() -> None:
    content = votes((1, 80), (-1, 20))
    assert biases_of(-content, content) == []
    assert biases_of(votes((0, 100)), content) == []


def test_odds_of_a_planted_bias_lie_in_their_interval() -> None:
    rng = np.random.default_rng(0)
    sides, form = rng.choice([1, -1], 4000), rng.choice([1, -1], 4000)
    won = rng.random(4000) < 1 / (1 + np.exp(-(1.0 * sides + 0.4 * form)))
    sign = np.where(won, 1, -1)
    (found,) = biases_of(form * sign, sides * sign)
    assert (found.form, found.named, found.n) == ("longer", True, 4000)
    assert found.low < np.exp(0.4) < found.high
    (turned,) = biases_of(-form * sign, sides * sign)
    assert (turned.form, turned.odds, turned.p) == ("shorter", found.odds, found.p)


def test_the_score_of_form_is_that_of_cochran_mantel_and_haenszel() -> None:
    from statsmodels.stats.contingency_tables import StratifiedTable

    rng = np.random.default_rng(1)
    content = [rng.choice([1, 0, -1], 300) for _ in range(2)]
    form = np.where(rng.random(300) < 0.7, np.where(content[0], content[0], content[1]), rng.choice([1, -1], 300))
    form[form == 0] = 1
    tables: dict[tuple[int, ...], np.ndarray] = {}
    for place in range(300):
        vote = [int(column[place]) for column in content]
        turn = next((v for v in vote if v), 1)
        key = tuple(v * turn for v in vote)
        if any(vote):
            tables.setdefault(key, np.zeros((2, 2)))[int(turn < 0), int(form[place] * turn < 0)] += 1
    told = np.any([column != 0 for column in content], axis=0)
    score, information, variance, n = _score(form[told], [column[told] for column in content], list(range(told.sum())))
    slow = StratifiedTable(list(tables.values())).test_null_odds()
    assert score**2 / information == pytest.approx(slow.statistic)
    assert variance == pytest.approx(information, rel=0.1), "every prompt has one pair"
    assert n == told.sum()


def test_pairs_of_equal_content_under_one_prompt_count_as_one() -> None:
    form = votes((1, 60), (-1, 40))
    (single,) = biases_of(form)
    (together,) = biases_of(form, prompts=[i // 20 for i in range(100)])
    assert together.odds == single.odds == pytest.approx(np.exp(0.4)), "Peto's estimate of 60 : 40"
    assert together.p > single.p


def test_controls_are_what_goes_with_the_preference_and_what_goes_with_form() -> None:
    rng = np.random.default_rng(0)
    columns = [rng.choice([1, 0, -1], 2000).astype(np.int8) for _ in range(40)]
    won = rng.random(2000) < 1 / (1 + np.exp(-2.0 * columns[3]))
    form = np.where(rng.random(2000) < 0.6, columns[7], rng.choice([1, -1], 2000))
    sign = np.where(won, 1, -1).astype(np.int8)
    found = controls([column * sign for column in columns], (form * sign).astype(np.int8))
    assert {3, 7} <= set(found)
    assert len(found) <= 4, "of 38 columns of noise hardly one passes"


def test_the_lasso_keeps_what_its_conditions_of_optimality_say() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 12))
    y = x[:, 0] + 0.5 * x[:, 1] + rng.normal(size=200)
    gram, product = x.T @ x / 200, x.T @ y / 200
    b = _shrunk(gram, product, 0.2)
    slope = gram @ b - product
    assert np.abs(slope[b == 0]).max() <= 0.2 + 1e-5
    assert slope[b != 0] == pytest.approx(-0.2 * np.sign(b[b != 0]), abs=1e-5)
    assert {0, 1} <= set(lasso(200 * gram, 200 * product, float(y @ y), 200))
    assert lasso(np.zeros((3, 3)), np.zeros(3), 1.0, 200) == []
