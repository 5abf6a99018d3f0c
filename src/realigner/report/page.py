"""A run directory in, one self-contained HTML page out."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from realigner.report.audit import read_audits
from realigner.report.chain import read_chain
from realigner.report.curves import read_curves
from realigner.report.evidence import read_agreement_table, read_change_table, read_utility
from realigner.report.flow import read_flow
from realigner.report.interval import PER_CENT
from realigner.report.limits import read_limits
from realigner.report.policy import read_old_policy, read_policy
from realigner.report.reproduce import read_recipe_text, read_reproduce
from realigner.report.rundir import RunFiles, mapping, part, texts
from realigner.report.samples import read_samples
from realigner.report.tallies import read_corrections_tally, read_data_tally, read_text_tallies
from realigner.report.text import one_line, visible
from realigner.report.verdict import judge_is_the_same, read_agreement, read_verdict
from realigner.report.weights import read_weights
from realigner.report.written import read_written

MOST_SAMPLES, MOST_WARNINGS = 200, 40
LABELS = {
    "compliant": "complies",
    "non_compliant": "breaks the policy",
    "unsure": "unsure",
    "invalid": "no valid verdict",
}
SECTIONS = (
    ("verdict", "Verdict"),
    ("flow", "Where the pairs went"),
    ("policy", "The policy"),
    ("chain", "From policy to policy"),
    ("audit", "Oracle audit"),
    ("agreement", "Agreement with the policy"),
    ("utility", "Utility"),
    ("weights", "Impact weights"),
    ("training", "Training"),
    ("samples", "Before and after"),
    ("data", "Data and text"),
    ("reproduce", "Reproduce"),
    ("limits", "Limits"),
)
"""Id and heading, in order. To add one: a line here, its template, and what it shows in `_content`."""


def render_report(run_dir: Path, *, samples: int = 12, title: str | None = None) -> str:
    """Return the report of a run as one HTML page that needs no network and no script.

    The same directory gives the same bytes. A part of the run that is missing or damaged is shown as "not measured"
    with the reason.

    Args:
        run_dir: the run directory, finished or not.
        samples: prompts shown with both responses, at most 200.
        title: heading of the page. Default: made from the policy's title.
    """
    run = RunFiles(Path(run_dir))
    template = _environment().get_template("report.html.j2")
    content = _content(run, min(samples, MOST_SAMPLES), title)
    shown = [section for section in SECTIONS if section[0] != "chain" or content["chain"] is not None]
    return str(template.render(sections=shown, labels=LABELS, **content))


def _content(run: RunFiles, samples: int, title: str | None) -> dict[str, Any]:
    policy = part(read_policy, run)
    weights = part(read_weights, run)
    warnings = part(lambda r: texts(r.summary("warnings")), run).value or []
    warnings += weights.value.warnings if weights.value else ()
    return {
        "title": one_line(title or (f"Re-alignment to “{policy.value.title}”" if policy.value else "A run"), 160),
        "run_name": run.path.name,
        "model": part(lambda r: Path(str(r.recipe("model", "path"))).name, run),
        "verdict": read_verdict(run),
        "same_judge": judge_is_the_same(run),
        "oracle": part(lambda r: _judges(mapping(r.summary("oracle"))), run),
        "warnings": [one_line(warning, 700) for warning in dict.fromkeys(warnings)][:MOST_WARNINGS],
        "overall": part(read_agreement, run),
        "flow": part(read_flow, run),
        "policy": policy,
        "old_policy": part(read_old_policy, run),
        "chain": read_chain(run),
        "audits": read_audits(run),
        "agreement": part(read_agreement_table, run),
        "changes": part(read_change_table, run),
        "utility": part(read_utility, run),
        "weights": weights,
        "curves": part(read_curves, run),
        "samples": part(lambda r: read_samples(r, samples), run),
        "data": part(read_data_tally, run),
        "texts": part(read_text_tallies, run),
        "corrections": part(read_corrections_tally, run),
        "written": part(read_written, run),
        "reproduce": part(read_reproduce, run),
        "recipe": part(read_recipe_text, run),
        "limits": read_limits(run),
    }


def _judges(oracle: Any) -> tuple[tuple[str, str], ...]:
    return tuple((side, one_line(str(oracle.get(side) or "not recorded"), 200)) for side in ("training", "evaluation"))


@cache
def _environment() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    def finalize(value: Any) -> Any:
        """Spell out hidden characters of every string the page prints, before autoescape."""
        if value is None:
            return "not measured"
        return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    environment = Environment(
        loader=PackageLoader("realigner.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"count": _count, "share": _share, "seconds": _seconds, "short": _short, "line": one_line}
    environment.globals |= {"svg": Markup}
    return environment


def _count(value: int) -> str:
    return f"{value:,}".replace(",", "\u202f")


def _share(value: float) -> str:
    return f"{100 * value:.1f}{PER_CENT}"


def _short(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.3g}"


def _seconds(value: float | None) -> str:
    if value is None:
        return "not measured"
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
