"""The policy file: what it decides, its identity, and every way in which it can be wrong."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from realigner.errors import PolicyError
from realigner.policy import Policy
from realigner.records import Label, RuleVerdict, user_prompt

CONTENT: dict[str, Any] = {
    "id": "house",
    "version": "2.0",
    "title": "House style",
    "supersedes": "house 1.0",
    "rules": [
        {
            "id": "no-slang",
            "tier": "high",
            "text": "Write without slang.",
            "forbid": {"words": ["gonna", "wanna"]},
            "examples": [
                {"text": "We are gonna see.", "label": "non_compliant", "why": "slang"},
                {"text": "We shall see.", "label": "compliant", "why": "plain"},
            ],
        },
        {
            "id": "cite",
            "text": "Name a source for medical advice.",
            "when": {"words": ["medicine", "dose"]},
            "require": {"regex": r"https?://"},
        },
    ],
}


def changed(path: str, value: Any) -> dict[str, Any]:
    """Return CONTENT with the value at a dotted path replaced (or removed, where the value is `...`)."""
    content: dict[str, Any] = json.loads(json.dumps(CONTENT))
    *parents, leaf = [int(part) if part.isdigit() else part for part in path.split(".")]
    node: Any = content
    for parent in parents:
        node = node[parent]
    if value is ...:
        del node[leaf]
    else:
        node[leaf] = value
    return content


def fault(content: dict[str, Any]) -> str:
    with pytest.raises(PolicyError) as caught:
        Policy.parse(content, source="p.yaml")
    message = str(caught.value)
    assert message.startswith("policy p.yaml: ")
    assert message.endswith("docs/policy.md describes every key")
    return message


def write(tmp_path: Path, content: dict[str, Any]) -> Path:
    path = tmp_path / "policy.yaml"
    path.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    return path


def test_a_file_and_a_mapping_are_the_same_policy(tmp_path: Path) -> None:
    loaded = Policy.load(write(tmp_path, CONTENT))
    assert loaded == Policy.parse(CONTENT)
    assert loaded.hash == Policy.parse(CONTENT).hash
    assert (loaded.supersedes, loaded.rules[0].tier, loaded.rules[1].tier) == ("house 1.0", "high", "standard")


def test_a_policy_is_read_back_from_its_own_dump() -> None:
    policy = Policy.parse(CONTENT)
    again = Policy.parse(policy.model_dump(mode="json", by_alias=True))
    assert (again, again.hash) == (policy, policy.hash)


@pytest.mark.parametrize("labels", list(itertools.product(Label, repeat=2)))
def test_any_violation_then_invalid_then_unsure_decides(labels: tuple[Label, Label]) -> None:
    rules = [
        RuleVerdict(name, label, f"because {name}") for name, label in zip(("no-slang", "cite"), labels, strict=True)
    ]
    verdict = Policy.parse(CONTENT).decide(rules)
    worst = next(x for x in (Label.NON_COMPLIANT, Label.INVALID, Label.UNSURE, Label.COMPLIANT) if x in labels)
    assert (verdict.label, verdict.rules) == (worst, tuple(rules))
    deciding = [f"{rule.rule}: {rule.reason}" for rule in rules if rule.label is worst]
    assert verdict.reason == ("no rule is broken" if worst is Label.COMPLIANT else "; ".join(deciding))


def test_a_verdict_names_the_rules_that_decided() -> None:
    verdict = Policy.parse(CONTENT).judge(user_prompt("Which dose?"), "You are gonna be fine")
    assert verdict.label is Label.NON_COMPLIANT
    assert verdict.reason == "no-slang: contains 'gonna'; cite: has nothing that matches 'https?://'"
    assert [rule.rule for rule in verdict.rules] == ["no-slang", "cite"]


def test_the_hash_is_16_hex_digits_and_the_same_in_another_process() -> None:
    code = "import json, sys\nfrom realigner.policy import Policy\nprint(Policy.parse(json.load(sys.stdin)).hash)"
    other = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps(CONTENT), capture_output=True, text=True, check=True
    )
    assert other.stdout.strip() == Policy.parse(CONTENT).hash
    assert len(Policy.parse(CONTENT).hash) == 16
    assert int(Policy.parse(CONTENT).hash, 16) >= 0


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("version", "2.1"),
        ("title", "Other"),
        ("rules.0.tier", "critical"),
        ("rules.0.text", "Other wording."),
        ("rules.0.forbid.words", ["gonna"]),
        ("rules.1.when", ...),
    ],
)
def test_every_change_of_a_policy_changes_its_hash(path: str, value: Any) -> None:
    assert Policy.parse(changed(path, value)).hash != Policy.parse(CONTENT).hash


def test_key_order_does_not_change_the_hash() -> None:
    assert Policy.parse(dict(reversed(CONTENT.items()))).hash == Policy.parse(CONTENT).hash


def test_a_rule_hash_moves_with_what_it_judges_and_not_with_its_neighbours_tier_or_examples() -> None:
    before = Policy.parse(CONTENT).rules
    edited = Policy.parse(changed("rules.0.forbid.words", ["gonna"])).rules
    assert edited[0].hash != before[0].hash
    assert edited[1].hash == before[1].hash
    assert Policy.parse(changed("rules.0.tier", "reduced")).rules[0].hash == before[0].hash
    assert Policy.parse(changed("rules.0.examples", [])).rules[0].hash == before[0].hash
    assert Policy.parse(changed("rules.0.text", "Other.")).rules[0].hash != before[0].hash


def test_a_policy_cannot_be_changed() -> None:
    policy = Policy.parse(CONTENT)
    with pytest.raises(ValueError, match="frozen"):
        policy.version = "3"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("rulez", [], "rulez: unknown key. Did you mean 'rules'?"),
        ("rules", [], "rules: needs at least one entry"),
        ("rules", ..., "rules: missing"),
        ("version", 2.0, "version: 2.0 was read as float, not as text; put it in quotes"),
        ("decision", "vote", "decision: 'vote': Input should be 'any_violation'"),
        ("rules.1.id", "no-slang", "rule id 'no-slang' is used twice (rules 1 and 2); rename one"),
        ("rules.1.id", True, "rule 'True': id: True was read as bool, not as text; put it in quotes"),
        ("rules.1.id", ..., "rule number 2: id: missing"),
        ("rules.1.id", "two words", "rule 'two words': id: 'two words': String should match pattern"),
        ("rules.1", "text", "rule number 2: 'text': must be a mapping of keys and values"),
        ("rules.1.text", "", "rule 'cite': text: needs at least one character"),
        ("rules.0.tier", "hihg", "rule 'no-slang': tier: 'hihg': Input should be 'critical', 'high'"),
        ("rules.0.forbids", {}, "rule 'no-slang': forbids: unknown key. Did you mean 'forbid'?"),
        ("rules.0.require", {"regex": "a"}, "rule 'no-slang': has both forbid and require; give exactly one"),
        ("rules.0.forbid", ..., "rule 'no-slang': has neither forbid nor require; give exactly one"),
        ("rules.0.examples.0.why", ..., "rule 'no-slang': examples[1].why: missing"),
        ("rules.0.examples.0.txt", "", "rule 'no-slang': examples[1].txt: unknown key. Did you mean 'text'?"),
        ("rules.0.examples.0.label", "unsure", "examples[1].label: 'unsure': Input should be 'compliant' or"),
        ("rules.0.forbid", "gonna", "forbid: 'gonna' is not a check; write a mapping with one of regex, words,"),
        ("rules.0.forbid", {}, "forbid: keys (none) name no check; use one of regex, words, length, readability,"),
        ("rules.0.forbid", {"wrods": ["a"]}, "keys 'wrods' name no check; use one of regex, words, length, read"),
        ("rules.0.forbid", {"wrods": ["a"]}, "Did you mean 'words'?"),
        ("rules.0.forbid", {"words": ["a"], "regex": "a"}, "one check cannot be regex and words at once; combine"),
        ("rules.0.forbid", {"words": []}, "rule 'no-slang': forbid.words: needs at least one entry"),
        ("rules.0.forbid", {"words": ["a", " "]}, "forbid: the word ' ' is blank and would never be found"),
        ("rules.0.forbid", {"words": ["a", True]}, "forbid.words[2]: True was read as bool, not as text; put it in"),
        ("rules.0.forbid", {"words": ["a"], "on": "prompt"}, "forbid.on: unknown key"),
        ("rules.0.forbid", {"words": ["a"], "in": "reply"}, "forbid.in: 'reply': Input should be 'prompt', 'last_"),
        ("rules.0.forbid", {"regex": "a(b"}, "rule 'no-slang': forbid: invalid regular expression 'a(b': missing )"),
        ("rules.0.forbid", {"regex": "a(b"}, "at position 3"),
        ("rules.0.forbid", {"any": [{"regex": "a"}, {"regex": "["}]}, "forbid.any[2]: invalid regular expression '['"),
        (
            "rules.0.forbid",
            {"regex": "a", "ignorecase": 1},
            "forbid.ignorecase: unknown key. Did you mean 'ignore_case'",
        ),
        ("rules.0.forbid", {"length": {}}, "forbid.length: needs min, max or both"),
        ("rules.0.forbid", {"length": {"min": 3, "max": 2}}, "forbid.length: min 3 is above max 2"),
        ("rules.0.forbid", {"length": {"mni": 3}}, "forbid.length.mni: unknown key. Did you mean 'min'?"),
        ("rules.0.forbid", {"length": {"max": 3, "unit": "lines"}}, "forbid.length.unit: 'lines': Input should be"),
        ("rules.0.forbid", {"readability": {}}, "forbid.readability: needs min, max or both"),
        ("rules.0.forbid", {"readability": {"min": 3, "max": 2}}, "forbid.readability: min 3 is above max 2"),
        ("rules.0.forbid", {"not": {"regx": "a"}}, "forbid.not: keys 'regx' name no check"),
        ("rules.0.forbid", {"all": []}, "forbid.all: needs at least one entry"),
    ],
)
def test_what_is_wrong_is_named_with_its_place_and_remedy(path: str, value: Any, message: str) -> None:
    assert message in fault(changed(path, value))


def test_all_faults_are_told_at_once() -> None:
    content = changed("rules.0.forbid", {"regex": "("})
    content["rules"][1]["tier"] = "top"
    content["verison"] = "3"
    lines = fault(content).splitlines()
    assert lines[0] == "policy p.yaml: 3 faults"
    assert [line.split(":")[0] for line in lines[1:]] == ["- rule 'no-slang'", "- rule 'cite'", "- verison"]


def test_a_fault_in_every_rule_does_not_also_say_that_there_are_no_rules() -> None:
    content = changed("rules.0.forbid", {"any": [{"regex": "("}]})
    content["rules"] = content["rules"][:1]
    assert "needs at least one entry" not in fault(content)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"id: [unclosed", "policy.yaml, line 1: it is not valid YAML"),
        (b"id: p\nid: q\n", "policy.yaml, line 2: it is not valid YAML (the key 'id' is given twice)"),
        (b"rules:\n- {id: a, forbid: {regex: a, regex: b}}\n", "line 2: it is not valid YAML (the key 'regex' is"),
        (b"id: caf\xe9", "policy.yaml, byte 7: it is not UTF-8. Save it as UTF-8"),
        (b"id: \x00", "it is not valid YAML (special characters are not allowed)"),
        (b"", "a policy is a mapping with id, version, title and rules. See docs/policy.md"),
        (b"- a\n- b", "a policy is a mapping"),
        (b"!!python/object/apply:os.getcwd []", "it is not valid YAML (could not determine a constructor"),
    ],
)
def test_an_unreadable_file_is_refused_with_its_place(tmp_path: Path, raw: bytes, message: str) -> None:
    path = tmp_path / "policy.yaml"
    path.write_bytes(raw)
    with pytest.raises(PolicyError) as caught:
        Policy.load(path)
    assert message in str(caught.value)


def test_a_missing_file_and_a_directory_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"no\.yaml: no such file\. Check the path"):
        Policy.load(tmp_path / "no.yaml")
    with pytest.raises(PolicyError, match="it is a directory"):
        Policy.load(tmp_path)


def test_yaml_merge_keys_are_no_duplicates(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(
        "id: p\nversion: '1'\ntitle: t\nrules:\n"
        "- &base {id: a, text: t, tier: high, forbid: {regex: a}}\n- {<<: *base, id: b}\n",
        encoding="utf-8",
    )
    assert [(rule.id, rule.tier) for rule in Policy.load(path).rules] == [("a", "high"), ("b", "high")]


def test_an_example_that_contradicts_its_rule_stops_loading_but_not_parsing(tmp_path: Path) -> None:
    content = changed("rules.0.examples.1.text", "I wanna go.")
    mismatches = Policy.parse(content).check_examples()
    assert mismatches == [
        "rule 'no-slang', example 2 ('I wanna go.') is labelled compliant, but the rule says non_compliant: "
        "contains 'wanna'"
    ]
    with pytest.raises(PolicyError) as caught:
        Policy.load(write(tmp_path, content))
    assert "a rule contradicts its own example" in str(caught.value)
    assert mismatches[0] in str(caught.value)


def test_an_example_with_a_prompt_is_judged_with_it() -> None:
    example = {"text": "Two pills.", "label": "non_compliant", "why": "no source"}
    without = Policy.parse(changed("rules.1.examples", [example])).check_examples()
    assert without[0].endswith("but the rule says compliant: does not apply")
    assert Policy.parse(changed("rules.1.examples", [{**example, "prompt": "Which dose?"}])).check_examples() == []


def test_an_example_is_judged_by_its_own_rule_alone() -> None:
    example = {"prompt": "dose", "text": "https://x gonna", "label": "compliant", "why": "another rule forbids slang"}
    assert Policy.parse(changed("rules.1.examples", [example])).check_examples() == []
