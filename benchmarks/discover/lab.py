"""Recovered rules against the truth, on every shift of the lab: label noise, and a length bias that is planted.

    python -m benchmarks.discover.lab --json benchmarks/discover/lab.json

The old policy of all shifts is the same seven rules; what each shift's data show of it differs. Pairs whose two
responses both comply have no truth: a coin decided them, so that even the true policy gives back less than everything
(`ceiling`).

* A recovered rule is RIGHT if it agrees with the true policy on at least 90 % of the clean pairs that it tells apart.
* A true rule is RECALLED if the recovered rules together prefer the right response on at least 80 % of the clean pairs
  that this rule decides. True rules that decide less than 1 % of the clean pairs are not counted.
* AGREEMENT: the same verdict on single responses as the true policy; `base`: of saying whatever is more frequent.

Clean pairs are a fresh draw of the same shift, without noise, and without the pairs that have no truth.
"""

from __future__ import annotations

from random import Random
from statistics import fmean
from typing import Any

import numpy as np

from benchmarks.common import arguments, write
from realigner.discover import Discovery, discover
from realigner.discover.candidate import Material
from realigner.discover.select import margin
from realigner.lab.shifts import OLD, REPORTED, SHIFTS, complies, draw_shift_pairs, policy_file
from realigner.lab.world import LabPair
from realigner.policy import Policy
from realigner.records import Label, Pair, user_prompt

RIGHT, RECALLED, DECIDES = 0.9, 0.8, 0.01
CONDITIONS = ((0.0, 0.0), (0.05, 0.0), (0.2, 0.0), (0.4, 0.0), (0.0, 0.3), (0.05, 0.3))
"""Share of preferences turned round, share of preferences decided by length instead."""
BIAS = "longer"


def old_pairs(drawn: list[LabPair], seed: int, noise: float, bias: float) -> list[Pair]:
    rng = Random(f"{seed} {noise} {bias}")
    found = []
    for item in drawn:
        sides = [item.chosen, item.rejected]
        if rng.random() < bias:
            sides.sort(key=lambda text: -len(text.split()))
        if rng.random() < noise:
            sides.reverse()
        found.append(Pair(item.id, user_prompt(item.prompt), sides[0], sides[1], "lab"))
    return found


def truth_of(item: LabPair) -> tuple[bool, bool]:
    return complies(item.ask, item.chosen_answer, OLD), complies(item.ask, item.rejected_answer, OLD)


def compare(found: Discovery, clean: list[LabPair], old: Policy) -> dict[str, Any]:
    told = [item for item in clean if truth_of(item) == (True, False)]
    pairs = [Pair(item.id, user_prompt(item.prompt), item.chosen, item.rejected, "lab") for item in told]
    material = Material(pairs)
    content = [rule for rule in found.rules if rule.candidate.kind == "content"]
    votes = [material.votes(rule.candidate) for rule in content]
    right = [bool(np.any(v)) and float(np.mean(v[v != 0] > 0)) >= RIGHT for v in votes]
    margins = margin([rule.weight for rule in content], votes, len(pairs))
    recalled = {}
    for rule in old.rules:
        verdicts = [[rule.judge(pair.prompt, text).label for text in (pair.chosen, pair.rejected)] for pair in pairs]
        decides = np.array([v == [Label.COMPLIANT, Label.NON_COMPLIANT] for v in verdicts])
        if decides.mean() >= DECIDES:
            recalled[rule.id] = float(np.mean(margins[decides] > 0))
    truth, said = [], []
    for item in clean:
        for text, label in zip((item.chosen, item.rejected), truth_of(item), strict=True):
            truth.append(label)
            verdict = None if found.policy is None else found.policy.judge(user_prompt(item.prompt), text)
            said.append(True if verdict is None else verdict.label is Label.COMPLIANT)
    return {
        "rules": len(content),
        "right": sum(right),
        "precision": sum(right) / len(right) if right else None,
        "recall": fmean(share >= RECALLED for share in recalled.values()),
        "recalled": {name: round(share, 3) for name, share in recalled.items()},
        "clean_reconstruction": float(np.mean(np.where(margins == 0, 0.5, margins > 0))),
        "agreement": float(np.mean(np.array(truth) == np.array(said))),
        "base": float(max(np.mean(truth), 1 - np.mean(truth))),
    }


def ceiling(drawn: list[LabPair], pairs: list[Pair]) -> float:
    """What the true policy gives back of the pairs as they are labelled: a half where it tells nothing."""
    scores = []
    for item, pair in zip(drawn, pairs, strict=True):
        chosen, rejected = truth_of(item)
        scores.append(0.5 if chosen == rejected else float((pair.chosen == item.chosen) == chosen))
    return fmean(scores)


def row(shift: str, seed: int, noise: float, bias: float, count: int, old: Policy) -> dict[str, Any]:
    drawn = draw_shift_pairs(SHIFTS[shift], count, seed)
    pairs = old_pairs(drawn, seed, noise, bias)
    found = discover(pairs, seed=seed)
    clean = draw_shift_pairs(SHIFTS[shift], 1000, seed + 1000)
    assert found.reconstruction is None or found.reconstruction["n"] > 0
    return {
        "shift": shift,
        "seed": seed,
        "noise": noise,
        "bias": bias,
        "recovered": found.recovered,
        "preferred_kept": found.preferred_kept,
        "verdict": found.verdict,
        "ceiling": ceiling(drawn, pairs),
        "reconstruction": found.reconstruction,
        "length_alone": found.baselines["length alone"],
        "named_biases": [item.form for item in found.biases if item.named],
        "bias_named": any(item.form == BIAS and item.named for item in found.biases),
        "shorter_named": any(item.form == "shorter" and item.named for item in found.biases),
        "alone": found.alone,
        "texts": [rule.candidate.text for rule in found.rules],
        **compare(found, clean, old),
    }


def main() -> None:
    given = arguments(__doc__)
    count, seeds = (1000, (1,)) if given.quick else (4000, (1, 2))
    shifts = REPORTED[:1] if given.quick else REPORTED
    old = Policy.load(policy_file("old"), allow_code=True)
    rows = [
        row(shift, seed, noise, bias, count, old)
        for shift in shifts
        for noise, bias in (CONDITIONS[:1] + CONDITIONS[4:5] if given.quick else CONDITIONS)
        for seed in seeds
    ]
    summary = {}
    for shift in shifts:
        for noise, bias in CONDITIONS:
            group = [r for r in rows if (r["shift"], r["noise"], r["bias"]) == (shift, noise, bias)]
            if group:
                summary[f"{shift}, noise {noise:g}, bias {bias:g}"] = {
                    name: round(fmean(r[name] or 0.0 for r in group), 3)
                    for name in (
                        "recovered",
                        "precision",
                        "recall",
                        "agreement",
                        "base",
                        "ceiling",
                        "bias_named",
                        "shorter_named",
                    )
                } | {"reconstruction": round(fmean((r["reconstruction"] or {"value": 0.5})["value"] for r in group), 3)}
    config = {"pairs": count, "seeds": list(seeds), "right": RIGHT, "recalled": RECALLED, "decides": DECIDES}
    write(given.json, "discover.lab", config=config, rows=rows, ratios=summary)


if __name__ == "__main__":
    main()
