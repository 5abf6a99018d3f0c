"""`realigner migrate`: the same outcomes as a triage anew, at the price of the changed rules."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from realigner.oracle import VerdictStore
from realigner.recipe import Recipe
from realigner.report import render_report

from .conftest import Say
from .test_judged import JUDGED, write_verdicts

TEXTS = ("It is your fault.", "Let us look.", "SHUT up, it is your fault.", "Look it up on www.x.org, late.")


def rules(**words: str) -> list[dict[str, Any]]:
    return [{"id": name, "text": "T.", "forbid": {"words": [word]}} for name, word in words.items()]


def write_policy(path: Path, *rules: dict[str, Any], **more: Any) -> None:
    policy = {"id": "kind", "version": path.stem, "title": "No blame", "rules": list(rules), **more}
    path.write_text(yaml.safe_dump(policy, sort_keys=False))


@pytest.fixture
def migrating(folder: Path, say: Say) -> Path:
    """A folder with a triaged run under three computed rules, and pairs of every outcome."""
    pairs = [(a, b) for a in TEXTS for b in TEXTS if a != b]
    rows = [{"prompt": f"Disk {i}?", "chosen": a, "rejected": b} for i, (a, b) in enumerate(pairs * 4)]
    (folder / "old.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_policy(folder / "policy.yaml", *rules(blame="fault", shout="SHUT", late="late"))
    assert say("triage", "recipe.yaml", "--set", "data.eval_fraction=0.3").code == 0
    return folder


def triaged(path: Path) -> dict[str, str]:
    return {row["id"]: row["outcome"] for row in pq.read_table(path / "triage.parquet").to_pylist()}


NEW = {
    "edited": (rules(blame="look", shout="SHUT", late="late"), {"blame"}, {}),
    "renamed": (rules(fault="fault", shout="SHUT", late="late"), set(), {}),
    "added": (rules(blame="fault", shout="SHUT", late="late", link="www.x.org"), {"link"}, {}),
    "dropped": (rules(blame="fault", shout="SHUT"), set(), {}),
    "decision": (
        [*rules(shout="SHUT", late="late"), {**rules(blame="fault")[0], "tier": "critical"}],
        set(),
        {"decision": "any_critical"},
    ),
    "all": (rules(a="up", b="us"), {"a", "b"}, {}),
}


@pytest.mark.parametrize("case", NEW)
def test_migrate_finds_what_a_triage_anew_finds_and_computes_only_what_changed(
    migrating: Path, say: Say, case: str
) -> None:
    new, changed, more = NEW[case]
    write_policy(migrating / "new.yaml", *new, **more)
    found = json.loads(say("migrate", "run", "new.yaml", "--json").out)
    say(
        "triage",
        "recipe.yaml",
        "--set",
        "policy.path=new.yaml",
        "--set",
        "output=anew",
        "--set",
        "data.eval_fraction=0.3",
    )
    before, anew = triaged(migrating / "run"), triaged(migrating / "anew")
    pairs = [(before[name], anew[name]) for name in before]
    for was, row in found["moves"]["matrix"].items():
        for now, count in row.items():
            assert count == pairs.count((was, now)), (was, now)
    (directory,) = (migrating / "run").glob("migrate-*")
    with (directory / "changes.csv").open(newline="") as table:
        rows = list(csv.DictReader(table))
    assert {row["id"]: (row["old_outcome"], row["new_outcome"]) for row in rows} == {
        name: (before[name], anew[name]) for name in before if before[name] != anew[name]
    }
    assert all(row["rules"] for row in rows)
    for rule in new:
        verdicts = found["verdicts"][rule["id"]]
        expected = {"computed": 96, "carried": 0} if rule["id"] in changed else {"computed": 0, "carried": 96}
        assert verdicts == {**expected, "reused": 0, "asked": 0}
    assert json.loads((directory / "migrate.json").read_text())["moves"] == found["moves"]


def test_migrate_prints_tables_and_leaves_a_recipe_to_go_on_with(migrating: Path, say: Say) -> None:
    write_policy(migrating / "new.yaml", *NEW["edited"][0])
    (migrating / "run" / "model").mkdir()
    said = say("migrate", "run", "new.yaml")
    assert (said.code, said.out.splitlines()[0]) == (0, "kind policy -> kind new")
    assert "  blame  edited  " in said.out
    assert "Alignment debt: " in said.out
    (directory,) = (migrating / "run").glob("migrate-*")
    recipe = Recipe.load(directory / "recipe.yaml")
    assert recipe.previous == str(migrating / "run")
    assert recipe.policy.path == str(migrating / "new.yaml")
    assert recipe.model.path == str(migrating / "run" / "model")
    assert recipe.output == str(migrating / "kind-new")
    again = say("migrate", "run", "new.yaml", "--out", "elsewhere")
    assert again.out.replace("elsewhere", str(directory.relative_to(migrating))) == said.out
    written = {"report.html", "migrate.json", "changes.csv", "examples.jsonl", "recipe.yaml"}
    assert {path.name for path in (migrating / "elsewhere").iterdir()} == written


def test_a_dry_run_of_computed_rules_says_that_nothing_is_asked_and_writes_nothing(migrating: Path, say: Say) -> None:
    write_policy(migrating / "new.yaml", *NEW["edited"][0])
    said = say("migrate", "run", "new.yaml", "--dry-run")
    assert said.out.splitlines()[1:] == ["its rules are computed, no judge is asked", "nothing was asked"]
    assert not list((migrating / "run").glob("migrate-*"))


JUDGED_POLICY = """
id: kind
version: "{version}"
title: No blame
rules:
  - {{id: computed, text: No shouting., forbid: {{words: [SHUT]}}}}
  - {{id: blame, by: llm, text: A response does not blame., violates: [it says whose fault it is]}}
  - {{id: help, by: llm, text: A response helps., requires: [{help}]}}
