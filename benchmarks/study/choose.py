"""What TRACE's defaults were chosen by: trials on the tuning shifts and the tuning seeds, never on reported ones.

    python benchmarks/study/choose.py        # computes what is missing; tuning/choice.md, tuning/rows.jsonl

The first trials, on `tuning` in its own mix, in PKU's, and with a fifth of its verdicts wrong, chose CONFIRM's weight
and what a correction is preferred to. The second ones are on `tuning-hard`, which was added when the first shift could
tell nothing any more, and chose how much TRACE imitates and how strongly it is anchored, each at rates of its own.
"""

from __future__ import annotations

import sys
from itertools import product
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
Trial = tuple[str, str, dict[str, Any], tuple[float, ...]]
"""Its name, the arm, what is changed in its setting, and rates."""
FIRST: list[Trial] = [
    ("DPO-Gold", "dpo-gold", {}, (1e-4,)),
    *((f"confirm {c:g}", "over-chosen", {"loss": {"confirm": c, **ANCHOR}}, (1e-4,)) for c in (1.0, 0.3, 0.1, 0.0)),
    ("correction over both", "trace", {"loss": {"confirm": 1.0, **ANCHOR}}, (1e-4, 2e-4, 4e-4)),
]
_TRIED = (  # α_KL, imitate, confirm, rates: in this order
    ((1, 3, 10), (0, 0.1, 0.3, 1), (1,), (2e-4, 4e-4, 8e-4)),
    ((10,), (0.1, 0.3), (1,), (1.6e-3,)),
    ((30,), (0.1, 0.3, 1), (1,), (8e-4, 1.6e-3)),
    ((100,), (0.3, 1, 3), (1,), (8e-4, 1.6e-3)),
    ((10,), (0.1,), (0.3, 0.1, 0), (1.6e-3,)),
    ((30,), (0.3,), (0.3, 0.1), (1.6e-3,)),
)
SECOND: list[Trial] = [
    (f"α_KL {a}, imitate {i}, confirm {c}", "trace", {"loss": {"alpha_kl": a, "imitate": i, "confirm": c}}, rates)
    for anchors, imitated, confirmed, rates in _TRIED
    for a, i, c in product(anchors, imitated, confirmed)
]


def main() -> None:
    study = Study.load(HERE / "study.yaml").model_copy(update={"output": str(HERE / "tuning")})
    results = Results(HERE / "tuning")
    first = _run(study, results, FIRST, "tuning", study.search.seeds, WORLDS)
    second = _run(study, results, SECOND, "tuning-hard", study.search.seeds, {"own mix": {}})
    results.collect()
    page = f"# What TRACE's defaults were chosen by\n\nOn `tuning`:\n\n{first}\nOn `tuning-hard`:\n\n{second}"
    (HERE / "tuning" / "choice.md").write_text(page, encoding="utf-8")
    print(page)


def _run(
    study: Study,
    results: Results,
    trials: list[Trial],
    shift: str,
    seeds: tuple[int, ...],
    worlds: dict[str, dict[str, Any]],
) -> str:
    def cell(world: dict[str, Any], seed: int, arm: str, changes: dict[str, Any], rate: float) -> Cell:
        setting = Setting(**{**study.setting, **world, **changes})
        return Cell("arms", "choice", shift, seed, arm, setting, study.lab(seed), rate)

    tried = [(name, arm, changes, rate) for name, arm, changes, rates in trials for rate in rates]
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
