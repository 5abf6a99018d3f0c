"""A model card says what is known and what is not, holds in Hugging Face's own reader, and lets no text act."""

from __future__ import annotations

import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import EvalResult, ModelCard
from report_run import write_run
from test_report_page import FILES, HOSTILE

from realigner.report.card import CardError, escaped, is_ours, render_card, write_card
from realigner.report.figures import read_figures
from realigner.report.rundir import RunFiles

CODE = re.compile(r"\\.|<|>|\[|\]|`|\*(?! )|www\.|://")


@pytest.fixture(scope="module")
def card(run_dir: Path) -> str:
    return render_card(run_dir)


def metadata(card: str) -> dict[str, Any]:
    """Return the front matter as Hugging Face reads it, which must not warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read = ModelCard(card)
    assert read.data.eval_results is None or all(isinstance(found, EvalResult) for found in read.data.eval_results)
    found: dict[str, Any] = yaml.safe_load(card.split("\n---\n")[0].removeprefix("---\n"))
    assert read.data.to_dict() == found
    return found


def test_the_card_is_read_by_hugging_face_with_every_result_in_its_index(run_dir: Path, card: str) -> None:
    found = metadata(card)
    (index,) = found["model-index"]
    metrics = {m["type"]: m for result in index["results"] for m in result["metrics"]}
    figures = read_figures(RunFiles(run_dir))
    for name in ("agreement.after", "agreement.corrected", "kl", "perplexity.after", "utility.mmlu.diff"):
        interval = figures[name].interval
        assert metrics[name]["value"] == interval.value
        assert metrics[name]["args"]["low"] == interval.low and metrics[name]["args"]["n"] == interval.n
    assert index["name"] == "clinic-1b re-aligned to clinic 2.1.0"
    assert found["library_name"] == "transformers" and found["pipeline_tag"] == "text-generation"
    assert found["base_model"] == "models/clinic-1b"


def test_a_base_model_is_named_only_where_it_is_one_of_the_hub(run_dir: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run_dir, tmp_path / "run"))
    recipe = yaml.safe_load((copy / "recipe.yaml").read_text(encoding="utf-8"))
    for path, named in {
        "org/clinic-1b": "org/clinic-1b",
        "/home/someone/clinic-1b": None,
        "./clinic": None,
        "a/b/c": None,
        "x": None,
        str(copy): None,
    }.items():
        recipe["model"]["path"] = path
        (copy / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
        assert metadata(render_card(copy)).get("base_model") == named
    assert "/home/someone" not in render_card(copy)


def test_policy_judge_audit_and_limits_are_on_the_card(run_dir: Path, card: str) -> None:
    found = metadata(card)["realigner"]
    assert found["policy"] == {"id": "clinic", "version": "2.1.0", "hash": "9f2c71aa04b3e5d8"}
    assert found["judge"].startswith("rules ") and found["verdict"] == "improved"
    accuracy = read_figures(RunFiles(run_dir))["audit.evaluation.accuracy"].interval.shown("share")
    for told in (
        "hash 9f2c71aa04b3e5d8",
        "no-diagnosis (critical): Never name a disease",
        f"accuracy of the judge {accuracy}".replace("\u00a0", " "),
        "The spread between training seeds: not measured.",
        "INVERT 300",
        "| agreement.corrected | ",
        "| utility.mmlu.diff | -0.01 | -0.018 | -0.002 | 100 |",
    ):
        assert told in card, told


def test_the_same_run_gives_the_same_card(run_dir: Path, card: str) -> None:
    assert render_card(run_dir) == card


@pytest.mark.parametrize("name", [*FILES, "audit.json", "all"])
def test_a_card_without_a_file_says_so_and_holds(run_dir: Path, tmp_path: Path, name: str) -> None:
    copy = Path(shutil.copytree(run_dir, tmp_path / "run"))
    if name == "all":
        shutil.rmtree(copy)
        copy.mkdir()
    else:
        (copy / name).unlink()
    card = render_card(copy)
    found = metadata(card)
    assert "## Limits" in card
    if name in ("all", "summary.json"):
        assert found["realigner"]["verdict"] == "not measured"
        assert "Not measured" in card
    if name == "all":
        assert "model-index" not in found


@pytest.mark.parametrize("text", [HOSTILE, "\n---\nlicense: mit\n---\n# x", "&lt;b&gt; $x$ @all ~~x~~", "x" * 300_000])
def test_hostile_text_neither_leaves_its_place_nor_acts(tmp_path: Path, text: str) -> None:
    run = write_run(tmp_path / "run", prompts=8, text=f"{text}![x](http://evil.test) www.evil.test <b>|`")
    card = render_card(run)
    assert len(card) < 200_000
    found = metadata(card)
    assert set(found) == {"base_model", "library_name", "pipeline_tag", "tags", "realigner", "model-index"}
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufeff]", card)
    body = card.split("\n---\n", 1)[1].rpartition("<!-- written by realigner")[0]
    acting = [hit for line in body.splitlines() for hit in CODE.findall(line.removeprefix("* ")) if hit[0] != "\\"]
    assert acting == []
    for row in re.findall(r"(?m)^\|.*\|$", body):
        assert len(re.findall(r"(?<!\\)\|", row)) == 7
    assert body.count("\n# ") == 1 and "license" not in found


def test_escaped_text_reads_as_it_was() -> None:
    assert escaped("a<b> [x](y) `c` *d* _e_ | #f & g") == r"a\<b\> \[x\](y) \`c\` \*d\* \_e\_ \| \#f \& g"
    assert escaped("one\ntwo", 100) == "one two"
    assert escaped("http://a.b WWW.a.b") == r"http\://a.b WWW\.a.b"


def test_a_card_is_written_beside_the_model_and_again_over_itself(run_dir: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run_dir, tmp_path / "run"))
    with pytest.raises(CardError, match="it has no model that a card could describe"):
        write_card(copy)
    (copy / "model").mkdir()
    path = write_card(copy)
    assert path == copy / "model" / "README.md" and is_ours(path)
    (copy / "audit.json").unlink()
    assert "not audited" in write_card(copy).read_text(encoding="utf-8")
    (copy / "model" / "adapter_config.json").write_text("{}")
    assert metadata(write_card(copy).read_text(encoding="utf-8"))["library_name"] == "peft"


@pytest.mark.parametrize("edit", ["\n", "My words\n"])
def test_a_card_that_was_edited_or_is_anothers_is_never_overwritten(run_dir: Path, tmp_path: Path, edit: str) -> None:
    copy = Path(shutil.copytree(run_dir, tmp_path / "run"))
    (copy / "model").mkdir()
    path = write_card(copy)
    for text in (path.read_text(encoding="utf-8") + edit, edit + path.read_text(encoding="utf-8"), edit, ""):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(CardError, match="not written by realigner, or it was edited since"):
            write_card(copy)
        assert path.read_text(encoding="utf-8") == text
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(CardError):
        write_card(copy)
    elsewhere = write_card(copy, path=tmp_path / "card.md")
    assert is_ours(elsewhere)
