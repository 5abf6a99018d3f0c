"""How cost grows: time and memory of each stage against the number of pairs, the size of the model and the length.

    python -m benchmarks.growth --json benchmarks/results/growth.json

`exponent`: the slope of a regression of log seconds on log size; 1 is linear, 2 quadratic, and below 1 means that
something fixed is part of the time. `exponent_at_end`: the same between the two largest sizes, where what is fixed
counts least. `peak_mb`: how far resident memory rises above what the imports take, at each size; `own_mb` without pages
of mapped files. Every figure is from a process of its own.

* `pairs`: stages of a whole run with a model of a few thousand parameters, so that what is done for each pair shows and
  the model does not. Stages without a model go to a million pairs; `weigh`, `train`: up to there without the model.
* `parameters`, `length`: scoring, impact and the gradient of random Llamas on packed pairs, all parameters.
* `start_up_s`: `realigner --help` and `realigner check RECIPE`, the whole command, median of five.

Linux only: memory is read from /proc.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT, arguments, write
from realigner.pipeline import NAMES

COMMAND = "import sys; from realigner.cli.main import main; sys.exit(main())"


@dataclass(frozen=True)
class Sizes:
    """What is run."""

    whole: Sequence[int] = (1_000, 4_000, 16_000)
    """Pairs of whole runs."""
    streamed: Sequence[int] = (10_000, 100_000, 1_000_000)
    """Pairs of what needs no model."""
    hidden: Sequence[int] = (128, 256, 512)
    """Of the model, at rows of 256 tokens."""
    lengths: Sequence[int] = (64, 256, 1024)
    """Of rows, at hidden size 128."""
    layers: int = 4
    pairs: int = 8
    """At each size of the model; half as many at each length."""
    rounds: int = 2
    starts: int = 5


QUICK = Sizes(
    whole=(400, 800),
    streamed=(1_000, 3_000),
    hidden=(64, 128),
    lengths=(64, 256),
    layers=2,
    pairs=4,
    rounds=1,
    starts=1,
)


class Bench:
    """Runs pieces of work, each in a fresh process, and keeps a row of each."""

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self.pool, self.rows = pool, list[dict[str, Any]]()

    def add(self, axis: str, what: str, size: int, work: str, *given: Any) -> None:
        """Run a piece of work of `growth_work` and keep what it took."""
        found = self.pool.submit(_measured, work, *given).result()
        self.rows.append({"axis": axis, "what": what, "size": size, **found})
        print(f"{axis} {what} {size:,}: {found}", file=sys.stderr, flush=True)

    def make(self, work: str, *given: Any) -> Any:
        """Have something made that is not measured."""
        return self.pool.submit(_made, work, *given).result()

    def ratios(self) -> dict[str, Any]:
        """Return exponents and memory by axis and piece of work."""
        by_work: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
        for row in self.rows:
            by_work[row["axis"], row["what"]].append(row)
        found: dict[str, Any] = {}
        for (axis, what), rows in by_work.items():
            found.setdefault(axis, {})[what] = {
                "exponent": exponent(rows),
                "exponent_at_end": exponent(rows[-2:]),
                **{key: {str(row["size"]): row[key] for row in rows} for key in ("peak_mb", "own_mb")},
            }
        return found


def _measured(work: str, *given: Any) -> dict[str, float]:
    from benchmarks.growth_work import measured

    return measured(work, *given)


def _made(work: str, *given: Any) -> Any:
    from benchmarks import growth_work

    return getattr(growth_work, work)(*given)


def exponent(rows: Sequence[dict[str, Any]]) -> float:
    """Return the slope of log seconds over log size."""
    import numpy as np

    sizes, seconds = ([row[key] for row in rows] for key in ("size", "seconds"))
    return round(float(np.polyfit(np.log(sizes), np.log(np.maximum(seconds, 1e-4)), 1)[0]), 3)


def by_pairs(bench: Bench, sizes: Sizes, folder: Path) -> Path:
    """Measure stages against the number of pairs; return the recipe of the smallest run."""
    for pairs in sizes.streamed:
        recipe = bench.make("write_run", folder / f"streamed-{pairs}", pairs)
        bench.add("pairs", "triage", pairs, "stage", str(recipe), "triage")
        bench.add("pairs", "gold batch", pairs, "gold", str(recipe))
        encoded, weights = folder / f"{pairs}.arrow", folder / f"{pairs}.parquet"
        bench.make("write_encoded_pairs", encoded, pairs)
        bench.add("pairs", "weigh, without the model", pairs, "weigh_without_model", str(encoded), str(weights))
        bench.add("pairs", "train, without the model", pairs, "train_without_model", str(encoded), str(weights))
        encoded.unlink()
        shutil.rmtree(recipe.parent)
    for pairs in sizes.whole:
        recipe = bench.make("write_run", folder / f"whole-{pairs}", pairs)
        for name in NAMES:
            what = "triage, small" if name == "triage" else name
            bench.add("pairs", what, pairs, "stage", str(recipe), name)
            if name == "triage":
                bench.add("pairs", "tokens", pairs, "tokens", str(recipe))
    return folder / f"whole-{sizes.whole[0]}" / "recipe.yaml"


def by_model(bench: Bench, sizes: Sizes) -> None:
    """Measure the work of a model against its size and the length of rows."""
    from benchmarks.train_step import Shape

    middle = sizes.hidden[len(sizes.hidden) // 2 - 1]
    for name in ("reference", "weigh", "train"):
        for hidden in sizes.hidden:
            shape = (hidden, sizes.layers, sizes.pairs, 256, sizes.rounds)
            weights = Shape(hidden, sizes.layers, 4096).linear_weights
            bench.add("parameters", name, weights, "model_work", name, *shape)
        for length in sizes.lengths:
            shape = (middle, sizes.layers, sizes.pairs // 2, length, sizes.rounds)
            bench.add("length", name, length, "model_work", name, *shape)


def start_up(recipe: Path, times: int) -> dict[str, float]:
    """Return the median seconds of commands from nothing to their end."""
    found = {}
    for name, words in (("help", ["--help"]), ("check", ["check", str(recipe), "--quiet"])):
        seconds = []
        for _ in range(times):
            begin = time.perf_counter()
            subprocess.run([sys.executable, "-c", COMMAND, *words], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
            seconds.append(time.perf_counter() - begin)
        found[name] = round(statistics.median(seconds), 3)
    return found


def main() -> None:
    """Measure everything."""
    given = arguments(__doc__)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    sizes = QUICK if given.quick else Sizes()
    context = get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.growth_work", "benchmarks.train_step"])
    with (
        tempfile.TemporaryDirectory() as name,
        ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as pool,
    ):
        bench = Bench(pool)
        recipe = by_pairs(bench, sizes, Path(name))
        by_model(bench, sizes)
        started = start_up(recipe, sizes.starts)
    write(
        given.json,
        "growth",
        config={**asdict(sizes), "quick": given.quick},
        rows=bench.rows,
        ratios={**bench.ratios(), "start_up_s": started},
        packages=("pyarrow", "datasets"),
    )


if __name__ == "__main__":
    main()
