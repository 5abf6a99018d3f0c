"""The one-line verdict says what the intervals say, and no more."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from report_html import Page
from report_run import write_run

from realigner.report import render_report
from realigner.report.limits import read_limits
from realigner.report.rundir import RunFiles
from realigner.report.verdict import Verdict, read_verdict


def interval(value: float, half: float = 0.05, n: int = 200) -> dict[str, Any]:
    return {"value": value, "low": value - half, "high": value + half, "n": n, "method": "Wilson"}


def verdict(tmp_path: Path, agreement: object, oracle: object = None) -> Verdict:
    (tmp_path / "summary.json").write_text(json.dumps({"agreement": agreement, "oracle": oracle}), encoding="utf-8")
    return read_verdict(RunFiles(tmp_path))


def paired(low: float, high: float, p: float) -> dict[str, Any]:
    change = {**interval((low + high) / 2), "low": low, "high": high, "gained": 40, "lost": 10, "mcnemar_p": p}
    return {"before": interval(0.5), "after": interval(0.6), "change": change}


def test_a_change_above_zero_that_the_exact_test_confirms_is_improved(tmp_path: Path) -> None:
    found = verdict(tmp_path, paired(0.04, 0.2, 0.001))
    assert found.word == "improved"
    assert found.line.startswith(
        "Policy agreement improved: 50.0\u00a0% before, 60.0\u00a0% after, on 200 held-out prompts"
    )
    assert "40 became compliant and 10 ceased to be" in found.basis
    assert (
        "+12.0 percentage points (95 % interval +4.0 to +20.0, paired by prompt; McNemar exact p = 0.001)"
        in found.basis
    )


def test_a_change_below_zero_that_the_exact_test_confirms_is_worse(tmp_path: Path) -> None:
    found = verdict(tmp_path, paired(-0.2, -0.04, 0.0001))
    assert found.word == "worse"
    assert found.line.startswith("Policy agreement got worse")
    assert "−12.0 percentage points" in found.basis and "p < 0.001" in found.basis


@pytest.mark.parametrize(
    ("low", "high", "p"), [(-0.01, 0.2, 0.08), (-0.1, 0.1, 1.0), (0.01, 0.05, 0.06), (-0.05, -0.01, 0.06)]
)
def test_a_change_that_interval_and_exact_test_do_not_both_tell_from_chance_is_no_change(
    tmp_path: Path, low: float, high: float, p: float
) -> None:
    found = verdict(tmp_path, paired(low, high, p))
    assert found.word == "no measurable change"
    assert found.line.startswith("No measurable change in policy agreement")


@pytest.mark.parametrize(
    ("after", "word"),
    [(0.62, "improved"), (0.58, "no measurable change"), (0.42, "no measurable change"), (0.38, "worse")],
)
def test_without_a_paired_change_only_intervals_that_do_not_overlap_tell_one(
    tmp_path: Path, after: float, word: str
) -> None:
    found = verdict(tmp_path, {"before": interval(0.5), "after": interval(after)})
    assert found.word == word
    assert "was not measured prompt by prompt" in found.basis


def test_an_estimate_without_an_interval_is_never_called_a_change(tmp_path: Path) -> None:
    bare = {"value": 0.99, "n": 4, "low": None, "high": None, "method": ""}
    assert verdict(tmp_path, {"before": interval(0.1), "after": bare}).word == "no measurable change"


@pytest.mark.parametrize(
    ("oracle", "words"),
    [
        ({"same": True}, "judged by the same oracle that chose the training pairs"),
        ({"same": False}, "judged by an oracle that had no part in training"),
        ({}, "by a judge whose part in training was not recorded"),
    ],
    ids=["same", "other", "unknown"],
)
def test_the_line_says_whether_the_judge_trained_the_model(tmp_path: Path, oracle: object, words: str) -> None:
    assert words in verdict(tmp_path, paired(0.04, 0.2, 0.001), oracle).line


def test_different_numbers_of_prompts_are_both_stated(tmp_path: Path) -> None:
    agreement = {"before": interval(0.5, n=200), "after": interval(0.9, n=198)}
    assert "on 200 and 198 held-out prompts" in verdict(tmp_path, agreement).line


@pytest.mark.parametrize("agreement", [None, {}, {"before": interval(0.5)}, {"after": interval(0.5)}], ids=repr)
def test_without_both_figures_the_verdict_is_not_measured(tmp_path: Path, agreement: object) -> None:
    found = verdict(tmp_path, agreement)
    assert found.word == "not measured"
    assert found.line.startswith("Not measured")


@pytest.mark.parametrize(
    ("after", "words"),
    [
        (interval(6.0, 0.3), "perplexity 5.00 before, 6.00 after (+20.0\u00a0%, beyond both intervals)"),
        (interval(5.2, 0.3), "perplexity 5.00 before, 5.20 after (+4.0\u00a0%)"),
        (interval(4.0, 0.3), "perplexity 5.00 before, 4.00 after (−20.0\u00a0%)"),
    ],
    ids=["worse", "overlapping", "better"],
)
def test_the_cost_stands_beside_the_verdict(tmp_path: Path, after: dict[str, Any], words: str) -> None:
    summary = {"agreement": paired(0.04, 0.2, 0.001), "kl": interval(0.2), "perplexity": {"before": interval(5.0, 0.3)}}
    summary["perplexity"]["after"] = after
    (tmp_path / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    cost = f"Cost on retained responses: {words}; KL from the model before 0.200 nats per token."
    assert read_verdict(RunFiles(tmp_path)).cost == cost


@pytest.mark.usefixtures("without_pictures")
@pytest.mark.parametrize(
    ("before", "after", "line"),
    [
        (0.3, 0.9, "Policy agreement improved"),
        (0.9, 0.3, "Policy agreement got worse"),
        (0.6, 0.6, "No measurable change"),
    ],
)
def test_the_verdict_of_a_whole_run_heads_its_page(tmp_path: Path, before: float, after: float, line: str) -> None:
    page = Page(render_report(write_run(tmp_path / "run", before=before, after=after)))
    assert page.words.index(line) < page.words.index("Contents")


def test_limits_name_a_shared_judge_few_prompts_and_unclear_verdicts(tmp_path: Path) -> None:
    shared = " ".join(read_limits(RunFiles(write_run(tmp_path / "shared", prompts=40))))
    assert "The judge that evaluated is the judge that chose the training pairs" in shared
    assert "Only 40 held-out prompts were judged" in shared
    assert "of 40 prompts had no clear verdict (unsure or invalid)" in shared
    assert "5 of 40 responses before and 5 of 40 responses after were cut at the token limit" in shared
    apart = " ".join(read_limits(RunFiles(write_run(tmp_path / "apart", same_judge=False))))
    assert "The judge that evaluated is the judge" not in apart
    assert "held-out prompts were judged" not in apart
    assert "How often the judge is wrong" not in apart


@pytest.mark.parametrize("section", ["oracle", "evaluate"])
def test_limits_name_the_rules_whose_fallbacks_stood_in_for_a_judge(tmp_path: Path, section: str) -> None:
    run = write_run(tmp_path / "run")
    assert "stood in" not in " ".join(read_limits(RunFiles(run)))
    summary = json.loads((run / "summary.json").read_text())
    summary["policy"]["rules"][0]["by"] = "llm"
    (run / "summary.json").write_text(json.dumps(summary))
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    settings = {"kind": "rules", "fallbacks": True}
    recipe[section] = settings if section == "oracle" else {"oracle": settings}
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    limits = " ".join(read_limits(RunFiles(run)))
    assert f"The rules {summary['policy']['rules'][0]['id']} were written for a judge who reads." in limits
