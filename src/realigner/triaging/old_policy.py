"""What an old policy decides about triaged pairs: which retained ones anchor, and which inversions are left out."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from realigner.atomic import writing
from realigner.discover.use import OldPolicy, cross_table
from realigner.errors import DataError
from realigner.recipe import OldPolicySettings
from realigner.records import Direction, Outcome, TriagedPair, text_hash
from realigner.triaging.store import read_triage, write_triage

NO_RULE = ""
"""Stands for the retained pairs that no surviving rule supports."""


def follow_old_policy(path: Path, settings: OldPolicySettings, seed: int) -> dict[str, Any]:
    """Set what training leaves out to `Direction.NONE` in a triage file; return the cross-table and what was left out.

    The training side alone is changed, and outcomes never are. Ids of flagged pairs go into the facts.

    Raises:
        PolicyError: the old policy cannot be used.
        DataError: no conflict would be left.
    """
    old = OldPolicy.load(settings.path, settings.allow_code)
    table = cross_table(old, ((item.pair, item.outcome) for item in read_triage(path)))
    flagged = list(_flagged(path, old))
    out: set[str] = set()
    if settings.unrelated == "leave_out":
        out |= {i for i, _ in flagged}
    drawn: Counter[str] = Counter()
    if settings.anchors is not None:
        anchors = _draw_anchors(path, old, table.surviving, settings.anchors, seed)
        drawn.update({rule: len(ids) for rule, ids in anchors.items()})
        kept = set().union(*anchors.values()) if anchors else set()
        out |= {
            item.pair.id for item in read_triage(path, "train") if item.outcome.is_retained and item.pair.id not in kept
        }
    if out:
        _leave_out(path, out)
    return {
        "old_policy": {
            "id": old.policy.id,
            "version": old.policy.version,
            "hash": old.policy.hash,
            "not_judged": list(old.not_judged),
            **table.as_dict(),
            "anchors": {rule or "(no surviving rule)": count for rule, count in drawn.items()},
            "flagged": [{"id": i, "reason": reason} for i, reason in flagged],
            "left_out": len(out),
        }
    }


def old_policy_lines(facts: Mapping[str, Any]) -> list[str]:
    """Return, for people, what becomes of the old rules and what was done about it."""
    fates = ", ".join(f"{rule} {found['fate']}" for rule, found in facts["rules"].items())
    unjudged = f"; not judged: {', '.join(facts['not_judged'])}" if facts["not_judged"] else ""
    return [
        f"old policy {facts['id']} {facts['version']}: {fates}{unjudged}",
        f"{len(facts['flagged']):,} pairs to be inverted were preferred for no old rule; "
        f"{facts['left_out']:,} pairs are left out of training by old_policy",
    ]


def _flagged(path: Path, old: OldPolicy) -> Iterator[tuple[str, str]]:
    """Yield (id, reason) of the pairs that training would invert though no old rule was behind their preference."""
    for item in read_triage(path, "train"):
        if item.outcome is Outcome.INVERT and not any(vote > 0 for vote in old.votes(item.pair).values()):
            yield item.pair.id, old.unrelated.get(item.pair.id, "unknown")


def _draw_anchors(path: Path, old: OldPolicy, surviving: tuple[str, ...], most: int, seed: int) -> dict[str, set[str]]:
    """Draw retained training pairs: at most so many for each surviving rule that supports them, by a seeded hash.

    Pairs that no surviving rule supports all stay: no other pair is known to teach what they teach, and an old policy
    that misses rules must not cost what it does not know.
    """
    groups: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for item in read_triage(path, "train"):
        if item.outcome.is_retained:
            votes = old.votes(item.pair)
            rules = [rule for rule in surviving if votes[rule] > 0] or [NO_RULE]
            for rule in rules:
                groups[rule].append((text_hash(str(seed), "anchor", rule, item.pair.id), item.pair.id))
    return {
        rule: {i for _, i in (members if rule == NO_RULE else sorted(members)[:most])}
        for rule, members in groups.items()
    }


def _leave_out(path: Path, ids: set[str]) -> None:
    def rewritten() -> Iterator[TriagedPair]:
        for item in read_triage(path):
            yield replace(item, direction=Direction.NONE) if item.pair.id in ids else item

    with writing(path) as temporary:
        write_triage(rewritten(), temporary)
    if not any(
        item.outcome.is_conflict and item.direction is not Direction.NONE for item in read_triage(path, "train")
    ):
        raise DataError(
            f"old_policy.unrelated: leave_out on {len(ids):,} pairs",
            "no conflict is left to train on",
            "Set old_policy.unrelated: keep, or look at the old policy",
        )
