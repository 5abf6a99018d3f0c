"""What TRACE's defaults were chosen by: trials on the tuning shift and the tuning seeds, never on reported ones.

    python benchmarks/study/choose.py        # computes what is missing, prints all; rows are in tuning/rows.jsonl

The tuning shift is tried in its own mix, in PKU's, and with a fifth of its verdicts wrong.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from realigner.lab.experiment import Setting
from realigner.lab.plan import TUNING, Cell, Study
from realigner.lab.study import Results, compute
from realigner.lab.tables import markdown, success_of

HERE = Path(__file__).parent
WORLDS: dict[str, dict[str, Any]] = {"own mix": {}, "PKU's mix": {"mix": "pku"}, "20 % noise": {"noise": 0.2}}
ANCHOR = {"alpha_kl": 0.1}
"""As it was when these trials were made; the blocks `anchor…` and `budget-5k` of the study chose it anew."""
TRIALS: dict[str, tuple[str, dict[str, Any], tuple[float, ...]]] = {
    "DPO-Gold": ("dpo-gold", {}, (1e-4,)),
    "confirm 1": ("over-chosen", {"loss": {"confirm": 1.0, **ANCHOR}}, (1e-4,)),
    "confirm 0.3": ("over-chosen", {"loss": {"confirm": 0.3, **ANCHOR}}, (1e-4,)),
    "confirm 0.1": ("over-chosen", {"loss": {"confirm": 0.1, **ANCHOR}}, (1e-4,)),
    "confirm 0": ("over-chosen", {"loss": {"confirm": 0.0, **ANCHOR}}, (1e-4,)),
    "correction over both": ("trace", {"loss": ANCHOR}, (1e-4, 2e-4, 4e-4)),
}


def main() -> None:
    study = Study.load(HERE / "study.yaml")
    results = Results(HERE / "tuning")
    table = [["trial", "rate", *(f"{world}: agreement [nesting]" for world in WORLDS)]]
    trials = [(name, arm, changes, rate) for name, (arm, changes, rates) in TRIALS.items() for rate in rates]
    for trial, arm, changes, rate in trials:
        line = [trial, f"{rate:.0e}"]
        for world in WORLDS.values():
            found = []
            for seed in study.search.seeds:
                setting = Setting(**{**study.setting, **world, **changes})
                cell = Cell("arms", TUNING, TUNING, seed, arm, setting, study.lab(seed), rate)
                if cell.key not in results.rows:
                    results.rows[cell.key] = compute(cell, study.cache, str(results.directory))
                found.append(results.rows[cell.key])
            agreement = sum(row.get("agreement", 0.0) for row in found) / len(found)
            nested = [success_of("nesting")(row) for row in found]
            line.append(f"{100 * agreement:.1f} [{100 * sum(n or 0.0 for n in nested) / len(nested):.0f}]")
        table.append(line)
        print(" | ".join(line), flush=True)
    results.collect()
    print(markdown(table))


if __name__ == "__main__":
    main()
