"""What `benchmarks.growth` measures: each piece of work is a function of this module.

It runs in a process of its own, forked from one that has imported everything, and may return the seconds of the part
that counts (default: all of it).
"""

from __future__ import annotations

import gc
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib.backends.backend_svg
import peft  # noqa: F401 - imports are start-up, not growth
import pyarrow as pa
import scipy.stats  # noqa: F401
import statsmodels.stats.api  # noqa: F401
import torch

from realigner.impact.gold import draw_gold
from realigner.impact.slopes import slopes_along
from realigner.impact.stage import _among, _write
from realigner.impact.vectors import trainable
from realigner.impact.weights import normalise, score_conflicts
from realigner.lab.small_model import Size, make_model, make_tokenizer
from realigner.model.encoded import SCHEMA, encode_triaged, examples_of, load_encoded
from realigner.model.logprobs import score_rows
from realigner.model.rows import Row
from realigner.model.stage import recipe_encoder
from realigner.pipeline import STAGES, run
from realigner.recipe import GoldSettings, ImpactSettings, LossSettings, Recipe
from realigner.records import Outcome
from realigner.train import StratifiedSampler
from realigner.train.dataset import WeightedPairs
from realigner.train.stage import read_weights
from realigner.triaging import read_triage

for each in STAGES:
    each.load()
assert matplotlib.backends.backend_svg
WORDS = ("bread", "water", "salt", "flour", "time", "story", "doctor", "answer", "weather", "people", "tree", "root")
BAD = "never"
OUTCOMES = ((1, 0), (1, 1), (0, 1), *[(0, 0)] * 7)
"""Whether chosen and rejected break the rule, in turn: INVERT, PUNISH, CONFIRM, and seven NEUTRAL pairs."""
MODEL = Size(hidden=16, intermediate=32, layers=1, heads=2, context=128)


# -- what is worked on ----------------------------------------------------------------------------------------------


def answer_of(number: int, side: int) -> str:
    """Return a response; no two are equal."""
    words = [WORDS[(number * (3 + side) + 7 * k) % len(WORDS)] for k in range(6 + number % 5)]
    return " ".join([*words, *[BAD] * OUTCOMES[number % len(OUTCOMES)][side], f"{number} {side}"])


def write_pairs(path: Path, pairs: int) -> None:
    """Write so many pairs as JSON lines."""
    with path.open("w", encoding="utf-8") as file:
        for n in range(pairs):
            row = {"prompt": f"Tell me about number {n}", "chosen": answer_of(n, 0), "rejected": answer_of(n, 1)}
            file.write(json.dumps(row) + "\n")


