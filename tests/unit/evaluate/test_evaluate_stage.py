"""The stages `generate` and `evaluate` on a run of the real stages: files, figures, and what they say of themselves."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from bakery import CONTROL, bakery

from realigner.check import check
from realigner.errors import TemplateError
from realigner.evaluate import stage
from realigner.evaluate.answers import JUDGEMENTS, RESPONSES
from realigner.evaluate.evidence import read_evidence
from realigner.model.chat import Encoder
from realigner.model.generate import generate
from realigner.pipeline import run
from realigner.policy import Policy
from realigner.recipe import Recipe
from realigner.records import Message, Prompt, TriagedPair, prompt_key
from realigner.runs import StoredRun, load_run
from realigner.triaging import read_triage

Again = Callable[..., StoredRun]


def rows(found: StoredRun, name: str = "responses.parquet") -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = pq.read_table(found.path(name)).to_pylist()
    return content


def summary(found: StoredRun) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(found.path("summary.json").read_text(encoding="utf-8"))
    return content


def held_out(found: StoredRun) -> list[TriagedPair]:
    return list(read_triage(found.path("triage.parquet"), split="eval"))


def prompt_of(row: dict[str, Any]) -> Prompt:
    return tuple(Message(role=m["role"], content=m["content"]) for m in row["prompt"])


def models(found: StoredRun) -> tuple[Any, Any]:
    """Both models, loaded with transformers and peft alone."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    before, base = (AutoModelForCausalLM.from_pretrained(found.recipe.model.path).eval() for _ in range(2))
    with warnings.catch_warnings(action="ignore", category=FutureWarning):  # peft calls what transformers deprecates
        return before, PeftModel.from_pretrained(base, str(found.path("model"))).eval()


def encoder_of(found: StoredRun) -> Encoder:
    from transformers import AutoTokenizer

    return Encoder(AutoTokenizer.from_pretrained(found.recipe.model.path), found.recipe.text, 256)


# -- responses.parquet ----------------------------------------------------------------------------------------------


def test_the_tables_have_the_promised_columns(finished: StoredRun) -> None:
    assert pq.read_schema(finished.path("responses.parquet")).equals(RESPONSES)
    assert pq.read_schema(finished.path("judgements.parquet")).equals(JUDGEMENTS)


def test_every_held_out_prompt_is_answered_once_by_each_model(finished: StoredRun) -> None:
    asked = {prompt_key(item.pair.prompt): item for item in held_out(finished) if CONTROL not in str(item.pair.prompt)}
    found = rows(finished)
    assert {(row["prompt_id"], row["model"]) for row in found} == {(key, s) for key in asked for s in stage.SIDES}
    assert len(found) == 2 * len(asked)
    for row in found:
        item = asked[row["prompt_id"]]
        assert prompt_of(row) == item.pair.prompt
        assert (row["pair_id"], row["outcome"]) == (item.pair.id, item.outcome)
        assert row["id"] == f"{row['prompt_id']}-{row['model']}"


def test_each_response_says_with_which_seed_and_settings_it_was_made(finished: StoredRun) -> None:
    for side in stage.SIDES:
        found = [row for row in rows(finished) if row["model"] == side]
        starts = {row["seed"] for row in found}
        assert starts == set(range(0, len(found), 5)), "one seed a batch of five, counted from the recipe's"
        assert all(json.loads(row["settings"]) == finished.recipe.generate.model_dump() for row in found)
        assert all(row["finish"] in ("stop", "length") and 1 <= row["tokens"] <= 12 for row in found)


def test_the_responses_are_those_of_the_reference_and_of_the_saved_model(finished: StoredRun) -> None:
    encoder = encoder_of(finished)
    sides = {}
    for side, model in zip(stage.SIDES, models(finished), strict=True):
        found = [row for row in rows(finished) if row["model"] == side]
        made = generate(model, encoder, [prompt_of(row) for row in found], finished.recipe.generate, seed=0)
        assert [row["response"] for row in found] == [response.text for response in made]
        sides[side] = [row["response"] for row in found]
    assert sides["before"] != sides["after"], "training must show, or the comparison says nothing"


