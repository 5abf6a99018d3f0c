"""What TRACE's defaults were chosen by: trials on the tuning shifts and the tuning seeds, never on reported ones.

    python benchmarks/study/choose.py        # computes what is missing, prints all; rows are in tuning/rows.jsonl

The first trials, on `tuning` in its own mix, in PKU's, and with a fifth of its verdicts wrong, chose CONFIRM's weight
and what a correction is preferred to. The second ones are on `tuning-hard`, which was added when the first shift could
tell nothing any more, and chose how much TRACE imitates and how strongly it is anchored, each at rates of its own.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from realigner.cli.console import LineProgress
from realigner.lab.experiment import Setting
from realigner.lab.plan import Cell, Study
from realigner.lab.study import Results, run_cells
from realigner.lab.tables import Row, markdown, success_of

HERE = Path(__file__).parent
WORLDS: dict[str, dict[str, Any]] = {"own mix": {}, "PKU's mix": {"mix": "pku"}, "20 % noise": {"noise": 0.2}}
ANCHOR = {"alpha_kl": 0.1, "imitate": 0.0}
"""As they were when the first trials were made; the second ones chose them anew."""
Trials = dict[str, tuple[str, dict[str, Any], tuple[float, ...]]]
FIRST: Trials = {
    "DPO-Gold": ("dpo-gold", {}, (1e-4,)),
    "confirm 1": ("over-chosen", {"loss": {"confirm": 1.0, **ANCHOR}}, (1e-4,)),
    "confirm 0.3": ("over-chosen", {"loss": {"confirm": 0.3, **ANCHOR}}, (1e-4,)),
    "confirm 0.1": ("over-chosen", {"loss": {"confirm": 0.1, **ANCHOR}}, (1e-4,)),
    "confirm 0": ("over-chosen", {"loss": {"confirm": 0.0, **ANCHOR}}, (1e-4,)),
    "correction over both": ("trace", {"loss": ANCHOR}, (1e-4, 2e-4, 4e-4)),
}
SECOND: Trials = {
    f"α_KL {alpha:g}, imitate {imitate:g}": (
        "trace",
        {"loss": {"imitate": imitate, "alpha_kl": alpha}},
        (2e-4, 4e-4, 8e-4, 1.6e-3),
    )
    for alpha in (1.0, 3.0, 10.0, 30.0)
    for imitate in (0.0, 0.1, 0.3)
}


def main() -> None:
    study = Study.load(HERE / "study.yaml").model_copy(update={"output": str(HERE / "tuning")})
    results = Results(HERE / "tuning")
    first = _run(study, results, FIRST, "tuning", study.search.seeds, WORLDS)
    second = _run(study, results, SECOND, "tuning-hard", study.search.seeds, {"own mix": {}})
    results.collect()
    print(first, second, sep="\n\n")


def _run(
    study: Study,
    results: Results,
    trials: Trials,
    shift: str,
    seeds: tuple[int, ...],
    worlds: dict[str, dict[str, Any]],
) -> str:
    def cell(world: dict[str, Any], seed: int, arm: str, changes: dict[str, Any], rate: float) -> Cell:
        setting = Setting(**{**study.setting, **world, **changes})
        return Cell("arms", "choice", shift, seed, arm, setting, study.lab(seed), rate)

    tried = [(name, arm, changes, rate) for name, (arm, changes, rates) in trials.items() for rate in rates]
    cells = {
        (name, rate, world, seed): cell(said, seed, arm, changes, rate)
        for seed in seeds
        for world, said in worlds.items()
        for name, arm, changes, rate in tried
    }
    run_cells(list(cells.values()), study, results, 2, shift, LineProgress(sys.stderr))
    table = [["trial", "rate", *(f"{world}: agreement [nesting]" for world in worlds)]]
    for name, _, _, rate in tried:
        rows = {world: results.of([cells[name, rate, world, seed] for seed in seeds]) for world in worlds}
        table.append([name, f"{rate:.2g}", *(_figures(found) for found in rows.values())])
    return markdown(table)


def _figures(rows: list[Row]) -> str:
    agreement = sum(row.get("agreement", 0.0) for row in rows) / len(rows)
    nested = sum(success_of("nesting")(row) or 0.0 for row in rows) / len(rows)
    return f"{100 * agreement:.1f} [{100 * nested:.0f}]"


if __name__ == "__main__":
    main()
