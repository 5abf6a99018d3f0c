"""Impact scores: ours against a gradient per response (the paper's way), a ghost dot product and bergson.

`python -m benchmarks.impact --json FILE [--quick]`

All ways score the same pairs of a random Llama of 34 M parameters along the same direction, with lengths of real
pairs (hh-rlhf), fp32, on the CPU. The unit is one plain forward pass of the stock model over the same responses as
separate rows, batched by length; our own forward pass, on packed rows with shared prompts, is a row of its own. Rounds
are interleaved, ratios are taken within a round, the median over rounds is reported. Before anything is timed, every
way is compared with float64 gradients per pair.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.common import ROOT, arguments, interleaved, ratio, with_peers, write

LENGTHS = ROOT / "benchmarks" / "hh_rlhf_lengths.json"
SEED = 0
BETA = 0.3


@dataclass(frozen=True)
class Size:
    """What is run."""

    hidden: int = 512
    layers: int = 8
    intermediate: int = 1408
    vocabulary: int = 8192
    pairs: int = 16
    gold: int = 8
    rounds: int = 3


QUICK = Size(hidden=128, layers=3, intermediate=352, vocabulary=2048, pairs=6, gold=2, rounds=2)


def main() -> None:
    args = arguments(__doc__)
    with_peers("bergson", without=("torchvision", "torchaudio"))
    import torch

    size = QUICK if args.quick else Size()
    rows: list[dict[str, Any]] = []
    ratios: dict[str, Any] = {}
    for mode in ("full", "lora"):
        found, ratios[mode] = measure(size, mode)
        rows.extend({"mode": mode, **row} for row in found)
    write(
        args.json,
        "impact",
        config={
            **asdict(size),
            "quick": args.quick,
            "parameters": rows[0]["parameters"],
            "lora": "rank 32, alpha 16, on q and v",
            "dtype": "float32",
            "threads": torch.get_num_threads(),
            "unit": "one plain forward pass over separate rows, padded by length, head on scored tokens",
            "responses": rows[0]["responses"],
            "mean_tokens": rows[0]["mean_tokens"],
        },
        rows=rows,
        ratios=ratios,
        packages=("bergson", "peft", "numpy"),
    )


def measure(size: Size, mode: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Run all ways on one model; return a row a way and the ratios."""
    import torch
    from scipy.stats import spearmanr

    from benchmarks.impact_ways import (
        PAPER_LENGTH,
        Bergson,
        extra_forwards,
        ghost,
        ghost_packed,
        one_by_one,
        peak_megabytes,
        plain_forward,
    )
    from realigner.impact.direction import target_gradient
    from realigner.impact.slopes import choose, slopes_along
    from realigner.model.logprobs import score_rows

    model = model_of(size, mode)
    pairs = pairs_of(size)
    rows, gold = [row for pair in pairs[: size.pairs] for row in pair], pairs[size.pairs :]
    signs = torch.tensor([BETA / 2, -BETA / 2]).repeat(size.pairs).double()
    direction = target_gradient(model, gold, beta=BETA)
    probe = [row for pair in gold[:2] for row in pair]
    exact, difference = (choose(model, direction, probe, method) for method in ("exact", "difference"))
    bergson = min(
        (Bergson(model, rows, direction, tokens) for tokens in (1024, 2048)),
        key=lambda way: min(interleaved({"x": way.score}, 1)["x"]),
    )

    def by_pair(slopes: torch.Tensor) -> torch.Tensor:
        return (signs * slopes).view(-1, 2).sum(dim=1)

    ways: dict[str, Callable[[], torch.Tensor]] = {
        "exact": lambda: by_pair(exact.slopes(rows)),
        "difference": lambda: by_pair(difference.slopes(rows)),
        "gradient per response, batch 1, padded to 256": lambda: by_pair(
            one_by_one(model, rows, direction, PAPER_LENGTH)
        ),
        "gradient per response, batch 1": lambda: by_pair(one_by_one(model, rows, direction)),
        "ghost": lambda: by_pair(ghost(model, rows, direction)),
        "ghost, packed": lambda: ghost_packed(model, rows, direction, signs),
        "bergson score": lambda: by_pair(bergson.score()),
        "bergson jvp": lambda: by_pair(bergson.jvp()),
    }
    truth = exact_scores(model, pairs[: size.pairs], direction)
    # bergson leaves out embeddings, norms and head: it is compared with the exact scores along what it has.
    part = {name: v if name in bergson.scored else torch.zeros_like(v) for name, v in direction.items()}
    partial = by_pair(slopes_along(model, part)(rows))
    table = []
    for name, way in ways.items():
        expected = partial if name.startswith("bergson") else truth
        scores = way()
        error = float((scores - expected).norm() / expected.norm())
        if error > 1e-2:
            raise SystemExit(f"{name} computes something else: relative error {error:.2g}")
        rank = float(spearmanr(scores.numpy(), expected.numpy()).statistic)
        table.append({"way": name, "rel_error": error, "spearman": rank, "peak_mb": peak_megabytes(way)})

    plain, packed, extra = "plain forward", "plain forward, packed", "the paper's other four forward passes"
    work: dict[str, Callable[[], object]] = {
        plain: lambda: plain_forward(model, rows),
        packed: lambda: score_rows(model, rows),
        extra: lambda: extra_forwards(model, rows),
        **ways,
    }
    seconds = interleaved(work, size.rounds)
    paper = table[2]["way"]
    seconds["paper"] = [a + b for a, b in zip(seconds[paper], seconds[extra], strict=True)]
    best = min(("bergson score", "bergson jvp"), key=lambda name: statistics.median(seconds[name]))
    by_way = {row["way"]: row for row in table}
    for name in (plain, packed, extra):
        table.append({"way": name})
    for row in table:
        row["seconds"] = statistics.median(seconds[row["way"]])
        row["forward_passes"] = ratio(seconds, row["way"], plain)
        row |= {"parameters": sum(p.numel() for p in model.parameters()), "responses": len(rows)}
        row["mean_tokens"] = statistics.mean(len(r.ids) for r in rows)
    ratios: dict[str, Any] = {"packed_forward_passes": ratio(seconds, packed, plain)}
    for name, prefix in (("exact", ""), ("difference", "difference_")):
        ours = "ours" if name == "exact" else "difference"
        ratios |= {
            f"{prefix}forward_passes": ratio(seconds, name, plain),
            f"paper_over_{ours}": ratio(seconds, "paper", name),
            f"paper_gradients_over_{ours}": ratio(seconds, paper, name),
            f"batch1_over_{ours}": ratio(seconds, "gradient per response, batch 1", name),
            f"bergson_over_{ours}": ratio(seconds, best, name),
            f"ghost_over_{ours}": ratio(seconds, "ghost", name),
            f"ghost_packed_over_{ours}": ratio(seconds, "ghost, packed", name),
            f"{prefix}rel_error": by_way[name]["rel_error"],
            f"{prefix}spearman": by_way[name]["spearman"],
        }
        if by_way[name]["peak_mb"]:
            ratios[f"ghost_memory_over_{ours}"] = by_way["ghost"]["peak_mb"] / by_way[name]["peak_mb"]
    return table, ratios