def test_several_answers_to_a_prompt_are_a_cluster_in_the_figures(finished: StoredRun, again: Again) -> None:
    several = again(generate={"samples": 3, "temperature": 1.5})
    found = rows(several)
    assert len(found) == 3 * len(rows(finished))
    assert len({row["id"] for row in found}) == len(found)
    assert {row["sample"] for row in found} == {0, 1, 2}
    first = [row for row in found if row["model"] == "before" and row["prompt_id"] == found[0]["prompt_id"]]
    assert [row["id"].removeprefix(first[0]["id"]) for row in first] == ["", "-1", "-2"]
    assert len({row["response"] for row in first}) > 1
    after = summary(several)["agreement"]["after"]
    assert (after["n"], after["clusters"]) == (len(found) / 2, len(found) / 6)
    assert after["method"].startswith("cluster-robust")
    assert summary(several)["agreement"]["change"]["p_method"] == "sign flips of prompts"
    assert several.facts("generate")["prompts"] == finished.facts("generate")["prompts"]


def test_agreement_is_given_by_the_topic_that_the_data_name(finished: StoredRun, tmp_path: Path) -> None:
    content = finished.recipe.model_dump()
    lines = [json.loads(line) for line in Path(content["data"]["path"]).read_text().splitlines()]
    for place, line in enumerate(lines):
        line["about"] = {"kind": "bread" if place % 2 else "cake"}
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    content["data"] |= {"path": str(tmp_path / "pairs.jsonl"), "topic": "about.kind"}
    run(Recipe.parse(content | {"output": str(tmp_path / "run")}), until="evaluate")
    found = load_run(tmp_path / "run")
    by_topic = summary(found)["agreement"]["by_topic"]
    assert set(by_topic) == {"bread", "cake"}
    assert sum(part["after"]["n"] for part in by_topic.values()) == summary(found)["agreement"]["after"]["n"]
    assert {row["topic"] for row in rows(found)} == {"bread", "cake"}


def test_fewer_prompts_are_the_first_of_more(finished: StoredRun, again: Again) -> None:
    def asked(found: StoredRun) -> list[str]:
        return [row["prompt_id"] for row in rows(found) if row["model"] == "before"]

    assert asked(again("generate", generate={"prompts": 5})) == asked(finished)[:5]


def test_a_prompt_with_a_control_token_is_left_out_and_counted(finished: StoredRun) -> None:
    assert any(item.pair.prompt[0]["content"] == CONTROL for item in held_out(finished))
    assert CONTROL not in str(rows(finished))
    facts = finished.facts("generate")
    assert facts["left_out_control_token"] == 1
    assert facts["prompts"] == len(rows(finished)) / 2 == len(held_out(finished)) - 1
    assert finished.facts("reference")["held_out"]["dropped_control_token"] == 1


def test_prompts_that_do_not_fit_are_cut_and_counted(again: Again) -> None:
    found = again("generate", generate={"max_new_tokens": 245, "prompts": 3})
    assert found.facts("generate")["cut_prompts"] == 3
    assert len(rows(found)) == 6


# -- judgements.parquet ---------------------------------------------------------------------------------------------


def test_every_response_has_the_policys_verdict(finished: StoredRun) -> None:
    policy = Policy.load(finished.recipe.policy.path)
    judged = {row["response_id"]: row for row in rows(finished, "judgements.parquet")}
    assert list(judged) == [row["id"] for row in rows(finished)]
    for row in rows(finished):
        verdict = policy.judge(prompt_of(row), row["response"])
        found = judged[row["id"]]
        assert (found["label"], found["reason"]) == (verdict.label, verdict.reason)
        assert [(r["rule"], r["label"]) for r in found["rules"]] == [(r.rule, r.label) for r in verdict.rules]


# -- summary.json ---------------------------------------------------------------------------------------------------


def test_the_summary_has_the_promised_keys(finished: StoredRun) -> None:
    found = summary(finished)
    assert list(found) == [
        *("schema", "counts", "agreement", "kl", "perplexity", "retained_tokens"),
        *("seconds", "oracle", "policy", "earlier_policies", "warnings"),
    ]
    assert found["counts"] == finished.facts("triage")["outcomes"]
    assert list(found["agreement"]) == ["before", "after", "change", "by_rule", "by_outcome", "by_topic", "undecided"]
    assert list(found["agreement"]["by_rule"]) == ["no-sugar", "no-shouting"]
    assert set(found["agreement"]["by_outcome"]) == {"INVERT", "PUNISH", "CONFIRM", "NEUTRAL"}
    assert list(found["seconds"]) == ["triage", "reference", "weigh", "train", "generate"]
    for figure in (found["kl"], *found["perplexity"].values(), found["agreement"]["before"]):
        assert list(figure) == ["value", "low", "high", "n", "method"]
        assert figure["low"] <= figure["value"] <= figure["high"]


