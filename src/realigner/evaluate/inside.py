"""Inside view: the direction between compliant and non-compliant answers in hidden states, and who moved along it.

After the persona vectors of Chen et al. (2025, arXiv 2507.21509), with two differences: the direction comes from
answers of the OLD data to the same prompts, as the triage judged them, and it is held against directions that the same
answers give when their labels are flipped by chance.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from realigner.atomic import hash_of, writing
from realigner.errors import DataError, ModelError
from realigner.evaluate.agreement import SIDES
from realigner.evaluate.draw import draw_prompts
from realigner.evaluate.evidence import Evidence, Source
from realigner.evaluate.inside_summary import direction_of, summarise
from realigner.evaluate.parts import Comparison, file_identity
from realigner.recipe_evaluate import InsideSettings
from realigner.records import Label, Prompt, TriagedPair, prompt_key
from realigner.triaging import read_triage

if TYPE_CHECKING:
    from realigner.model.rows import Row

TRIAGE = "triage.parquet"
AT_A_TIME = 32
"""Pairs that are encoded together; results do not depend on it."""
FEWEST = 8
"""Prompts with both kinds of answers without which there is no direction: flips of 7 signs give no p below 0.01."""


def inputs(settings: InsideSettings) -> dict[str, Any]:
    """Return the identity of the triage that is named.

    Raises:
        RecipeError: it is not there.
    """
    return {"triage": settings.triage and file_identity(settings.triage, "evaluate.inside.triage")}


@dataclass(frozen=True, slots=True)
class Contrast:
    """Two answers to one prompt, of which the policy allows the first."""

    id: str
    prompt: Prompt
    compliant: str
    other: str


def measure(settings: InsideSettings, comparison: Comparison) -> Evidence:
    """Find the direction in the model before, and how far the model after has moved along it.

    Raises:
        DataError: there is no triage.
        ModelError: the models differ in layers or width.
    """
    path = Path(settings.triage) if settings.triage else comparison.directory / TRIAGE
    if not path.is_file():
        raise DataError(
            f"evaluate.inside: {path}",
            "there is no such file, and judged pairs show the direction",
            "Set evaluate.inside.triage to the triage.parquet of a run",
        )
    source = Source("triage", hash_of(path).rpartition(":")[2], 0, str(path))
    seed = comparison.seed
    train, held_out = (
        [contrast_of(item) for item in draw_prompts(_contrasts(path, side), settings.pairs, seed, "inside")]
        for side in ("train", "eval")
    )
    prompts = _prompts(comparison, path, settings.prompts)
    before = _before(comparison, train, held_out, prompts) if len(train) >= FEWEST and prompts else {}
    if not before:
        warning = (
            f"{len(train)} training prompts have a compliant and a non-compliant answer that could be read, and "
            f"{len(prompts)} held-out prompts are there; a direction needs {FEWEST}, a shift one. Not measured."
        )
        return Evidence({}, (), (source,), (warning,))
    after = _after(comparison, before, prompts)
    used = Source(source.name, source.sha256, len(train) + len(held_out) + len(prompts), source.origin)
    ids = [prompt_key(prompt) for prompt in prompts]
    figures, table, warnings, rows = summarise(before, after, ids, settings.permutations, seed)
    return Evidence(figures, (table,), (used,), tuple(warnings), rows)


def _prompts(comparison: Comparison, path: Path, count: int) -> list[Prompt]:
    """Return held-out prompts; those that hold a control token, which would be read as structure, are left out."""
    encoders = [comparison.encoder(side) for side in SIDES]
    drawn = [item.pair.prompt for item in draw_prompts(read_triage(path, "eval"), count, comparison.seed, "shift")]
    return [
        prompt
        for prompt in drawn
        if not any(encoder.control_token(turn["content"] for turn in prompt) for encoder in encoders)
    ]


def contrast_of(item: TriagedPair) -> Contrast:
    """Return a pair's compliant answer beside its other one: the two of the data, or an accepted correction.

    Raises:
        ValueError: it has not one of each kind.
    """
    chosen, rejected = item.chosen_verdict.label, item.rejected_verdict.label
    if (chosen, rejected) == (Label.COMPLIANT, Label.NON_COMPLIANT):
        return Contrast(item.pair.id, item.pair.prompt, item.pair.chosen, item.pair.rejected)
    if (chosen, rejected) == (Label.NON_COMPLIANT, Label.COMPLIANT):
        return Contrast(item.pair.id, item.pair.prompt, item.pair.rejected, item.pair.chosen)
    if chosen == Label.NON_COMPLIANT and item.correction is not None:
        return Contrast(item.pair.id, item.pair.prompt, item.correction, item.pair.chosen)
    raise ValueError(f"pair {item.pair.id} has no compliant and non-compliant answer")


def _contrasts(path: Path, side: Any) -> Iterator[TriagedPair]:
    for item in read_triage(path, side):
        labels = {item.chosen_verdict.label, item.rejected_verdict.label}
        corrected = item.correction is not None and item.chosen_verdict.label == Label.NON_COMPLIANT
        if labels == {Label.COMPLIANT, Label.NON_COMPLIANT} or corrected:
            yield item


def _before(
    comparison: Comparison, train: Sequence[Contrast], held_out: Sequence[Contrast], prompts: Sequence[Prompt]
) -> dict[str, np.ndarray]:
    """Return what the model before shows, nothing where too few pairs could be read.

    It is kept until the stage is done, so that an interruption costs one model.
    """
    kept = comparison.scratch / "inside-before.npz"
    if not kept.is_file():
        model, encoder = comparison.load(SIDES[0])
        shown = list(_differences(model, encoder, train, comparison, "inside before: the direction"))
        if len(shown) < FEWEST:
            return {}
        differences = np.stack(shown).astype(np.float32)
        direction = direction_of(differences)
        # Held-out pairs, which the direction has not seen: projected as they come, so that none is kept.
        seen = _differences(model, encoder, held_out, comparison, "inside before: held-out answers")
        gaps = [(difference * direction).sum(axis=1) for difference in seen]
        mean, projections = _prompt_states(model, encoder, prompts, direction, comparison, SIDES[0])
        arrays = {
            "differences": differences,
            "gaps": np.stack(gaps) if gaps else np.zeros((0, len(direction))),
            "mean": mean,
            "projections": projections,
        }
        with writing(kept) as path, path.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
    with np.load(kept, allow_pickle=False) as found:
        return {name: found[name] for name in found.files}


def _after(comparison: Comparison, before: dict[str, np.ndarray], prompts: Sequence[Prompt]) -> dict[str, np.ndarray]:
    direction = direction_of(before["differences"])
    model, encoder = comparison.load(SIDES[1])
    mean, projections = _prompt_states(model, encoder, prompts, direction, comparison, SIDES[1])
    return {"mean": mean, "projections": projections}


def _differences(
    model: Any, encoder: Any, contrasts: Sequence[Contrast], comparison: Comparison, label: str
) -> Iterator[np.ndarray]:
    """Yield (layers, hidden) a pair: what differs between its answers, each the mean over its tokens.

    Pairs that the encoder drops (too long, control tokens) are left out.
    """
    from realigner.model.hidden import hidden_states

    with comparison.progress.task(label, len(contrasts)) as advance:
        for start in range(0, len(contrasts), AT_A_TIME):
            chunk = contrasts[start : start + AT_A_TIME]
            encoded = [encoder.encode(c.id, c.prompt, {"compliant": c.compliant, "other": c.other}) for c in chunk]
            rows = [found[name] for found in encoded if found is not None for name in ("compliant", "other")]
            states: dict[int, np.ndarray] = {}
            for places, found in hidden_states(model, rows):
                states.update(zip(places, found.response.numpy(), strict=True))
            for first in range(0, len(rows), 2):
                yield states[first] - states[first + 1]
            advance(len(chunk))


def _prompt_states(
    model: Any, encoder: Any, prompts: Sequence[Prompt], direction: np.ndarray, comparison: Comparison, side: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean state at the end of the prompts (layers, hidden), and each one's projection (prompts, layers)."""
    from realigner.model.hidden import hidden_states

    rows = [_prompt_row(encoder, prompt) for prompt in prompts]
    total = np.zeros_like(direction)
    projections = np.zeros((len(rows), len(direction)))
    with comparison.progress.task(f"inside {side}: held-out prompts", len(rows)) as advance:
        for places, states in hidden_states(model, rows):
            found = states.prompt.numpy().astype(np.float64)
            if found.shape[1:] != direction.shape:
                raise ModelError(
                    f"the models have (layers, width) {direction.shape} and {found.shape[1:]}",
                    "a direction of one means nothing in another of a different shape",
                    "Set evaluate.inside: null, or compare models of one shape",
                )
            total += found.sum(axis=0)
            projections[places] = (found * direction).sum(axis=2)
            advance(len(places))
    return total / len(rows), projections


def _prompt_row(encoder: Any, prompt: Prompt) -> Row:
    """Return a prompt as a row; the end token behind it is never looked at."""
    from realigner.model.rows import Row

    ids = encoder.prompt_ids(prompt, 1)
    return Row((*ids, encoder.stop_ids[0]), len(ids))
