"""What holds of triage whatever the data, the oracle and the batch size."""

from __future__ import annotations

import itertools
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realigner.data import split_of
from realigner.errors import OracleError
from realigner.oracle import RuleOracle, ScriptedOracle
from realigner.policy import Policy, text_checks
from realigner.records import Correction, Direction, Judgement, Label, Outcome, Pair, Verdict, user_prompt
from realigner.triaging import TriageTally, direction, outcome, triage, write_triage
from realigner.triaging.store import GROUP_ROWS

TABLE = {
    # (chosen, rejected): the paper's Table of stage 1
    ("non_compliant", "compliant"): ("INVERT", "rejected_over_chosen"),
    ("non_compliant", "non_compliant"): ("PUNISH", "suppress_both"),
    ("compliant", "non_compliant"): ("CONFIRM", "retain"),
    ("compliant", "compliant"): ("NEUTRAL", "retain"),
}
LABEL_PAIRS = list(itertools.product(Label, repeat=2))


def by_name(question: Judgement) -> Label:
    """Responses begin with the label that they get."""
    return Label(question.response.split(maxsplit=1)[0])


def pair(number: int, chosen: Label, rejected: Label, prompt: str | None = None) -> Pair:
    text = f"prompt {number}" if prompt is None else prompt
    return Pair(str(number), user_prompt(text), f"{chosen} chosen", f"{rejected} rejected", f"f:{number}")


label_lists = st.lists(st.tuples(st.sampled_from(list(Label)), st.sampled_from(list(Label)), st.sampled_from("abc")))


@pytest.mark.parametrize("labels", LABEL_PAIRS)
def test_the_table_holds_for_every_pair_of_labels(labels: tuple[Label, Label]) -> None:
    found, way = TABLE.get((labels[0].value, labels[1].value), ("UNDECIDED", "none"))
    assert outcome(*labels) == found
    assert direction(outcome(*labels), has_correction=False) == way
    triaged = next(triage([pair(1, *labels)], ScriptedOracle(by_name)))
    assert (triaged.outcome, triaged.direction) == (found, way)


def test_exactly_twelve_of_the_sixteen_label_pairs_are_undecided() -> None:
    found = [outcome(*labels) for labels in LABEL_PAIRS]
    assert {name: found.count(name) for name in Outcome} == {
        Outcome.INVERT: 1,
        Outcome.PUNISH: 1,
        Outcome.CONFIRM: 1,
        Outcome.NEUTRAL: 1,
        Outcome.UNDECIDED: 12,
    }


def test_a_correction_turns_punish_only() -> None:
    assert direction(Outcome.PUNISH, has_correction=True) is Direction.CORRECTION_OVER_CHOSEN
    assert direction(Outcome.PUNISH, has_correction=True, over="both") is Direction.CORRECTION_OVER_BOTH
    for other in set(Outcome) - {Outcome.PUNISH}:
        with pytest.raises(ValueError, match=f"only PUNISH takes a correction, not {other}"):
            direction(other, has_correction=True)


@settings(deadline=None)
@given(label_lists, st.integers(1, 9))
def test_pairs_come_out_as_they_went_in_and_in_their_order(
    labels: list[tuple[Label, Label, str]], batch_size: int
) -> None:
    pairs = [pair(i, chosen, rejected, prompt) for i, (chosen, rejected, prompt) in enumerate(labels)]
    triaged = list(triage(pairs, ScriptedOracle(by_name), batch_size=batch_size))
    assert [item.pair for item in triaged] == pairs
    for item, (chosen, rejected, _) in zip(triaged, labels, strict=True):
        assert (item.chosen_verdict.label, item.rejected_verdict.label) == (chosen, rejected)


@settings(deadline=None)
@given(label_lists)
def test_the_result_and_the_tally_do_not_depend_on_the_batch_size(labels: list[tuple[Label, Label, str]]) -> None:
    pairs = [pair(i, chosen, rejected, prompt) for i, (chosen, rejected, prompt) in enumerate(labels)]
    fixes = {str(i): Correction(str(i), "compliant fix" if i % 2 else "unsure fix", "c") for i in range(0, 12)}

    def result(batch_size: int) -> object:
        tally = TriageTally()
        oracle = ScriptedOracle(by_name)
        rows = list(triage(pairs, oracle, corrections=fixes, batch_size=batch_size, tally=tally))
        return rows, tally.as_dict()

    assert result(1) == result(2) == result(5) == result(1000)