def write_run(folder: Path, pairs: int) -> Path:
    """Write pairs, policy, a very small model and the recipe that joins them; return the recipe's path."""
    folder.mkdir(parents=True)
    write_pairs(folder / "pairs.jsonl", pairs)
    rule = {"id": "no-never", "text": "It does not say never.", "forbid": {"words": [BAD]}}
    policy = {"id": "growth", "version": "1", "title": "Growth", "rules": [rule]}
    (folder / "policy.yaml").write_text(json.dumps(policy), encoding="utf-8")
    tokenizer = make_tokenizer([f"Tell me about number {' '.join(WORDS)} {BAD} 0123456789"], vocabulary=400)
    for part in (tokenizer, make_model(tokenizer, MODEL, 0)):
        part.save_pretrained(folder / "model")
    recipe = {
        "output": str(folder / "run"),
        "model": {"path": str(folder / "model"), "device": "cpu", "lora": {"rank": 4}},
        "data": {"path": str(folder / "pairs.jsonl")},
        "policy": {"path": str(folder / "policy.yaml")},
        "train": {"batch_size": 64, "micro_batch": 64},
        "generate": {"prompts": 16, "max_new_tokens": 4},
        "evaluate": {"retained": 16},
    }
    (folder / "recipe.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    return folder / "recipe.yaml"


def write_encoded_pairs(path: Path, pairs: int) -> None:
    """Write a file as the stage `reference` does, of equal tokens and different ids, without a model."""
    rows = 1000
    response = {"ids": list(range(40)), "start": 20, "logp": -40.0}
    kinds = [("INVERT", "rejected_over_chosen"), ("PUNISH", "suppress_both"), *[("NEUTRAL", "retain")] * 2]
    fixed: dict[str, Any] = {name: [None] * rows for name in SCHEMA.names}
    for name in ("chosen", "rejected"):
        fixed |= {f"{name}_{key}": [value] * rows for key, value in response.items()}
    fixed["outcome"], fixed["direction"] = zip(*(kinds[i % len(kinds)] for i in range(rows)), strict=True)
    with (
        pa.OSFile(str(path), "wb") as sink,
        pa.ipc.new_stream(sink, SCHEMA.with_metadata({b"realigner.key": b"growth"})) as writer,
    ):
        for start in range(0, pairs, rows):
            fixed["id"] = [f"{start + i:016x}" for i in range(rows)]
            batch = pa.RecordBatch.from_pydict(fixed, schema=SCHEMA)
            writer.write_batch(batch.slice(0, min(rows, pairs - start)))


# -- pieces of work -------------------------------------------------------------------------------------------------


def stage(recipe: str, name: str) -> None:
    """A stage of a run, as the command line runs it."""
    run(Recipe.load(recipe), only=name)


def gold(recipe: str) -> None:
    """Draw the gold batch from all triaged pairs."""
    loaded = Recipe.load(recipe)
    draw_gold(read_triage(Path(loaded.output) / "triage.parquet", split="train"), GoldSettings(), 0)


def tokens(recipe: str) -> None:
    """Turn all triaged pairs into tokens, as the stage `reference` does before the model sees them."""
    from realigner.model.load import load_model_config

    loaded = Recipe.load(recipe)
    encoder = recipe_encoder(loaded, load_model_config(loaded.model))
    for _ in encode_triaged(read_triage(Path(loaded.output) / "triage.parquet", split="train"), encoder):
        pass


def weigh_without_model(encoded: str, weights: str) -> None:
    """All that the stage `weigh` does for a pair, but for the model: scores are made up."""
    pairs = load_encoded(encoded, key="growth")
    conflicts = examples_of(pairs, _among(pairs, "outcome", [str(o) for o in Outcome if o.is_conflict]))

    class Constant:
        scale = 1.0
        model = None

        def __call__(self, rows: list[Row]) -> Any:
            return torch.arange(len(rows), dtype=torch.float64)

    found = score_conflicts(Constant(), conflicts, ImpactSettings(), LossSettings())  # type: ignore[arg-type]
    _write(normalise(found, ImpactSettings()), weights)


def train_without_model(encoded: str, weights: str) -> None:
    """All that training holds for a pair: the view of the data with its weights, and the order of an epoch."""
    pairs = WeightedPairs(load_encoded(encoded, key="growth"), read_weights(Path(weights)))
    sampler = StratifiedSampler(pairs.outcomes, 64, 0, lengths=pairs.lengths, micro_batch=8)
    assert sum(1 for _ in sampler) == len(sampler)


def rows_of(count: int, length: int, vocabulary: int) -> list[Row]:
    """Return pairs of rows of so many tokens that share their first half."""
    draw = torch.Generator().manual_seed(0)
    made = []
    for _ in range(count):
        prompt = torch.randint(3, vocabulary, (length // 2,), generator=draw).tolist()
        for _ in range(2):
            answer = torch.randint(3, vocabulary, (length - length // 2,), generator=draw).tolist()
            made.append(Row((*prompt, *answer), length // 2))
    return made


def model_work(name: str, hidden: int, layers: int, pairs: int, length: int, rounds: int) -> float:
    """A piece of work of a model of this shape on pairs of rows of this length; return its best time."""
    from benchmarks.train_step import Shape, model_of

    model = model_of(Shape(hidden, layers, 4096), "full").eval()
    rows = rows_of(pairs, length, 4096)
    work = {"reference": _score, "weigh": _slopes, "train": _step}[name](model, rows)
    times = []
    for _ in range(rounds + 1):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return min(times[1:])


def _score(model: Any, rows: list[Row]) -> Callable[[], object]:
    return lambda: score_rows(model, rows)


def _slopes(model: Any, rows: list[Row]) -> Callable[[], object]:
    slopes = slopes_along(model, {name: torch.ones_like(p) for name, p in trainable(model).items()})
    return lambda: slopes(rows)


def _step(model: Any, rows: list[Row]) -> Callable[[], object]:
    from realigner.model.attention import packing
    from realigner.model.head import through_head
    from realigner.model.head_terms import head_logps
    from realigner.model.packing import pack

    def backward(batch: Any) -> None:
        logps = through_head(model, batch, lambda head, hidden: head_logps(head, hidden, batch.targets))
        logps.sum().backward()

    def work() -> None:
        with packing(model):
            for i in range(0, len(rows), 2):
                backward(pack(rows[i : i + 2]))
        model.zero_grad(set_to_none=True)

    return work


# -- measured -------------------------------------------------------------------------------------------------------


def measured(name: str, *given: Any) -> dict[str, float]:
    """Run a piece of work; return its seconds and how far it raised the memory of this process, in MB.

    `peak_mb`: the most that was resident, above what was at the start. `own_mb`: the same without pages of mapped
    files, which the system takes back when it needs them.
    """
    gc.collect()
    before = _memory()
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the mark of the parent is not ours
    begin = time.perf_counter()
    with _highest_own() as highest:
        said = globals()[name](*given)
    seconds = time.perf_counter() - begin
    return {
        "seconds": round(said if isinstance(said, float) else seconds, 4),
        "peak_mb": round((_memory()["VmHWM"] - before["VmRSS"]) / 1024, 1),
        "own_mb": round((max(highest) - before["RssAnon"]) / 1024, 1),
    }


def _memory() -> dict[str, int]:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    found = (line.split() for line in lines if line.startswith(("VmHWM", "VmRSS", "RssAnon")))
    return {words[0].rstrip(":"): int(words[1]) for words in found}


@contextmanager
def _highest_own() -> Iterator[list[int]]:
    """Note the memory of this process that is no file's, every 20 ms."""
    found, done = [_memory()["RssAnon"]], threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            found[0] = max(found[0], _memory()["RssAnon"])

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()
        found[0] = max(found[0], _memory()["RssAnon"])
