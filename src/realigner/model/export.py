"""Saving models so that `from_pretrained` loads them, tokenizer and template included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from realigner import ranks
from realigner.atomic import DESCRIPTION
from realigner.errors import ModelError
from realigner.model.load import base_of, load_model, load_tokenizer, on_one_cpu, resolve_device, resolve_dtype
from realigner.recipe import ModelSettings


def save_model(model: Any, tokenizer: Any, settings: ModelSettings, path: Path) -> None:
    """Write a trained model: the adapter alone where there is one, else all weights; safetensors.

    A model that started from an adapter merged into its base is written whole: no base that a new adapter could
    name exists on disk.
    """
    from realigner.model.sharded import is_sharded

    merged = hasattr(model, "merge_and_unload") and base_of(settings)[0] != settings.path
    if is_sharded(model):
        _save_sharded(model, settings, path, merged=merged)
    else:
        model = model.merge_and_unload() if merged else model
        model.save_pretrained(path, safe_serialization=True)
    tokenizer.save_pretrained(path)
    # PEFT leaves a form with nothing filled in; the card is written when there is something to say.
    (path / DESCRIPTION).unlink(missing_ok=True)


def _save_sharded(model: Any, settings: ModelSettings, path: Path, *, merged: bool) -> None:
    """Write a sharded model by the first process, which gathers it; all processes call this."""
    from realigner.model.head import bare_model
    from realigner.model.sharded import gathered

    values = gathered(model, trained_only=hasattr(model, "merge_and_unload"))
    if ranks.rank() > 0:
        return
    if merged:
        whole = load_model(on_one_cpu(settings, bare_model(model).dtype), trainable=True)
        whole.load_state_dict(values, strict=False)
        whole.merge_and_unload().save_pretrained(path, safe_serialization=True)
    else:
        model.save_pretrained(path, state_dict=values, safe_serialization=True)


def export_model(run_dir: str | Path, out: str | Path, merge: bool = False) -> Path:
    """Copy a run's model to `out`; with `merge`, fold its adapter into the base, so that nothing else is needed.

    Raises:
        ModelError: the run has no model yet, or `out` exists and is not empty.
    """
    from realigner.runs import load_run

    run = load_run(run_dir)
    run.require("train")
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ModelError(f"export to {out}", "it exists and is not empty", "Choose another directory")
    trained = trained_settings(run.recipe.model, run.path("model"))
    if merge and (run.path("model") / "adapter_config.json").is_file():
        from realigner.atomic import writing_directory
        from realigner.report.card import is_ours, render_card

        whole = trained.model_copy(update={"quantize": None})  # folded into 4 bits, it would lose digits
        if whole.shard:
            whole = on_one_cpu(whole, resolve_dtype(whole, resolve_device(whole)))
        with writing_directory(out) as path:
            load_model(whole).save_pretrained(path, safe_serialization=True)
            load_tokenizer(trained).save_pretrained(path)
            card = run.path("model") / DESCRIPTION
            if card.is_file():
                text = card.read_text(encoding="utf-8")
                (path / DESCRIPTION).write_text(render_card(run_dir, adapter=False) if is_ours(card) else text, "utf-8")
        return out
    from shutil import copytree

    copytree(run.path("model"), out, dirs_exist_ok=True)
    return out


def trained_settings(settings: ModelSettings, path: Path) -> ModelSettings:
    """Return the settings that load a run's re-aligned model as the reference was loaded."""
    return settings.model_copy(update={"path": str(path), "revision": None})
