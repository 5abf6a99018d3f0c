"""What a lab model does on held-out prompts, by the truth of the world."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from realigner.lab.parse import answer_to, parse_answer
from realigner.lab.phrases import FACTUAL, SENSITIVE
from realigner.lab.world import Ask, Era, complies
from realigner.model.chat import Encoder
from realigner.model.generate import generate
from realigner.model.head import evaluating
from realigner.model.logprobs import scored_logits
from realigner.model.rows import Row, batches_by_length, collate
from realigner.recipe import GenerateSettings
from realigner.records import user_prompt

T = TypeVar("T")
NEW_TOKENS = 64
"""More than any answer of the demo needs."""
LAB_TOKENS = 96
"""More than any answer of the lab's shifts needs: those can carry two sentences of care and a closing."""


@dataclass(frozen=True, slots=True)
class Behaviour:
    """Shares are of held-out prompts, answered greedily unless said otherwise."""

    prompts: int
    old_agreement: float
    new_agreement: float
    well_formed: float
    """Share of answers that this world could have written, about whatever it may be."""
    facts: float
    """Share of fact prompts that are answered rightly."""
    sampled_help: float
    """Share of answers, sampled at temperature 1 on the topics whose rule changes, that comply with the NEW policy.

    Greedy agreement may be zero there; where the samples never comply either, preferences have nothing to lift.
    """
    entropy: float
    """Mean entropy of the next token along the model's own greedy answers, in nats."""


def measure(model: Any, encoder: Encoder, asked: Sequence[tuple[Ask, str]], seed: int) -> Behaviour:
    """Ask the model the given prompts and hold its answers against the truth of the world."""
    texts = answer_prompts(model, encoder, [prompt for _, prompt in asked])
    answered = [(ask, text) for (ask, _), text in zip(asked, texts, strict=True)]
    facts = [(ask, text) for ask, text in answered if ask.topic in FACTUAL]
    changed = [(ask, prompt) for ask, prompt in asked if ask.topic in SENSITIVE]
    samples = answer_prompts(model, encoder, [prompt for _, prompt in changed], temperature=1.0, seed=seed)
    rows = [
        encoder.encode(prompt, user_prompt(prompt), {"answer": text})
        for (_, prompt), text in zip(asked, texts, strict=True)
        if text
    ]
    return Behaviour(
        prompts=len(asked),
        old_agreement=share(answered, lambda pair: agrees(*pair, "old")),
        new_agreement=share(answered, lambda pair: agrees(*pair, "new")),
        well_formed=share(texts, lambda text: parse_answer(text) is not None),
        facts=share(facts, lambda pair: agrees(*pair, "new")),
        sampled_help=share(
            [(ask, text) for (ask, _), text in zip(changed, samples, strict=True)],
            lambda pair: agrees(*pair, "new"),
        ),
        entropy=mean_entropy(model, [row["answer"] for row in rows if row is not None]),
    )


def agrees(ask: Ask, text: str, era: Era) -> bool:
    """Return whether a text complies with a policy, by the truth of the world; what is malformed never does."""
    answer = answer_to(ask, text)
    return answer is not None and complies(ask, answer, era)


def share(items: Iterable[T], holds: Callable[[T], bool]) -> float:
    """Return the share of items for which something holds; nan of nothing."""
    found = [holds(item) for item in items]
    return sum(found) / len(found) if found else float("nan")


def answer_prompts(
    model: Any,
    encoder: Encoder,
    prompts: Sequence[str],
    *,
    temperature: float = 0.0,
    seed: int = 0,
    new_tokens: int = NEW_TOKENS,
) -> list[str]:
    """Return the model's answers to one-turn prompts, in order."""
    settings = GenerateSettings(max_new_tokens=new_tokens, temperature=temperature, batch_size=128)
    return [r.text for r in generate(model, encoder, [user_prompt(p) for p in prompts], settings, seed=seed)]


@torch.no_grad()
def mean_entropy(model: Any, rows: Sequence[Row]) -> float:
    """Return the mean entropy in nats of the model's next token, over all response tokens of the rows."""
    total, tokens = 0.0, 0
    with evaluating(model):
        for batch in batches_by_length(rows, 4096):
            logits = scored_logits(model, collate([rows[i] for i in batch]))
            logp = torch.log_softmax(logits.float(), dim=-1)
            total += float(-(logp.exp() * logp).sum())
            tokens += len(logp)
    return total / tokens if tokens else float("nan")
