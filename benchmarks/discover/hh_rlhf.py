"""The offline proposer on real preferences: 2,312 rows of Anthropic's hh-rlhf (harmless-base, test).

    REALIGNER_SHARED=../shared python -m benchmarks.discover.hh_rlhf --json benchmarks/discover/hh_rlhf.json

What the annotators were asked for (the less harmful answer) is no rule of words, so little can be expected. Several
seeds of the split show how much of a single figure is luck.
"""

from __future__ import annotations

import os
from pathlib import Path

from benchmarks.common import ROOT, arguments, write
from realigner.data import read_pairs
from realigner.discover import discover
from realigner.recipe import DataSettings

SHARED = Path(os.environ.get("REALIGNER_SHARED", ROOT.parent / "shared"))
DATA = Path("data/hh-rlhf/harmless-base-test.jsonl.gz")


def main() -> None:
    given = arguments(__doc__)
    seeds = (1,) if given.quick else (1, 2, 3, 4, 5)
    pairs = list(read_pairs(DataSettings(path=str(SHARED / DATA), on_invalid="skip")))
    rows, summary = [], {}
    for seed in seeds:
        found = discover(pairs, seed=seed)
        rows.append(
            {
                "seed": seed,
                "recovered": found.recovered,
                "verdict": found.verdict,
                "content_rules": found.reconstruction,
                "with_form": found.with_form,
                **found.baselines,
                "biases": [bias.form for bias in found.biases if bias.named],
                "rules": [rule.candidate.text for rule in found.rules],
                "leads": [f"{lead.support} : {lead.oppose}  {lead.text}" for lead in found.leads[:8]],
            }
        )
        summary[f"seed {seed}"] = {
            name: value and [round(value[part], 3) for part in ("value", "low", "high")]  # type: ignore[literal-required]
            for name, value in (("content rules", found.reconstruction), *found.baselines.items())
        } | {"recovered": found.recovered, "rules": rows[-1]["rules"], "biases": rows[-1]["biases"]}
    config = {"data": str(DATA), "pairs": len(pairs), "seeds": list(seeds)}
    write(given.json, "discover.hh_rlhf", config=config, rows=rows, ratios=summary)


if __name__ == "__main__":
    main()
