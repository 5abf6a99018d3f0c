"""One training step of pairs: this project against TRL's DPOTrainer, on the same tokens, model and loss.

    python -m benchmarks.train_step --json benchmarks/results/train_step.json

A step is forward, loss and backward over the same pairs; all of them are reversed preferences (TRACE's INVERT, plain
DPO), which is the only work that TRL has too. Both trainers' log-probabilities and gradients are compared before
anything is timed. `trl_default`: DPOTrainer as it comes (activation checkpointing, bfloat16 autocast, the reference in
every step). `trl_best`: float32 on a CPU, no checkpointing, precomputed reference, the best of several batch sizes.

Peak memory is the largest sum of live tensors during a step, above what was there before it (weights, optimizer),
from PyTorch's own record of allocations. FLOPs are counted by torch's counter; the floor has every weight used once
per token, prompts shared, the reference cached: full 6 N T + 6 h V S, LoRA 4 N T + 4 h V S, with T tokens, S scored
tokens, N linear weights, h hidden size, V vocabulary. Attention is in neither: the counter does not see it on a CPU.

The mixed step has INVERT, PUNISH and retained pairs with full-vocabulary KL, against the paper's way of doing it:
one pair at a time, padded to 256 tokens, reference forwards in every step, whole logits.
"""

from __future__ import annotations

import json
import logging
import statistics
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT, arguments, interleaved, ratio, with_peers, write

LENGTHS = ROOT / "benchmarks" / "hh_rlhf_lengths.json"
SHORT = [(24, 8 + i % 9, 6 + i % 7) for i in range(512)]
"""Prompt, chosen and rejected lengths of short pairs."""
MIX = ("PUNISH", "CONFIRM", "INVERT", "NEUTRAL", "PUNISH", "NEUTRAL", "PUNISH", "PUNISH")
"""Outcomes of the pairs of a mixed step, in turn."""
BETA = 0.1
SEED = 0


@dataclass(frozen=True)
class Shape:
    """A random Llama."""

    hidden: int
    layers: int
    vocabulary: int

    @property
    def intermediate(self) -> int:
        return self.hidden * 11 // 4 // 8 * 8

    @property
    def linear_weights(self) -> int:
        """N: weights of the linear layers of the trunk."""
        return self.layers * (4 * self.hidden**2 + 3 * self.hidden * self.intermediate)


def main() -> None:
    args = arguments(__doc__)
    with_peers("trl>=1.16")
    quiet()
    import torch

    small = args.quick
    trunk = Shape(128, 2, 2_000) if small else Shape(512, 8, 32_000)
    count, rounds = (4, 1) if small else (16, 3)
    rows: list[dict[str, Any]] = []
    ratios: dict[str, Any] = {}
    for adapter in ("full", "lora"):
        for name, lengths in (("short", SHORT[:count]), ("hh-rlhf", hh_lengths()[:count])):
            row = speed(trunk, adapter, lengths, rounds, sizes=(count,) if small else (2, 4, 8))
            rows.append({"work": "dpo", "adapter": adapter, "lengths": name, **row})
        ratios[adapter] = dict(rows[-1]["ratios"])
        for vocabulary in (128_000,) if small else (32_000, 256_000, 128_000):
            head = Shape(16 if small else 256, 1 if small else 2, vocabulary)
            row = memory(head, adapter, hh_lengths()[: 4 if small else 8])
            rows.append({"work": "peak memory", "adapter": adapter, "vocabulary": vocabulary, **row})
        ratios[adapter]["peak_over_trl_v128k"] = rows[-1]["ours_over_trl_best"]
        row = mixed(trunk, adapter, hh_lengths()[:count], rounds)
        rows.append({"work": "mixed TRACE step", "adapter": adapter, "lengths": "hh-rlhf", **row})
        ratios[adapter]["mixed_samples_over_papers_way"] = row["samples_over_papers_way"]
    keys = ("samples_over_trl_default", "samples_over_trl_best", "peak_over_trl_v128k", "flops_over_floor")
    write(
        args.json,
        "train_step",
        config={
            "quick": small,
            "trunk": trunk.__dict__,
            "pairs": count,
            "rounds": rounds,
            "threads": torch.get_num_threads(),
            "dtype": "float32",
            "lora": {"rank": 16, "targets": ["q_proj", "v_proj"]},
            "seed": SEED,
        },
        rows=rows,
        ratios={**{key: ratios["lora"][key] for key in keys}, **ratios},
        packages=("trl", "peft", "accelerate"),
    )