@settings(deadline=None)
@given(label_lists, st.integers(0, 5), st.floats(0, 1))
def test_the_split_goes_by_prompt_and_not_by_verdict(
    labels: list[tuple[Label, Label, str]], seed: int, fraction: float
) -> None:
    pairs = [pair(i, chosen, rejected, prompt) for i, (chosen, rejected, prompt) in enumerate(labels)]
    for item in triage(pairs, ScriptedOracle(by_name), seed=seed, eval_fraction=fraction):
        assert item.split == split_of(item.pair.prompt, seed, fraction)


def test_a_verdict_that_could_not_be_found_never_becomes_a_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_checks, "REGEX_SECONDS", 0.02)
    rule = {"id": "slow", "text": "A rule.", "forbid": {"regex": "(a|a)*$"}}
    policy = Policy.parse({"id": "p", "version": "1", "title": "t", "rules": [rule]})
    hostile = Pair("1", user_prompt("q"), "a" * 60 + "!", "a", "f:1")
    tally = TriageTally()
    fix = {"1": Correction("1", "fine", "c")}
    triaged = next(triage([hostile], RuleOracle(policy), corrections=fix, tally=tally))
    assert (triaged.outcome, triaged.direction, triaged.correction) == (Outcome.UNDECIDED, Direction.NONE, None)
    assert not triaged.outcome.is_conflict
    assert not triaged.outcome.is_retained
    assert tally.as_dict()["rules"]["slow"]["chosen"]["invalid"] == 1


def test_identical_questions_of_a_batch_are_asked_once() -> None:
    asked: list[Judgement] = []

    def remember(question: Judgement) -> Label:
        asked.append(question)
        return by_name(question)

    pairs = [pair(i, Label.COMPLIANT, Label.NON_COMPLIANT, prompt="same") for i in range(10)]
    list(triage(pairs, ScriptedOracle(remember)))
    assert len(asked) == 2


def test_the_oracle_never_gets_more_questions_than_the_batch_size() -> None:
    sizes: list[int] = []

    class Counting:
        identity = "counting/1"

        def judge(self, questions: Sequence[Judgement]) -> list[Verdict]:
            sizes.append(len(questions))
            return [Verdict(Label.NON_COMPLIANT) for _ in questions]

    pairs = [pair(i, Label.COMPLIANT, Label.COMPLIANT) for i in range(25)]
    fixes = {str(i): Correction(str(i), "fix", "c") for i in range(25)}
    for batch_size in (1, 2, 3, 8):
        sizes.clear()
        list(triage(pairs, Counting(), corrections=fixes, batch_size=batch_size))
        assert max(sizes) <= batch_size
        assert sum(sizes) == 75


def test_a_pair_is_yielded_before_the_next_batch_is_read() -> None:
    read: list[int] = []

    def source() -> Iterator[Pair]:
        for i in range(1000):
            read.append(i)
            yield pair(i, Label.COMPLIANT, Label.COMPLIANT)

    next(triage(source(), ScriptedOracle(by_name), batch_size=16))
    assert len(read) == 8


def test_a_batch_size_below_one_is_refused_at_once() -> None:
    with pytest.raises(OracleError, match="batch_size = 0"):
        triage([], ScriptedOracle(by_name), batch_size=0)


def test_memory_does_not_grow_with_the_number_of_pairs() -> None:
    def peak(count: int) -> int:
        pairs = (pair(i, Label.NON_COMPLIANT, Label.COMPLIANT, f"{i:06} " * 100) for i in range(count))
        tracemalloc.start()
        try:
            with tempfile.TemporaryDirectory() as folder:
                written = write_triage(triage(pairs, ScriptedOracle(by_name), tally=TriageTally()), Path(folder) / "t")
            assert written == count
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(1)  # so that importing pyarrow is not measured
    # Two row groups are alive at once; three more, of 0.7 MB each in prompts alone, are in the second run.
    first, second = peak(3 * GROUP_ROWS), peak(6 * GROUP_ROWS)
    assert second < first * 1.1 + 100_000


def test_the_stage_imports_nothing_heavy() -> None:
    heavy = {"torch", "transformers", "datasets", "matplotlib", "scipy", "pyarrow", "numpy"}
    code = "import sys, realigner.triaging, realigner.oracle, realigner.policy; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "realigner.triaging.store" in loaded
    assert heavy.isdisjoint(loaded)
