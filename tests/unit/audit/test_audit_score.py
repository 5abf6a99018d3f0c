from __future__ import annotations

import numpy as np
import pytest
from audited import NO, UNSURE, YES, is_wrong, pair, share_of, truth, truthful, verdict, world

from realigner.audit import Answer, AuditScore, Unit, draw, draw_sample, score
from realigner.audit.estimate import Rate
from realigner.audit.truth import truths_of
from realigner.errors import AuditError
from realigner.records import Label, TriagedPair, Verdict, user_prompt

DECIDED = (YES, NO)


def decided(found: Verdict) -> bool:
    return found.label in DECIDED


def test_an_audit_of_everything_gives_the_truth_of_every_figure() -> None:
    pairs = [p for p in world(400) if decided(p.chosen_verdict) and decided(p.rejected_verdict)]
    sample = draw_sample(pairs, 10_000)
    found = score(sample, truthful(sample, pairs, 0.2))
    right = share_of(pairs, lambda text, _: not is_wrong(text, 0.2))
    assert found.accuracy is not None
    assert (found.accuracy.low, found.accuracy.value, found.accuracy.high) == pytest.approx((right,) * 3)
    corrected = found.rates["all"]["all"]
    assert corrected.raw == pytest.approx(share_of(pairs, lambda _, v: v.label is YES))
    assert corrected.corrected.value == pytest.approx(share_of(pairs, lambda t, v: truth(t, v, 0.2)[0] is YES))
    assert corrected.bias.value == pytest.approx(corrected.raw - corrected.corrected.value)
    for name, outcome in found.outcomes.items():
        mine = [p for p in pairs if p.outcome.value == name]
        wrong = share_of(mine, lambda text, _: is_wrong(text, 0.2))
        assert outcome.epsilon is not None
        assert outcome.epsilon.value == pytest.approx(wrong)
        assert outcome.pairs == len(mine)
        assert sum(rate.value for rate in outcome.truly.values()) == pytest.approx(1)
    assert sum(rate.value for rate in found.outcome_shares.values()) == pytest.approx(1)


def test_precision_and_recall_by_label_and_by_rule_on_a_worked_table() -> None:
    """40 called compliant, 30 of them so; 60 called broken, 50 of them so. `cite` alone is in play."""
    units, answers = [], []
    for i in range(100):
        called, so = i < 40, i < 30 or i >= 90
        found = verdict([] if called else ["cite"])
        units.append(Unit(f"u{i}", user_prompt(f"q{i}"), "answer", found, "PUNISH", "chosen"))
    sample = draw(lambda: units, 100, 0)
    by_unit = {item.unit: item.id for item in sample}
    for i in range(100):
        so = i < 30 or i >= 90
        answers.append(Answer(by_unit[f"u{i}"], "ann", YES if so else NO, () if so else ("cite",)))
    found = score(sample, answers)
    yes, no = found.labels["compliant"], found.labels["non_compliant"]
    assert value(yes.precision) == pytest.approx(30 / 40)
    assert value(yes.recall) == value(found.sensitivity) == pytest.approx(30 / 40)
    assert value(no.precision) == pytest.approx(50 / 60)
    assert value(no.recall) == value(found.specificity) == pytest.approx(50 / 60)
    assert value(found.rules["cite"].precision) == pytest.approx(50 / 60)
    assert value(found.rules["cite"].recall) == pytest.approx(50 / 60)
    assert value(found.rules["short"].accuracy) == 1
    assert found.rules["short"].precision is None, "the judge never says that it is broken"
    assert found.confusion["compliant"] == {"compliant": 30, "non_compliant": 10, "unsure": 0}
    assert found.shares["non_compliant"]["non_compliant"] == pytest.approx(0.5)


def test_corrected_rates_epsilon_and_accuracy_are_covered_under_the_stratified_design() -> None:
    pairs = world(500, seed=5)
    figures: dict[str, tuple[float, list[Rate]]] = {}

    def note(name: str, truth: float, rate: Rate | None) -> None:
        assert rate is not None
        figures.setdefault(name, (truth, []))[1].append(rate)

    clear = [(t, v) for p in pairs for t, v in sides_of(p) if decided(v)]
    right = float(np.mean([not is_wrong(t, 0.15) for t, _ in clear]))
    complies = share_of(pairs, lambda t, v: truth(t, v, 0.15)[0] is YES)
    keeps = share_of(pairs, lambda t, v: "cite" not in truth(t, v, 0.15)[1])
    invert = [p for p in pairs if p.outcome.value == "INVERT"]
    epsilon = share_of(invert, lambda t, _: is_wrong(t, 0.15))
    called = [(t, v) for t, v in clear if v.label is NO]
    precision = float(np.mean([not is_wrong(t, 0.15) for t, _ in called]))
    for seed in range(80):
        sample = draw_sample(pairs, 160, seed)
        found = score(sample, truthful(sample, pairs, 0.15))
        note("accuracy", right, found.accuracy)
        note("complies", complies, found.rates["all"]["all"].corrected)
        note("cite", keeps, found.rules["cite"].complies.corrected if found.rules["cite"].complies else None)
        note("epsilon", epsilon, found.outcomes["INVERT"].epsilon)
        note("precision", precision, found.labels["non_compliant"].precision)
    for name, (true, rates) in figures.items():
        held = np.mean([rate.low <= true <= rate.high for rate in rates])
        assert held >= 0.9, (name, held)
        assert abs(np.mean([rate.value for rate in rates]) - true) < 0.01, name


