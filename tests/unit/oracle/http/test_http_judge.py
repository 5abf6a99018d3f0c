"""The judge: modes, repair, what is kept and what is not, and its identity."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fault_server import FaultServer, right_label

from realigner.errors import OracleError
from realigner.oracle.http import HttpJudge, http_judge
from realigner.oracle.http.modes import Mode, pinned, pins_file
from realigner.oracle.judge import RuleAnswer, RuleJudge, RuleQuestion
from realigner.policy import Rule
from realigner.recipe_judges import HttpJudgeSettings
from realigner.records import Judgement, Label, user_prompt

MakeJudge = Callable[..., HttpJudge]
KIND = Rule(id="kind", by="llm", text="The response is kind.")
BRIEF = Rule(id="brief", by="llm", text="The response is brief.")


def question(number: int, *rules: Rule) -> RuleQuestion:
    return RuleQuestion(rules or (KIND,), Judgement(user_prompt("Hello"), f"This is item-{number}"))


def answers(judge: HttpJudge, *numbers: int) -> list[RuleAnswer]:
    found = dict(judge.answer([question(number) for number in numbers]))
    assert sorted(found) == list(range(len(numbers)))
    return [found[place] for place in range(len(numbers))]


def test_it_is_a_rule_judge(judge: MakeJudge) -> None:
    assert isinstance(judge("ok"), RuleJudge)


@pytest.mark.parametrize("output", ["json_schema", "json_object", "plain"])
def test_verdicts_are_those_of_the_server_in_every_mode(judge: MakeJudge, output: str) -> None:
    found = answers(judge("ok", output=output), *range(12))
    assert [answer.verdicts[0].label for answer in found] == [right_label(number) for number in range(12)]
    assert all(answer.keep and answer.verdicts[0].rule == "kind" for answer in found)


def test_several_rules_are_judged_in_one_call(judge: MakeJudge, server: FaultServer) -> None:
    (found,) = dict(judge("ok,6").answer([question(3, KIND, BRIEF)])).values()
    assert [verdict.rule for verdict in found.verdicts] == ["kind", "brief"]
    assert server.asked("ok,6") == {"probe": 1, "3": 1}


def test_each_answer_says_where_it_comes_from(judge: MakeJudge) -> None:
    (found,) = answers(judge("ok"), 1)
    seconds = found.facts.pop("seconds")
    assert isinstance(seconds, float)
    assert found.facts == {
        "output": "json_schema",
        "model": "served-1",
        "attempts": 1,
        "calls": 1,
        "input_tokens": 100,
        "output_tokens": 20,
    }
    json.dumps(found.facts)


@pytest.mark.parametrize("fault", ["wrongschema", "prose"])
def test_an_answer_that_cannot_be_read_is_repaired_once(judge: MakeJudge, server: FaultServer, fault: str) -> None:
    (found,) = answers(judge(f"{fault},ok"), 4)
    assert found.keep
    assert found.verdicts[0].label == right_label(4)
    assert (found.facts["repaired"], found.facts["calls"], found.facts["input_tokens"]) == (True, 2, 200)
    turns = server.last(f"{fault},ok")["body"]["messages"]
    assert [turn["role"] for turn in turns] == ["system", "user", "assistant", "user"]
    assert "could not be read" in turns[3]["content"]


@pytest.mark.parametrize("fault", ["wrongschema", "prose"])
def test_after_one_repair_it_is_invalid_and_not_kept(judge: MakeJudge, server: FaultServer, fault: str) -> None:
    (found,) = answers(judge(f"{fault}*"), 4)
    assert (found.verdicts[0].label, found.keep) == (Label.INVALID, False)
    assert "the answer could not be read" in found.verdicts[0].reason
    assert server.asked(f"{fault}*")["4"] == 2


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("length*", "cut at its token limit"),
        ("filter*", "content filter"),
        ("refusal*", "the judge refused"),
        ("empty*", "the answer is empty"),
        ("null*", "the answer is empty"),
    ],
)
def test_what_is_cut_withheld_or_empty_is_invalid_without_a_second_call(
    judge: MakeJudge, server: FaultServer, fault: str, reason: str
) -> None:
    (found,) = answers(judge(fault), 2)
    assert (found.verdicts[0].label, found.keep) == (Label.INVALID, False)
    assert reason in found.verdicts[0].reason
    assert server.asked(fault)["2"] == 1


def test_an_item_that_the_server_does_not_take_is_invalid_and_the_others_are_judged(judge: MakeJudge) -> None:
    found = answers(judge("ok,400"), 1, 1, 2)
    labels = sorted(answer.verdicts[0].label for answer in found)
    assert labels == ["compliant", "invalid", "non_compliant"]
    assert [answer.keep for answer in found].count(False) == 1


def test_another_model_behind_the_same_name_is_pointed_out_once(
    judge: MakeJudge, caplog: pytest.LogCaptureFixture
) -> None:
    asked = judge("ok,renamed*")
    assert all(answer.keep for answer in answers(asked, 3))
    assert caplog.text == ""
    answers(asked, 3, 3)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "calls itself served-2 now, and called itself served-1 when it was found" in caplog.text


# -- modes


@pytest.mark.parametrize(
    ("model", "mode", "asked"),
    [
        ("ok", Mode.JSON_SCHEMA, 1),
        ("no-schema*", Mode.JSON_OBJECT, 2),
        ("no-format*", Mode.PLAIN, 3),
        ("wrapped*", Mode.PLAIN, 3),
    ],
)
def test_auto_takes_the_strongest_mode_that_works(
    judge: MakeJudge, server: FaultServer, model: str, mode: Mode, asked: int
) -> None:
    """`wrapped` accepts every mode and keeps to none."""
    before = server.asked(model).get("probe", 0)
    maker = judge(model, output="auto")
    assert maker.reach().mode is mode
    assert f":{mode}:" in maker.identity
    assert server.asked(model)["probe"] - before == asked


def test_a_server_that_answers_but_not_as_a_judge_is_pointed_out(judge: MakeJudge) -> None:
    said = judge("prose*").check()
    assert "WARNING: its answer to a trivial question is no verdict ('I think that it is fine.')" in said
    assert "WARNING" not in judge("ok").check()
    assert "which calls itself served-1: output json_schema, answered in" in judge("ok").check()


def test_a_mode_that_is_asked_for_and_not_supported_is_refused_before_the_first_question(
    judge: MakeJudge, server: FaultServer
) -> None:
    with pytest.raises(OracleError, match=r"does not support output: json_schema: .*Set output: auto"):
        answers(judge("no-schema,no-schema*"), 1, 2)
    assert "1" not in server.asked("no-schema,no-schema*")


def test_a_server_that_refuses_every_mode_is_an_error_with_its_words(judge: MakeJudge) -> None:
    with pytest.raises(OracleError, match=r"refuses a trivial question \(plain: status 400: made to fail with 400\)"):
        judge("400*", output="auto").check()


def test_a_server_that_changes_its_mind_is_an_error_and_modes_are_not_mixed(judge: MakeJudge) -> None:
    asked = judge("ok,no-schema*", output="auto")
    with pytest.raises(OracleError, match=r"supported output: json_schema before and no longer does .*not mixed"):
        answers(asked, 1, 1, 1)


def test_the_mode_that_was_found_is_remembered_for_the_next_process(
    judge: MakeJudge, server: FaultServer, tmp_path: Path
) -> None:
    pins = tmp_path / "deep" / "modes.json"
    first = judge("no-schema*", output="auto", pins=pins)
    assert first.known_mode is None
    identity = first.identity
    before = server.asked("no-schema*")["probe"]
    second = judge("no-schema*", output="auto", pins=pins)
    assert second.identity == identity
    assert server.asked("no-schema*")["probe"] == before
    # Reachability is still tried, once, before the first question.
    answers(second, 1)
    assert server.asked("no-schema*")["probe"] == before + 1


def test_a_model_that_is_no_judge_in_any_mode_is_refused_and_not_remembered(judge: MakeJudge, tmp_path: Path) -> None:
    pins = tmp_path / "modes.json"
    with pytest.raises(OracleError, match=r"in no output mode with a verdict, but: 'I think that it is fine.'"):
        judge("prose*", output="auto", pins=pins).check()
    assert not pins.exists()


@pytest.mark.parametrize("content", ["", "[]", "{", '{"x": 1}', "\x00"])
def test_a_damaged_memory_of_modes_is_as_none(judge: MakeJudge, tmp_path: Path, content: str) -> None:
    pins = tmp_path / "modes.json"
    pins.write_text(content)
    assert pinned(pins, "x") is None
    judge("no-schema*", output="auto", pins=pins).reach()
    assert judge("no-schema*", output="auto", pins=pins).known_mode is Mode.JSON_OBJECT


def test_the_memory_of_modes_lies_in_the_users_cache_folder(tmp_path: Path) -> None:
    assert pins_file({"XDG_CACHE_HOME": str(tmp_path)}) == tmp_path / "realigner" / "output-modes.json"
    assert pins_file({}).is_absolute()


def test_its_costs_are_known_before_it_is_asked(judge: MakeJudge) -> None:
    free = judge("ok", max_tokens=7, concurrency=3).costs
    assert (free.model, free.paid, free.max_output_tokens, free.concurrency, free.most_calls) == ("ok", False, 7, 3, 2)
    assert judge("ok", key_env="MY_KEY", environment={"MY_KEY": "0123456789"}).costs.paid


# -- identity


def test_the_identity_names_all_that_can_change_a_verdict_and_nothing_else(judge: MakeJudge) -> None:
    base = judge("ok").identity
    assert base.startswith("http/1:ok@127.0.0.1:")
    for changed in ({"temperature": 0.5}, {"output": "plain"}, {"deployment": "cluster"}, {"extra": {"top_k": 1}}):
        assert judge("ok", **changed).identity != base, changed
    for same in ({"concurrency": 2}, {"budget": 9.0}, {"timeout": 9.0}, {"max_tokens": 9}):
        assert judge("ok", **same).identity == base, same
    assert judge("ok2").identity != base


def test_a_named_deployment_keeps_its_identity_where_it_moves(judge: MakeJudge, server: FaultServer) -> None:
    identity = judge("ok", deployment="llama-70b-fp8").identity
    assert "127.0.0.1" not in identity
    assert "ok@llama-70b-fp8" in identity


def test_a_judge_with_a_known_mode_has_an_identity_without_a_server() -> None:
    from realigner.oracle.http import ChatClient, ModelSettings, open_endpoint

    nobody = ChatClient(open_endpoint("http://127.0.0.1:9/v1"), ModelSettings("m"))
    assert ":plain:" in HttpJudge(nobody, output="plain").identity


def test_where_nothing_may_be_asked_a_judge_without_a_mode_has_an_identity_that_nothing_is_stored_under(
    server: FaultServer, tmp_path: Path
) -> None:
    settings = HttpJudgeSettings(kind="http", url=server.url, model="ok,ok,ok")
    quiet = http_judge(settings, tmp_path / "pins.json", may_ask=False)
    assert ":auto:" in quiet.identity
    assert quiet.note.startswith("its output mode is not known yet")
    assert server.asked("ok,ok,ok") == {}
    http_judge(settings, tmp_path / "pins.json").check()
    assert ":json_schema:" in quiet.identity
    assert quiet.note == ""
    assert server.asked("ok,ok,ok") == {"probe": 1}


def test_with_idempotency_keys_equal_questions_are_equal_requests_and_unequal_ones_are_not(
    judge: MakeJudge, server: FaultServer
) -> None:
    model, bodies, keys = "ok,ok,ok,ok,ok", [], []
    for number in (1, 1, 2):
        answers(judge(model, idempotency_header="Idempotency-Key"), number)
        said = server.last(model)
        bodies.append(said["body"])
        keys.append(said["headers"]["idempotency-key"])
    assert bodies[0] == bodies[1] != bodies[2]
    assert keys[0] == keys[1] != keys[2]
    assert server.good(model) == {"probe": 1, "1": 1, "2": 1}
    answers(judge(model), 1)
    assert "idempotency-key" not in server.last(model)["headers"]


def test_a_question_keeps_its_key_until_it_is_answered_in_vain(judge: MakeJudge, server: FaultServer) -> None:
    for fault, same in (("half,ok,ok,ok", True), ("500,ok,ok,ok", True), ("badjson,ok,ok,ok", False)):
        answers(judge(fault, idempotency_header="Idempotency-Key"), 5)
        entries = [entry for entry in server.log()["seen"] if entry["body"]["model"] == fault][-2:]
        first, second = (entry["headers"]["idempotency-key"] for entry in entries)
        assert (first == second) is same


@pytest.mark.parametrize("header", ["Authorization", "content-length", "X-Own"])
def test_an_idempotency_header_that_carries_something_else_is_refused(header: str) -> None:
    with pytest.raises(ValueError, match=f"idempotency_header is '{header}', which carries something else"):
        HttpJudgeSettings(kind="http", url="http://x/v1", model="m", key_header="X-Own", idempotency_header=header)


def test_a_key_that_is_not_set_is_refused_before_anything_is_sent(judge: MakeJudge, server: FaultServer) -> None:
    keyless = judge("ok,9", key_env="MY_KEY", environment={})
    assert keyless.identity
    assert keyless.costs.paid
    for attempt in (keyless.check, lambda: answers(keyless, 1)):
        with pytest.raises(OracleError, match="MY_KEY: this environment variable is not set"):
            attempt()
    assert server.asked("ok,9") == {}


# -- batch


def test_a_request_is_the_body_of_a_live_call(judge: MakeJudge, server: FaultServer) -> None:
    asked = judge("ok,7")
    answers(asked, 8)
    sent, made = server.last("ok,7")["body"], asked.request(question(8))
    for body in (sent, made):
        code = body["messages"][1]["content"].split("The fence code of this message is ")[1][:16]
        body["messages"][1]["content"] = body["messages"][1]["content"].replace(code, "CODE")
    assert made == sent


def test_a_custom_id_names_the_question_and_the_judge(judge: MakeJudge) -> None:
    one, other = judge("ok"), judge("ok", temperature=0.5)
    ids = {one.custom_id(question(1)), one.custom_id(question(2)), one.custom_id(question(1, BRIEF))}
    ids |= {other.custom_id(question(1)), one.custom_id(question(1, KIND, BRIEF))}
    assert len(ids) == 5
    assert one.custom_id(question(1)) == judge("ok", concurrency=1).custom_id(question(1))


def test_an_answer_from_a_batch_file_is_read_by_the_same_parser(judge: MakeJudge) -> None:
    from realigner.oracle.http import Completion

    asked: Any = judge("ok")
    good = Completion('{"rule_1": {"reason": "r", "verdict": "unsure"}}', "stop", prompt_tokens=5, completion_tokens=6)
    found = asked.read(question(1), good)
    assert (found.verdicts[0].label, found.keep, found.facts["input_tokens"]) == (Label.UNSURE, True, 5)
    for bad in (Completion("no", "stop"), Completion("", "length", "the answer was cut at its token limit")):
        found = asked.read(question(1), bad)
        assert (found.verdicts[0].label, found.keep) == (Label.INVALID, False)


def test_check_warns_of_a_server_that_is_no_judge(server: FaultServer, tmp_path: Path) -> None:
    from realigner.check import _check_oracle, _Findings
    from realigner.oracle.build import open_oracle
    from realigner.policy import Policy
    from realigner.recipe import Recipe

    rules = [{"id": "kind", "by": "llm", "text": "The response is kind."}]
    policy = Policy.parse({"id": "p", "version": "1", "title": "t", "rules": rules})
    for model, level in (("prose*", "warning"), ("ok", "ok")):
        llm = {"kind": "http", "url": server.url, "model": model, "output": "plain"}
        recipe = Recipe.parse(
            {
                "output": str(tmp_path / "run"),
                "model": {"path": "m"},
                "data": {"path": "d"},
                "policy": {"path": "p"},
                "oracle": {"kind": "judges", "llm": llm},
            }
        )
        findings = _Findings()
        with open_oracle(recipe.oracle, policy, recipe.output) as oracle:
            _check_oracle(recipe, oracle, None, findings)
        assert [found.level for found in findings if "output plain" in found.text] == [level]
