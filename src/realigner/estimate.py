"""`realigner estimate`: what each stage will compute, hold and write, before anything starts.

FLOPs follow from the shape of the model and the lengths of the data (a multiplication and an addition count as two):
N weights of linear layers, h hidden size, V vocabulary, L layers; P, C, R tokens of prompt, y_w and y_l of a pair.

| stage | full fine-tuning | LoRA |
|---|---|---|
| reference, forward | 2N(P+C+R) + 2hV(C+R) | the same |
| weigh | 3 forwards: W x, W dx and dW x | 2 forwards: W x and W dx |
| train, a conflict | 6N(P+C+R) + 8hV(C+R) | 4N(P+C+R) + 4hV(C+R) |
| train, a retained pair | 6N(P+C) + 8hVC, and the reference's forward | 4N(P+C) + 6hVC, and the reference's forward |
| generate | 2N(P+G) + 2hVG a prompt, for both models | the same |

A `reference` of its own counts by its own shape, and its weights are held beside the model's while training reads them.

With `model.shard`, the devices share weights, gradients and the optimizer's state, and each gathers what it computes
with; the time that gathering takes depends on how they are connected, and is not in it.

Attention adds 4hL for every token that a token sees, in a forward. Hours are FLOPs (or, for generation, bytes) by what
this device does in a short measurement, or by the figures given for another one.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from realigner.errors import RecipeError
from realigner.progress import SILENT, Progress
from realigner.recipe import ModelSettings, Recipe

SAMPLE = 2000
"""Pairs whose lengths are taken."""
SCORING = {"full": 3.0, "lora": 2.0}
"""Products that the exact derivative takes for one of a forward pass: see `model/products.py`."""
UTILISATION = 0.6
"""Share of the measured speed of large matrix products that a stage reaches."""
MIX = {"conflict": 0.5, "retained": 0.5, "confirm": 0.25}
"""Shares of pairs assumed where no triage has been run yet; CONFIRM pairs are among the retained ones."""


@dataclass(frozen=True)
class Lengths:
    """Mean tokens of a pair."""

    prompt: float
    chosen: float
    rejected: float

    @property
    def pair(self) -> float:
        """Tokens with the prompt computed once."""
        return self.prompt + self.chosen + self.rejected


@dataclass(frozen=True)
class Shape:
    """What decides the cost of a model."""

    parameters: int
    linear: int
    """N: weights of linear layers, the head left out."""
    hidden: int
    layers: int
    vocabulary: int
    trained: int
    """Parameters that training moves."""

    def forward(self, tokens: float, scored: float, seen: float) -> float:
        """Return FLOPs of a forward pass: trunk over tokens, head over scored ones, attention over what is seen."""
        attention = 4 * self.hidden * self.layers * seen
        return 2 * self.linear * tokens + 2 * self.hidden * self.vocabulary * scored + attention


@dataclass(frozen=True)
class Speed:
    """What a device does."""

    flops: float
    """Per second, in large matrix products, at the precision of training."""
    bandwidth: float
    """Bytes per second from memory."""
    devices: int
    source: str


@dataclass(frozen=True)
class StageCost:
    """One line of the estimate."""

    stage: str
    flops: float
    seconds: float
    memory: float
    """Bytes at the peak, on each device."""
    disk: float
    """Bytes that stay."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "stage": self.stage,
            "flops": self.flops,
            "seconds": self.seconds,
            "memory_bytes": self.memory,
            "disk_bytes": self.disk,
        }


@dataclass(frozen=True)
class Estimate:
    """What a run will cost."""

    pairs: int
    lengths: Lengths
    shares: dict[str, float]
    shape: Shape
    speed: Speed
    stages: tuple[StageCost, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "pairs": self.pairs,
            "lengths": self.lengths.__dict__,
            "shares": self.shares,
            "model": self.shape.__dict__,
            "speed": self.speed.__dict__,
            "stages": [stage.as_dict() for stage in self.stages],
            "hours": sum(stage.seconds for stage in self.stages) / 3600,
        }