# -- the same model, pairs and loss for both ------------------------------------------------------------------------


def hh_lengths() -> list[tuple[int, int, int]]:
    """Return (prompt, chosen, rejected) lengths of real pairs, at most 480 tokens together with an answer."""
    found = json.loads(LENGTHS.read_text(encoding="utf-8"))["lengths"]
    return [(p, c, r) for p, c, r in found if p + max(c, r) < 480]


def model_of(shape: Shape, adapter: str) -> Any:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.hidden // 64 or 1,
        max_position_embeddings=1024,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=1,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config)
    if adapter == "full":
        return model
    torch.manual_seed(SEED)
    return get_peft_model(model, LoraConfig(r=16, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))


@cache
def tokenizer_of(vocabulary: int) -> Any:
    """Return a tokenizer that makes one token of each word `tN`."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<eos>": 0, "<pad>": 1, **{f"t{i}": i for i in range(2, vocabulary)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>")  # noqa: S106


def texts(lengths: Sequence[tuple[int, int, int]], vocabulary: int) -> list[dict[str, str]]:
    """Return pairs of random words with these numbers of tokens."""
    import torch

    draw = torch.Generator().manual_seed(SEED)

    def words(n: int) -> str:
        return " ".join(f"t{i}" for i in torch.randint(2, vocabulary, (n,), generator=draw).tolist())

    return [{"prompt": words(p) + " ", "chosen": words(c), "rejected": words(r)} for p, c, r in lengths]


def triaged(pairs: Sequence[dict[str, str]], cycle: Sequence[str] = ("INVERT",)) -> list[Any]:
    """Return the pairs as triage would hand them on. INVERT prefers what was rejected, so the two are swapped here."""
    from realigner.records import Direction, Label, Message, Outcome, Pair, TriagedPair, Verdict

    directions = {
        "INVERT": Direction.REJECTED_OVER_CHOSEN,
        "PUNISH": Direction.SUPPRESS_BOTH,
        "CONFIRM": Direction.RETAIN,
        "NEUTRAL": Direction.RETAIN,
    }
    verdict = Verdict(Label.COMPLIANT)
    return [
        TriagedPair(
            Pair(f"p{i}", (Message(role="user", content=p["prompt"]),), p["rejected"], p["chosen"], f"made:{i}"),
            "train",
            verdict,
            verdict,
            Outcome(cycle[i % len(cycle)]),
            directions[cycle[i % len(cycle)]],
        )
        for i, p in enumerate(pairs)
    ]


def our_trainer(shape: Shape, adapter: str, items: Sequence[Any], folder: str, micro: int, **loss: Any) -> Any:
    from realigner.recipe import LossSettings, TextSettings
    from realigner.train import TraceConfig, TraceTrainer

    config = TraceConfig(
        output_dir=folder,
        use_cpu=True,
        disable_tqdm=True,
        per_device_train_batch_size=micro,
        loss=LossSettings(beta=BETA, **loss),
        text=TextSettings(format="plain", max_length=1024),
        dataloader_pin_memory=False,
    )
    return TraceTrainer(model_of(shape, adapter), config, list(items), processing_class=tokenizer_of(shape.vocabulary))


def trl_trainer(
    shape: Shape, adapter: str, pairs: Sequence[dict[str, str]], folder: str, micro: int, *, best: bool
) -> Any:
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    how: dict[str, Any] = {"bf16": False, "gradient_checkpointing": False, "precompute_ref_log_probs": True}
    config = DPOConfig(
        output_dir=folder,
        use_cpu=True,
        disable_tqdm=True,
        per_device_train_batch_size=micro,
        beta=BETA,
        max_length=1024,
        report_to="none",
        dataloader_pin_memory=False,
        **(how if best else {}),
    )
    needs_reference = adapter == "full" and not best
    return DPOTrainer(
        model_of(shape, adapter),
        ref_model=model_of(shape, adapter) if needs_reference else None,
        args=config,
        train_dataset=Dataset.from_list([dict(p) for p in pairs]),
        processing_class=tokenizer_of(shape.vocabulary),
    )


def batches(trainer: Any, micro: int) -> list[Any]:
    """Return the data as the trainer's own micro-batches, in a fixed order, with denominators where it needs them."""
    data = trainer.train_dataset
    order = list(range(len(data)))
    lengths = getattr(data, "lengths", None)
    if lengths is not None:  # as the sampler deals the pairs of an optimizer step
        from realigner.train import StratifiedSampler

        order = list(StratifiedSampler(data.outcomes, len(order), SEED, lengths=lengths, micro_batch=micro))
    else:  # long pairs together, so that little is padding: kinder to TRL than its own order
        order.sort(key=lambda i: -len(data[i]["prompt_ids"]) if "prompt_ids" in data[i] else 0)
    cut = [order[i : i + micro] for i in range(0, len(order), micro)]
    return [trainer.data_collator([data[i] for i in part]) for part in cut]


