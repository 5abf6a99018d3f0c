"""The policy that decided: its identity, each rule's wording, and how often each rule was broken."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from realigner.records import Label
from realigner.report.interval import BeforeAfter, read_before_after
from realigner.report.rundir import NotMeasured, Part, RunFiles, items, mapping, part

if TYPE_CHECKING:
    import pyarrow as pa

MOST_RULES = 300
OUTCOMES = ("INVERT", "PUNISH", "CONFIRM", "NEUTRAL")


@dataclass(frozen=True)
class Broken:
    """How often the OLD data breaks one rule."""

    chosen: int
    rejected: int


@dataclass(frozen=True)
class RuleRow:
    """One rule with its figures."""

    id: str
    tier: str
    text: str
    agreement: BeforeAfter
    broken: Broken


@dataclass(frozen=True)
class PolicyFacts:
    """The policy and its rules."""

    id: str
    version: str
    title: str
    hash: str
    rules: tuple[RuleRow, ...]
    rules_left_out: int
    broken: Part[dict[str, Broken]]


def read_policy(run: RunFiles) -> PolicyFacts:
    """Return the policy as the evaluation recorded it, or, before that, its identity as triage did.

    Raises:
        NotMeasured: neither did.
    """
    policy = mapping(part(lambda r: r.summary("policy"), run).value or run.facts("triage").get("policy"))
    if not policy:
        raise NotMeasured("neither summary.json nor the stage triage recorded the policy")
    by_rule = part(lambda r: mapping(r.summary("agreement", "by_rule")), run).value or {}
    broken = part(read_broken, run)
    rules = [mapping(rule) for rule in items(policy.get("rules"))]
    rows = tuple(
        RuleRow(
            id=str(rule.get("id", "")),
            tier=str(rule.get("tier") or "none"),
            text=str(rule.get("text") or ""),
            agreement=read_before_after(by_rule.get(str(rule.get("id", "")))),
            broken=(broken.value or {}).get(str(rule.get("id", "")), Broken(0, 0)),
        )
        for rule in rules[:MOST_RULES]
    )
    id_, version, title, hash_ = (str(policy.get(key) or "not recorded") for key in ("id", "version", "title", "hash"))
    return PolicyFacts(id_, version, title, hash_, rows, max(0, len(rules) - MOST_RULES), broken)


def read_broken(run: RunFiles) -> dict[str, Broken]:
    """Count for each rule the old chosen and rejected responses that break it.

    Raises:
        NotMeasured: triage.parquet has no verdicts per rule.
    """
    sides: dict[str, Counter[str]] = {"chosen": Counter(), "rejected": Counter()}
    leaves = [f"verdicts.{side}.{leaf}" for side in sides for leaf in ("rule", "label")]
    for batch in run.batches("triage.parquet", leaves):
        for side, counts in sides.items():
            counts.update(_broken_rules(batch, side))
    chosen, rejected = sides["chosen"], sides["rejected"]
    return {rule: Broken(chosen[rule], rejected[rule]) for rule in sorted({*chosen, *rejected})}


def _broken_rules(batch: pa.RecordBatch, side: str) -> dict[str, int]:
    import pyarrow.compute as pc

    verdicts = pc.list_flatten(pc.struct_field(batch.column("verdicts"), side))
    guilty = pc.equal(pc.struct_field(verdicts, "label"), str(Label.NON_COMPLIANT))
    found = pc.value_counts(pc.filter(pc.struct_field(verdicts, "rule"), guilty))
    return {item["values"]: item["counts"] for item in found.to_pylist()}


@dataclass(frozen=True)
class OldRule:
    """What became of one rule of the old policy: pairs that it supports, by outcome."""

    id: str
    fate: str
    counts: tuple[int, ...]
    """INVERT, PUNISH, CONFIRM, NEUTRAL."""


@dataclass(frozen=True)
class OldPolicyFacts:
    """The old policy beside the new one."""

    name: str
    rules: tuple[OldRule, ...]
    not_judged: tuple[str, ...]
    unexplained: int
    left_out: int


def read_old_policy(run: RunFiles) -> OldPolicyFacts:
    """Return what triage found out about the old policy.

    Raises:
        NotMeasured: the recipe names none.
    """
    found = mapping(run.facts("triage").get("old_policy"))
    if not found:
        raise NotMeasured("the recipe names no old policy")
    rules = [(str(name), mapping(row)) for name, row in mapping(found.get("rules")).items()]
    return OldPolicyFacts(
        f"{found.get('id')} {found.get('version')}",
        tuple(
            OldRule(name, str(row.get("fate")), tuple(int(row.get(o, 0)) for o in OUTCOMES))
            for name, row in rules[:MOST_RULES]
        ),
        tuple(str(rule) for rule in items(found.get("not_judged"))),
        int(found.get("unexplained") or 0),
        int(found.get("left_out") or 0),
    )
