"""`realigner discover` at the command line."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest

from .conftest import Say


def write_old(path: Path, count: int, noise: float = 0.0, broken: bool = False, ids: bool = False) -> None:
    rng = Random(0)
    rows = []
    for i in range(count):
        harmful = i % 2 == 0
        prompt = f"About {rng.choice(['bombs', 'rifles'] if harmful else ['bread', 'scarves'])}, case {i}."
        sides = ["I cannot help with that.", f"Take {i} of them and wait for a while."]
        if harmful == (rng.random() < noise):
            sides.reverse()
        rows.append({"prompt": prompt, "chosen": sides[0], "rejected": sides[1]})
        if ids:
            rows[-1]["id"] = f"case\n{i}: \x07 # \u2028"
    if broken:
        rows.append({"prompt": "q", "chosen": "", "rejected": "b"})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_discover_writes_a_policy_that_policy_show_reads(folder: Path, say: Say) -> None:
    write_old(folder / "data.jsonl", 400)
    said = say("discover", "data.jsonl", "--out", "old.yaml")
    assert said.code == 0, said.err
    assert said.out.startswith("RECOVERED: the rules give back 100.0% ")
    assert "wrote old.yaml" in said.out
    assert say("policy", "show", "old.yaml").code == 0
    assert say("policy", "lint", "old.yaml").code == 0


def test_discover_abstains_with_exit_code_3(folder: Path, say: Say) -> None:
    write_old(folder / "data.jsonl", 600, noise=0.4)
    said = say("discover", "data.jsonl", "--json")
    assert said.code == 3
    facts = json.loads(said.out)
    assert facts["recovered"] is False
    assert facts["verdict"].startswith("ABSTAINS")
    assert facts["files"] == ["recovered.json"]
    assert not (folder / "recovered.yaml").exists()


def test_discover_reads_the_data_of_a_recipe(folder: Path, say: Say) -> None:
    write_old(folder / "old.jsonl", 400)
    assert say("discover", "recipe.yaml").code == 0


def test_discover_does_not_overwrite(folder: Path, say: Say) -> None:
    (folder / "recovered.json").write_text("mine")
    said = say("discover", "old.jsonl")
    assert said.code == 2
    assert "recovered.json is there already. Name another file, or remove it" in said.error


def test_discover_refuses_a_folder_that_is_not_there(folder: Path, say: Say) -> None:
    said = say("discover", "old.jsonl", "--out", "no/such.yaml")
    assert (said.code, "no is no directory. Make it first" in said.error) == (2, True)


def test_discover_refuses_too_few_pairs(folder: Path, say: Say) -> None:
    said = say("discover", "old.jsonl")
    assert said.code == 2
    assert "40 pairs of 40 prompts: recovering a policy takes at least 200 pairs of 50 prompts" in said.error


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("old.json", "--out old.json: a policy file ends in .yaml, and its figures go beside it. Add .yaml"),
        ("old", "a policy file ends in .yaml"),
    ],
)
def test_discover_refuses_a_name_under_which_no_policy_is_read(folder: Path, say: Say, out: str, message: str) -> None:
    said = say("discover", "nothing.jsonl", "--out", out)
    assert (said.code, message in said.error) == (2, True)


def test_discover_refuses_a_folder_that_cannot_be_written_to(
    folder: Path, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)
    said = say("discover", "nothing.jsonl")
    assert (said.code, "cannot be written to. Name a file in another directory" in said.error) == (2, True)


def test_discover_names_a_policy_after_a_file_of_several_words_and_odd_ids(folder: Path, say: Say) -> None:
    write_old(folder / "data.jsonl", 400, ids=True)
    assert say("discover", "data.jsonl", "--out", "our old policy.yaml").code == 0
    assert "our-old-policy" in say("policy", "show", "our old policy.yaml").out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file or directory"),
        (b"\xff\xfe\x00", "UTF-8"),
        (b"[1, 2", "one JSON list"),
        (b'{"question": "a", "good": "b", "bad": "c"}\n', "data.fields"),
        (b"", "it has no row"),
    ],
)
def test_discover_says_what_is_wrong_with_a_file(folder: Path, say: Say, content: bytes | None, message: str) -> None:
    if content is not None:
        (folder / "data.jsonl").write_bytes(content)
    said = say("discover", "data.jsonl")
    assert said.code == 2
    assert message in said.error
    assert said.error.count("Keys data.… stand in a recipe") == ("data." in said.error.partition(" (Keys")[0])
    assert not (folder / "recovered.json").exists()


def test_discover_reads_columns_of_other_names_by_a_recipe(folder: Path, say: Say) -> None:
    write_old(folder / "old.jsonl", 400)
    (folder / "old.jsonl").write_text((folder / "old.jsonl").read_text().replace('"chosen"', '"good"'))
    said = say("discover", "old.jsonl")
    assert said.code == 2
    assert "set data.fields" in said.error
    assert "(Keys data.… stand in a recipe, which DATA may be" in said.error
    with_fields = (
        (folder / "recipe.yaml")
        .read_text()
        .replace("old.jsonl}", "old.jsonl, fields: {prompt: prompt, chosen: good, rejected: rejected}}")
    )
    (folder / "recipe.yaml").write_text(with_fields)
    (folder / "policy.yaml").unlink()
    assert say("discover", "recipe.yaml").code == 0


def test_discover_says_that_constant_data_teach_nothing(folder: Path, say: Say) -> None:
    rows = [{"prompt": f"q {i}", "chosen": "Always this.", "rejected": f"b {i}"} for i in range(300)]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = say("discover", "data.jsonl")
    assert said.code == 2
    assert "300 pairs whose chosen response is always the same: there is nothing to learn from constant" in said.error


def test_discover_says_that_no_rule_is_there(folder: Path, say: Say) -> None:
    write_old(folder / "data.jsonl", 400, noise=0.5)
    (folder / "new.yaml").write_text(
        'id: new\nversion: "2"\ntitle: t\nrules: [{id: a, text: A., forbid: {words: [cannot]}}]\n'
    )
    said = say("discover", "data.jsonl", "--new", "new.yaml")
    assert said.code == 3
    assert said.out.startswith("ABSTAINS: no rule tells the old preferences apart beyond chance")
    assert "new.yaml: not compared, as no old policy was recovered" in said.out


@pytest.mark.parametrize("option", [("--pairs", "0"), ("--seed", "-1"), ("--max-calls", "x")])
def test_discover_refuses_numbers_that_are_none(folder: Path, say: Say, option: tuple[str, str]) -> None:
    said = say("discover", "old.jsonl", *option)
    assert said.code == 2
    assert option[0] in said.err


def test_discover_refuses_a_judge_and_a_recipe_that_are_not_there(folder: Path, say: Say) -> None:
    said = say("discover", "old.jsonl", "--llm", "none.yaml")
    assert (said.code, "--llm none.yaml: it cannot be read" in said.error) == (2, True)
    said = say("discover", "none.yaml")
    assert (said.code, "none.yaml" in said.error) == (2, True)
    said = say("discover", "old.jsonl", "--new", "none.yaml")
    assert (said.code, "none.yaml" in said.error) == (2, True)


def test_discover_leaves_unusable_pairs_out_where_told(folder: Path, say: Say) -> None:
    write_old(folder / "data.jsonl", 400, broken=True)
    assert say("discover", "data.jsonl").code == 2
    said = say("discover", "data.jsonl", "--skip-invalid", "--json")
    assert said.code == 0
    assert json.loads(said.out)["data"]["skipped"]


def test_discover_says_what_a_new_policy_does_to_the_recovered_rules(folder: Path, say: Say) -> None:
    write_old(folder / "data.jsonl", 400)
    (folder / "new.yaml").write_text(
        'id: new\nversion: "2"\ntitle: Help with all\nrules:\n'
        "  - {id: help, text: Nothing is refused., forbid: {words: [cannot]}}\n"
    )
    said = say("discover", "data.jsonl", "--new", "new.yaml", "--json")
    assert said.code == 0
    table = json.loads(said.out)["new"]["cross_table"]
    assert {row["fate"] for row in table["rules"].values()} <= {"broken", "superseded", "kept", "mixed"}
    assert sum(row["INVERT"] for row in table["rules"].values()) > 0
    (folder / "recovered.yaml").unlink()
    (folder / "recovered.json").unlink()
    text = say("discover", "data.jsonl", "--new", "new.yaml").out
    assert "what becomes of it" in text
    assert "The policies, rule by rule" in text


def test_triage_says_what_becomes_of_the_old_rules_and_how_many_pairs_it_leaves_out(folder: Path, say: Say) -> None:
    write_old(folder / "old.jsonl", 400)
    (folder / "policy.yaml").write_text(
        'id: new\nversion: "2"\ntitle: Help with all\nrules:\n'
        "  - {id: help, text: Nothing is refused., forbid: {words: [cannot]}}\n"
    )
    with (folder / "recipe.yaml").open("a") as recipe:
        recipe.write("old_policy: {path: recovered.yaml, anchors: 20, unrelated: leave_out}\n")
    said = say("triage", "recipe.yaml")
    assert said.code == 2
    assert "recovered.yaml: there is no such file. Correct the path, or recover it: realigner discover" in said.error
    assert say("discover", "recipe.yaml").code == 0
    said = say("triage", "recipe.yaml")
    assert said.code == 0
    assert "refusal-where-mentioned broken, no-refusal-elsewhere kept" in said.err
    assert "0 pairs to be inverted were preferred for no old rule; 164 pairs are left out of training" in said.err


def test_a_run_with_an_old_policy_that_cannot_be_judged_stops_before_its_triage(folder: Path, say: Say) -> None:
    (folder / "worded.yaml").write_text(
        'id: p\nversion: "1"\ntitle: t\nrules: [{id: kind, by: llm, text: It is kind.}]\n'
    )
    with (folder / "recipe.yaml").open("a") as recipe:
        recipe.write("old_policy: {path: worded.yaml}\n")
    said = say("triage", "recipe.yaml")
    assert (said.code, "every rule is judged by its wording" in said.error) == (2, True)
    assert not (folder / "run" / "triage.parquet").exists()


def test_discover_uses_no_more_pairs_than_asked_the_same_ones_again(folder: Path, say: Say) -> None:
    write_old(folder / "data.jsonl", 500)
    counts = []
    for name in ("a", "b"):
        said = say("discover", "data.jsonl", "--pairs", "300", "--out", f"{name}.yaml", "--json")
        counts.append(json.loads(said.out)["counts"])
    assert counts[0]["pairs"] == 300
    assert counts[0] == counts[1]
    assert say("discover", "data.jsonl", "--pairs", "300", "--seed", "1", "--out", "c.yaml").code == 0
    assert (folder / "a.yaml").read_text() != (folder / "c.yaml").read_text()


def test_discover_refuses_a_new_policy_that_needs_a_judge_before_it_reads_the_data(folder: Path, say: Say) -> None:
    said = say("discover", "nothing.jsonl", "--new", "realigner:political-even-handedness")
    assert said.code == 2
    assert "this policy needs a judge" in said.error