def one_pass(trainer: Any, found: Sequence[Any], *, keep: bool = False) -> Callable[[], None]:
    """Return the step: forward, loss and backward over all micro-batches; gradients go after it unless kept."""
    import torch

    counts = None
    trainer.current_gradient_accumulation_steps = 1  # what Trainer.train would have set
    if hasattr(trainer, "kl_control"):
        from realigner.train.batch import count

        counts = torch.tensor([count(batch) for batch in found]).sum(dim=0)

    def step() -> None:
        trainer.model.train()
        for batch in found:
            trainer.training_step(trainer.model, dict(batch), counts)
        if not keep:
            trainer.model.zero_grad(set_to_none=True)

    return step


def gradients(trainer: Any, found: Sequence[Any]) -> Any:
    """Return the gradient of the mean DPO loss over all pairs, as one vector in the order of the parameters' names."""
    import torch

    trainer.model.train()
    total: dict[str, Any] = {}
    pairs = 0
    for batch in found:
        batch = trainer._prepare_inputs(dict(batch))
        here = len(batch["ids"]) if "ids" in batch else len(batch["input_ids"]) // 2
        loss = trainer.compute_loss(trainer.model, batch)
        trainer.model.zero_grad(set_to_none=True)
        loss.backward()
        for name, p in trainer.model.named_parameters():
            if p.grad is not None:
                total[name] = total.get(name, 0) + here * p.grad.detach().clone()
        pairs += here
    trainer.model.zero_grad(set_to_none=True)
    return torch.cat([(total[name] / pairs).flatten() for name in sorted(total)])


# -- what is measured -----------------------------------------------------------------------------------------------


def speed(
    shape: Shape, adapter: str, lengths: Sequence[tuple[int, int, int]], rounds: int, sizes: Sequence[int]
) -> dict[str, Any]:
    """Time steps of ours, of TRL as it comes and of TRL at its best; check first that they compute the same."""
    pairs = texts(lengths, shape.vocabulary)
    with workspace() as folder:
        ours = our_trainer(shape, adapter, triaged(pairs), folder("ours"), min(8, len(pairs)))
        best = {n: trl_trainer(shape, adapter, pairs, folder(f"best{n}"), n, best=True) for n in sizes}
        default = trl_trainer(shape, adapter, pairs, folder("default"), min(8, len(pairs)), best=False)
        laid = {"ours": batches(ours, min(8, len(pairs)))}
        work = {
            "ours": one_pass(ours, laid["ours"]),
            "trl_default": one_pass(default, batches(default, min(8, len(pairs)))),
        }
        for n, trainer in best.items():
            laid[f"trl_best_{n}"] = batches(trainer, n)
            work[f"trl_best_{n}"] = one_pass(trainer, laid[f"trl_best_{n}"])
        a, b = gradients(ours, laid["ours"]), gradients(best[sizes[-1]], laid[f"trl_best_{sizes[-1]}"])
        difference = float((a - b).norm() / b.norm())
        if a.shape != b.shape or difference > 1e-3:
            raise SystemExit(f"the two do not compute the same: relative difference of gradients {difference:.2e}")
        seconds = interleaved(work, rounds)
        fastest = min((f"trl_best_{n}" for n in sizes), key=lambda name: statistics.median(seconds[name]))
        flops = {name: flops_of(work[name]) for name in ("ours", fastest, "trl_default")}
    scored = sum(c + 1 + r + 1 for _, c, r in lengths)
    floor = floor_of(shape, adapter, lengths)
    return {
        "pairs": len(pairs),
        "scored_tokens": scored,
        "gradient_difference": difference,
        "trl_best_batch": int(fastest.rpartition("_")[2]),
        "seconds": {name: round(statistics.median(s), 4) for name, s in seconds.items()},
        "samples_per_second": {name: round(len(pairs) / statistics.median(s), 3) for name, s in seconds.items()},
        "scored_tokens_per_second": {name: round(scored / statistics.median(s), 1) for name, s in seconds.items()},
        "flops": flops,
        "floor": floor,
        "ratios": {
            "samples_over_trl_default": round(ratio(seconds, "trl_default", "ours"), 3),
            "samples_over_trl_best": round(ratio(seconds, fastest, "ours"), 3),
            "flops_over_floor": round(flops["ours"] / floor, 3),
            "trl_best_flops_over_floor": round(flops[fastest] / floor, 3),
        },
    }


