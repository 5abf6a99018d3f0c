"""A run directory in, one self-contained HTML page out."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from realigner.report.audit import read_audits
from realigner.report.chain import read_chain
from realigner.report.cost import read_cost
from realigner.report.curves import read_curves
from realigner.report.evidence import read_agreement_table, read_change_table, read_utility
from realigner.report.figures import read_figures
from realigner.report.flow import read_flow
from realigner.report.gate import StoredCheck, read_verdict_of_gate
from realigner.report.interval import PER_CENT
from realigner.report.limits import read_limits
from realigner.report.migration import read_migrations
from realigner.report.parts import PARTS, Evidence, read_evidence, recorded_parts
from realigner.report.policy import read_old_policy, read_policy
from realigner.report.policy_diff import read_policy_diff
from realigner.report.reproduce import read_recipe_text, read_reproduce
from realigner.report.rundir import Part, RunFiles, mapping, part, texts
from realigner.report.samples import read_samples
from realigner.report.tallies import read_corrections_tally, read_data_tally, read_text_tallies
from realigner.report.text import one_line, visible
from realigner.report.tiles import make_tiles
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
    ("gate", "Gate"),
    ("policy", "The policy"),
    ("chain", "From policy to policy"),
    ("migrations", "Policies that may follow"),
    ("flow", "Where the pairs went"),
    ("audit", "Oracle audit"),
    ("agreement", "Agreement with the policy"),
    ("wins", "Win, tie, loss"),
    ("utility", "Utility"),
    ("attacks", "Attacks and over-refusal"),
    ("values", "Movement of values"),
    ("inside", "Inside view"),
    ("others", "Other measurements"),
    ("weights", "Impact weights"),
    ("training", "Training"),
    ("cost", "Cost"),
    ("samples", "Before and after"),
    ("data", "Data and text"),
    ("figures", "All figures"),
    ("reproduce", "Reproduce"),
    ("limits", "Limits"),
)
"""Id and heading, in order. To add one: a line here, its template, and what it shows in `_content`."""
MEASURED_IN = {
    "wins": ("win_rate",),
    "utility": ("utility",),
    "attacks": ("stress", "over_refusal"),
    "values": ("values",),
    "inside": ("inside",),
}
"""Section -> parts of the stage `measure` that it shows; parts that no section names are under `others`."""


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
    content = _content(run, min(samples, MOST_SAMPLES), title)
    there = {"gate": content["gate"] is not None, "chain": content["chain"] is not None, "others": content["others"]}
    there["migrations"] = bool(content["migrations"])
    shown = [section for section in SECTIONS if there.get(section[0], True)]
    return render("report.html.j2", sections=shown, labels=LABELS, **content)


def render(template: str, **content: Any) -> str:
    """Return a page of ours: its style inside, its one script allowed by its hash, everything else forbidden."""
    search = (files("realigner.report") / "templates" / "search.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(search.encode("utf-8")).digest()).decode("ascii")
    return str(_environment().get_template(template).render(search=search, search_hash=digest, **content))


def _content(run: RunFiles, samples: int, title: str | None) -> dict[str, Any]:
    policy = part(read_policy, run)
    weights = part(read_weights, run)
    measured = _measured(run)
    warnings = part(lambda r: texts(r.summary("warnings")), run).value or []
    warnings += weights.value.warnings if weights.value else ()
    for found in measured.values():
        warnings += (
            [f"{found.value.part.replace('_', ' ')}: {text}" for text in found.value.warnings] if found.value else ()
        )
    return {
        "title": one_line(title or (f"Re-alignment to “{policy.value.title}”" if policy.value else "A run"), 160),
        "run_name": run.path.name,
        "model": part(lambda r: Path(str(r.recipe("model", "path"))).name, run),
        "verdict": read_verdict(run),
        "same_judge": judge_is_the_same(run),
        "oracle": part(lambda r: _judges(mapping(r.summary("oracle"))), run),
        "warnings": [one_line(warning, 700) for warning in dict.fromkeys(warnings)][:MOST_WARNINGS],
        "overall": part(read_agreement, run),
        "gate": _gate(run),
        "measured": measured,
        "tiles": make_tiles(measured, MEASURED_IN),
        "measured_in": {section: [n for n in names if n in measured] for section, names in MEASURED_IN.items()},
        "others": [name for name in measured if not any(name in names for names in MEASURED_IN.values())],
        "part_names": PARTS,
        "figures": read_figures(run),
        "cost": part(read_cost, run),
        "policy_diff": part(read_policy_diff, run),
        "flow": part(read_flow, run),
        "policy": policy,
        "old_policy": part(read_old_policy, run),
        "chain": read_chain(run),
        "migrations": read_migrations(run),
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


def _measured(run: RunFiles) -> dict[str, Part[Evidence]]:
    """Return each part that there is or could be, by name."""
    names = [name for name in PARTS if name != "over_refusal" or name in recorded_parts(run)]
    names += [name for name in recorded_parts(run) if name not in names]
    return {name: part(lambda r, n=name: read_evidence(r, n, draw=True), run) for name in names}  # type: ignore[misc]


def _gate(run: RunFiles) -> Part[tuple[StoredCheck, ...]] | None:
    """Return what became of the gate; None where the recipe names none."""
    found = part(read_verdict_of_gate, run)
    named = part(lambda r: r.recipe("report", "gate"), run).value is not None
    return found if named or found.value else None


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
    environment.filters |= {"count": _count, "share": _share, "seconds": _seconds, "short": _short, "two": _two}
    environment.filters["line"] = one_line
    environment.globals |= {"svg": Markup}
    return environment


def _count(value: int) -> str:
    return f"{value:,}".replace(",", "\u202f")


def _share(value: float) -> Any:
    return _number(value, f"{100 * value:.1f}{PER_CENT}")


def _short(value: float | None) -> Any:
    return "not measured" if value is None else _number(value, f"{value:.3g}")


def _two(value: float) -> Any:
    return _number(value, f"{value:.2f}".replace("-", "−"))


def _number(value: float, shown: str) -> Any:
    """Return a rounded number that carries itself: tables are exported from the page."""
    from markupsafe import Markup

    return Markup('<data value="{}">{}</data>').format(repr(value), shown)


def _seconds(value: float | None) -> str:
    if value is None:
        return "not measured"
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
