"""Does it matter for re-alignment whether the old policy was documented or recovered? One small run each.

    python -m benchmarks.discover.realign --json benchmarks/discover/realign.json

The demo's model and pairs; the new policy decides every outcome, so that an old policy can only change which retained
pairs anchor, and which inversions are left out. Three runs from the same start: no old policy, the documented one, the
one that `discover` recovers from the pairs, the latter two with 40 anchors a surviving rule and `unrelated: leave_out`.
"""

from __future__ import annotations

from pathlib import Path
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


def one(recipe: Recipe, name: str, old: Path | None, folder: Path) -> dict[str, Any]:
    settings = None if old is None else OldPolicySettings(path=str(old), anchors=ANCHORS, unrelated="leave_out")
    result = pipeline.run(recipe.model_copy(update={"output": str(folder / name), "old_policy": settings}))
    facts = load_run(result.directory).stages["triage"]["facts"].get("old_policy", {})
    flagged = facts.pop("flagged", [])
    return {
        "old_policy": name,
        "table": facts,
        "flagged": len(flagged),
        **{key: result.summary[key] for key in ("agreement", "kl", "perplexity", "counts")},
    }


def main() -> None:
    given = arguments(__doc__)
    with TemporaryDirectory() as name:
        folder = Path(name)
        recipe = build_demo(folder, seed=1)
        found = discover(read_pairs(recipe.data), seed=1)
        found.write(folder / "recovered.yaml")
        documented = folder / "inputs" / "old-policy.yaml"
        rows = [one(recipe, "none", None, folder)]
        if not given.quick:
            rows.append(one(recipe, "documented", documented, folder))
            rows.append(one(recipe, "recovered", folder / "recovered.yaml", folder))
    summary = {
        row["old_policy"]: {"agreement": row["agreement"]["after"], "kl": row["kl"], "flagged": row["flagged"]}
        for row in rows
    }
    config = {
        "seed": 1,
        "anchors": ANCHORS,
        "recovered": found.verdict,
        "rules": [rule.candidate.text for rule in found.rules],
    }
    write(given.json, "discover.realign", config=config, rows=rows, ratios=summary)


if __name__ == "__main__":
    main()
