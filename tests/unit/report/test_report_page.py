"""The page as a whole: complete, honest about gaps, self-contained, well formed, harmless, reproducible."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from report_html import Page
from report_run import PARTS, write_index, write_run

from realigner.atomic import hash_of
from realigner.report import render_report
from realigner.report.page import SECTIONS

LIMIT = 1_500_000
FILES = (
    "recipe.yaml",
    "manifest.json",
    "triage.parquet",
    "weights.parquet",
    "metrics.jsonl",
    "responses.parquet",
    "judgements.parquet",
    "summary.json",
    "previous.json",
    "gate.json",
    "evidence/index.json",
    "evidence/utility.json",
)
MARKUP = "<script>alert(1)</script>\"><img src=x onerror=alert(2)>'</style></pre></svg>"
HOSTILE = f"{MARKUP}\u202e\u2066\x00\x1b[31m\ufeff\U000e0041"


@pytest.fixture(scope="module")
def page(run_dir: Path) -> str:
    return render_report(run_dir)


@pytest.fixture
def copy(run_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run_dir, tmp_path / "copy"))


def test_a_complete_run_renders_every_section_and_misses_nothing(page: str) -> None:
    found = Page(page)
    assert found.faults == []
    for id_, heading in SECTIONS:
        if id_ == "others":  # for parts that no section names
            continue
        assert id_ in found.ids
        assert heading in found.words
    missing = re.findall(r"Not measured: [^.]*", found.words)
    assert missing == []


@pytest.mark.usefixtures("without_pictures")
@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_said_to_be_not_measured_and_breaks_nothing(copy: Path, name: str) -> None:
    (copy / name).unlink()
    found = Page(render_report(copy))
    assert found.faults == []
    assert "not measured" in found.words.lower()
    expected = {
        "recipe.yaml": "Not measured : the run directory has no recipe.yaml.",
        "manifest.json": "Not measured : the run directory has no manifest.json.",
        "triage.parquet": "how each pair was trained is not recorded without triage.parquet",
        "weights.parquet": "60.0",  # the facts of the stage stand in for the rows
        "metrics.jsonl": "Not measured : the run directory has no metrics.jsonl.",
        "responses.parquet": "Not measured : the run directory has no responses.parquet.",
        "judgements.parquet": "Not measured : the run directory has no judgements.parquet.",
        "previous.json": "Not measured : the run directory has no previous.json.",
        "gate.json": "Not measured : the run directory has no gate.json.",
        "evidence/index.json": "Not measured : the stage 'measure' has not been finished.",
        "evidence/utility.json": "Not measured : the run directory has no evidence/utility.json.",
        "summary.json": "Not measured: nothing is known yet about how the model's behaviour changed.",
    }[name]
    assert expected in found.words


@pytest.mark.usefixtures("without_pictures")
@pytest.mark.parametrize("content", [b"", b"\xff\xfe broken", b"{[1, 2"], ids=["empty", "not utf-8", "torn"])
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_reported_and_breaks_nothing(copy: Path, name: str, content: bytes) -> None:
    (copy / name).write_bytes(content)
    found = Page(render_report(copy))
    assert found.faults == []
    shown_as_it_is = name == "recipe.yaml" and content == b"{[1, 2"
    assert (content.decode() if shown_as_it_is else name) in found.words


@pytest.mark.usefixtures("without_pictures")
@pytest.mark.parametrize("poison", [3, "text", [1]], ids=repr)
@pytest.mark.parametrize("name", ["summary.json", "manifest.json"])
def test_a_value_of_the_wrong_type_anywhere_breaks_nothing(copy: Path, name: str, poison: object) -> None:
    text = (copy / name).read_text(encoding="utf-8")
    for rows in copy.glob("*.parquet"):  # reading them takes most of the time, and they stay as they are
        if rows.name != "weights.parquet":
            rows.unlink()
    shutil.rmtree(copy / "evidence")
    for other in ("previous.json", "gate.json", "recipe.yaml"):
        (copy / other).unlink()
    for path in places(json.loads(text), depth=3):
        content = json.loads(text)
        node = content
        for key in path[:-1]:
            node = node[key]
        node[path[-1]] = poison
        (copy / name).write_text(json.dumps(content), encoding="utf-8")
        assert render_report(copy, samples=1).endswith("</html>\n"), path


@pytest.mark.usefixtures("without_pictures")
@pytest.mark.parametrize("poison", [3, "text", [1]], ids=repr)
@pytest.mark.parametrize("name", ["evidence/stress.json", "evidence/index.json", "gate.json"])
def test_evidence_of_the_wrong_type_breaks_nothing(copy: Path, name: str, poison: object) -> None:
    text = (copy / name).read_text(encoding="utf-8")
    for file in copy.glob("*.*"):  # the rest of the page takes most of the time
        file.unlink()
    (copy / "gate.json").write_text(text if name == "gate.json" else "{}", encoding="utf-8")
    for other in set(PARTS) - {"stress"}:
        (copy / f"evidence/{other}.json").write_text("{}", encoding="utf-8")
    for path in places(json.loads(text), depth=4):
        content = json.loads(text)
        node = content
        for key in path[:-1]:
            node = node[key]
        node[path[-1]] = poison
        (copy / name).write_text(json.dumps(content), encoding="utf-8")
        if name == "evidence/stress.json":
            write_index(copy)
        assert render_report(copy, samples=1).endswith("</html>\n"), path


@pytest.mark.usefixtures("without_pictures")
@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_was_not_asked_for_is_said_to_be_not_measured(copy: Path, part: str) -> None:
    index = json.loads((copy / "evidence/index.json").read_text(encoding="utf-8"))
    index["parts"] = [entry for entry in index["parts"] if entry["part"] != part]
    (copy / "evidence/index.json").write_text(json.dumps(index), encoding="utf-8")
    recipe = (copy / "recipe.yaml").read_text(encoding="utf-8")
    (copy / "recipe.yaml").write_text(recipe.replace(f"  {part}: {{}}\n", ""), encoding="utf-8")
    found = Page(render_report(copy))
    assert found.faults == []
    assert f"Not measured : the recipe does not ask for it (evaluate.{part})." in found.words
    assert "not measured by this run." in found.words
    assert found.words.count("Not measured :") == 1


@pytest.mark.usefixtures("without_pictures")
def test_a_part_that_no_section_names_is_shown_all_the_same(copy: Path) -> None:
    text = (copy / "evidence/inside.json").read_text(encoding="utf-8")
    (copy / "evidence/new_part.json").write_text(text.replace("inside.", "new_part."), encoding="utf-8")
    index = json.loads((copy / "evidence/index.json").read_text(encoding="utf-8"))
    found = hash_of(copy / "evidence/new_part.json")
    index["parts"].append({"part": "new_part", "hash": found})
    (copy / "evidence/index.json").write_text(json.dumps(index), encoding="utf-8")
    shown = Page(render_report(copy))
    assert "others" in shown.ids and "new_part.layer_3.shift" in shown.words and shown.faults == []


def places(content: Any, depth: int) -> list[tuple[Any, ...]]:
    """Every key or index down to a depth; of a list, only its first item."""
    if depth == 0 or not isinstance(content, dict | list):
        return []
    items = list(content.items()) if isinstance(content, dict) else list(enumerate(content[:1]))
    return [path for key, value in items for path in [(key,), *((key, *p) for p in places(value, depth - 1))]]


def test_an_empty_directory_renders_as_not_measured_throughout(tmp_path: Path) -> None:
    found = Page(render_report(tmp_path))
    assert found.faults == []
    assert found.words.count("Not measured") >= len(SECTIONS) - 2


@pytest.mark.usefixtures("without_pictures")
def test_a_missing_column_is_named(copy: Path) -> None:
    table = pq.read_table(copy / "triage.parquet").drop_columns(["verdicts"])
    pq.write_table(table, copy / "triage.parquet")
    found = Page(render_report(copy))
    assert "not measured" in found.words
    assert "Reversed" in found.words  # the rest of the file is still used


def test_the_same_directory_gives_the_same_bytes(run_dir: Path, page: str) -> None:
    assert render_report(run_dir) == page


def test_the_page_is_under_its_size_limit_and_fetches_nothing(page: str) -> None:
    assert len(page.encode("utf-8")) < LIMIT
    found = Page(page)
    assert found.targets
    assert all(target.startswith("#") for target in found.targets)
    assert "url(http" not in page and "@import" not in page and "xmlns" not in page
    policies = [a["content"] for tag, a in found.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert len(policies) == 1 and str(policies[0]).startswith("default-src 'none'; style-src 'unsafe-inline'")


def test_the_only_script_is_the_search_and_it_is_allowed_by_its_hash(page: str) -> None:
    found = Page(page)
    search = (files("realigner.report") / "templates" / "search.js").read_text(encoding="utf-8")
    assert found.scripts == [search]
    allowed = f"script-src 'sha256-{base64.b64encode(hashlib.sha256(search.encode()).digest()).decode()}';"
    policy = next(a["content"] for _, a in found.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert allowed in str(policy) and "unsafe-eval" not in str(policy)
    assert not re.search(r"fetch|XMLHttp|innerHTML|eval|import|src|document\.write", search)
    hidden = [attributes for _, attributes in found.tags if "search" in str(attributes.get("class")).split()]
    assert [("hidden" in attributes) for attributes in hidden] == [True]  # without the script it is not there
    samples = [attributes for _, attributes in found.tags if attributes.get("class") == "sample"]
    assert len(samples) == 12 and all("hidden" not in attributes for attributes in samples)
    offered = {a["value"] for tag, a in found.tags if tag == "option"}
    assert {word for sample in samples for word in str(sample["data-of"]).split()} <= offered


def test_ids_are_unique_and_every_link_and_label_has_its_target(page: str) -> None:
    found = Page(page)
    assert len(found.ids) == len(set(found.ids))
    assert {target.removeprefix("#") for target in found.targets} <= set(found.ids)
    assert set(found.labels) <= set(found.ids)
    assert set(re.findall(r"url\(#([^)]+)\)", page)) <= set(found.ids)


def test_headings_never_skip_a_level_and_pictures_have_names(page: str) -> None:
    found = Page(page)
    assert found.headings[0] == 1 and found.headings.count(1) == 1
    assert all(below - above <= 1 for above, below in pairwise(found.headings))
    for tag, attributes in found.tags:
        if tag == "svg":
            assert attributes.get("aria-hidden") == "true" or (
                attributes.get("role") == "img" and attributes.get("aria-labelledby")
            )
        if tag == "th":
            assert attributes.get("scope") in ("col", "row", "rowgroup")


@pytest.mark.parametrize("samples", [0, 200])
def test_hostile_text_everywhere_is_shown_and_does_nothing(tmp_path: Path, samples: int) -> None:
    html = render_report(write_run(tmp_path / "run", text=HOSTILE), samples=samples, title=HOSTILE)
    found = Page(html)
    assert found.faults == []
    assert "<script>alert(1)</script>" in found.words  # as text
    assert "⟨U+202E⟩⟨U+2066⟩⟨U+0000⟩⟨U+001B⟩[31m⟨U+FEFF⟩⟨U+E0041⟩" in found.words
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufeff]", html)
    assert len(html.encode("utf-8")) < LIMIT


@pytest.mark.usefixtures("without_pictures")
@pytest.mark.parametrize("letter", ["&", "\x01\x02", "\u202e\u2066"], ids=["markup", "control", "bidi"])
def test_a_megabyte_of_text_everywhere_is_cut_with_a_note(tmp_path: Path, letter: str) -> None:
    run = write_run(tmp_path / "run", prompts=8, text=letter * (1_000_000 // len(letter)))
    found_html = render_report(run)
    assert len(found_html.encode("utf-8")) < LIMIT
    found = Page(found_html)
    assert found.faults == []
    assert "more characters are in the run directory" in found.words
    assert "more characters are in recipe.yaml" in found.words


def test_labels_in_any_script_are_drawn_without_a_warning(copy: Path) -> None:
    summary = json.loads((copy / "summary.json").read_text(encoding="utf-8"))
    figures = summary["agreement"]["by_rule"].popitem()[1]
    summary["agreement"]["by_rule"] = {name: figures for name in ("不要诊断", "لا تشخيص", "🩺", "$x^", "")}
    (copy / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    html = render_report(copy)
    assert ">不要诊断</text>" in html and ">$x^</text>" in html


@pytest.mark.usefixtures("without_pictures")
def test_a_half_surrogate_in_a_json_file_does_not_stop_the_page(copy: Path) -> None:
    summary = json.loads((copy / "summary.json").read_text(encoding="utf-8"))
    summary["policy"]["title"] = "broken \ud800 title"
    (copy / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    html = render_report(copy)
    assert "broken ⟨U+D800⟩ title" in html
    html.encode("utf-8")


@pytest.mark.usefixtures("without_pictures")
def test_the_report_stage_does_not_appear_in_its_own_page(copy: Path) -> None:
    before = render_report(copy)
    manifest = json.loads((copy / "manifest.json").read_text(encoding="utf-8"))
    manifest["stages"]["report"] = {"key": "k", "status": "started", "started": "now", "outputs": {}}
    (copy / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    assert render_report(copy) == before


@pytest.mark.usefixtures("without_pictures")
def test_a_torn_last_line_and_values_that_are_not_finite_are_counted(copy: Path) -> None:
    with (copy / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 121, "loss": NaN}\n{"step": 122, "lo')
    words = Page(render_report(copy)).words
    assert "Lines of the log that could not be read: 1." in words
    assert "Logged values that are not finite and not drawn: 1." in words


@pytest.mark.usefixtures("without_pictures")
def test_many_rules_stay_under_the_size_limit_and_are_counted(copy: Path) -> None:
    summary = json.loads((copy / "summary.json").read_text(encoding="utf-8"))
    figures = summary["agreement"]["by_rule"]["no-diagnosis"]
    names = [f"rule-{i}" for i in range(2000)]
    summary["policy"]["rules"] = [{"id": name, "tier": "standard", "text": "wording " * 300} for name in names]
    summary["agreement"]["by_rule"] = dict.fromkeys(names, figures)
    (copy / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    html = render_report(copy)
    assert len(html.encode("utf-8")) < LIMIT
    assert "1\u202f700 more rules are in the policy file" in html


@pytest.mark.usefixtures("without_pictures")
def test_only_needed_columns_of_the_triaged_pairs_are_read(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []
    read = pq.ParquetFile.iter_batches

    def spy(self: pq.ParquetFile, batch_size: int, columns: list[str]) -> object:
        if "chosen_verdict" in self.schema_arrow.names:
            asked.append(columns)
            assert batch_size <= 8192
        return read(self, batch_size=batch_size, columns=columns)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", spy)
    render_report(run_dir)
    columns = {column for columns in asked for column in columns}
    assert {"outcome", "direction", "split"} <= columns
    assert not any(word in column for column in columns for word in ("prompt", "reason", "correction"))
    assert not {"chosen", "rejected"} & columns


def test_contrast_is_at_least_4_5_in_light_dark_and_print(page: str) -> None:
    style = page[page.index("<style>") : page.index("</style>")]
    themes = re.findall(r":root \{([^}]*)\}", style)
    assert len(themes) == 3
    for theme in themes:
        colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", theme))
        for ground in ("page", "panel"):
            for name in set(colours) - {"page", "panel", "line", "loud"}:
                assert contrast(colours[name], colours[ground]) >= 4.5, (name, ground)
        assert contrast(colours["ink"], colours["loud"]) >= 4.5


def contrast(one: str, other: str) -> float:
    """Contrast ratio of WCAG 2.2."""
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.usefixtures("without_pictures")
def test_responses_stored_with_a_plain_prompt_are_shown_too(copy: Path) -> None:
    table = pq.read_table(copy / "responses.parquet")
    prompts = pa.array(["Plainly, what is it?"] * len(table))
    pq.write_table(table.set_column(table.column_names.index("prompt"), "prompt", prompts), copy / "responses.parquet")
    assert "Plainly, what is it?" in Page(render_report(copy)).words


@pytest.mark.usefixtures("without_pictures")
def test_what_was_skipped_cut_or_refused_is_counted_on_the_page(run_dir: Path) -> None:
    words = Page(render_report(run_dir)).words
    for told in (
        "repeated, dropped 40 old.jsonl:88 repeats old.jsonl:12",
        "contradictory (the same pair in both orders), kept 3",
        "unusable, skipped: identical responses 6",
        "reference prompts that lost their oldest turns or their start 12",
        "reference, held out pairs dropped (long) 2",
        "accepted 126",
        "refused: not compliant 4",
        "for a pair that is not in the data 1",
    ):
        assert told in words


@pytest.mark.usefixtures("without_pictures")
def test_everything_needed_to_reproduce_is_on_the_page(run_dir: Path) -> None:
    words = Page(render_report(run_dir)).words
    for told in (
        "realigner run clinic.yaml --set train.epochs=2",
        "realigner replay clinic",
        "seed 7",
        "torch 2.13.0",
        "data.content ab12",
        "policy.hash 9f2c71aa04b3e5d8",
        "model.content 77fe",
        "output: runs/clinic seed: 7 model: path: models/clinic-1b",
        "3 min 43 s in all",
    ):
        assert told in words


@pytest.mark.usefixtures("without_pictures")
def test_the_page_says_what_changed_between_the_policies_word_by_word(plain_page: str) -> None:
    html = plain_page
    words = Page(html).words
    assert "1 added, 1 dropped, 2 edited, 1 unchanged" in words
    assert "<del>has. </del>" in html and "<ins>may have; say what a doctor would check.</ins>" in html
    assert "say-uncertain was doubt edited" in words
    assert "be-kind dropped Be kind. tier standard, judged by llm" in words


@pytest.mark.usefixtures("without_pictures")
def test_what_judging_cost_is_on_the_page(plain_page: str) -> None:
    words = Page(plain_page).words
    for told in (
        "triage 705 350 000 7 000 1.25 USD 700 300 5",
        "measure 60",
        "of these: win rate 12",
        "FLOPs of training: not counted",
    ):
        assert told in words


@pytest.mark.usefixtures("without_pictures")
@pytest.mark.parametrize(
    ("scoring", "told"),
    [
        (
            {"method": "difference", "layout": "packed", "relative_error": 4.2e-4, "rows": 4},
            "scored by central difference, packed rows, relative error 0.0004 on 4 responses",
        ),
        (
            {"method": "exact", "layout": "padded", "relative_error": 2e-7, "rows": 4},
            "scored by forward-mode derivative, padded rows, relative error 2e-07 on 4 responses",
        ),
        (
            {"method": "gradients", "layout": "rows", "relative_error": 0.0, "rows": 4},
            "scored by a gradient per response",
        ),
        ({"method": "exact"}, ""),
        ({}, ""),
    ],
)
def test_the_page_says_how_the_scores_were_computed(copy: Path, scoring: dict[str, Any], told: str) -> None:
    manifest = json.loads((copy / "manifest.json").read_text(encoding="utf-8"))
    manifest["stages"]["weigh"]["facts"]["scoring"] = scoring
    (copy / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    words = Page(render_report(copy)).words
    assert told in words if told else "· scored by" not in words


@pytest.mark.usefixtures("without_pictures")
def test_what_becomes_of_the_old_policy_is_shown_where_the_recipe_names_one(copy: Path, page: str) -> None:
    assert "What becomes of the old policy" not in page
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["stages"]["triage"]["facts"]["old_policy"] = {
        "id": "old",
        "version": "1",
        "rules": {MARKUP: {"fate": "superseded", "INVERT": 12, "PUNISH": 345, "CONFIRM": 6, "NEUTRAL": 7}},
        "not_judged": ["kind"],
        "unexplained": 89,
        "left_out": 0,
    }
    (copy / "manifest.json").write_text(json.dumps(manifest))
    found = Page(render_report(copy))
    assert found.faults == []
    for word in ("What becomes of the old policy", "superseded", "345", "89 pairs to be inverted", "kind"):
        assert word in found.words