def memory(shape: Shape, adapter: str, lengths: Sequence[tuple[int, int, int]]) -> dict[str, Any]:
    """Return the peak of live tensors in a step of one micro-batch, above the weights, in MB.

    Of the same pairs as a mixed TRACE step too, for which TRL has no counterpart.
    """
    pairs = texts(lengths, shape.vocabulary)
    found: dict[str, float] = {}
    with workspace() as folder:
        makers: dict[str, Callable[[], Any]] = {
            "ours": lambda: our_trainer(shape, adapter, triaged(pairs), folder("ours"), len(pairs)),
            "ours_mixed": lambda: our_trainer(
                shape, adapter, triaged(pairs, MIX), folder("mixed"), len(pairs), kl_reference="hidden"
            ),
            "trl_best": lambda: trl_trainer(shape, adapter, pairs, folder("best"), len(pairs), best=True),
        }
        for name, make in makers.items():
            trainer = make()
            step = one_pass(trainer, batches(trainer, len(pairs)))
            step()
            found[name] = peak_of(step) / 2**20
            del trainer, step
    scored = sum(c + 1 + r + 1 for _, c, r in lengths)
    return {
        "trunk": {"hidden": shape.hidden, "layers": shape.layers},
        "pairs": len(pairs),
        "logits_mb": round(4 * scored * shape.vocabulary / 2**20, 1),
        "peak_mb": {name: round(value, 1) for name, value in found.items()},
        "ours_over_trl_best": round(found["ours"] / found["trl_best"], 3),
    }


def mixed(shape: Shape, adapter: str, lengths: Sequence[tuple[int, int, int]], rounds: int) -> dict[str, Any]:
    """Time the mixed TRACE step against the paper's way of doing it, after comparing their gradients."""
    lengths = [(min(p, 120), min(c, 100), min(r, 100)) for p, c, r in lengths]  # the paper cuts at 256 tokens
    pairs = texts(lengths, shape.vocabulary)
    with workspace() as folder:
        items = triaged(pairs, MIX)
        ours = our_trainer(shape, adapter, items, folder("ours"), min(8, len(pairs)), kl_reference="hidden")
        reference = model_of(shape, "full") if adapter == "full" else None
        laid = batches(ours, min(8, len(pairs)))
        fast, slow = one_pass(ours, laid, keep=True), papers_way(ours, reference)
        mine, theirs = collected(ours.model, fast), collected(ours.model, slow)
        difference = float((mine - theirs).norm() / theirs.norm())
        if difference > 1e-3:
            raise SystemExit(f"the two mixed steps do not compute the same: {difference:.2e}")
        clear = ours.model.zero_grad
        seconds = interleaved({"ours": one_pass(ours, laid), "papers_way": lambda: (slow(), clear())}, rounds)
    return {
        "pairs": len(pairs),
        "mix": {name: MIX.count(name) / len(MIX) for name in sorted(set(MIX))},
        "gradient_difference": difference,
        "seconds": {name: round(statistics.median(s), 4) for name, s in seconds.items()},
        "samples_over_papers_way": round(ratio(seconds, "papers_way", "ours"), 3),
    }


