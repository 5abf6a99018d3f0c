"""From kept rules to a policy file: each judges one response alone, and carries the pairs it was learned from."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import yaml

from realigner.discover.candidate import Candidate, Votes
from realigner.policy import Policy, Rule
from realigner.records import Label, Pair

EVIDENCE = 20
"""Ids of supporting and of opposing pairs that the policy file names for each rule; the JSON file names all."""


def rule_ids(candidates: Sequence[Candidate]) -> list[str]:
    """Return a readable, distinct id for each rule."""
    found: list[str] = []
    for candidate in candidates:
        stem = re.sub(r"[^\w]+", "-", candidate.name.lower()).strip("-")[:40].strip("-") or "rule"
        number, name = 1, stem
        while name in found:
            number += 1
            name = f"{stem}-{number}"
        found.append(name)
    return found


Labels = list[tuple[Label, Label]]
"""What one rule says of the preferred and of the other response of each pair, judging each alone."""


def pointwise_labels(rule: Rule, pairs: Sequence[Pair]) -> Labels:
    """Return what a rule's checks say of each response alone."""
    return [
        (rule.judge(pair.prompt, pair.chosen).label, rule.judge(pair.prompt, pair.rejected).label) for pair in pairs
    ]


def pointwise_votes(labels: Labels) -> Votes:
    """Return the votes that verdicts on single responses amount to."""
    return np.array([vote_of(*both) for both in labels], dtype=np.int8)


def vote_of(chosen: Label, rejected: Label) -> int:
    """Return the vote that two verdicts amount to: 0 unless one complies and the other does not."""
    if {chosen, rejected} != {Label.COMPLIANT, Label.NON_COMPLIANT}:
        return 0
    return 1 if chosen is Label.COMPLIANT else -1


def reproduced(pair_votes: Votes, pointwise: Votes) -> float:
    """Return the share of pairs on which judging each response alone gives the vote that judging the pair gave."""
    return float(np.mean(pair_votes == pointwise)) if len(pair_votes) else 1.0


def policy_of(candidates: Sequence[Candidate], name: str, seed: int) -> Policy:
    """Return the recovered policy: broken by any violation, as the rules stand."""
    rules = [candidate.rule(rule_id) for candidate, rule_id in zip(candidates, rule_ids(candidates), strict=True)]
    return Policy(id=name, version=f"recovered-{seed}", title="Recovered from old preference data", rules=tuple(rules))


def policy_yaml(policy: Policy, notes: Mapping[str, Sequence[str]], head: Sequence[str]) -> str:
    """Return the policy file, with comments: what it is, and for each rule its figures and its evidence.

    Args:
        policy: what is written.
        notes: lines for each rule id.
        head: lines at the top of the file.
    """
    content: dict[str, Any] = policy.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    rules = content.pop("rules")
    lines = [f"# {_one_line(line)}" for line in head]
    lines += _dump(content).splitlines()
    lines.append("rules:")
    for rule in rules:
        lines += [f"  # {_one_line(line)}" for line in notes[rule["id"]]]
        block = _dump(rule).splitlines()
        lines += [f"  - {block[0]}", *(f"    {line}" if line else line for line in block[1:])]
    return "\n".join(lines) + "\n"


def _one_line(text: str) -> str:
    """Return a text that can stand in a comment of YAML: on one line, and without characters that YAML refuses."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _dump(content: dict[str, Any]) -> str:
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110)
