"""What each stage is computed from: the parts of the recipe that decide it, and the identity of outside files.

A file enters by its content, not its path, so that a moved file is the same input. Settings that change no number
(how often to save, where to report) are left out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from realigner import atomic
from realigner.errors import RecipeError
from realigner.manifest import Inputs
from realigner.progress import Progress
from realigner.recipe import LossSettings, OldPolicySettings, OracleSettings, Recipe, Section


def triage_inputs(recipe: Recipe, progress: Progress) -> Inputs:
    """Return what decides triage.parquet."""
    from realigner.chain.previous import previous_identity
    from realigner.data import data_fingerprint

    return {
        "seed": recipe.seed,
        "data": {**_settings(recipe.data, "path"), "content": data_fingerprint(recipe.data, progress)},
        **_judge(recipe, recipe.oracle),
        "corrections": _corrections(recipe),
        # Only where they are given, so that the keys of runs without them stay as they are.
        **({"corrections_over": "both"} if recipe.corrections and recipe.corrections.over == "both" else {}),
        **({"human": _content(recipe.human.path, "human.path")} if recipe.human else {}),
        **({"old_policy": _old_policy(recipe.old_policy)} if recipe.old_policy else {}),
        **previous_identity(recipe),
    }


def reference_inputs(recipe: Recipe, _: Progress) -> Inputs:
    """Return what decides the reference log-probabilities: the model before any adapter, and its tokens."""
    from realigner.model.load import load_model_config, model_fingerprint

    if not Path(recipe.model.path).is_dir():
        load_model_config(recipe.model)  # a name that is neither a directory nor on the hub is refused here
    if recipe.reference is not None and not Path(recipe.reference.path).is_dir():
        load_model_config(recipe.reference_model)
    # Where weights lie changes no number; and keys of runs without 4-bit weights stay as they are.
    unset = ("shard",) if recipe.model.quantize else ("shard", "quantize")
    return {
        "model": {**_settings(recipe.model, "path", "lora", *unset), "content": model_fingerprint(recipe.model)},
        **({"reference": {"content": model_fingerprint(recipe.reference_model)}} if recipe.reference else {}),
        "text": _settings(recipe.text),
        "confirm": recipe.loss.confirm > 0,  # whether CONFIRM pairs need both their responses
        **_kept(recipe.loss),
    }


def weigh_inputs(recipe: Recipe, _: Progress) -> Inputs:
    """Return what decides the impact weights."""
    from realigner.audit.gate import epsilon_in_key

    gold = recipe.impact.gold
    return {
        "impact": {**_settings(recipe.impact, "gold"), "gold": _settings(gold, "path")},
        "gold_file": gold.path and _content(gold.path, "impact.gold.path"),
        "loss": {**_settings(recipe.loss), "epsilon": epsilon_in_key(recipe)},
        "model": {"lora": recipe.model.lora and _settings(recipe.model.lora)},
    }


def train_inputs(recipe: Recipe, _: Progress) -> Inputs:
    """Return what decides the re-aligned model, beyond what decided the weights."""
    unset = () if recipe.train.liger else ("liger",)
    return {"train": _settings(recipe.train, "save_every", "report_to", *unset)}


def generate_inputs(recipe: Recipe, _: Progress) -> Inputs:
    """Return what decides the responses."""
    return {"generate": _settings(recipe.generate)}


def evaluate_inputs(recipe: Recipe, _: Progress) -> Inputs:
    """Return what decides the judgements and the summary."""
    return {
        "evaluate": {"retained": recipe.evaluate.retained},
        **_judge(recipe, recipe.evaluation_oracle),
    }


def measure_inputs(recipe: Recipe, _: Progress) -> Inputs:
    """Return what decides the evidence of the parts, beyond what decided the answers and the judgements."""
    from realigner.evaluate.parts import parts_inputs

    return {"evaluate": parts_inputs(recipe.evaluate)}


def report_inputs(recipe: Recipe, _: Progress) -> Inputs:
    """Return what decides the page, beyond the run itself."""
    gate = recipe.report.gate
    return {
        "report": _settings(recipe.report, "gate"),
        **({"gate": _content(gate, "report.gate")} if gate is not None else {}),
    }


def _kept(loss: LossSettings) -> dict[str, Any]:
    """Return what is kept of the reference's distributions on retained tokens."""
    kind = loss.kl_reference
    return {"kl_reference": kind, "kl_top_k": loss.kl_top_k if kind == "top_k" else None}


def _settings(section: Section, *left_out: str) -> dict[str, Any]:
    return section.model_dump(mode="json", exclude=set(left_out))


def _corrections(recipe: Recipe) -> Any:
    """Return the identity of what proposes corrections: a file, a writer, both or nothing."""
    from realigner.corrections.stage import writer_identities
    from realigner.policy import Policy

    if recipe.corrections is None:
        return None
    path = recipe.corrections.path
    file = path and _content(path, "corrections.path")
    if recipe.corrections.generate is None:
        return file
    policy = Policy.load(recipe.policy.path, allow_code=recipe.policy.allow_code)
    return {"file": file, "generate": writer_identities(recipe, policy)}


def _old_policy(settings: OldPolicySettings) -> dict[str, Any]:
    """Return the identity of the old policy, of the discovery beside it, and what is done with it."""
    from realigner.discover.use import OldPolicy

    # Loaded whole, so that one that cannot be judged is refused before any judge is paid.
    policy = OldPolicy.load(settings.path, settings.allow_code).policy
    found = Path(settings.path).with_suffix(".json")
    beside = _content(str(found), "old_policy.path") if found.is_file() else None
    return {**_settings(settings, "path"), "hash": policy.hash, "found": beside}


def _judge(recipe: Recipe, settings: OracleSettings) -> dict[str, Any]:
    """Return the identities of the policy and of an oracle that applies it."""
    from realigner.oracle import build_oracle
    from realigner.policy import Policy

    policy = Policy.load(recipe.policy.path, allow_code=recipe.policy.allow_code)
    identity = build_oracle(settings, policy).identity
    return {
        "policy": {"id": policy.id, "version": policy.version, "hash": policy.hash},
        "oracle": {"kind": settings.kind, "identity": identity},
    }


def _content(path: str, name: str) -> str:
    """Return the identity of a file that the recipe names."""
    if not Path(path).is_file():
        raise RecipeError(f"{name} = {path}", "there is no such file", "Check the path; it is relative to the recipe")
    return atomic.hash_of(Path(path)).rpartition(":")[2][:16]