def model_of(size: Size, mode: str) -> Any:
    """Return a random Llama in fp32, all of it or an adapter's part of it to be trained."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from realigner.model.load import attach_lora
    from realigner.recipe import LoraSettings

    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=size.vocabulary,
        hidden_size=size.hidden,
        intermediate_size=size.intermediate,
        num_hidden_layers=size.layers,
        num_attention_heads=size.hidden // 64,
        num_key_value_heads=size.hidden // 64,
        max_position_embeddings=2048,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config).eval()
    if mode == "full":
        return model
    lora = LoraSettings(rank=32, alpha=16, targets=("q_proj", "v_proj"))
    return attach_lora(model.requires_grad_(False), lora, SEED).eval()


def pairs_of(size: Size) -> list[Any]:
    """Return pairs of rows of random tokens with the lengths of real ones, the gold pairs last."""
    import torch

    from realigner.model.rows import Row

    lengths = json.loads(LENGTHS.read_text(encoding="utf-8"))["lengths"][: size.pairs + size.gold]
    draw = torch.Generator().manual_seed(SEED)

    def tokens(n: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, size.vocabulary, (n,), generator=draw).tolist())

    pairs = []
    for p, c, r in lengths:
        prompt = tokens(p)
        pairs.append((Row((*prompt, *tokens(c)), p), Row((*prompt, *tokens(r)), p)))
    return pairs


def exact_scores(model: Any, pairs: list[Any], direction: dict[str, Any]) -> Any:
    """Return ⟨v, ∇ loss⟩ of each pair by a gradient per pair in float64."""
    import copy

    import torch

    from benchmarks.impact_ways import inner
    from realigner.impact.vectors import trainable
    from realigner.model.logprobs import row_logps
    from realigner.model.rows import collate

    wide = copy.deepcopy(model).double()
    along = {name: v.double() for name, v in direction.items()}
    signs = torch.tensor([BETA / 2, -BETA / 2], dtype=torch.float64)
    scores = []
    for pair in pairs:
        loss = (signs * row_logps(wide, collate(pair))).sum()
        gradient = torch.autograd.grad(loss, list(trainable(wide).values()), allow_unused=True)
        scores.append(inner(gradient, along))
    return torch.tensor(scores, dtype=torch.float64)


if __name__ == "__main__":
    main()
