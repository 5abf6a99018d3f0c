"""What TRACE's defaults were chosen by: trials on the tuning shift and the tuning seeds, never on reported ones.

    python benchmarks/study/choose.py        # computes what is missing, prints all; rows are in tuning/rows.jsonl

The tuning shift is tried in its own mix, in PKU's, and with a fifth of its verdicts wrong.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

from realigner.lab.experiment import Setting
from realigner.lab.plan import TUNING, Cell, Study
from realigner.lab.study import Results, compute
from realigner.lab.tables import markdown, success_of

HERE = Path(__file__).parent
WORLDS: dict[str, dict[str, Any]] = {"own mix": {}, "PKU's mix": {"mix": "pku"}, "20 % noise": {"noise": 0.2}}
RATES = (1e-4,)
TRIALS: dict[str, tuple[str, dict[str, Any]]] = {
    "DPO-Gold": ("dpo-gold", {}),
    "confirm 1": ("trace", {"loss": {"confirm": 1.0}}),
    "confirm 0.3": ("trace", {"loss": {"confirm": 0.3}}),
    "confirm 0.1": ("trace", {"loss": {"confirm": 0.1}}),
    "confirm 0": ("trace", {"loss": {"confirm": 0.0}}),
}


def main() -> None:
    study = Study.load(HERE / "study.yaml")
    results = Results(HERE / "tuning")
    table = [["trial", "rate", *(f"{world}: agreement [nesting]" for world in WORLDS)]]
    for (trial, (arm, changes)), rate in product(TRIALS.items(), RATES):
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