def require_positive(numbers: Mapping[str, float | None]) -> None:
    """Refuse numbers that are given and not above zero, by their names.

    Raises:
        RecipeError: one is not.
    """
    for name, value in numbers.items():
        if value is not None and not value > 0:
            raise RecipeError(f"{name} = {value:g}", "it counts something that there is", "Give a number above 0")


def estimate(
    recipe: Recipe,
    *,
    pairs: int | None = None,
    lengths: Lengths | None = None,
    flops: float | None = None,
    bandwidth: float | None = None,
    devices: int = 1,
    progress: Progress = SILENT,
) -> Estimate:
    """Return what a run of this recipe will cost. Loads no weights and writes nothing.

    Args:
        recipe: what would be run. `model.path` needs a configuration, and a tokenizer unless `lengths` are given.
        pairs: how many pairs to reckon with. Default: those of the data, which are then read to their end.
        lengths: mean tokens. Default: those of the first 2,000 pairs, as training would encode them.
        flops: per second and device, in large matrix products. Default: measured here.
        bandwidth: bytes per second and device. Default: measured here.
        devices: how many share the work.
        progress: shows how far the data have been read.

    Raises:
        RecipeError: a number is not above zero.
        RealignerError: as `check`, where data or model cannot be read.
    """
    require_positive({"pairs": pairs, "flops": flops, "bandwidth": bandwidth, "devices": devices})
    shape = _shape(recipe.model, recipe.seed)
    other = shape if recipe.reference is None else _shape(recipe.reference_model, recipe.seed)
    counted, found = _data(recipe, pairs, lengths, progress)
    shares = _shares(recipe)
    speed = _speed(recipe, flops, bandwidth, devices)
    stages = _stages(recipe, counted, found, shares, shape, other, speed)
    return Estimate(counted, found, shares, shape, speed, stages)


def _shape(settings: ModelSettings, seed: int) -> Shape:
    """Build the model without its weights and count."""
    import torch
    from transformers import AutoModelForCausalLM

    from realigner.model.load import attach_lora, load_model_config

    config = load_model_config(settings)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        total = sum(p.numel() for p in model.parameters())
        head = model.get_output_embeddings()
        linear = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head)
        if settings.lora is not None:
            model.requires_grad_(False)
            model = attach_lora(model, settings.lora, seed)
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    text = config.get_text_config()
    return Shape(total, linear, text.hidden_size, text.num_hidden_layers, text.vocab_size, trained)


def _data(recipe: Recipe, pairs: int | None, lengths: Lengths | None, progress: Progress) -> tuple[int, Lengths]:
    """Count the pairs on the training side and take their mean lengths."""
    if pairs is not None and lengths is not None:
        return pairs, lengths
    from realigner.data import DataTally, read_pairs

    stream = read_pairs(recipe.data, DataTally())
    sample = list(islice(stream, SAMPLE))
    if lengths is None:
        lengths = _mean_lengths(recipe, sample)
    if pairs is None:
        pairs = len(sample)
        with progress.task("counting pairs", None) as advance:
            for _ in stream:
                pairs += 1
                advance(1)
    return pairs, lengths


def _mean_lengths(recipe: Recipe, sample: Sequence[Any]) -> Lengths:
    from realigner.errors import DataError
    from realigner.model.load import load_model_config
    from realigner.model.stage import recipe_encoder

    encoder = recipe_encoder(recipe, load_model_config(recipe.model))
    sums, count = [0, 0, 0], 0
    for pair in sample:
        rows = encoder.encode(pair.id, pair.prompt, {"chosen": pair.chosen, "rejected": pair.rejected})
        if rows is None:
            continue
        count += 1
        for i, n in enumerate((rows["chosen"].start, rows["chosen"].response_tokens, rows["rejected"].response_tokens)):
            sums[i] += n
    if not count:
        raise DataError("the data", "no pair of the sample fits the text limits", "Raise text.max_length")
    return Lengths(*(total / count for total in sums))