"""


@pytest.fixture
def judged_run(folder: Path, say: Say) -> Path:
    (folder / "policy.yaml").write_text(JUDGED_POLICY.format(version=1, help="a step"))
    (folder / "new.yaml").write_text(JUDGED_POLICY.format(version=2, help="two steps"))
    with (folder / "recipe.yaml").open("a") as recipe:
        recipe.write(JUDGED)
    rows = ({"prompt": f"Why does disk {i} fail?", "chosen": TEXTS[0], "rejected": TEXTS[1]} for i in range(10))
    (folder / "old.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_verdicts(folder, blame="non_compliant")
    assert say("triage", "recipe.yaml").code == 0
    return folder


def test_of_judged_rules_only_the_changed_one_is_asked_and_limits_hold(judged_run: Path, say: Say) -> None:
    said = say("migrate", "run", "new.yaml", "--dry-run")
    assert "llm: 0 verdicts are known, to ask: 20 calls" in said.out  # those carried over are not even looked up
    assert "by rule: help 20" in said.out
    refused = say("migrate", "run", "new.yaml", "--max-calls", "19")
    assert (refused.code, "this takes 20 calls, max_calls is 19" in refused.error) == (3, True)
    assert not list((judged_run / "run").glob("migrate-*"))
    found = json.loads(say("migrate", "run", "new.yaml", "--max-calls", "20", "--json").out)
    assert found["verdicts"] == {
        "computed": {"carried": 20, "computed": 0, "reused": 0, "asked": 0},
        "blame": {"carried": 20, "computed": 0, "reused": 0, "asked": 0},
        "help": {"carried": 0, "computed": 0, "reused": 0, "asked": 20},
    }
    again = json.loads(say("migrate", "run", "new.yaml", "--max-calls", "0", "--json").out)
    assert again["verdicts"]["help"] == {"carried": 0, "computed": 0, "reused": 20, "asked": 0}
    with VerdictStore.read(judged_run / "verdicts.sqlite") as store:
        assert store.counts()["votes"] == 60
    # What migrate asked, the run under the new policy need not ask.
    assert (
        say("triage", "recipe.yaml", "--set", "policy.path=new.yaml", "--set", "output=n", "--max-calls", "0").code == 0
    )


def test_another_judge_takes_nothing_over(judged_run: Path, say: Say) -> None:
    lines = (judged_run / "verdicts.jsonl").read_text() + json.dumps(
        {"rule": "blame", "prompt": "other", "response": "x", "label": "unsure"}
    )
    (judged_run / "other.jsonl").write_text(lines + "\n")
    settings = ("--set", f"oracle.llm.path={judged_run / 'other.jsonl'}")
    found = json.loads(say("migrate", "run", "new.yaml", *settings, "--json").out)
    assert [found["verdicts"][rule]["asked"] for rule in ("blame", "help")] == [20, 20]
    assert found["verdicts"]["computed"]["carried"] == 20


def test_what_cannot_be_migrated_is_said(judged_run: Path, say: Say) -> None:
    refused = say("migrate", "nowhere", "new.yaml")
    assert (refused.code, "run nowhere: no such directory" in refused.error) == (2, True)
    (judged_run / "v.jsonl").write_text('{"prompt": "q", "response": "a", "label": "unsure"}\n')
    settings = ("--set", f"oracle={{kind: scripted, path: {judged_run / 'v.jsonl'}}}")
    refused = say("migrate", "run", "new.yaml", *settings)
    assert "verdicts on whole responses belong to one policy and say nothing of another" in refused.error
    refused = say("migrate", "run", "new.yaml", "--set", "oracle={kind: rules}")
    assert "this policy needs a judge" in refused.error
    refused = say("migrate", "run", "new.yaml", "--set", "oracle.noise={false_positive: 0.1}")
    assert "the run's outcomes hold mistakes made on purpose" in refused.error
    refused = say("migrate", "run", "none.yaml")
    assert (refused.code, "none.yaml" in refused.error) == (2, True)


def test_nothing_but_an_earlier_migration_is_written_over(migrating: Path, say: Say) -> None:
    write_policy(migrating / "new.yaml", *NEW["edited"][0])
    (migrating / "full").mkdir()
    (migrating / "full" / "notes.txt").write_text("mine")
    for taken in ("old.jsonl", "full"):
        before = (migrating / "old.jsonl").read_bytes()
        refused = say("migrate", "run", "new.yaml", "--out", taken)
        assert refused.code == 2
        assert f"{taken}: it is there already, and is no earlier migration. Name another directory" in refused.error
        assert (migrating / "old.jsonl").read_bytes() == before
        assert (migrating / "full" / "notes.txt").read_text() == "mine"
    (migrating / "free").mkdir()
    for _ in range(2):
        assert say("migrate", "run", "new.yaml", "--out", "free").code == 0


def test_a_run_that_records_no_rules_is_read_by_its_policy_file_if_that_is_unchanged(migrating: Path, say: Say) -> None:
    manifest = migrating / "run" / "manifest.json"
    content = json.loads(manifest.read_text())
    del content["stages"]["triage"]["facts"]["policy"]["rules"]
    del content["stages"]["triage"]["facts"]["judges"]
    manifest.write_text(json.dumps(content))
    write_policy(migrating / "new.yaml", *NEW["edited"][0])
    found = json.loads(say("migrate", "run", "new.yaml", "--json").out)
    assert found["verdicts"]["late"] == {"carried": 0, "computed": 96, "reused": 0, "asked": 0}
    write_policy(migrating / "policy.yaml", *NEW["added"][0])
    refused = say("migrate", "run", "new.yaml")
    assert (refused.code, "its policy file is not what it was" in refused.error) == (2, True)


def decided(migrating: Path, say: Say) -> None:
    """Let people decide some responses of a run `people`: against the checks, both ways."""
    rows = pq.read_table(migrating / "run" / "triage.parquet").to_pylist()
    lines = []
    for row in rows[:12]:
        for side in ("chosen", "rejected"):
            if row[side] == TEXTS[0]:  # the checks find it to blame; people do not
                lines.append({"id": row["id"], "side": side, "label": "compliant"})
            elif row[side] == TEXTS[1]:  # the checks find nothing wrong with it; people find it late, or just wrong
                named = {"rules": ["late"]} if len(lines) % 2 else {}
                lines.append({"id": row["id"], "side": side, "label": "non_compliant", **named})
    (migrating / "people.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    settings = ("--set", "data.eval_fraction=0.3", "--set", "output=people", "--set", "human.path=people.jsonl")
    assert say("triage", "recipe.yaml", *settings).code == 0


@pytest.mark.parametrize("case", ["edited", "dropped", "renamed", "decision"])
def test_what_people_said_of_unchanged_rules_stands_and_the_next_run_finds_the_same(
    migrating: Path, say: Say, case: str
) -> None:
    decided(migrating, say)
    new, _, more = NEW[case]
    write_policy(migrating / "new.yaml", *new, **more)
    found = json.loads(say("migrate", "people", "new.yaml", "--json").out)
    assert found["people"]["decided"] == 12
    # What they called wrong without naming a rule says nothing of any.
    unnamed = sum('"non_compliant"}' in line for line in (migrating / "people.jsonl").read_text().splitlines())
    assert 0 < unnamed < 12
    late_stays = "late" in {rule["id"] for rule in new}
    named = 12 - unnamed - 6
    assert found["people"]["kept"] == 6 + (named if late_stays else 0)
    (directory,) = (migrating / "people").glob("migrate-*")
    assert say("triage", directory / "recipe.yaml", "--set", f"output={migrating / 'next'}").code == 0
    before, after = triaged(migrating / "people"), triaged(migrating / "next")
    for was, row in found["moves"]["matrix"].items():
        for now, count in row.items():
            assert count == [(before[name], after[name]) for name in before].count((was, now)), (was, now)
    said = say("migrate", "people", "new.yaml")
    assert "People decided 12 responses of the run. What they said of unchanged rules stands for " in said.out


def test_migrate_writes_a_page_with_its_tables_and_a_few_pairs_and_hides_nothing_in_it(
    migrating: Path, say: Say
) -> None:
    evil = "<script>alert(1)</script> Look\u202e it up, late."
    rows = [{"prompt": f"Disk {i}?", "chosen": evil, "rejected": TEXTS[1]} for i in range(30)]
    (migrating / "old.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert say("triage", "recipe.yaml", "--set", "output=evil").code == 0
    write_policy(migrating / "new.yaml", *rules(blame="fault", shout="SHUT", late="look"), title="New <b>title</b>")
    assert say("migrate", "evil", "new.yaml").code == 0
    (directory,) = (migrating / "evil").glob("migrate-*")
    page = (directory / "report.html").read_text(encoding="utf-8")
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; Look⟨U+202E⟩ it up" in page
    assert "New &lt;b&gt;title&lt;/b&gt;" in page
    assert page.count('<article class="sample">') == 6 == len((directory / "examples.jsonl").read_text().splitlines())
    assert "<strong>30 of 30 pairs</strong> have to be taught again" in page
    assert "INVERT" in page and "No judge was asked." in page
    assert say("migrate", "evil", "new.yaml", "--out", "again").code == 0
    assert (migrating / "again" / "report.html").read_text(encoding="utf-8") == page


def test_the_runs_own_report_shows_its_migrations_when_it_is_written_anew(migrating: Path, say: Say) -> None:
    assert "Policies that may follow" not in render_report(migrating / "run")
    for case in ("edited", "dropped"):
        write_policy(migrating / f"{case}.yaml", *NEW[case][0])
        assert say("migrate", "run", f"{case}.yaml").code == 0
    page = render_report(migrating / "run")
    assert "Policies that may follow" in page
    assert page.count("<h3>kind policy → kind ") == 2
    (damaged, _) = sorted((migrating / "run").glob("migrate-*/migrate.json"))
    damaged.write_text("{}")
    page = render_report(migrating / "run")
    assert page.count("<h3>kind policy → kind ") == 1
    assert "migrate.json holds no moves" in page


def test_the_page_says_what_judges_took(judged_run: Path, say: Say) -> None:
    found = json.loads(say("migrate", "run", "new.yaml", "--json").out)
    (took,) = found["asked"]["judges"].values()
    assert took["calls"] == 20
    (directory,) = (judged_run / "run").glob("migrate-*")
    page = (directory / "report.html").read_text(encoding="utf-8")
    assert '<td class="num">20</td>' in page
    assert "What judges took" in page
