"""The oracle audit on the page: what people found, beside what the judge says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from report_html import Page

from realigner.report import render_report
from realigner.report.audit import read_audit, read_corrected
from realigner.report.limits import read_limits
from realigner.report.rundir import NotMeasured, RunFiles


@pytest.fixture
def copy(run_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run_dir, tmp_path / "copy"))


def test_the_figures_are_those_of_the_audit(run_dir: Path) -> None:
    stored = json.loads((run_dir / "audit.json").read_text())
    for subject in ("triage", "evaluation"):
        audit, content = read_audit(RunFiles(run_dir), subject), stored[subject]
        assert audit.accuracy is not None
        assert audit.accuracy.value == content["accuracy"]["value"]
        assert audit.alpha is not None
        assert (audit.alpha.value, audit.alpha.n) == (content["alpha"]["value"], content["alpha"]["items"])
        assert {row.label for row in audit.rules} == set(content["rules"])
        assert sum(n for _, cells in audit.confusion for n, _ in cells) == content["items"]
        assert sum(share for _, cells in audit.confusion for _, share in cells) == pytest.approx(1)
    assert [row.outcome for row in read_audit(RunFiles(run_dir), "triage").outcomes] == [
        "INVERT", "PUNISH", "CONFIRM", "NEUTRAL",
    ]  # fmt: skip
    assert read_audit(RunFiles(run_dir), "evaluation").outcomes == ()
    assert read_audit(RunFiles(run_dir), "evaluation").change is not None


@pytest.mark.usefixtures("without_pictures")
def test_raw_and_corrected_rates_stand_side_by_side(run_dir: Path) -> None:
    words = Page(render_report(run_dir)).words
    rate = json.loads((run_dir / "audit.json").read_text())["evaluation"]["rates"]["group"]["after"]
    corrected = rate["corrected"]
    shown = f"after {100 * rate['raw']:.1f} % {100 * corrected['value']:.1f} % {100 * corrected['low']:.1f}–"
    assert shown in words.replace("\u00a0", " ")


@pytest.mark.usefixtures("without_pictures")
def test_an_audit_of_other_verdicts_is_not_shown(copy: Path) -> None:
    stored = json.loads((copy / "audit.json").read_text())
    stored["triage"]["output"] = "sha256:other"
    (copy / "audit.json").write_text(json.dumps(stored))
    with pytest.raises(NotMeasured, match=r"of other verdicts than those in triage\.parquet"):
        read_audit(RunFiles(copy), "triage")
    assert "Not measured : the audit in audit.json is of other verdicts" in Page(render_report(copy)).words
    read_audit(RunFiles(copy), "evaluation")


def test_what_was_not_audited_is_a_limit(copy: Path) -> None:
    assert "How often the judge is wrong" not in " ".join(read_limits(RunFiles(copy)))
    stored = json.loads((copy / "audit.json").read_text())
    del stored["evaluation"]
    (copy / "audit.json").write_text(json.dumps(stored))
    assert "How often the judge is wrong on the models' answers: not measured" in " ".join(read_limits(RunFiles(copy)))
    (copy / "audit.json").unlink()
    assert "How often the judge is wrong: not measured. No human has audited" in " ".join(read_limits(RunFiles(copy)))
    with pytest.raises(NotMeasured, match=r"the run directory has no audit\.json"):
        read_audit(RunFiles(copy), "triage")


@pytest.mark.usefixtures("without_pictures")
def test_agreement_stands_raw_and_corrected_in_every_part(run_dir: Path, copy: Path) -> None:
    stored = json.loads((run_dir / "audit.json").read_text())["evaluation"]
    corrected = read_corrected(RunFiles(run_dir))
    assert {kind for kind, _ in corrected} == {"all", "outcome", "rule"}
    before = corrected["rule", "no-diagnosis"].before
    assert before is not None
    assert before.value == stored["parts"]["before"]["rule"]["no-diagnosis"]["corrected"]["value"]
    words = Page(render_report(run_dir)).words
    assert "Responses Before, raw Before, corrected After, raw After, corrected n" in words
    (copy / "audit.json").unlink()
    words = Page(render_report(copy)).words
    assert "the answers were not audited, so no figure is corrected" in words
    assert "Responses Before After n" in words


@pytest.mark.usefixtures("without_pictures")
def test_topics_are_a_part_of_their_own(copy: Path) -> None:
    content = json.loads((copy / "summary.json").read_text())
    figures = content["agreement"]["by_outcome"]["INVERT"]
    content["agreement"]["by_topic"] = {"headache": figures}
    (copy / "summary.json").write_text(json.dumps(content))
    assert "By topic headache" in Page(render_report(copy)).words