def _shares(recipe: Recipe) -> dict[str, float]:
    """Return the shares of conflicts, retained and CONFIRM pairs: of the run's own triage where there is one."""
    from realigner.records import Outcome
    from realigner.runs import finished_stages, load_run

    if "triage" not in finished_stages(Path(recipe.output)):
        return dict(MIX)
    counts = load_run(recipe.output).facts("triage")["outcomes"]
    total = sum(counts.values()) or 1
    conflict = sum(counts.get(str(o), 0) for o in Outcome if o.is_conflict) / total
    retained = sum(counts.get(str(o), 0) for o in Outcome if o.is_retained) / total
    return {"conflict": conflict, "retained": retained, "confirm": counts.get(str(Outcome.CONFIRM), 0) / total}


def _speed(recipe: Recipe, flops: float | None, bandwidth: float | None, devices: int) -> Speed:
    if flops is not None and bandwidth is not None:
        return Speed(flops, bandwidth, devices, "given")
    import torch

    from realigner.model.load import resolve_device, resolve_dtype

    device = resolve_device(recipe.model)
    dtype = resolve_dtype(recipe.model, device)
    size = 1024 if device == "cpu" else 8192
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    flops = flops or 2 * size**3 / _seconds(lambda: a @ b, device)
    big = torch.zeros(2**26 // 4, device=device)
    bandwidth = bandwidth or 2 * 2**26 / _seconds(big.clone, device)
    return Speed(flops, bandwidth, devices, f"measured on {device}, {str(dtype).removeprefix('torch.')}")


def _seconds(work: Any, device: str) -> float:
    """Return the time of one call, the best of several."""
    import torch

    best = float("inf")
    for _ in range(4):
        start = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return best


def _stages(
    recipe: Recipe, pairs: int, n: Lengths, shares: dict[str, float], shape: Shape, other: Shape, speed: Speed
) -> tuple[StageCost, ...]:
    lora = recipe.model.lora is not None
    train = pairs * (1 - recipe.data.eval_fraction)
    conflicts, retained = train * shares["conflict"], train * shares["retained"]
    confirmed = train * shares["confirm"] if recipe.loss.confirm else 0.0  # both of their responses are read
    width = _weight_bytes(recipe)
    parts = speed.devices if recipe.model.shard else 1

    def weights_of(one: Shape) -> float:
        # NF4 with quantised constants holds a weight of a linear layer in 4.13 bits (QLoRA, arXiv 2305.14314).
        return one.parameters * width - (one.linear * (width - 4.13 / 8) if recipe.model.quantize else 0)

    def gathered(one: Shape) -> float:
        # On every device: embeddings and head, and two layers, one of which comes in while the other runs.
        return one.parameters - one.linear + 2 * one.linear / one.layers if parts > 1 else 0.0

    weights = weights_of(shape)
    held, moved = weights / parts + gathered(shape) * width, shape.trained / parts
    beside = weights_of(other) / parts + gathered(other) * width
    gradients = 0 if lora else 4 * gathered(shape)

    def forwards(one: Shape) -> tuple[float, float]:
        seen = _seen(n.prompt, n.chosen)
        pair = one.forward(n.pair, n.chosen + n.rejected, seen + _seen(n.prompt, n.rejected, False))
        return pair, one.forward(n.prompt + n.chosen, n.chosen, seen)

    (both, one), (read_both, read_one) = forwards(shape), forwards(other)
    head = 2 * shape.hidden * shape.vocabulary
    kept = recipe.loss.kl_reference != "forward"
    rate = speed.flops * UTILISATION * speed.devices

    def stage(name: str, flops: float, memory: float, disk: float = 0.0, seconds: float | None = None) -> StageCost:
        return StageCost(name, flops, flops / rate if seconds is None else seconds, memory, disk)

    tokens = train * 4 * (2 * n.prompt + n.chosen + n.rejected)
    on_disk = {"hidden": other.hidden * width, "top_k": 8 * recipe.loss.kl_top_k}.get(recipe.loss.kl_reference, 0)
    reference = stage(
        "reference",
        conflicts * read_both
        + (retained * read_one + confirmed * (read_both - read_one) if kept else confirmed * read_both),
        beside + _activations(other, 2048, width, stored=False),
        tokens + retained * n.chosen * on_disk,
    )
    scoring = SCORING["lora" if lora else "full"] if recipe.impact.weighting == "impact" else 0.0
    weigh = stage(
        "weigh",
        conflicts * scoring * both,
        held + 2 * 4 * moved + gradients + _activations(shape, 2048, width, stored=False),
    )
    # Backward costs twice a forward; under LoRA the frozen weights need no gradient of their own, and their head none.
    factor = 2.0 if lora else 3.0
    again = 0 if lora else head
    conflict = factor * both + again * (n.chosen + n.rejected)
    read_head = 2 * other.hidden * other.vocabulary * n.chosen  # once, from what is kept or from its forward
    anchor = factor * one + read_head + (0 if kept else read_one - read_head)
    # The head meets the chosen response of a CONFIRM pair twice: in its preference, and in the KL.
    preference = factor * (both - one + head * n.chosen) + again * (n.chosen + n.rejected)
    micro = recipe.train.micro_batch / speed.devices
    checkpoint = 4 * shape.trained * 3
    trained = stage(
        "train",
        recipe.train.epochs * (conflicts * conflict + retained * anchor + confirmed * preference),
        held
        + 4 * moved * 3
        + gradients
        + (beside if not kept and (recipe.reference is not None or not lora) else 0)
        + _activations(shape, micro * n.pair, width, stored=not recipe.train.activation_checkpointing),
        2 * checkpoint + 4 * shape.trained,
    )
    prompts = min(recipe.generate.prompts, pairs * recipe.data.eval_fraction)
    made = recipe.generate.max_new_tokens
    answers = 2 * prompts * shape.forward(n.prompt + made, made, _seen(n.prompt, made))
    read = 2 * (prompts / recipe.generate.batch_size) * made * weights
    generate = stage(
        "generate",
        answers,
        held + 4 * shape.layers * shape.hidden * recipe.generate.batch_size * (n.prompt + made),
        seconds=max(answers / rate, read / (speed.bandwidth * speed.devices)),
    )
    compared = min(recipe.evaluate.retained, pairs * recipe.data.eval_fraction * shares["retained"])
    evaluate = stage("evaluate", 2 * compared * one, 2 * held + _activations(shape, 2048, width, stored=False))
    return reference, weigh, trained, generate, evaluate


def _seen(prompt: float, response: float, with_prompt: bool = True) -> float:
    """Return how many tokens the tokens of a row see, all together."""
    own = response * (prompt + response / 2)
    return own + prompt * prompt / 2 if with_prompt else own


def _weight_bytes(recipe: Recipe) -> int:
    from realigner.model.load import resolve_device, resolve_dtype

    return resolve_dtype(recipe.model, resolve_device(recipe.model)).itemsize


def _activations(shape: Shape, tokens: float, width: int, *, stored: bool) -> float:
    """Return the bytes of activations, about: 34 values of the hidden size a token and layer are kept for backward.

    Korthikanti et al. 2022 (arXiv 2205.05198), eq. 2, in bytes of half precision, without attention scores, which
    fused attention does not keep. With checkpointing, or without a backward pass, one layer's stand at a time.
    """
    layer = 34 * width / 2 * shape.hidden * tokens
    return shape.layers * layer if stored else layer + 2 * shape.layers * shape.hidden * tokens * width
