"""Questions out as batch files, answers in by custom_id: the verdicts are those of a live run."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fault_server
import pytest
from fault_server import FaultServer, right_label

from realigner import pipeline
from realigner.batching import export_batch, import_batch
from realigner.errors import OracleError, RunDirError
from realigner.oracle import VerdictStore
from realigner.recipe import Recipe

PAIRS = 30
Line = dict[str, Any]


@pytest.fixture(scope="module")
def server() -> Iterator[FaultServer]:
    with fault_server.running() as running:
        yield running


def recipe_in(folder: Path, url: str = "http://127.0.0.1:9/v1", **oracle: Any) -> Recipe:
    folder.mkdir(exist_ok=True)
    pairs = ({"prompt": f"q{n}", "chosen": f"item-{n}", "rejected": f"item-{n + PAIRS}"} for n in range(PAIRS))
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    rules = [
        {"id": "kind", "by": "llm", "text": "The response is kind."},
        {"id": "short", "text": "Short.", "forbid": {"words": ["never"]}},
    ]
    (folder / "policy.yaml").write_text(json.dumps({"id": "p", "version": "1", "title": "t", "rules": rules}))
    llm = {"kind": "http", "url": url, "model": "ok", "output": "json_schema", "deployment": "here"}
    content = {
        "output": str(folder / "run"),
        "model": {"path": "never-loaded"},
        "data": {"path": str(folder / "pairs.jsonl")},
        "policy": {"path": str(folder / "policy.yaml")},
        "oracle": {"kind": "judges", "llm": llm, **oracle},
    }
    return Recipe.parse(content)


def lines_of(folder: Path) -> list[Line]:
    files = sorted(folder.glob("*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def answered(request: Line, text: str | None = None, **choice: Any) -> Line:
    """Answer a request as `vllm run-batch` writes it."""
    number = int(re.findall(r"item-(\d+)", request["body"]["messages"][1]["content"])[0])
    verdict = {"rule_1": {"reason": f"it is item {number}", "verdict": right_label(number)}}
    message = {"role": "assistant", "content": json.dumps(verdict) if text is None else text}
    body = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": request["body"]["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": "stop", **choice}],
        "usage": {"prompt_tokens": 300, "completion_tokens": 20, "total_tokens": 320},
    }
    response = {"status_code": 200, "request_id": "vllm-batch-1", "body": body}
    return {"id": "vllm-1", "custom_id": request["custom_id"], "response": response, "error": None}


def write(path: Path, lines: list[Line]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def labels(recipe: Recipe) -> dict[str, str]:
    with VerdictStore.read(Path(recipe.output).parent / "verdicts.sqlite") as store:
        return {vote["response"]: vote["label"] for vote in store.votes()}


def test_requests_are_lines_of_the_batch_api(tmp_path: Path) -> None:
    done = export_batch(recipe_in(tmp_path), tmp_path / "out")
    lines = lines_of(tmp_path / "out")
    assert (done.requests, len(lines), done.files) == (2 * PAIRS, 2 * PAIRS, ("ok-00001.jsonl",))
    assert len({line["custom_id"] for line in lines}) == 2 * PAIRS
    for line in lines:
        assert sorted(line) == ["body", "custom_id", "method", "url"]
        assert (line["method"], line["url"]) == ("POST", "/v1/chat/completions")
        assert line["body"]["model"] == "ok"
        assert line["body"]["response_format"]["type"] == "json_schema"
        assert [turn["role"] for turn in line["body"]["messages"]] == ["system", "user"]
    about = json.loads((tmp_path / "out" / "about.json").read_text())
    assert about["requests"] == 2 * PAIRS
    assert about["judges"][0].startswith("http/1:ok@here:json_schema:")


def test_an_export_names_the_same_questions_each_time_and_stores_nothing(tmp_path: Path) -> None:
    recipe = recipe_in(tmp_path)
    ids = []
    for name in ("first", "second"):
        export_batch(recipe, tmp_path / name)
        ids.append([line["custom_id"] for line in lines_of(tmp_path / name)])
    assert ids[0] == ids[1]
    assert labels(recipe) == {}


def test_imported_verdicts_are_those_of_a_live_run_and_triage_asks_nothing(tmp_path: Path, server: FaultServer) -> None:
    live = recipe_in(tmp_path / "live", server.url)
    pipeline.run(live, only="triage")
    asked = sum(server.asked("ok").values())
    batch = recipe_in(tmp_path / "batch", server.url)
    export_batch(batch, tmp_path / "out")
    results = [answered(line) for line in lines_of(tmp_path / "out")]
    random.Random(0).shuffle(results)
    done = import_batch(batch, [write(tmp_path / "results.jsonl", results)])
    assert (done.answers, done.stored, done.unusable, done.unasked, done.open) == (2 * PAIRS, 2 * PAIRS, 0, 0, 0)
    assert labels(batch) == labels(live)
    pipeline.run(batch, only="triage")
    assert sum(server.asked("ok").values()) == asked
    assert load_verdicts(tmp_path / "live") == load_verdicts(tmp_path / "batch")


def load_verdicts(folder: Path) -> list[Any]:
    import pyarrow.parquet as pq

    table = pq.read_table(folder / "run" / "triage.parquet")
    found: list[Any] = table.select(["chosen_verdict", "rejected_verdict", "verdicts", "outcome"]).to_pylist()
    return found


def test_a_part_of_the_answers_leaves_the_rest_open_for_the_next_export(tmp_path: Path) -> None:
    recipe = recipe_in(tmp_path)
    export_batch(recipe, tmp_path / "out")
    lines = lines_of(tmp_path / "out")
    done = import_batch(recipe, [write(tmp_path / "part.jsonl", [answered(line) for line in lines[:25]])])
    assert (done.stored, done.open) == (25, 35)
    again = export_batch(recipe, tmp_path / "rest")
    assert again.requests == 35
    assert {line["custom_id"] for line in lines_of(tmp_path / "rest")} == {line["custom_id"] for line in lines[25:]}


def test_what_gave_no_verdict_is_named_in_the_error_file_and_stays_open(tmp_path: Path) -> None:
    recipe = recipe_in(tmp_path)
    export_batch(recipe, tmp_path / "out")
    lines = lines_of(tmp_path / "out")
    results = [answered(line) for line in lines]
    results[0] = answered(lines[0], "It is kind.")
    results[1] = answered(lines[1], '{"rule_1": {"rea', finish_reason="length")
    results[2]["response"] = {"status_code": 400, "body": {"error": {"message": "context too long"}}}
    results[3] = {"custom_id": lines[3]["custom_id"], "response": None, "error": {"code": "expired", "message": "late"}}
    results[4]["response"]["body"] = {"choices": []}
    results.append({**answered(lines[5]), "custom_id": "0123456789abcdef"})
    path = write(tmp_path / "results.jsonl", results)
    path.write_text(path.read_text() + '{"custom_id": "cut off\n[]\n')
    done = import_batch(recipe, [path], errors=tmp_path / "errors.jsonl")
    assert (done.answers, done.stored, done.unusable, done.unasked) == (2 * PAIRS + 1, 2 * PAIRS - 5, 5, 1)
    assert (done.bad_lines, done.open) == (2, 5)
    errors = [json.loads(line) for line in (tmp_path / "errors.jsonl").read_text().splitlines()]
    assert [error["why"] for error in errors] == [
        "the answer could not be read: it is not JSON from its first to its last character",
        "the answer was cut at its token limit",
        "the request failed with status 400: context too long",
        "the request failed: late",
        "the reply has no choices[0].message with a content, so it is no chat completion",
        "belongs to no open question of this recipe",
        "it is not JSON",
        "it has no custom_id",
    ]
    assert errors[1]["custom_id"] == lines[1]["custom_id"]
    assert errors[1]["line"] == f"{path}:2"
    assert export_batch(recipe, tmp_path / "rest").requests == 5


def test_files_may_come_in_any_order_overlap_and_be_given_again(tmp_path: Path) -> None:
    recipe = recipe_in(tmp_path)
    export_batch(recipe, tmp_path / "out")
    lines = lines_of(tmp_path / "out")
    failed = {"custom_id": lines[0]["custom_id"], "response": {"status_code": 500, "body": {}}, "error": None}
    first = write(tmp_path / "a.jsonl", [failed, *(answered(line) for line in lines[30:])])
    second = write(tmp_path / "b.jsonl", [answered(line) for line in lines[:40]])
    done = import_batch(recipe, [second, first])
    assert (done.stored, done.repeated, done.open) == (2 * PAIRS, 11, 0)
    again = import_batch(recipe, [first, second])
    assert (again.stored, again.unasked, again.open) == (0, 2 * PAIRS, 0)


def test_a_failure_does_not_hide_an_answer_to_the_same_question(tmp_path: Path) -> None:
    recipe = recipe_in(tmp_path)
    export_batch(recipe, tmp_path / "out")
    line = lines_of(tmp_path / "out")[0]
    failed = {"custom_id": line["custom_id"], "response": {"status_code": 500, "body": {}}}
    done = import_batch(recipe, [write(tmp_path / "a.jsonl", [failed, answered(line), failed])])
    assert (done.stored, done.unusable) == (1, 0)


def test_files_are_split_at_requests_and_at_bytes(tmp_path: Path) -> None:
    recipe = recipe_in(tmp_path)
    done = export_batch(recipe, tmp_path / "few", most_requests=25)
    assert [len((tmp_path / "few" / name).read_text().splitlines()) for name in done.files] == [25, 25, 10]
    from realigner.oracle.http.batch import RequestFiles

    (tmp_path / "small").mkdir()
    with RequestFiles(tmp_path / "small", most_bytes=100) as files:
        for length in (40, 40, 40, 300, 40):
            files.write("org/Model 7B", "x" * length)
    sizes = [[len(line) for line in (tmp_path / "small" / name).read_text().splitlines()] for name in files.files]
    assert sizes == [[40, 40], [40], [300], [40]]
    assert files.files[0] == "org-Model-7B-00001.jsonl"


def test_a_change_of_the_judge_is_seen_before_a_verdict_is_stored(tmp_path: Path) -> None:
    recipe = recipe_in(tmp_path)
    export_batch(recipe, tmp_path / "out")
    results = write(tmp_path / "r.jsonl", [answered(line) for line in lines_of(tmp_path / "out")])
    other = recipe.oracle.model_dump() | {"llm": {**recipe.oracle.model_dump()["llm"], "temperature": 0.7}}
    changed = Recipe.parse({**recipe.model_dump(), "oracle": other})
    with pytest.raises(OracleError, match="60 answers, none to a question of this recipe"):
        import_batch(changed, [results])
    assert labels(recipe) == {}


def test_a_request_file_is_not_taken_for_results(tmp_path: Path) -> None:
    recipe = recipe_in(tmp_path)
    export_batch(recipe, tmp_path / "out")
    with pytest.raises(OracleError, match="holds no line with a custom_id and a response"):
        import_batch(recipe, [tmp_path / "out" / "ok-00001.jsonl"])


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(OracleError, match=r"results .*nowhere.jsonl: it cannot be read"):
        import_batch(recipe_in(tmp_path), [tmp_path / "nowhere.jsonl"])


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(RunDirError, match="nothing is overwritten"):
        export_batch(recipe_in(tmp_path), tmp_path / "out")


def test_the_output_mode_must_be_named_as_there_is_no_server_to_find_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    llm = {"kind": "http", "url": "http://127.0.0.1:9/v1", "model": "m"}
    recipe = recipe_in(tmp_path, llm=llm)
    with pytest.raises(OracleError, match=r"output: auto: a batch file has no server .*Set output to json_schema"):
        export_batch(recipe, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_recipe_without_an_http_judge_has_nothing_to_export(tmp_path: Path) -> None:
    recipe = recipe_in(tmp_path, llm={"kind": "rules"})
    with pytest.raises(OracleError, match="batch files are for judges of kind http"):
        export_batch(recipe, tmp_path / "out")


def test_a_key_is_neither_needed_nor_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    llm = {"kind": "http", "url": "https://a.example/v1", "model": "m", "output": "plain", "key_env": "BATCH_KEY"}
    assert export_batch(recipe_in(tmp_path, llm=llm), tmp_path / "without").requests == 2 * PAIRS
    monkeypatch.setenv("BATCH_KEY", "sk-very-secret-0123456789")
    export_batch(recipe_in(tmp_path, llm=llm), tmp_path / "with")
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"sk-very-secret" in path.read_bytes()]


def test_members_of_an_ensemble_are_exported_each_under_its_own_name(tmp_path: Path) -> None:
    member = {"kind": "http", "url": "http://127.0.0.1:9/v1", "output": "json_object"}
    judges = [{**member, "model": "a"}, {**member, "model": "b"}, {"kind": "rules"}]
    recipe = recipe_in(tmp_path, llm={"kind": "votes", "judges": judges})
    done = export_batch(recipe, tmp_path / "out")
    assert done.requests == 2 * 2 * PAIRS
    assert sorted(done.files) == ["a-00001.jsonl", "b-00002.jsonl"]
    lines = lines_of(tmp_path / "out")
    assert len({line["custom_id"] for line in lines}) == len(lines)
    assert len(done.judges) == 2
