"""The oracles that exist, and where they come from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest

from realigner.errors import OracleError
from realigner.oracle import Oracle, RuleOracle, ScriptedOracle, ask, build_oracle
from realigner.oracle.build import BUILDERS
from realigner.policy import Policy
from realigner.recipe import OracleSettings
from realigner.records import Judgement, Label, Message, RuleVerdict, Verdict, user_prompt

GOOD, BAD = Label.COMPLIANT, Label.NON_COMPLIANT


def policy(word: str = "bad") -> Policy:
    rule = {"id": "r", "text": "A rule.", "forbid": {"words": [word]}}
    return Policy.parse({"id": "p", "version": "1", "title": "t", "rules": [rule]})


def question(prompt: str, response: str) -> Judgement:
    return Judgement(user_prompt(prompt), response)


def test_the_rule_oracle_says_what_the_policy_says_in_order() -> None:
    questions = [question("q", "bad"), question("q", "fine")]
    verdicts = RuleOracle(policy()).judge(questions)
    assert verdicts == [policy().judge(asked.prompt, asked.response) for asked in questions]
    assert [verdict.label for verdict in verdicts] == [BAD, GOOD]


def test_an_identity_follows_the_policy() -> None:
    assert RuleOracle(policy()).identity == RuleOracle(policy()).identity == f"rules/1:{policy().hash}"
    assert RuleOracle(policy("worse")).identity != RuleOracle(policy()).identity
    table = {("q", "a"): GOOD}
    assert policy().hash in ScriptedOracle(table, policy=policy()).identity


def test_a_scripted_identity_follows_its_content_and_not_its_order() -> None:
    table: dict[tuple[str, str], Label | Verdict] = {("q", "a"): GOOD, ("q", "b"): BAD}
    identity = ScriptedOracle(table).identity
    assert ScriptedOracle(dict(reversed(table.items()))).identity == identity
    assert ScriptedOracle({**table, ("q", "b"): GOOD}).identity != identity
    assert ScriptedOracle(table, default=GOOD).identity != identity
    assert ScriptedOracle(lambda _: GOOD, name="mine").identity == "scripted/1:no-policy:mine"


def test_every_oracle_keeps_the_protocol() -> None:
    assert isinstance(RuleOracle(policy()), Oracle)
    assert isinstance(ScriptedOracle({}), Oracle)
    assert not isinstance(object(), Oracle)


def test_a_table_is_keyed_by_prompt_text_and_response() -> None:
    verdict = Verdict(BAD, (RuleVerdict("r", BAD, "why"),), "r: why")
    oracle = ScriptedOracle({("q", "a"): GOOD, ("user: q\n\nassistant: x\n\nuser: y", "b"): verdict})
    turns = (
        Message(role="user", content="q"),
        Message(role="assistant", content="x"),
        Message(role="user", content="y"),
    )
    answers = oracle.judge([Judgement(turns, "b"), question("q", "a")])
    assert answers == [verdict, Verdict(GOOD, reason="scripted")]


def test_a_question_without_a_scripted_verdict_is_named() -> None:
    with pytest.raises(OracleError) as caught:
        ScriptedOracle({}).judge([question("who?", "me " * 100)])
    assert "prompt 'who?', response 'me me" in str(caught.value)
    assert "it has no scripted verdict and there is no default. Add a line for it, or give a default" in str(
        caught.value
    )
    assert len(str(caught.value)) < 250


def test_a_default_answers_what_the_table_does_not_hold() -> None:
    oracle = ScriptedOracle({("q", "a"): GOOD}, default=Label.UNSURE)
    assert [v.label for v in oracle.judge([question("q", "a"), question("q", "b")])] == [GOOD, Label.UNSURE]


def test_a_function_answers_each_question() -> None:
    oracle = ScriptedOracle(lambda asked: GOOD if asked.response == "a" else BAD)
    assert [v.label for v in oracle.judge([question("q", "b"), question("q", "a")])] == [BAD, GOOD]


def write_lines(tmp_path: Path, *lines: dict[str, Any] | str) -> Path:
    path = tmp_path / "verdicts.jsonl"
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    path.write_text(text + "\n", encoding="utf-8")
    return path


LINE: dict[str, Any] = {"prompt": "q", "response": "a", "label": "compliant"}


def test_a_file_gives_labels_reasons_and_rules(tmp_path: Path) -> None:
    rules = [{"rule": "r", "label": "non_compliant", "reason": "why"}, {"rule": "s", "label": "compliant"}]
    turns = [{"role": "user", "content": "q"}]
    full = {"prompt": turns, "response": "b", "label": "non_compliant", "reason": "r: why", "rules": rules}
    oracle = ScriptedOracle.from_file(write_lines(tmp_path, LINE, full, LINE))
    assert ask(oracle, [question("q", "b"), question("q", "a")]) == [
        Verdict(BAD, (RuleVerdict("r", BAD, "why"), RuleVerdict("s", GOOD, "scripted")), "r: why"),
        Verdict(GOOD, reason="scripted"),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{broken", "verdicts.jsonl:2: not JSON"),
        ({**LINE, "lable": "x"}, "verdicts.jsonl:2: unknown key 'lable'"),
        ({**LINE, "lable": "x"}, "Did you mean 'label'?"),
        ({"prompt": "q", "response": "a"}, "verdicts.jsonl:2: no key 'label'"),
        ({**LINE, "label": "complaint"}, "label is 'complaint': it must be one of compliant, non_compliant, unsure"),
        ({**LINE, "label": "complaint"}, "Correct it. Did you mean 'compliant'?"),
        ({**LINE, "response": None}, "response is 'None': it must be a text"),
        ({**LINE, "prompt": [{"role": "user"}]}, "it must be a text, or a list of messages with role and content"),
        ({**LINE, "rules": {"r": "compliant"}}, "it must be a list of {rule, label, reason?}"),
        ({**LINE, "rules": [{"rule": "r"}]}, "verdicts.jsonl:2: no key 'label'"),
        ({**LINE, "label": "unsure"}, "verdicts.jsonl:2: another verdict than at"),
    ],
)
def test_a_bad_line_is_named_by_its_number(tmp_path: Path, line: dict[str, Any] | str, message: str) -> None:
    with pytest.raises(OracleError) as caught:
        ScriptedOracle.from_file(write_lines(tmp_path, LINE, line))
    assert message in str(caught.value)


def test_a_missing_or_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OracleError, match=r"none\.jsonl: no such file\. Check oracle\.path"):
        ScriptedOracle.from_file(tmp_path / "none.jsonl")
    with pytest.raises(OracleError, match="it has no line"):
        ScriptedOracle.from_file(write_lines(tmp_path))


def test_every_kind_of_the_recipe_can_be_built(tmp_path: Path) -> None:
    kinds = get_args(OracleSettings.model_fields["kind"].annotation)
    assert sorted(BUILDERS) == sorted(kinds)
    path = write_lines(tmp_path, LINE)
    needs: dict[str, dict[str, Any]] = {"scripted": {"path": str(path)}, "judges": {"llm": {"kind": "rules"}}}
    for kind in kinds:
        settings = OracleSettings.model_validate({"kind": kind, **needs.get(kind, {})})
        assert policy().hash in build_oracle(settings, policy()).identity


def test_a_scripted_oracle_without_a_file_is_refused() -> None:
    settings = OracleSettings.model_construct(kind="scripted", path=None)
    with pytest.raises(OracleError, match=r"oracle\.kind: scripted: it needs a file of verdicts"):
        build_oracle(settings, policy())
