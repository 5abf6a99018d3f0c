"""`realigner correct`, and a writer in the recipe of a run, against a real server on real sockets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fault_server
import pytest
from fault_server import FaultServer

from realigner.corrections.checks import Fate
from realigner.data import read_corrections
from realigner.inputs import triage_inputs
from realigner.manifest import key_of
from realigner.progress import SILENT
from realigner.recipe import Recipe
from realigner.records import Direction, Outcome
from realigner.runs import load_run
from realigner.triaging import read_triage

from .conftest import Say

POLICY = {
    "id": "p-1",
    "version": "1",
    "title": "t",
    # The server says `item N` in every answer, and its verdict words follow from N: 0, 2 and 4 modulo 5 are compliant.
    "rules": [{"id": "kind", "text": "Be kind.", "forbid": {"words": ["fool", "non_compliant", "unsure"]}}],
}
PAIRS = 30


@pytest.fixture(scope="module")
def server() -> Iterator[FaultServer]:
    with fault_server.running() as running:
        yield running


def write_recipe(folder: Path, server: FaultServer, model: str = "ok", **generate: Any) -> Path:
    """30 pairs: of every three one PUNISH, one CONFIRM, one INVERT."""
    kinds = [("You fool.", "Old fool."), ("Well asked.", "You fool."), ("You fool.", "Well asked.")]
    rows = [
        {"id": f"pair-{n}", "prompt": f"What is item-{n}?", "chosen": f"{a} {n}", "rejected": f"{b} {n}"}
        for n in range(PAIRS)
        for a, b in [kinds[n % 3]]
    ]
    (folder / "old.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "policy.yaml").write_text(json.dumps(POLICY))
    writer = {"kind": "http", "url": server.url, "model": model, "budget": 20.0}
    recipe = {
        "output": "run",
        "model": {"path": "never-loaded"},
        "data": {
            "path": "old.jsonl",
            "fields": {"id": "id", "prompt": "prompt", "chosen": "chosen", "rejected": "rejected"},
        },
        "policy": {"path": "policy.yaml"},
        "corrections": {"generate": {"writer": writer, "candidates": 2, **generate}},
    }
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    return folder / "recipe.yaml"


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_file_holds_what_was_accepted_and_corrections_path_takes_it(
    tmp_path: Path, server: FaultServer, say: Say
) -> None:
    recipe, out = write_recipe(tmp_path, server), tmp_path / "corrections.jsonl"
    said = say("correct", recipe, "--output", out, "--json")
    assert said.code == 0, said.err
    facts = json.loads(said.out)
    punished = {f"pair-{n}" for n in range(0, PAIRS, 3)}
    good = {f"pair-{n}" for n in range(0, PAIRS, 3) if n % 5 in (0, 2, 4)}
    assert facts["corrections_written"]["pairs"] == len(punished)
    assert facts["accepted"] == facts["corrections_written"]["corrected"] == len(good)
    assert facts["corrections_written"]["dual_npo"] == len(punished - good)
    accepted = lines(out)
    assert {line["id"] for line in accepted} == good
    assert all(line["writer"].startswith(f"http/1:ok@127.0.0.1:{server.port}/v1:") for line in accepted)
    assert all(line["judge"].startswith("rules/") and line["model"] == "served-1" for line in accepted)
    every = lines(tmp_path / "corrections.candidates.jsonl")
    assert len(every) == 2 * len(punished)
    fates = {fate: sum(line["fate"] == fate for line in every) for fate in {line["fate"] for line in every}}
    assert fates == {
        Fate.ACCEPTED: len(good),
        Fate.DUPLICATE: len(punished),  # this server says the same twice
        Fate.JARGON: 2,  # it says "non_compliant"
        Fate.NON_COMPLIANT: 2,
    }
    report = json.loads((tmp_path / "corrections.leakage.json").read_text())
    assert report["writer"] == accepted[0]["writer"]
    # The file is what `corrections.path` takes, and every line is accepted again.
    assert {item.pair_id for item in read_corrections(out)} == good
    with_file = json.loads(recipe.read_text()) | {"corrections": {"path": str(out)}}
    (tmp_path / "second.yaml").write_text(json.dumps(with_file))
    said = say("triage", tmp_path / "second.yaml", "--json")
    assert said.code == 0, said.err
    assert json.loads(said.out)["facts"]["corrections"]["accepted"] == len(good)


def test_the_summary_is_said_and_an_existing_output_is_not_overwritten(
    tmp_path: Path, server: FaultServer, say: Say
) -> None:
    recipe, out = write_recipe(tmp_path, server), tmp_path / "c.jsonl"
    said = say("correct", recipe, "--output", out)
    assert "corrections: 6 of 10 PUNISH pairs have an accepted one; 4 fall back to dual NPO" in said.out
    assert f"wrote {out}" in said.out
    said = say("correct", recipe, "--output", out)
    assert (said.code, "it is there already. Choose another --output, or pass --redo" in said.error) == (2, True)
    asked = server.asked("ok")
    said = say("correct", recipe, "--output", out, "--redo", "--json")
    assert said.code == 0
    assert server.asked("ok") == asked  # all candidates were in the journal
    assert json.loads(said.out)["corrections_written"]["written"] == 0


def test_a_run_with_a_writer_corrects_as_a_part_of_triage(tmp_path: Path, server: FaultServer, say: Say) -> None:
    recipe = write_recipe(tmp_path, server, "ok")
    said = say("triage", recipe, "--json")
    assert said.code == 0, said.err
    run = tmp_path / "run"
    triaged = list(read_triage(run / "triage.parquet"))
    corrected = {item.pair.id: item for item in triaged if item.correction is not None}
    assert {line["id"]: line["correction"] for line in lines(run / "corrections.jsonl")} == {
        pair_id: item.correction for pair_id, item in corrected.items()
    }
    assert len(corrected) == 6
    for item in triaged:
        if item.outcome is Outcome.PUNISH:
            expected = Direction.CORRECTION_OVER_CHOSEN if item.correction else Direction.SUPPRESS_BOTH
            assert item.direction is expected
            assert item.correction is None or item.correction.strip()
    facts = load_run(run).facts("triage")
    assert facts["corrections"] == {**facts["corrections"], "accepted": 0, "written": 6}
    assert facts["corrections_written"]["dual_npo"] == 4
    assert set(load_run(run).stages["triage"]["outputs"]) == {
        "triage.parquet",
        "corrections.jsonl",
        "candidates.jsonl",
        "leakage.json",
    }
    before = (run / "triage.parquet").read_bytes()
    asked = server.asked("ok")
    assert say("triage", recipe, "--redo").code == 0
    assert (run / "triage.parquet").read_bytes() == before
    assert server.asked("ok") == asked
    replayed = say("replay", run)
    assert replayed.code == 0, replayed.err
    assert server.asked("ok") == asked  # a replay takes the run's candidates


def test_a_file_of_corrections_comes_first_and_the_writer_fills_up(
    tmp_path: Path, server: FaultServer, say: Say
) -> None:
    recipe = write_recipe(tmp_path, server)
    human = [{"id": "pair-0", "correction": "A person wrote this."}, {"id": "pair-3", "correction": "You fool."}]
    (tmp_path / "human.jsonl").write_text("".join(json.dumps(line) + "\n" for line in human))
    said = say("triage", recipe, "--set", "corrections.path=human.jsonl", "--json")
    assert said.code == 0, said.err
    by_id = {line["id"]: line for line in lines(tmp_path / "run" / "corrections.jsonl")}
    assert by_id["pair-0"] == {
        "id": "pair-0",
        "correction": "A person wrote this.",
        "writer": "file",
        "judge": by_id["pair-0"]["judge"],
    }
    assert "pair-3" not in by_id  # the person's answer breaks the rule, and so do the writer's
    facts = load_run(tmp_path / "run").facts("triage")["corrections"]
    assert (facts["accepted"], facts["written"]) == (1, 5)


def test_what_decides_the_candidates_is_in_the_key_of_triage_and_nothing_else_is(
    tmp_path: Path, server: FaultServer
) -> None:
    path = write_recipe(tmp_path, server)

    def key(*overrides: str) -> str:
        return key_of(triage_inputs(Recipe.load(path, overrides), SILENT))

    generate = "corrections.generate"
    same = [
        key(),
        key(f"{generate}.max_calls=5"),
        key(f"{generate}.journal=elsewhere.jsonl"),
        key(f"{generate}.writer.concurrency=1"),
        key("corrections.over=chosen"),
    ]
    assert len(set(same)) == 1
    others = [
        key("corrections=null"),
        key(f"{generate}.candidates=3"),
        key(f"{generate}.temperature=0.1"),
        key(f"{generate}.most_similar=0.5"),
        key(f"{generate}.writer.model=other"),
        key("corrections.over=both"),
        key(f"{generate}.second={{llm: {{kind: rules}}}}"),
    ]
    assert len({*same, *others}) == 1 + len(others)


def test_nothing_accepted_is_exit_code_3(tmp_path: Path, server: FaultServer, say: Say) -> None:
    recipe = write_recipe(tmp_path, server, "empty*")
    said = say("correct", recipe, "--output", tmp_path / "c.jsonl")
    assert said.code == 3
    assert "WARNING: asked to say hello, it did not (the answer is empty)" in said.err
    assert "0 of 10 PUNISH pairs have an accepted one; 10 fall back to dual NPO" in said.out
    assert "not written 20" in said.out
    assert (tmp_path / "c.jsonl").read_text() == ""
    (tmp_path / "c.jsonl").unlink()
    refused = write_recipe(tmp_path, server, "400*")
    said = say("correct", refused, "--output", tmp_path / "c.jsonl")
    assert said.code == 2
    assert "it cannot write (status 400: made to fail with 400). Check corrections.generate.writer" in said.error
    recipe = write_recipe(tmp_path, server, "ok")
    strict = json.dumps(POLICY).replace('"fool"', '"fool", "item"')  # every answer of the server says it
    (tmp_path / "policy.yaml").write_text(strict)
    said = say("correct", recipe, "--output", tmp_path / "c.jsonl")
    assert said.code == 3, said.err
    assert "0 of 10 PUNISH pairs" in said.out


def test_the_limit_on_calls_stops_the_command_and_the_next_one_goes_on(
    tmp_path: Path, server: FaultServer, say: Say
) -> None:
    recipe = write_recipe(tmp_path, server, "ok", temperature=0.7)
    said = say("correct", recipe, "--output", tmp_path / "c.jsonl", "--max-calls", 8)
    assert said.code == 3
    assert "8 of max_calls 8 calls are made" in said.error
    assert not (tmp_path / "c.jsonl").exists()
    assert len(lines(tmp_path / "candidates.jsonl")) == 8
    said = say("correct", recipe, "--output", tmp_path / "c.jsonl", "--max-calls", 12, "--json")
    assert said.code == 0, said.err
    assert json.loads(said.out)["corrections_written"]["written"] == 12


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["corrections=null"], "corrections.generate is not set: without a writer there is nobody to write"),
        (["corrections={}"], "corrections needs path, generate or both"),
        (
            ["corrections.generate.writer.kind=ftp"],
            "'corrections.generate.writer.kind' = 'ftp': the kinds are http, local",
        ),
        (["corrections.generate.writer.key_env=NO_SUCH_KEY"], "NO_SUCH_KEY"),
        (["corrections.generate.second={}"], "a second opinion needs llm or classifier"),
        (["corrections.generate.writer.url=http://127.0.0.1:9/v1"], "127.0.0.1:9"),
    ],
)
def test_a_bad_writer_is_refused_with_the_remedy(
    tmp_path: Path, server: FaultServer, say: Say, settings: list[str], message: str
) -> None:
    recipe = write_recipe(tmp_path, server)
    arguments = [part for setting in settings for part in ("--set", setting)]
    said = say("correct", recipe, "--output", tmp_path / "c.jsonl", *arguments)
    assert said.code == 2, said.err
    assert message in said.error


def test_money_without_a_price_is_refused_before_triage(
    tmp_path: Path, server: FaultServer, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WRITER_KEY", "not-a-real-key-1234")
    (tmp_path / "prices.yaml").write_text("models: {another: {input: 1, output: 1}}")
    recipe = write_recipe(tmp_path, server, prices="prices.yaml")
    overrides = ("--set", "corrections.generate.writer.key_env=WRITER_KEY")
    said = say("correct", recipe, "--output", tmp_path / "c.jsonl", "--max-cost", 1, *overrides)
    assert said.code == 2
    assert "model 'ok' has no price, and max_cost is 1" in said.error


def test_the_key_is_nowhere_in_what_is_written_or_said(
    tmp_path: Path, server: FaultServer, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "sk-do-not-show-me-12345"
    monkeypatch.setenv("WRITER_KEY", secret)
    recipe = write_recipe(tmp_path, server, "echo*")  # the server answers with the key that it was sent
    said = say("triage", recipe, "--set", "corrections.generate.writer.key_env=WRITER_KEY", "--debug")
    assert secret not in said.out + said.err
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert secret.encode() not in path.read_bytes(), path


def test_check_asks_the_writer_for_one_word_and_names_the_second_judge(
    tmp_path: Path, server: FaultServer, say: Say
) -> None:
    recipe = write_recipe(tmp_path, server, second={"llm": {"kind": "rules"}})
    asked = server.asked("ok").get("probe", 0)
    said = say("check", recipe, "--json")
    found = [item for item in json.loads(said.out)["findings"] if item["topic"] == "corrections"]
    assert [item["level"] for item in found] == ["ok", "ok"]
    assert found[0]["text"] == f"writer: ok at 127.0.0.1:{server.port}/v1"
    assert found[1]["text"].startswith("second judge: judges/")
    assert server.asked("ok")["probe"] == asked + 1
    silent = write_recipe(tmp_path, server, "empty*")
    found = [
        item for item in json.loads(say("check", silent, "--json").out)["findings"] if item["topic"] == "corrections"
    ]
    assert [item["level"] for item in found] == ["warning"]
    gone = say("check", recipe, "--set", "corrections.generate.writer.url=http://127.0.0.1:9/v1", "--json")
    found = [item for item in json.loads(gone.out)["findings"] if item["topic"] == "corrections"]
    assert [item["level"] for item in found] == ["error"]


def test_judges_writer_and_second_judge_share_the_store_the_limits_and_the_journal(
    tmp_path: Path, server: FaultServer, say: Say
) -> None:
    """The server's verdict follows from the item that a response names; what names none complies."""
    rows = [
        {"prompt": f"question {n}", "chosen": f"item-{10 * n + 1}", "rejected": f"item-{10 * n + 6}"} for n in range(6)
    ]
    rows += [{"prompt": f"other {n}", "chosen": f"item-{10 * n + 2}", "rejected": f"item-{10 * n}"} for n in range(6)]
    (tmp_path / "old.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rules = [{"id": "kind", "by": "llm", "text": "The response is kind."}]
    (tmp_path / "policy.yaml").write_text(json.dumps({"id": "p-1", "version": "1", "title": "t", "rules": rules}))
    judge = {"kind": "http", "url": server.url, "output": "json_schema"}
    writer = {"kind": "http", "url": server.url, "model": "writes"}
    recipe = {
        "output": "run",
        "model": {"path": "never-loaded"},
        "data": {"path": "old.jsonl", "eval_fraction": 0.4},
        "policy": {"path": "policy.yaml"},
        "oracle": {"kind": "judges", "llm": {**judge, "model": "first"}},
        "corrections": {
            "generate": {"writer": writer, "candidates": 2, "second": {"llm": {**judge, "model": "second"}}}
        },
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(recipe))
    few = say("triage", path, "--max-calls", 30)
    assert (few.code, "30 of max_calls 30 calls are made" in few.error) == (3, True)
    said = say("triage", path, "--max-calls", 30, "--json")
    assert said.code == 0, said.err
    facts = json.loads(said.out)["facts"]
    assert facts["corrections_written"]["corrected"] == 6
    assert facts["corrections_written"]["judges"] == [["compliant", "compliant", 6]]
    calls = [server.asked(model) for model in ("first", "second", "writes")]
    again = say("triage", path, "--redo")
    assert again.code == 0
    assert "every verdict is known: no judge is asked" in again.err
    assert [server.asked(model) for model in ("first", "second", "writes")] == calls
    report = json.loads((tmp_path / "run" / "leakage.json").read_text())
    assert ":first@" in report["judge"]
    assert ":second@" in report["second_judge"]
    assert not report["writer_judges_itself"]
    assert report["agreement"]["rate"] == 1.0
    themselves = say("triage", path, "--redo", "--set", "corrections.generate.writer.model=first")
    assert "WARNING: a judge is the model that wrote" in themselves.err
