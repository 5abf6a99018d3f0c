"""The model card of a re-aligned model: Hugging Face's front matter with `model-index`, and what a reader must know.

Text of others (titles, rules, judges, warnings) reaches YAML through a writer that quotes it, and Markdown with every
character escaped that could begin markup, a link or raw HTML.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from realigner.atomic import DESCRIPTION, write_text
from realigner.errors import InputError
from realigner.report.audit import read_audits
from realigner.report.evidence import read_agreement_table
from realigner.report.figures import FAMILIES, read_figures
from realigner.report.flow import read_counts
from realigner.report.interval import Figure
from realigner.report.limits import read_limits
from realigner.report.parts import PARTS, read_evidence, recorded_parts
from realigner.report.policy import read_policy
from realigner.report.rundir import RunFiles, mapping, part, texts
from realigner.report.text import one_line
from realigner.report.verdict import read_verdict

CARD = DESCRIPTION
MOST_OF_A_PART, MOST_RULES, MOST_WARNINGS = 30, 60, 60
_MARK = re.compile(r"<!-- written by realigner; sha256 ([0-9a-f]{16}) -->\n\Z")
_ESCAPED = re.compile(r"([\\`*_\[\]<>#|~&@$])")
INDEXED = (".after", ".diff", ".drift", ".shift", ".length_controlled")
_METRICS = {
    "agreement.after": "Policy agreement, as the judge says",
    "agreement.corrected": "Policy agreement, corrected by the audit",
    "kl": "KL from the model before, nats per token, on retained responses",
    "perplexity.after": "Perplexity of retained responses",
}
"""Figures of the run itself that the index of results lists; of the parts, those that end as `INDEXED` says."""


class CardError(InputError):
    """There is no model to describe, or a card of the user's own in its place."""


def render_card(run_dir: str | Path, *, adapter: bool | None = None) -> str:
    """Return the card of a run's model. The same directory gives the same text.

    Args:
        run_dir: the run directory; what was not measured is said to be so.
        adapter: whether the model is a PEFT adapter. Default: as it lies in the run.
    """
    run = RunFiles(Path(run_dir))
    figures = read_figures(run)
    if adapter is None:
        adapter = (run.path / "model" / "adapter_config.json").is_file()
    body = "\n".join(_body(run, figures))
    text = f"---\n{_front_matter(run, figures, adapter)}\n---\n\n{body}\n"
    return f"{text}\n<!-- written by realigner; sha256 {_digest(text)} -->\n"


def write_card(run_dir: str | Path, *, path: Path | None = None) -> Path:
    """Write the card beside the model, or to `path`; return where it is.

    Raises:
        CardError: the run has no model yet, or a card stands there that realigner did not write or that was edited.
    """
    directory = Path(run_dir)
    if path is None:
        if not (directory / "model").is_dir():
            raise CardError(
                f"run {run_dir}", "it has no model that a card could describe", f"First run: realigner train {run_dir}"
            )
        path = directory / "model" / CARD
    if path.exists() and not is_ours(path):
        raise CardError(
            f"{path}",
            "it was not written by realigner, or it was edited since",
            "Move it away, or write the card elsewhere: realigner card RUN --out FILE",
        )
    write_text(path, render_card(directory))
    return path


