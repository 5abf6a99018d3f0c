"""A language model behind a real server proposes and votes; what it answered is never asked again."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import discover_server
import pytest
from fault_server import FaultServer

from realigner.cli.main import main
from realigner.discover.candidate import Candidate
from realigner.discover.llm import LlmVoter
from realigner.errors import OracleError
from realigner.oracle import VerdictStore
from realigner.oracle.http.build import http_judge
from realigner.policy import Policy
from realigner.recipe_judges import HttpJudgeSettings
from realigner.records import Label, Pair, user_prompt

PAIRS = 220


def sourced_pairs(count: int) -> list[dict[str, str]]:
    """The preferred response names a source, in words that counting cannot put together: each names another."""
    rng = Random(0)
    rows = []
    for i in range(count):
        plain, extra = (
            f"It takes {rng.randint(2, 99)} days.",
            f"It takes {rng.randint(2, 99)} days, according to book{i}.",
        )
        sides = [extra, plain] if rng.random() < 0.95 else [plain, extra]
        rows.append({"prompt": f"How long is case {i}?", "chosen": sides[0], "rejected": sides[1]})
    return rows


def write_inputs(folder: Path, server: FaultServer, model: str) -> list[str]:
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in sourced_pairs(PAIRS)))
    settings = {"kind": "http", "url": server.url, "model": model, "output": "json_schema", "budget": 2.0}
    (folder / "llm.yaml").write_text(json.dumps(settings))
    return ["discover", str(folder / "data.jsonl"), "--llm", str(folder / "llm.yaml"), "--out", str(folder / "r.yaml")]


def voter(server: FaultServer, model: str, store: VerdictStore | None = None) -> LlmVoter:
    settings = HttpJudgeSettings(kind="http", url=server.url, model=model, output="json_schema")
    return LlmVoter(http_judge(settings), store)


def test_a_rule_by_wording_is_recovered_reproduced_alone_and_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with discover_server.running() as server:
        command = write_inputs(tmp_path, server, "ok")
        code = main([*command, "--json"])
        facts = json.loads(capsys.readouterr().out)
        asked = server.count()
        (tmp_path / "r.yaml").unlink()
        (tmp_path / "r.json").unlink()
        assert main([*command, "--json"]) == 0
        again = json.loads(capsys.readouterr().out)
        asked_again = again.pop("asked")
        assert facts.pop("asked")["calls"] > 0
        assert asked_again["calls"] == 0
        assert again == facts
        assert server.count() <= asked + 1, "only the trivial question of the check may be asked again"
    assert code == 0
    assert facts["answers"]["proposed"] == 60
    assert facts["answers"]["unreadable_votes"] == facts["answers"]["unreadable_verdicts"] == 0
    rule = next(rule for rule in facts["rules"] if "names a source" in rule["text"])
    assert rule["reproduced"] == 1
    assert any("names a source for it" in member for member in rule["members"]), "alike wordings became one"
    assert not any("amber" in rule["text"] for rule in facts["rules"])
    policy = Policy.load(tmp_path / "r.yaml")
    assert [kept.by for kept in policy.rules if kept.id == rule["id"]] == ["llm"]


def test_a_model_that_prefers_what_it_sees_first_tells_nothing() -> None:
    pairs = [Pair(str(i), user_prompt(f"q {i}"), f"a {i}", f"b {i}", "t") for i in range(30)]
    with discover_server.running() as server:
        (votes,) = voter(server, "biased").votes(
            [Candidate("c", "It is kind.", wording={"violates": ("harm",)})], pairs
        )
    assert not votes.any()


def test_votes_are_of_the_preferred_response_whatever_the_order_shown() -> None:
    pairs = []
    for i in range(40):
        sides = [f"according to book {i}", f"plain {i}"]
        chosen, rejected = sides if i % 4 else sides[::-1]
        pairs.append(Pair(str(i), user_prompt(f"q {i}"), chosen, rejected, "t"))
    rule = Candidate("c", "It names a source.", wording={"violates": ("no source",)})
    with discover_server.running() as server:
        (votes,) = voter(server, "ok").votes([rule], pairs)
        shown = [entry["body"]["messages"][-1]["content"] for entry in server.log()["seen"]]
    assert votes.tolist() == [1 if i % 4 else -1 for i in range(40)]
    firsts = {"according to" in text.split("RESPONSE B (fence code")[0] for text in shown}
    assert firsts == {True, False}, "both orders were shown"


def test_what_was_voted_on_is_known_to_every_seed_and_proposals_to_the_texts_they_were_made_from(
    tmp_path: Path,
) -> None:
    pairs = [Pair(str(i), user_prompt(f"q {i}"), f"according to book {i}", f"b {i}", "t") for i in range(5)]
    rule = Candidate("c", "It names a source.", wording={"violates": ("no source",)})
    settings = {"kind": "http", "model": "ok", "output": "json_schema"}
    with discover_server.running() as server, VerdictStore.open(tmp_path / "v.sqlite") as store:
        judge = http_judge(HttpJudgeSettings.model_validate({**settings, "url": server.url}))
        for seed, calls in ((0, 10), (1, 10)):
            LlmVoter(judge, store, seed=seed).votes([rule], pairs)
            assert server.count() == calls
        changed = [Pair(pair.id, pair.prompt, pair.chosen, f"else {pair.id}", "t") for pair in pairs]
        for shown, calls in ((pairs, 11), (pairs, 11), (changed, 12)):
            LlmVoter(judge, store, proposals=tmp_path / "p.json").propose(shown)
            assert server.count() == calls


def test_a_server_that_goes_half_way_leaves_its_votes_and_the_same_command_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with discover_server.running(ends=True) as server:
        command = write_inputs(tmp_path, server, "ok")
        code = main(command)
    said = capsys.readouterr()
    assert code == 1, said.err
    assert "What was answered is kept" in said.err or "resume" in said.err, said.err
    assert not (tmp_path / "r.yaml").exists()
    with VerdictStore.read(tmp_path / "r.verdicts.sqlite") as store:
        kept = store.counts()["votes"]
    assert kept > 50
    with discover_server.running(server.port) as again:
        assert main(command) == 0
        answered = again.count()
    with VerdictStore.read(tmp_path / "r.verdicts.sqlite") as store:
        votes = store.counts()["votes"]
    assert answered <= votes - kept + 1, "what was stored was asked again"


def test_a_limit_on_calls_stops_before_it_is_passed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with discover_server.running() as server:
        command = write_inputs(tmp_path, server, "ok")
        assert main([*command, "--max-calls", "5"]) == 3
        assert "20 calls for proposals: max_calls is 5" in capsys.readouterr().err
        assert main([*command, "--max-calls", "60"]) == 3
        assert server.count() <= 61 + 1
        assert "Raise --max-calls and give the same command again" in capsys.readouterr().err


def test_a_model_that_answers_in_prose_proposes_nothing_and_counts_say_what_they_can(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with discover_server.running() as server:
        assert main(write_inputs(tmp_path, server, "prose")) == 3
    said = capsys.readouterr()
    assert "20 of 20 requests for rules had no answer that could be read: take a model that follows" in said.err
    assert "20 of them unreadable; it proposed no rule, and what follows is from counts alone" in said.out


def test_discovery_gets_through_beside_a_real_model_that_writes_nonsense(
    story_server: str,
    story_model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`transformers serve` with a teller of children's stories, on pairs of which a coin preferred one."""
    monkeypatch.setattr("realigner.discover.llm.BATCHES", 4)
    rng = Random(0)
    pairs = [[f"It is {rng.randint(100, 999)}.", f"It was {rng.randint(100, 999)}."] for _ in range(PAIRS)]
    rows = [
        {"prompt": f"Question {i}?", **dict(zip(("chosen", "rejected"), rng.sample(sides, 2), strict=True))}
        for i, sides in enumerate(pairs)
    ]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "llm.yaml").write_text(json.dumps(story_settings(story_server, story_model)))
    files = [str(tmp_path / name) for name in ("data.jsonl", "llm.yaml", "r.yaml")]
    assert main(["discover", files[0], "--llm", files[1], "--out", files[2], "--json"]) == 3
    said = capsys.readouterr()
    facts = json.loads(said.out)
    assert facts["verdict"] == "ABSTAINS: no rule tells the old preferences apart beyond chance"
    assert facts["answers"] == {"requests": 4, "unreadable_requests": 4, "proposed": 0}
    assert facts["asked"]["calls"] == 4
    assert facts["asked"]["output_tokens"] > 0
    assert "4 of 4 requests for rules had no answer that could be read" in said.err
    assert not (tmp_path / "r.yaml").exists()


