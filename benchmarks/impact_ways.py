"""The ways to score pairs by gradient that `benchmarks.impact` runs against each other, peers' included.

Every way takes the same model, rows and direction v and returns s(y) = ⟨v, ∇ log p(y|x)⟩ of each response, or what adds
up to the same score of a pair.
"""

from __future__ import annotations

import ctypes
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from realigner.impact.vectors import trainable
from realigner.model.attention import packing
from realigner.model.logprobs import row_logps, scored_logits, sum_by_row, token_logps
from realigner.model.packing import bins, pack
from realigner.model.rows import Row, batches_by_length, collate

PAPER_LENGTH = 256
BATCH_TOKENS = 1024
"""Padded tokens in a batch of the plain forward pass and of the ghost product: the fastest of 512 to 4096 here."""

Direction = Mapping[str, Tensor]


def inner(gradients: Sequence[Tensor | None], direction: Direction) -> float:
    """Return ⟨g, v⟩ in the precision of the gradients, as a user would."""
    pairs = zip(gradients, direction.values(), strict=True)
    return sum((float((g * v).sum()) for g, v in pairs if g is not None), 0.0)


def padded(row: Row, length: int) -> dict[str, Tensor]:
    """Return one row padded to a fixed length; a longer one as it is."""
    batch = collate([row])
    fill = max(0, length - len(row.ids))
    names = ("input_ids", "attention_mask")
    return {name: torch.nn.functional.pad(getattr(batch, name), (0, fill)) for name in names}


def one_by_one(model: Any, rows: Sequence[Row], direction: Direction, length: int = 0) -> Tensor:
    """A gradient per response, batch size 1, all logits; padded to `length` tokens where that is more."""
    parameters = list(trainable(model).values())
    found = torch.zeros(len(rows), dtype=torch.float64)
    for i, row in enumerate(rows):
        logits = model(**padded(row, length), use_cache=False).logits[0, row.start - 1 : len(row.ids) - 1]
        logp = -torch.nn.functional.cross_entropy(logits, torch.tensor(row.ids[row.start :]), reduction="sum")
        found[i] = inner(torch.autograd.grad(logp, parameters, allow_unused=True), direction)
    return found


@torch.no_grad()
def extra_forwards(model: Any, rows: Sequence[Row]) -> None:
    """The other four forward passes of the paper's way: policy and reference on both responses, batch size 1."""
    for row in rows:
        for _ in range(2):
            model(**padded(row, PAPER_LENGTH), use_cache=False)


@torch.no_grad()
def plain_forward(model: Any, rows: Sequence[Row]) -> Tensor:
    """The unit: log p of each response by the stock model on separate rows, padded by length, head on scored tokens."""
    found = torch.zeros(len(rows), dtype=torch.float64)
    for indices in batches_by_length(rows, BATCH_TOKENS):
        found[indices] = row_logps(model, collate([rows[i] for i in indices])).double()
    return found


# -- the ghost dot product --------------------------------------------------------------------------------------------