def is_ours(path: Path) -> bool:
    """Say whether a card is as realigner wrote it."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    mark = _MARK.search(text)
    return mark is not None and mark[1] == _digest(text[: mark.start() - 1])


def escaped(text: str, limit: int = 300) -> str:
    """Return text as one line of Markdown that shows it as it is, whatever it holds."""
    line = _ESCAPED.sub(r"\\\1", one_line(text, limit))
    line = re.sub(r"(?i)www\.", lambda found: f"{found[0][:-1]}\\.", line)  # bare addresses become links, too
    return line.replace("://", "\\://")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]


def _front_matter(run: RunFiles, figures: Mapping[str, Figure], adapter: bool) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    policy = part(read_policy, run).value
    base = part(lambda r: str(r.recipe("model", "path")), run).value
    data = ModelCardData(
        model_name=_name(run, base),
        base_model=_hub_id(base),
        library_name="peft" if adapter else "transformers",
        pipeline_tag="text-generation",
        tags=["realigner", "re-alignment", "preference-optimization"],
        eval_results=[EvalResult(**found) for found in _results(run, figures)] or None,
        realigner={
            "policy": {
                "id": one_line(policy.id, 80),
                "version": one_line(policy.version, 40),
                "hash": one_line(policy.hash, 80),
            }
            if policy
            else None,
            "judge": one_line(_judges(run)["evaluation"], 200),
            "verdict": read_verdict(run).word,
        },
    )
    if data.eval_results is None:
        data.pop("model_name")
    return str(data.to_yaml())


def _name(run: RunFiles, base: str | None) -> str:
    """Return a name for the model: what it started from and the policy that it was re-aligned to."""
    policy = part(read_policy, run).value
    start = Path(base).name if base else run.path.resolve().name
    return one_line(f"{start} re-aligned to {policy.id} {policy.version}" if policy else start, 120) or "model"


def _hub_id(path: str | None) -> str | None:
    """Return the base model's name where it is one of the hub's; a local path says nothing to a reader elsewhere."""
    if path is None or not re.fullmatch(r"[\w.-]{1,96}/[\w.-]{1,96}", path) or path.startswith("."):
        return None
    return None if Path(path).exists() else path


def _results(run: RunFiles, figures: Mapping[str, Figure]) -> Iterator[dict[str, Any]]:
    """Yield what the index of results lists, each with interval, n and method."""
    for name, figure in _chosen(figures).items():
        family = name.partition(".")[0]
        is_part = family in recorded_parts(run) or family in PARTS
        if name not in _METRICS and not (is_part and name.endswith(INDEXED)):
            continue
        found = figure.interval
        known = {
            "low": found.low, "high": found.high, "n": found.n, "method": one_line(found.method, 120),
            "unit": one_line(figure.unit, 40), "margin": figure.margin, "seed": figure.seed,
        }  # fmt: skip
        yield {
            "task_type": "text-generation",
            "dataset_type": "realigner-" + re.sub(r"[^a-z0-9]+", "-", family.lower()),
            "dataset_name": one_line(PARTS.get(family, "Held-out prompts and responses of the old data"), 80),
            "metric_type": one_line(name, 120),
            "metric_name": one_line(_METRICS.get(name, name.replace(".", " ").replace("_", " ")), 160),
            "metric_value": found.value,
            "metric_args": {key: value for key, value in known.items() if value is not None},
        }


def _chosen(figures: Mapping[str, Figure]) -> dict[str, Figure]:
    """Return the figures that a card has room for: those of the run as a whole, and of each part its first ones."""
    taken: Counter[str] = Counter()
    chosen = {}
    for name, figure in figures.items():
        family = name.partition(".")[0]
        if name.startswith(FAMILIES) or name.count(".") > 2 or taken[family] == MOST_OF_A_PART:
            continue
        taken[family] += 1
        chosen[name] = figure
    return chosen


def _judges(run: RunFiles) -> dict[str, str]:
    oracle = mapping(part(lambda r: r.summary("oracle"), run).value)
    return {side: str(oracle.get(side) or "not recorded") for side in ("training", "evaluation")}


def _body(run: RunFiles, figures: Mapping[str, Figure]) -> Iterator[str]:
    policy = part(read_policy, run)
    verdict = read_verdict(run)
    yield f"# {escaped(policy.value.title if policy.value else run.path.name, 160)}"
    yield ""
    yield f"{escaped(verdict.line, 600)}"
    for line in (verdict.basis, verdict.cost):
        if line:
            yield f"\n{escaped(line, 900)}"
    yield (
        "\nThis model was re-aligned to a changed policy with the preference data of the old one "
        "(TRACE, arXiv 2511.02623)."
    )
    yield "\n## The policy\n"
    if policy.value is None:
        yield f"Not measured: {escaped(policy.missing)}."
    else:
        it = policy.value
        yield f"Id {escaped(it.id, 80)}, version {escaped(it.version, 40)}, hash {escaped(it.hash, 80)}.\n"
        for rule in it.rules[:MOST_RULES]:
            yield f"* {escaped(rule.id, 60)} ({escaped(rule.tier, 30)}): {escaped(rule.text, 600)}"
        if left := len(it.rules[MOST_RULES:]) + it.rules_left_out:
            yield f"* and {left} more rules"
    yield "\n## Training data\n"
    yield from _training(run)
    yield "\n## Evaluation\n"
    yield from _evaluation(run, figures)
    yield "\n## Who judged, and how often the judge is right\n"
    yield from _judged(run)
    yield "\n## Limits\n"
    for limit in read_limits(run):
        yield f"* {escaped(limit, 700)}"
    warnings = texts(part(lambda r: r.summary("warnings"), run).value)
    for name in recorded_parts(run):
        evidence = part(lambda r, n=name: read_evidence(r, n), run).value  # type: ignore[misc]
        warnings += [f"{name.replace('_', ' ')}: {text}" for text in evidence.warnings] if evidence else ()
    if warnings:
        yield "\n## Warnings\n"
        for warning in warnings[:MOST_WARNINGS]:
            yield f"* {escaped(warning, 700)}"


def _training(run: RunFiles) -> Iterator[str]:
    counts = part(read_counts, run)
    if counts.value is None:
        yield f"Not measured: {escaped(counts.missing)}."
        return
    totals: dict[str, int] = {}
    for (outcome, _), n in counts.value.items():
        totals[outcome] = totals.get(outcome, 0) + n
    told = ", ".join(f"{escaped(name, 30)} {n}" for name, n in totals.items())
    yield f"Old preference pairs by what they are under the policy: {told}."


def _evaluation(run: RunFiles, figures: Mapping[str, Figure]) -> Iterator[str]:
    yield "Each figure with its 95 % interval. What is neither here nor in the run's report was not measured.\n"
    if not figures:
        yield f"Not measured: {escaped(part(read_agreement_table, run).missing)}."
        return
    yield "| figure | value | low | high | n | how |"
    yield "|---|---|---|---|---|---|"
    chosen = _chosen(figures)
    for name, figure in chosen.items():
        found = figure.interval
        ends = ("–" if end is None else f"{end:.4g}" for end in (found.low, found.high))
        n = "–" if found.n is None else found.n
        method = escaped(f"{found.method}; {figure.unit}", 120)
        yield f"| {escaped(name, 120)} | {found.value:.4g} | {' | '.join(ends)} | {n} | {method} |"
    if left := len(figures) - len(chosen):
        yield f"\n{left} more figures, by rule, topic, value and the like, are in the run's report."


def _judged(run: RunFiles) -> Iterator[str]:
    for side, judge in _judges(run).items():
        yield f"* {side}: {escaped(judge, 200)}"
    for _, heading, audit in read_audits(run):
        if audit.value is None:
            yield f"* {heading}: not audited ({escaped(audit.missing)})"
            continue
        accuracy = audit.value.accuracy
        told = "not measured" if accuracy is None else f"{accuracy.shown('share')} ({accuracy.shown_range('share')})"
        alpha = audit.value.alpha
        agreed = "not measured" if alpha is None else alpha.shown("plain")
        yield (
            f"* {heading}: people checked {audit.value.items or 'an unknown number of'} responses; accuracy of the "
            f"judge {escaped(told)}, agreement between people (Krippendorff's α) {escaped(agreed)}"
        )
