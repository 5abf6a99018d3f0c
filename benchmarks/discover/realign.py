"""Does it matter for re-alignment whether the old policy was documented or recovered? Three seeds of the demo.

    python -m benchmarks.discover.realign --json benchmarks/discover/realign.json

The demo's model and pairs; the new policy decides every outcome, so that an old policy can only change which retained
pairs anchor, and which inversions are left out. For each seed, three runs from the same start: no old policy, the
documented one, the one that `discover` recovers from the pairs, the latter two with 40 anchors a surviving rule and
`unrelated: leave_out`. Differences from the run without an old policy are taken seed by seed; their intervals are
Student's over seeds.
"""

from __future__ import annotations

from math import sqrt
from pathlib import Path
from statistics import fmean, stdev
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.common import arguments, write
from realigner import pipeline
from realigner.data import read_pairs
from realigner.discover import discover
from realigner.lab import build_demo
from realigner.recipe import OldPolicySettings, Recipe
from realigner.runs import load_run

ANCHORS = 40
SEEDS = (1, 2, 3)


def one(recipe: Recipe, name: str, old: Path | None, folder: Path) -> dict[str, Any]:
    settings = None if old is None else OldPolicySettings(path=str(old), anchors=ANCHORS, unrelated="leave_out")
    result = pipeline.run(recipe.model_copy(update={"output": str(folder / name), "old_policy": settings}))
    facts = load_run(result.directory).stages["triage"]["facts"].get("old_policy", {})
    flagged = facts.pop("flagged", [])
    return {
        "old_policy": name,
        "table": facts,
        "flagged": len(flagged),
        "left_out": facts.get("left_out", 0),
        **{key: result.summary[key] for key in ("agreement", "kl", "perplexity", "counts")},
    }


def of_seed(seed: int, quick: bool) -> list[dict[str, Any]]:
    with TemporaryDirectory() as name:
        folder = Path(name)
        recipe = build_demo(folder, seed=seed)
        found = discover(read_pairs(recipe.data), seed=seed)
        written = found.write(folder / "recovered.yaml")
        rows = [one(recipe, "none", None, folder)]
        if not quick:
            rows.append(one(recipe, "documented", folder / "inputs" / "old-policy.yaml", folder))
            if found.recovered:
                rows.append(one(recipe, "recovered", written[0], folder))
    said = {"verdict": found.verdict, "rules": [rule.candidate.text for rule in found.rules]}
    return [{"seed": seed, **said, **row} for row in rows]


def difference(rows: dict[int, float], alone: dict[int, float]) -> dict[str, Any]:
    """The mean of the differences seed by seed, with Student's 95 % interval; the differences themselves beside it."""
    from scipy.stats import t

    values = [value - alone[seed] for seed, value in rows.items()]
    found: dict[str, Any] = {"mean": round(fmean(values), 4), "by_seed": [round(value, 4) for value in values]}
    if len(values) > 1:
        half = float(t.ppf(0.975, len(values) - 1)) * stdev(values) / sqrt(len(values))
        found |= {"low": round(fmean(values) - half, 4), "high": round(fmean(values) + half, 4)}
    return found


def summarise(rows: list[dict[str, Any]]) -> dict[str, Any]:
    summary: dict[str, Any] = {}
    measured = {
        name: {
            "agreement": {r["seed"]: r["agreement"]["after"]["value"] for r in rows if r["old_policy"] == name},
            "kl": {r["seed"]: r["kl"]["value"] for r in rows if r["old_policy"] == name},
        }
        for name in dict.fromkeys(r["old_policy"] for r in rows)
    }
    for name, figures in measured.items():
        summary[name] = {
            **{key: {seed: round(value, 4) for seed, value in values.items()} for key, values in figures.items()},
            "left_out": [r["left_out"] for r in rows if r["old_policy"] == name],
            "flagged": [r["flagged"] for r in rows if r["old_policy"] == name],
        }
        if name != "none":
            summary[name] |= {
                f"{key}_minus_none": difference(values, measured["none"][key]) for key, values in figures.items()
            }
    return summary


def main() -> None:
    given = arguments(__doc__)
    seeds = SEEDS[:1] if given.quick else SEEDS
    rows = [row for seed in seeds for row in of_seed(seed, given.quick)]
    config = {"seeds": list(seeds), "anchors": ANCHORS, "recovered": sum(r["old_policy"] == "recovered" for r in rows)}
    write(given.json, "discover.realign", config=config, rows=rows, ratios=summarise(rows))


if __name__ == "__main__":
    main()
