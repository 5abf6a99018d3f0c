"""What this run did not measure, in plain sentences. The list is made from the run, not from a template."""

from __future__ import annotations

from collections import Counter

from realigner.report.audit import read_audits
from realigner.report.changes import read_changes
from realigner.report.parts import read_evidence
from realigner.report.rundir import NotMeasured, RunFiles, items, mapping, part
from realigner.report.verdict import judge_is_the_same, read_agreement

FEW_PROMPTS = 100
_NEVER = (
    "Requests unlike the old data: not measured. The held-out prompts come from the same source as the training "
    "prompts.",
    "The spread between training seeds: not measured. This is one run with one seed; intervals cover the choice of "
    "prompts only.",
)


def read_limits(run: RunFiles) -> list[str]:
    """Return the limits that hold for this run, the weightiest first. It never fails: what is missing is a limit."""
    limits = [*_judge(run), *_evidence(run)]
    try:
        limits += _unclear(run)
    except NotMeasured as reason:
        limits.append(f"Change prompt by prompt: not measured, because {reason}.")
    return [*limits, *_cut_short(run), *_unmeasured(run), *_NEVER]


def _judge(run: RunFiles) -> list[str]:
    same = judge_is_the_same(run)
    told = {
        True: "The judge that evaluated is the judge that chose the training pairs. What the model learnt of that "
        "judge's mistakes counts here as agreement. An independent judge (evaluate.oracle) would tell them apart.",
        None: "Whether the evaluating judge had a part in training was not recorded.",
    }
    limits = [told[same]] if same in told else []
    audited = [subject for subject, _, found in read_audits(run) if found.value is not None]
    if not audited:
        limits.append(
            "How often the judge is wrong: not measured. No human has audited its verdicts, and no interval on this "
            "page includes its errors."
        )
    elif "evaluation" not in audited:
        limits.append(
            "How often the judge is wrong on the models' answers: not measured. People audited its verdicts on the old "
            "data only, and agreement on this page is not corrected."
        )
    if part(lambda r: r.recipe("oracle", "kind"), run).value == "rules":
        limits.append("The judge is a set of deterministic rules: it sees wording and length, not meaning.")
    if stand_ins := _stand_ins(run):
        limits.append(
            f"The rules {', '.join(stand_ins)} were written for a judge who reads. Their deterministic fallbacks stood "
            "in for it, so that what these rules mean was judged by words and patterns alone."
        )
    return limits


def _stand_ins(run: RunFiles) -> list[str]:
    """Return the rules that need a judge and were judged by their fallbacks, in training or in evaluation."""
    settings = (
        part(lambda r: r.recipe("oracle", "fallbacks"), run),
        part(lambda r: r.recipe("evaluate", "oracle"), run),
    )
    if settings[0].value is not True and mapping(settings[1].value).get("fallbacks") is not True:
        return []
    rules = [mapping(rule) for rule in items(part(lambda r: r.summary("policy", "rules"), run).value)]
    return [str(rule.get("id")) for rule in rules if rule.get("by", "rules") != "rules"]


def _evidence(run: RunFiles) -> list[str]:
    try:
        before, after = read_agreement(run).both
    except NotMeasured as reason:
        return [f"Policy agreement before and after: not measured, because {reason}."]
    n = min((i.n for i in (before, after) if i.n is not None), default=None)
    if n is not None and n < FEW_PROMPTS:
        return [f"Only {n} held-out prompts were judged: a change of a few points could not be seen with so few."]
    return []


def _unmeasured(run: RunFiles) -> list[str]:
    names = {
        "win_rate": "wins against the model before in pairwise comparison",
        "utility": "benchmarks of capability",
        "stress": "resistance to attacks and refusal of harmless requests",
        "values": "movement of values that the policy does not name",
        "inside": "what changed inside the model",
    }
    missing = [words for name, words in names.items() if part(lambda r, n=name: read_evidence(r, n), run).value is None]  # type: ignore[misc]
    if not missing:
        return []
    told = ", ".join(missing)
    return [f"{told[0].upper()}{told[1:]}: not measured by this run."]


def _cut_short(run: RunFiles) -> list[str]:
    cut: Counter[str] = Counter()
    read: Counter[str] = Counter()
    try:
        for row in run.rows("responses.parquet", ["model", "finish"]):
            read[str(row["model"])] += 1
            cut[str(row["model"])] += row["finish"] == "length"
    except NotMeasured:
        return []
    if not cut.total():
        return []
    told = " and ".join(f"{cut[model]} of {n} responses {model}" for model, n in read.items())
    return [f"{told} were cut at the token limit: what they would have gone on to say was not judged."]


def _unclear(run: RunFiles) -> list[str]:
    changes = read_changes(run)
    limits = []
    if changes.unclear:
        limits.append(
            f"{changes.unclear} of {len(changes.rows)} prompts had no clear verdict (unsure or invalid) on one side or "
            "both; whether those responses comply was not measured, and they count as not compliant."
        )
    if changes.left_out:
        limits.append(
            f"{changes.left_out} responses were not compared: they have no judged counterpart, or are further samples "
            "of a prompt."
        )
    return limits