@contextmanager
def watching(model: Any, direction: Direction, found: list[Tensor]) -> Iterator[None]:
    """While active, a backward pass appends ⟨v, its gradient⟩ of every token and layer to `found`, and forms none.

    The gradient of a linear layer is Σ_t g_t x_tᵀ, so its product with V is Σ_t g_t · (V x_t).
    """
    handles = []

    def product_of(module: torch.nn.Module, tangents: Mapping[str, Tensor]) -> Callable[..., Any]:
        def hook(_: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            if not output.requires_grad:
                output = output.detach().requires_grad_(True)
            given, seen = inputs[0].detach(), output.detach()  # a hook that held the output itself would keep it alive

            def take(gradient: Tensor) -> None:
                if isinstance(module, torch.nn.Embedding):
                    moved = tangents["weight"][given]
                elif isinstance(module, torch.nn.Linear):
                    moved = torch.nn.functional.linear(given, tangents["weight"], tangents.get("bias"))
                else:  # an RMS norm: its output is weight · normalised input
                    moved = seen * (tangents["weight"] / module.weight.detach())
                found.append((gradient * moved).sum(dim=-1))

            output.register_hook(take)
            return output

        return hook

    frozen = trainable(model)
    names = {id(parameter): name for name, parameter in frozen.items()}
    for module in model.modules():
        own = dict(module.named_parameters(recurse=False))
        tangents = {short: direction[names[id(p)]] for short, p in own.items() if id(p) in names}
        if tangents:
            handles.append(module.register_forward_hook(product_of(module, tangents)))
    for parameter in frozen.values():
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for parameter in frozen.values():
            parameter.requires_grad_(True)


def ghost(model: Any, rows: Sequence[Row], direction: Direction) -> Tensor:
    """The ghost dot product over padded rows: one backward pass without weight gradients for a whole batch."""
    result = torch.zeros(len(rows), dtype=torch.float64)
    for indices in batches_by_length(rows, BATCH_TOKENS):
        batch = collate([rows[i] for i in indices])
        found: list[Tensor] = []
        with watching(model, direction, found):
            row_logps(model, batch).sum().backward()
        for product in found:
            if product.ndim == 1:  # the head, on scored tokens only
                result[indices] += sum_by_row(product, batch).double()
            else:
                result[indices] += product.sum(dim=1).double()
    return result


def ghost_packed(model: Any, rows: Sequence[Row], direction: Direction, coefficients: Tensor) -> Tensor:
    """The same over packed rows with shared prompts, by pair: rows 2i and 2i + 1 are a pair. Returns scores of pairs.

    A shared prompt's gradient belongs to both responses, so coefficients enter the loss, and pairs come out.
    """
    result = torch.zeros(len(rows) // 2, dtype=torch.float64)
    for indices in bins(rows, BATCH_TOKENS):
        batch = pack([rows[i] for i in indices])
        pairs = torch.tensor(indices) // 2
        of_segment = torch.zeros(len(batch.layout), dtype=torch.long)
        of_segment[batch.segment_ids[batch.scored]] = pairs[batch.row_of_token]  # each has a token that is scored
        owner = of_segment[batch.segment_ids]
        found: list[Tensor] = []
        with packing(model), watching(model, direction, found):
            logps = token_logps(scored_logits(model, batch), batch)
            (logps * coefficients[torch.tensor(indices)][batch.row_of_token]).sum().backward()
        for product in found:
            flat = product.flatten()
            result.index_add_(0, owner if len(flat) == len(owner) else pairs[batch.row_of_token], flat.double())
    return result


# -- bergson ----------------------------------------------------------------------------------------------------------


class Bergson:
    """bergson's two ways to score rows against one direction, called in this process with results kept in memory.

    It scores the linear layers below the head (with adapters: those of the adapter), not embeddings, norms and head,
    so it does a little less than the other ways.
    """

    def __init__(self, model: Any, rows: Sequence[Row], direction: Direction, tokens: int) -> None:
        from bergson.collector.gradient_collectors import GradientCollector
        from bergson.config.config import IndexConfig
        from bergson.data import allocate_batches
        from bergson.utils.peft import detect_peft_modules
        from bergson.utils.worker_utils import create_processor
        from datasets import Dataset

        logging.disable(logging.INFO)
        self.model = model
        names = {id(p): name for name, p in model.named_parameters()}
        adapters = detect_peft_modules(model) if hasattr(model, "peft_config") else None
        # At B = 0 only B has a gradient: A is left out in its favour.
        self.targets = {name for name in adapters if "lora_B" in name} if adapters is not None else None
        self.home = tempfile.TemporaryDirectory()
        self.config = IndexConfig(run_path=str(Path(self.home.name) / "run"), token_batch_size=tokens)
        self.config.partial_run_path.mkdir(parents=True)
        self.processor = create_processor(model, self.config, self.targets)
        self.modules = GradientCollector.discover_targets(model.base_model, self.targets, False, None)
        weights = {module: names[id(model.base_model.get_submodule(module).weight)] for module in self.modules}
        self.query = {module: direction[name].reshape(1, -1) for module, name in weights.items()}
        self.scored = set(weights.values())
        self.data = Dataset.from_list(
            [
                {
                    "input_ids": list(row.ids),
                    "labels": [-100] * row.start + list(row.ids[row.start :]),
                    "length": len(row.ids),
                }
                for row in rows
            ]
        )
        self.batches = allocate_batches(self.data["length"][:], tokens)

    def _scorer(self) -> Any:
        from bergson.score.score_writer import InMemorySequenceScoreWriter
        from bergson.score.scorer import Scorer

        writer = InMemorySequenceScoreWriter(len(self.data), 1)
        return Scorer(self.query, list(self.modules), writer, torch.device("cpu"), torch.float32)

    def score(self) -> Tensor:
        """Its scoring of gradients as they stream by."""
        from bergson.collection import collect_gradients

        scorer = self._scorer()
        with redirect_stderr(StringIO()), redirect_stdout(StringIO()):
            collect_gradients(
                self.model,
                self.data,
                self.processor,
                self.config,
                batches=self.batches,
                target_modules=self.targets,
                scorer=scorer,
            )
        return -scorer.writer.scores[:, 0].double()

    def jvp(self) -> Tensor:
        """Its forward-mode scoring (token_influence="output"), summed over tokens."""
        from bergson.data import pad_and_tensor
        from bergson.score.output_influence import output_token_influence, query_directions

        self.model.set_attn_implementation("eager")
        try:
            directions = query_directions(self.model, self._scorer().query_grads_t, self.modules)
            found = torch.zeros(len(self.data), dtype=torch.float64)
            for indices in self.batches:
                batch = self.data[indices]
                x, y, *_ = pad_and_tensor(batch["input_ids"], labels=batch["labels"], sync_max_len=False)
                rates, _ = output_token_influence(self.model, x, y, directions, self.config)
                found[indices] = -rates.sum(dim=1)[:, 0].double()
        finally:
            self.model.set_attn_implementation("sdpa")
        return found


# -- memory -----------------------------------------------------------------------------------------------------------


def peak_megabytes(work: Callable[[], object]) -> float | None:
    """Return how far resident memory rises above its start while `work` runs; None where the system does not say."""
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not reset.exists():
        return None
    ctypes.CDLL(None).malloc_trim(0)

    def read(name: str) -> int:
        line = next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith(name))
        return int(line.split()[1])

    start = read("VmRSS")
    reset.write_text("5", encoding="utf-8")
    work()
    return round((read("VmHWM") - start) / 1024, 1)