def test_what_a_real_model_writes_instead_of_votes_tells_nothing_and_is_counted(
    story_server: str, story_model: Path
) -> None:
    nonsense = LlmVoter(
        http_judge(HttpJudgeSettings.model_validate(story_settings(story_server, story_model))), store=None
    )
    rule = Candidate("c", "It names a source.", wording={"violates": ("no source",)})
    pairs = [Pair(str(i), user_prompt(f"q {i}"), f"a {i}", f"b {i}", "t") for i in range(3)]
    (votes,) = nonsense.votes([rule], pairs)
    assert votes.tolist() == [0, 0, 0]
    assert nonsense.pointwise(rule, "c", pairs) == [(Label.INVALID, Label.INVALID)] * 3
    assert nonsense.answers == {"votes": 6, "unreadable_votes": 6, "verdicts": 6, "unreadable_verdicts": 6}


def story_settings(url: str, model: Path) -> dict[str, object]:
    settings = {"kind": "http", "url": url, "model": str(model), "output": "plain"}
    return {**settings, "max_tokens": 8, "timeout": 60.0, "budget": 60.0}


def test_a_server_that_is_not_there_is_found_before_the_data_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with discover_server.running() as server:
        command = write_inputs(tmp_path, server, "ok")
    (tmp_path / "data.jsonl").write_text("never read")
    assert main(command) == 2
    assert "cannot be reached" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kind: http\nurl: http://localhost:1/v1\n", "model: field required"),
        ("kind: local\npath: model\n", "kind: input should be 'http'"),
        ("kind: http\nurl: http://localhost:1/v1\nmodel: m\nmodle: n\n", "modle: extra inputs are not permitted"),
        ("kind: http\nurl: ftp://localhost:1/v1\nmodel: m\n", "http"),
        ("", "the file: input should be a valid dictionary"),
        ("- http\n", "the file: input should be a valid dictionary"),
        ("[", "it is not valid YAML"),
        (None, "it cannot be read"),
    ],
)
def test_a_file_that_is_no_judge_is_refused(tmp_path: Path, text: str | None, message: str) -> None:
    from realigner.discover.llm import read_judge

    if text is not None:
        (tmp_path / "llm.yaml").write_text(text)
    with pytest.raises(OracleError, match=message):
        read_judge(tmp_path / "llm.yaml")
