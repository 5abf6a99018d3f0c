"""What can be wrong with a judge, its price or its policy: one line with the value, the rule and the remedy.

Each through `realigner triage` against a server that fails on purpose: exit code 2 (3 for a limit, 1 for a server that
cannot answer now), before anything is judged, and never with the key.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import fault_server
import pytest
from fault_server import FaultServer

from realigner import planning

from .conftest import Say

KEY = "sk-very-secret-0123456789"
RULE = "{id: a, by: llm, text: Be kind.}"
POLICY = "{{id: p, version: '1', title: t, {more}rules: [{rules}]}}"


@pytest.fixture(scope="module")
def server() -> Iterator[FaultServer]:
    with fault_server.running() as running:
        yield running


@pytest.fixture
def asking(folder: Path, server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose recipe names a judge behind a server, a key and prices."""
    monkeypatch.setenv("MY_KEY", KEY)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    rows = ({"prompt": f"q{n}", "chosen": f"item-{n}", "rejected": f"item-{n + 30}"} for n in range(30))
    (folder / "old.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "policy.yaml").write_text(POLICY.format(more="", rules=RULE))
    (folder / "prices.yaml").write_text("models: {priced: {input: 1, output: 2}}")
    judge = f"{{kind: http, url: {server.url}, model: ok, key_env: MY_KEY}}"
    with (folder / "recipe.yaml").open("a") as recipe:
        recipe.write(f"oracle: {{kind: judges, llm: {judge}, prices: prices.yaml}}\n")
    return folder


def model(name: str) -> tuple[str, str]:
    return "--set", f"oracle.llm.model='{name}'"


def llm(value: str) -> tuple[str, str]:
    return "--set", f"oracle.llm={value}"


CASES: dict[str, tuple[tuple[str, ...], int, str]] = {
    "an unknown kind of oracle": (
        ("--set", "oracle.kind=gpt"),
        2,
        r"'oracle\.kind' = 'gpt': Input should be 'rules', 'scripted' or 'judges'",
    ),
    "an unknown kind of judge": (
        ("--set", "oracle.llm.kind=openai"),
        2,
        r"'oracle\.llm\.kind' = 'openai': the kinds are rules, scripted, http, local, guard, votes, cascade: a recipe",
    ),
    "a misspelt kind of judge": (
        ("--set", "oracle.llm.kind=htp"),
        2,
        r"the kinds are .*, cascade\. Did you mean 'http'\?: a recipe takes",
    ),
    "a kind that is missing": (llm("{url: http://x/v1, model: m}"), 2, r"missing key 'oracle\.llm\.kind': the kinds"),
    "a misspelt setting of a judge": (
        ("--set", "oracle.llm.modell=x"),
        2,
        r"unknown key 'oracle\.llm\.modell'\. Did you mean 'model'\?",
    ),
    "an unreachable port": (
        ("--set", "oracle.llm.url=http://127.0.0.1:9/v1"),
        2,
        r"judge at http://127\.0\.0\.1:9/v1: it cannot be reached: no connection .*\. Start the server, or correct the",
    ),
    "an unknown host": (
        ("--set", "oracle.llm.url=https://no-such-host.invalid/v1"),
        2,
        r"it cannot be reached: the host of no-such-host\.invalid/v1 is not known\. Start the server",
    ),
    "a url that is none": (("--set", "oracle.llm.url=localhost/v1"), 2, r"not an http or https URL.*Give a base URL"),
    "a wrong key": (
        model("401*"),
        2,
        r"status 401: .*: the server refuses requests with the key from MY_KEY\. Give the right key, or ask for access",
    ),
    "no key where one is wanted": (
        (*model("401*"), "--set", "oracle.llm.key_env=null"),
        2,
        r"the server refuses requests without a key \(no key_env is set\)",
    ),
    "a key that is not set": (
        ("--set", "oracle.llm.key_env=NO_SUCH_KEY"),
        2,
        r"key_env: NO_SUCH_KEY: this environment variable is not set\. export NO_SUCH_KEY=",
    ),
    "a key in the place of its name": (
        ("--set", f"oracle.llm.key_env={KEY}"),
        2,
        r"it must be the NAME of an environment variable.*what was given is not shown",
    ),
    "a model that the server does not have": (model("404*"), 2, r"status 404: .*no such model.*Correct model, or url"),
    "an account without credit": (model("429-quota*"), 2, r"the account has no credit left\. Settle that"),
    "a server that asks to wait for an hour": (
        model("429-hour*"),
        1,
        r"it asks to wait 3600 s, more than the 60 s that a server has to show that it is there\. .* give the same",
    ),
    "a page of html": (
        model("html*"),
        2,
        r"the reply is not JSON; it begins '<html>.*Check that url is the base of an",
    ),
    "a redirect": (
        model("elsewhere*"),
        2,
        r"the server redirects to http.*, and the key is sent nowhere else\. Set url",
    ),
    "a schema that is not supported": (
        (*model("no-schema*"), "--set", "oracle.llm.output=json_schema"),
        2,
        r"the server does not support output: json_schema: status 400.*\. Set output: auto, which falls back",
    ),
    "a model that is no judge in any mode": (
        model("prose*"),
        2,
        r"it answers a trivial question in no output mode with a verdict, but: 'I think.*Take a model that follows",
    ),
    "a limit on money and a model without a price": (
        (*model("pricd"), "--max-cost", "5"),
        2,
        r"model 'pricd' has no price, and max_cost is 5: .*Add it to oracle\.prices \(0 if it is free\)\. Did you mean "
        r"'priced'\?",
    ),
    "a limit on money without prices": (
        ("--set", "oracle.prices=null", "--max-cost", "5"),
        2,
        r"oracle\.max_cost needs oracle\.prices, the file that says what each model costs",
    ),
    "a price file that is none": (("--set", "oracle.prices=old.jsonl"), 2, r"oracle\.prices = .*Write `models: \{NAME"),
    "more calls than allowed": (
        ("--max-calls", "59"),
        3,
        r"this takes 60 calls, max_calls is 59: nothing is asked that could not be finished\. Raise the limit",
    ),
    "no judge for the policy's rules": (
        ("--set", "oracle={kind: judges, classifier: {kind: rules}}"),
        2,
        r"rules by llm: a: there is no judge for them: oracle\.llm is not set\. Set it",
    ),
    "a policy that checks alone cannot decide": (
        ("--set", "oracle={kind: rules}"),
        2,
        r"1 rule is judged by wording: a \(llm\): this policy needs a judge.*Set oracle\.kind: judges",
    ),
    "a judge on this machine that is not there": (
        llm("{kind: local, path: /no/model}"),
        2,
        r"path of the judge = '/no/model': there is no such directory\. Correct it, or give a hub id",
    ),
    "one vote": (llm("{kind: votes, judges: [{kind: rules}]}"), 2, r"'oracle\.llm\.judges'.*at least 2 items"),
    "a judge named twice": (
        llm("{kind: votes, judges: [{kind: rules}, {kind: rules}]}"),
        2,
        r"votes: judge checks/\d+ is named twice: .*Name different judges",
    ),
    "a rule of a guard that the policy does not have": (
        llm("{kind: guard, family: llama-guard-3, server: {url: http://x/v1, model: m}, map: {zz: S1}}"),
        2,
        r"map: rule 'zz': policy p 1 has no such rule",
    ),
    "a store that is a directory": (
        ("--set", "oracle.store=cache"),
        2,
        r"verdict store .*cache: it is a directory\. Set oracle\.store to a file",
    ),
    "a store that is no database": (
        ("--set", "oracle.store=policy.yaml"),
        2,
        r"verdict store .*policy\.yaml.*: it is no verdict store, or it is damaged\. .* set oracle\.store to another",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_wrong_judge_is_one_line_with_the_value_the_rule_and_the_remedy(
    case: str, asking: Path, say: Say, server: FaultServer
) -> None:
    settings, code, message = CASES[case]
    (asking / "cache").mkdir()
    said = say("triage", "recipe.yaml", *settings)
    assert said.code == code, said.err
    assert said.out == ""
    assert said.error.startswith("error: ")
    assert re.search(message, said.error), said.error
    assert "Traceback" not in said.err
    assert KEY not in said.err
    assert not (asking / "run" / "triage.parquet").exists()


UNDECIDING = {
    "any_critical without a critical rule": (
        POLICY.format(more="decision: any_critical, ", rules=RULE),
        r"decision any_critical needs a rule of tier critical, or every response complies; give one",
    ),
    "all_requirements without a requirement": (
        POLICY.format(more="decision: all_requirements, ", rules=RULE),
        r"decision all_requirements needs a rule with `requires` or `require`; give one",
    ),
    "a threshold that is never reached": (
        POLICY.format(more="decision: threshold, threshold: {at: 99}, ", rules=RULE),
        r"never reached: all rules together weigh 2, below threshold\.at 99; lower it or raise weights",
    ),
    "a rule that nobody can judge": (
        POLICY.format(more="", rules="{id: a, text: Be kind.}"),
        r"rule 'a': has neither forbid nor require; give exactly one, or `by: llm`",
    ),
    "a misspelt key": (
        POLICY.format(more="", rules="{id: a, by: llm, text: t, violate: [x]}"),
        r"rule 'a': violate: unknown key\. Did you mean 'violates'\? docs/policy\.md describes every key",
    ),
    "no YAML": ("{id: [", r"policy\.yaml, line 1: it is not valid YAML"),
    "no rules": (POLICY.format(more="", rules=""), r"rules: needs at least one entry"),
}


@pytest.mark.parametrize("verb", ["triage", "lint"])
@pytest.mark.parametrize("case", UNDECIDING)
def test_a_policy_that_cannot_decide_is_refused_before_anybody_is_asked(
    case: str, verb: str, asking: Path, say: Say, server: FaultServer
) -> None:
    text, message = UNDECIDING[case]
    (asking / "policy.yaml").write_text(text)
    before = server.count()
    said = say("triage", "recipe.yaml") if verb == "triage" else say("policy", "lint", "policy.yaml")
    assert said.code == 2, said.err
    assert re.search(message, said.err + said.out), said.err + said.out
    assert server.count() == before


def test_a_dry_run_asks_the_server_nothing_not_even_for_its_mode(asking: Path, say: Say, server: FaultServer) -> None:
    settings = (*model("ok,ok,ok"), "--set", "oracle.prices=prices.yaml")
    for verb in (("triage",), ("run",)):
        said = say(*verb, "recipe.yaml", *settings, "--dry-run")
        assert said.code == 0, said.err
        assert "to ask: 60 calls, about" in said.out
        assert (
            "its output mode is not known yet and asking for it is a call too, so nothing counts as known" in said.out
        )
        assert said.out.endswith("nothing was asked\n")
    assert server.asked("ok,ok,ok") == {}
    assert say("triage", "recipe.yaml", *settings).code == 0
    said = say("triage", "recipe.yaml", *settings, "--dry-run")
    assert "60 verdicts are known, nothing to ask" in said.out
    (asking / "new.yaml").write_text(POLICY.format(more="", rules=RULE.replace("kind", "very kind")))
    for path in (asking / "cache").rglob("*.json"):
        path.unlink()  # as on another machine, where the mode is not known
    asked = server.asked("ok,ok,ok")
    said = say("migrate", "run", "new.yaml", "--dry-run")
    assert "to ask: 60 calls" in said.out
    assert server.asked("ok,ok,ok") == asked


def test_the_plan_says_calls_tokens_time_and_money_before_it_begins_and_the_facts_say_what_it_took(
    asking: Path, say: Say
) -> None:
    (asking / "prices.yaml").write_text("{currency: EUR, models: {ok: {input: 100, output: 1000}}}")
    said = say("triage", "recipe.yaml")
    assert said.code == 0
    plan = re.search(r"0 verdicts are known, to ask: 60 calls, about ([\d,]+) tokens in and 4,800 out, (.*)", said.err)
    assert plan is not None, said.err
    tokens = int(plan.group(1).replace(",", ""))
    assert plan.group(2) == f"about 4 s, about {tokens * 1e-4 + 4.8:.2f} EUR"
    assert said.err.index("to ask: 60 calls") < said.err.index("30 pairs: INVERT")
    facts = json.loads(say("triage", "recipe.yaml", "--redo", "--json").out)["facts"]
    assert (facts["asked"]["calls"], facts["asked"]["judges"]) == (0, {})
    facts = json.loads(say("triage", "recipe.yaml", "--set", "oracle.store=new.sqlite", "--redo", "--json").out)[
        "facts"
    ]
    (took,) = facts["asked"]["judges"].values()
    assert took == {"model": "ok", "calls": 60, "input_tokens": 6000, "output_tokens": 1200, "cost": 1.8}
    assert facts["asked"]["cost"] == 1.8


def test_a_dry_run_of_all_stages_holds_them_against_one_limit_as_the_run_does(
    asking: Path, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Triage takes 60 calls; were there 60 more in evaluation, a limit of 100 would not do."""
    settings = ("--set", "oracle.llm.output=plain", "--max-calls", "100")
    said = say("run", "recipe.yaml", *settings, "--dry-run")
    assert (said.code, "refused" in said.out) == (0, False), said.out
    monkeypatch.setattr(planning, "JUDGING", ("triage", "triage"))
    said = say("run", "recipe.yaml", *settings, "--dry-run")
    assert said.code == 3
    assert "refused: triage: this takes 60 calls after 60 so far, max_calls is 100: nothing is asked" in said.out


def test_a_plan_says_how_many_corrections_there_can_be(asking: Path, say: Say, server: FaultServer) -> None:
    writer = f"{{kind: http, url: {server.url}, model: writes}}"
    settings = ("--set", f"corrections={{generate: {{writer: {writer}, candidates: 3}}}}")
    said = say("triage", "recipe.yaml", *settings, "--dry-run")
    assert "how many pairs that is, triage will show, at most 30: 90 calls of the writer" in said.out