def papers_way(trainer: Any, reference: Any) -> Callable[[], None]:
    """Return the mixed step one pair at a time: rows padded to 256 tokens, reference forwards, whole logits."""
    import torch

    from realigner.losses import forward_kl
    from realigner.model.encoded import row_of
    from realigner.train.reference import without_adapter

    length, model, loss = 256, trainer.model, trainer.args.loss
    frozen = model if reference is None else reference
    examples = [trainer.train_dataset[i] for i in range(len(trainer.train_dataset))]
    conflicts = sum(e["outcome"] in ("INVERT", "PUNISH") for e in examples)
    tokens = sum(row_of(e, "chosen").response_tokens for e in examples if e["outcome"] in ("CONFIRM", "NEUTRAL"))

    def logits(which: Any, row: Any) -> Any:
        ids = torch.ones(1, length, dtype=torch.long)
        ids[0, : len(row.ids)] = torch.tensor(row.ids)
        mask = torch.zeros(1, length, dtype=torch.long)
        mask[0, : len(row.ids)] = 1
        return which(input_ids=ids, attention_mask=mask, use_cache=False).logits[0]

    def logp(which: Any, row: Any) -> Any:
        found = torch.log_softmax(logits(which, row), dim=-1)[row.start - 1 : len(row.ids) - 1]
        return found.gather(1, torch.tensor(row.ids[row.start :]).unsqueeze(1)).sum()

    def ratio_of(example: Any, name: str) -> Any:
        row = row_of(example, name)
        with torch.no_grad(), without_adapter(frozen):
            before = logp(frozen, row)
        return logp(model, row) - before

    def one(example: Any) -> Any:
        beta, sigmoid = loss.beta, torch.nn.functional.logsigmoid
        if example["outcome"] == "INVERT":
            return -sigmoid(beta * (ratio_of(example, "rejected") - ratio_of(example, "chosen"))) / conflicts
        if example["outcome"] == "PUNISH":
            chosen, rejected = ratio_of(example, "chosen"), ratio_of(example, "rejected")
            return (-sigmoid(-beta * chosen) - sigmoid(-beta * rejected)) / conflicts
        row = row_of(example, "chosen")
        at = slice(row.start - 1, len(row.ids) - 1)
        with torch.no_grad(), without_adapter(frozen):
            before = logits(frozen, row)[at]
        return loss.alpha_kl * forward_kl(logits(model, row)[at], before).sum() / tokens

    def step() -> None:
        model.train()
        for example in examples:
            one(example).backward()

    return step


def collected(model: Any, step: Callable[[], None]) -> Any:
    """Return the gradient that a step leaves, as one vector."""
    import torch

    model.zero_grad(set_to_none=True)
    step()
    found = torch.cat([p.grad.flatten().clone() for _, p in sorted(model.named_parameters()) if p.grad is not None])
    model.zero_grad(set_to_none=True)
    return found


def flops_of(step: Callable[[], None]) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        step()
    return int(counter.get_total_flops())


def floor_of(shape: Shape, adapter: str, lengths: Sequence[tuple[int, int, int]]) -> int:
    """Return the FLOPs that no exact step can do without: prompts once, each weight once per token and pass.

    Under LoRA the frozen weights need no gradient of their own. Attention is left out: torch's counter does not see the
    fused attention of CPUs, so it is in neither side of the ratio.
    """
    tokens = sum(p + c + r for p, c, r in lengths)
    scored = sum(c + 1 + r + 1 for _, c, r in lengths)
    passes = 6 if adapter == "full" else 4
    return passes * (shape.linear_weights * tokens + shape.hidden * shape.vocabulary * scored)


def peak_of(step: Callable[[], None]) -> int:
    """Return the largest sum of bytes that live tensors reach during a step, above what there was before it."""
    import torch

    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    live = peak = 0
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda e: e.start_ns()):
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    return peak


@contextmanager
def workspace() -> Iterator[Callable[[str], str]]:
    with tempfile.TemporaryDirectory() as folder:
        yield lambda name: str(Path(folder) / name)


def quiet() -> None:
    """Progress and advice of the libraries would drown the result."""
    import datasets
    import transformers

    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()


if __name__ == "__main__":
    main()