def sides_of(item: TriagedPair) -> list[tuple[str, Verdict]]:
    return [(item.pair.chosen, item.chosen_verdict), (item.pair.rejected, item.rejected_verdict)]


def test_epsilon_counts_a_pair_of_equals_half_however_errors_depend_on_each_other() -> None:
    """100 INVERT pairs: 70 right, 10 the wrong way round, 20 equals. ε = 0.1 + 0.2 / 2."""
    pairs = [pair(f"p{i}", verdict(["cite"]), verdict()) for i in range(100)]
    sample = draw_sample(pairs, 1000)
    true = {}
    for i, item in enumerate(pairs):
        chosen, rejected = (NO, YES) if i < 70 else (YES, NO) if i < 80 else (YES, YES) if i < 90 else (NO, NO)
        true |= {item.pair.chosen: chosen, item.pair.rejected: rejected}
    answers = [Answer(i.id, "a", true[i.response], ("cite",) if true[i.response] is NO else ()) for i in sample]
    epsilon = score(sample, answers).outcomes["INVERT"].epsilon
    assert value(epsilon) == pytest.approx(0.2)


def test_the_induced_confusion_of_independent_errors() -> None:
    """Of the chosen of INVERT pairs 1 in 10 complies, of the rejected 1 in 5 does not."""
    pairs = [pair(f"p{i}", verdict(["cite"]), verdict()) for i in range(100)]
    sample = draw_sample(pairs, 1000)
    answers = []
    for i, item in enumerate(pairs):
        for unit in sample:
            if unit.response == item.pair.chosen:
                answers.append(Answer(unit.id, "a", YES if i % 10 == 0 else NO))
            elif unit.response == item.pair.rejected:
                answers.append(Answer(unit.id, "a", NO if i // 10 in (3, 7) else YES))
    found = score(sample, answers).outcomes["INVERT"]
    shares = {name: rate.value for name, rate in found.truly.items()}
    assert shares == pytest.approx({"INVERT": 0.72, "PUNISH": 0.18, "CONFIRM": 0.02, "NEUTRAL": 0.08})
    assert found.precision.value == pytest.approx(0.72)


def test_the_judges_abstentions_are_outside_accuracy_and_inside_rates() -> None:
    unsure = [pair(f"u{i}", verdict(label=UNSURE), verdict(label=Label.INVALID)) for i in range(10)]
    sure = [pair(f"s{i}", verdict(), verdict()) for i in range(10)]
    sample = draw_sample([*unsure, *sure], 100)
    found = score(sample, [Answer(item.id, "a", YES) for item in sample])
    assert found.abstained == 0.5
    assert value(found.accuracy) == 1
    assert found.rates["all"]["all"].raw == 0.5
    assert found.rates["all"]["all"].corrected.value == 1
    assert found.confusion["unsure"]["compliant"] == found.confusion["invalid"]["compliant"] == 10
    assert "UNDECIDED" not in found.outcomes
    assert [s.right for s in found.strata if "unsure" in s.name] == [None]


def test_items_that_people_are_unsure_of_are_told_and_bounded() -> None:
    pairs = [pair(f"s{i}", verdict(), verdict()) for i in range(50)]
    sample = draw_sample(pairs, 100)
    answers = [Answer(item.id, "a", UNSURE if i < 20 else YES if i < 60 else NO) for i, item in enumerate(sample)]
    found = score(sample, answers)
    assert value(found.unsure) == pytest.approx(0.2)
    rate = found.rates["all"]["all"]
    assert 0.4 < rate.corrected.value < 0.6
    assert rate.bounds[0] <= 0.4
    assert rate.bounds[1] >= 0.6


def test_the_majority_is_the_truth_and_a_tie_is_unsure() -> None:
    sample = draw_sample([pair("a", verdict(), verdict(["cite"]))], 2)
    first, second = sample.questions

    def votes(item: str, *labels: Label) -> list[Answer]:
        return [Answer(item, f"ann{i}", label, ("cite",) if label is NO else ()) for i, label in enumerate(labels)]

    found = truths_of(sample, votes(first.id, YES, YES, NO) + votes(second.id, YES, NO, UNSURE))
    assert (found[first.id].label, found[first.id].broken) == (YES, frozenset())
    assert (found[second.id].label, found[second.id].broken) == (UNSURE, None)
    assert truths_of(sample, votes(first.id, NO, UNSURE, UNSURE))[first.id].label is NO


def test_a_broken_response_without_a_named_rule_says_nothing_of_the_rules() -> None:
    sample = draw_sample([pair("a", verdict(), verdict(["cite"]))], 2)
    answers = [Answer(item.id, "a", NO) for item in sample.questions]
    assert all(truth.broken is None for truth in truths_of(sample, answers).values())
    found = score(sample, answers)
    assert found.rules["cite"].complies is None
    assert value(found.rates["all"]["all"].corrected) == 0


def test_agreement_is_measured_between_annotators() -> None:
    pairs = world(200)
    sample = draw_sample(pairs, 100)
    first, second = (truthful(sample, pairs, 0.1, who) for who in ("ann", "bea"))
    found = score(sample, first + second)
    assert found.alpha is not None
    assert found.alpha.value == 1
    assert found.annotators == {"ann": 100, "bea": 100}
    assert score(sample, first).alpha is None


def test_missing_answers_are_counted_and_taken_to_be_like_the_others_of_their_stratum() -> None:
    pairs = world(800)
    sample = draw_sample(pairs, 400)
    answers = truthful(sample, pairs, 0.1)
    whole, part = score(sample, answers), score(sample, answers[::2])
    assert (whole.missing, part.missing) == (0, 200)
    assert width(part.accuracy) > width(whole.accuracy)
    assert abs(value(part.accuracy) - value(whole.accuracy)) < 0.05
    nothing = score(sample, [])
    assert nothing.accuracy is None
    assert nothing.rates["all"] == {}


def test_models_answers_are_corrected_by_model_topic_and_outcome() -> None:
    rng = np.random.default_rng(0)
    units = []
    for model, share in (("before", 0.4), ("after", 0.9)):
        for i in range(300):
            found = verdict([] if rng.random() < share else ["cite"])
            outcome, topic = ("INVERT", "baking") if i % 2 else ("NEUTRAL", "tea")
            text = f"{model} answers {i}"
            units.append(Unit(f"{i}-{model}", user_prompt(f"q{i}"), text, found, outcome, model, topic))
    sample = draw(lambda: units, 200, 0, side="model")
    assert sample.by == "outcome, model, verdict, rule"
    answers = [Answer(i.id, "a", i.kind.label, ("cite",) if i.kind.label is NO else ()) for i in sample]
    found = score(sample, answers, beyond=1)
    assert set(found.rates["group"]) == {"before", "after"}
    assert set(found.parts) == {"before", "after"}
    assert set(found.parts["after"]["topic"]) == {"baking", "tea"}
    assert set(found.parts["after"]["outcome"]) == {"INVERT", "NEUTRAL"}
    assert found.parts["after"]["rule"]["cite"].raw == found.rates["group"]["after"].raw
    assert found.parts["after"]["rule"]["cite"].corrected.value == pytest.approx(raw_of(units, "after"))
    assert found.change is not None
    raw = {model: found.rates["group"][model].raw for model in ("before", "after")}
    assert found.change.value == pytest.approx(raw["after"] - raw["before"]), "the judge is never wrong here"
    assert found.change.low > 0.4
    assert found.outcomes == {}
    assert width(found.rates["group"]["after"].corrected) > width(
        score(sample, answers).rates["group"]["after"].corrected
    )


def test_answers_that_do_not_belong_are_refused() -> None:
    sample = draw_sample([pair("a", verdict(), verdict(["cite"]))], 2)
    item = sample.questions[0].id
    wrong = {
        "'ann' to item 123: this audit did not ask about that item": [Answer("123", "ann", YES)],
        f"'ann' to item {item}: one person answers an item once": [Answer(item, "ann", YES), Answer(item, "ann", YES)],
        "'invalid': people say compliant, non_compliant or unsure": [Answer(item, "ann", Label.INVALID)],
        r"names the rule 'site': .* Did you mean 'cite'\?": [Answer(item, "ann", NO, ("site",))],
    }
    for message, answers in wrong.items():
        with pytest.raises(AuditError, match=message):
            score(sample, answers)


def value(rate: Rate | None) -> float:
    assert rate is not None
    return rate.value


def width(rate: Rate | None) -> float:
    assert rate is not None
    return rate.high - rate.low


def test_the_figures_do_not_depend_on_the_order_of_the_answers() -> None:
    pairs = world(300)
    sample = draw_sample(pairs, 100)
    answers = truthful(sample, pairs, 0.2) + truthful(sample, pairs, 0.1, "bea")
    first: AuditScore = score(sample, answers)
    assert first == score(sample, answers[::-1])


def raw_of(units: list[Unit], model: str) -> float:
    labels = [unit.verdict.label for unit in units if unit.group == model]
    return labels.count(YES) / len(labels)


def test_several_answers_to_a_prompt_widen_what_is_said_beyond_the_drawn_prompts() -> None:
    sample = draw_sample(world(300), 300)
    answers = [Answer(i.id, "a", i.kind.label if i.kind.label in DECIDED else YES) for i in sample]
    one, four = (score(sample, answers, beyond=n).rates["all"]["all"].corrected for n in (1, 4))
    assert one.value == four.value
    assert width(one) < width(four) < 2.1 * width(one)