def scripted(
    found: StoredRun, tmp_path: Path, label: Callable[[int, dict[str, Any]], str]
) -> dict[str, dict[str, Any]]:
    """Write a judge that says `label(place of the prompt, row)`; return it as a section of the recipe."""
    path = tmp_path / "verdicts.jsonl"
    places: dict[str, int] = {}
    lines = []
    for row in rows(found):
        place = places.setdefault(row["prompt_id"], len(places))
        verdict = {"prompt": row["prompt"], "response": row["response"], "label": label(place, row)}
        lines.append(json.dumps(verdict))
    path.write_text("\n".join(dict.fromkeys(lines)) + "\n", encoding="utf-8")
    return {"oracle": {"kind": "scripted", "path": str(path)}}


def shares(found: StoredRun) -> list[float]:
    return [summary(found)["agreement"][side]["value"] for side in stage.SIDES]


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        (lambda place, _: "non_compliant", [0.0, 0.0]),
        (lambda place, _: ("compliant", "non_compliant")[place % 2], [0.5, 0.5]),
        (lambda place, _: "compliant", [1.0, 1.0]),
    ],
)
def test_a_judge_of_its_own_scores_what_it_says(
    label: Callable[[int, Any], str], expected: Sequence[float], finished: StoredRun, again: Again, tmp_path: Path
) -> None:
    found = again(evaluate=scripted(finished, tmp_path, label))
    assert shares(found) == pytest.approx(expected, abs=0.5 / (len(rows(finished)) // 2))  # a half of an odd number
    assert found.path("responses.parquet").read_bytes() == finished.path("responses.parquet").read_bytes()


def test_unsure_and_invalid_responses_are_undecided_in_the_summary(
    finished: StoredRun, again: Again, tmp_path: Path
) -> None:
    labels = ("unsure", "invalid", "compliant", "compliant")
    found = summary(again(evaluate=scripted(finished, tmp_path, lambda place, _: labels[place % 4])))
    prompts = len(rows(finished)) // 2
    undecided = sum(place % 4 < 2 for place in range(prompts))
    assert found["agreement"]["undecided"] == {"before": undecided, "after": undecided}
    assert found["agreement"]["after"]["value"] == pytest.approx(1 - undecided / prompts)


def test_the_summary_says_whether_the_judge_is_the_one_that_triaged(
    finished: StoredRun, again: Again, tmp_path: Path
) -> None:
    same = summary(finished)
    assert same["oracle"]["same"]
    assert same["oracle"]["training"] == same["oracle"]["evaluation"]
    assert [w for w in same["warnings"] if "the one that triaged" in w]
    other = summary(again(evaluate=scripted(finished, tmp_path, lambda place, _: "compliant")))
    assert not other["oracle"]["same"]
    assert other["oracle"]["evaluation"].startswith("scripted/")
    assert not [w for w in other["warnings"] if "the one that triaged" in w]


@torch.no_grad()
def test_kl_and_perplexity_are_those_of_the_two_saved_models_on_all_retained_responses(
    finished: StoredRun, again: Again
) -> None:
    found = summary(again(evaluate={"retained": 100}))
    before, after = models(finished)
    tokenizer = encoder_of(finished).tokenizer
    kl = old = new = 0.0
    pairs = tokens = 0
    for item in held_out(finished):
        if not item.outcome.is_retained or CONTROL in str(item.pair.prompt):
            continue
        turns = [*item.pair.prompt, Message(role="assistant", content=item.pair.chosen)]
        start = len(tokenizer.apply_chat_template(turns[:-1], add_generation_prompt=True)["input_ids"])
        ids = torch.tensor([tokenizer.apply_chat_template(turns)["input_ids"]])
        first, second = (model(input_ids=ids).logits[0, start - 1 : -1].log_softmax(-1) for model in (before, after))
        kl += float((first.exp() * (first - second)).sum())
        old, new = (
            total - float(logps.gather(1, ids[0, start:, None]).sum()) for total, logps in ((old, first), (new, second))
        )
        tokens += ids.shape[1] - start
        pairs += 1
    assert pairs > 6, "more than the recipe of the first run asked for"
    assert (found["kl"]["n"], found["retained_tokens"]) == (pairs, tokens)
    assert found["kl"]["value"] == pytest.approx(kl / tokens, rel=1e-3)
    assert found["perplexity"]["before"]["value"] == pytest.approx(torch.tensor(old / tokens).exp().item(), rel=1e-4)
    assert found["perplexity"]["after"]["value"] == pytest.approx(torch.tensor(new / tokens).exp().item(), rel=1e-4)
    assert summary(finished)["kl"]["n"] == 6


def test_without_retained_pairs_there_is_no_kl_and_no_perplexity(
    again: Again, finished: StoredRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def conflicts(path: Path, split: str) -> list[TriagedPair]:
        return [item for item in read_triage(path, "eval") if item.outcome.is_conflict]

    monkeypatch.setattr(stage, "read_triage", conflicts)
    found = again(evaluate={"retained": 7})
    content = summary(found)
    assert (content["kl"], content["perplexity"], content["retained_tokens"]) == (
        None,
        {"before": None, "after": None},
        0,
    )
    assert found.facts("evaluate")["retained_pairs"] == 0


def test_training_without_an_anchor_is_warned_of(again: Again) -> None:
    found = again(loss={"alpha_kl": 0.0}, train={"max_steps": 1}, generate={"prompts": 2})
    assert [w for w in summary(found)["warnings"] if "without a KL anchor" in w]


def test_the_stages_repeat_themselves(finished: StoredRun, again: Again) -> None:
    found = again(generate={"prompts": 199})  # another key, the same prompts
    assert rows(found, "judgements.parquet") == rows(finished, "judgements.parquet")
    first, second = summary(finished), summary(found)
    assert {**first, "seconds": 0} == {**second, "seconds": 0}


# -- refused before training ----------------------------------------------------------------------------------------


def test_a_held_out_pair_that_is_too_long_stops_the_run_before_training(tmp_path: Path) -> None:
    content = bakery(tmp_path)
    data = Path(content["data"]["path"])
    kept = [line for line in data.read_text(encoding="utf-8").splitlines() if "eot_id" not in line]
    question = "How do I make bread " + "and bread " * 300 + "7?"  # held out under seed 0
    kept.append(json.dumps({"prompt": question, "chosen": "Take salt.", "rejected": "Take water."}))
    data.write_text("\n".join(kept) + "\n", encoding="utf-8")
    recipe = Recipe.parse(content | {"text": {"overflow": "error"}})
    with pytest.raises(TemplateError, match=r"prompt of \d+ tokens.*256 \(text\.max_length"):
        run(recipe)
    assert question in str([item.pair.prompt for item in held_out(load_run(recipe.output))])
    assert load_run(recipe.output).stages["reference"]["status"] == "started"
    assert "train" not in load_run(recipe.output).stages


def test_responses_that_leave_no_room_for_their_prompts_are_refused_at_once(tmp_path: Path) -> None:
    recipe = Recipe.parse(bakery(tmp_path) | {"generate": {"max_new_tokens": 256}})
    expected = r"generate\.max_new_tokens = 256: it leaves no room for a prompt.*256 tokens.*Set it below 256"
    with pytest.raises(TemplateError, match=expected):
        run(recipe)
    assert not Path(recipe.output).exists()
    assert [f for f in check(recipe) if f.level == "error" and "max_new_tokens" in f.text]


def test_a_run_measures_its_probes_on_its_own_triage_and_keeps_them(
    again: Callable[..., StoredRun], tmp_path: Path
) -> None:
    (tmp_path / "kind.jsonl").write_text(
        "".join(
            json.dumps({"question": f"Do you like bread {n}?", "answer_matching_behavior": " Yes" if n % 2 else " No"})
            + "\n"
            for n in range(6)
        )
    )
    (tmp_path / "gsm8k.jsonl").write_text(
        "".join(json.dumps({"question": f"{n} + 1?", "answer": f"#### {n + 1}"}) + "\n" for n in range(3))
    )
    evaluate = {
        "utility": {"tasks": [{"name": "gsm8k", "path": str(tmp_path / "gsm8k.jsonl")}], "max_new_tokens": 4},
        "values": {"sets": [{"path": str(tmp_path / "kind.jsonl")}]},
        "inside": {"permutations": 99},
    }
    run = again("measure", evaluate=evaluate)
    found = read_evidence(run.directory)
    assert list(found) == ["utility", "values", "inside"]
    assert {"utility.gsm8k.diff", "values.kind.change", "inside.layer_2.shift"} <= {
        name for part in found.values() for name in part["figures"]
    }
    assert found["inside"]["figures"]["inside.layer_1.shift"]["value"] != 0.0  # training moved something
    assert run.facts("measure")["parts"] == ["utility", "values", "inside"]
