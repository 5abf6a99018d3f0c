"""Optional packages that speed a run up or shrink it: refused in the first second where they are not there."""

from __future__ import annotations

from importlib.util import find_spec

from realigner.errors import ModelError, RecipeError
from realigner.recipe import ModelSettings, Recipe


def refuse_absent_extras(recipe: Recipe) -> None:
    """Refuse what needs a package that is not installed, or a device that is not there.

    Raises:
        ModelError: as `refuse_absent_quantiser` and `refuse_quantised_adapter`.
        RecipeError: `train.liger` without liger-kernel or without a GPU; `model.attention: flex` without a GPU; or as
            `refuse_unshardable`.
    """
    from realigner.model.load import refuse_quantised_adapter, resolve_device

    refuse_absent_quantiser(recipe.model)
    refuse_quantised_adapter(recipe.model)
    refuse_quantised_adapter(recipe.reference_model)
    refuse_unshardable(recipe)
    if recipe.model.attention == "flex" and (device := resolve_device(recipe.model)) != "cuda":
        raise RecipeError(
            f"model.attention = flex on {device}",
            "FlexAttention's kernels for training run on CUDA devices",
            "Set model.attention: auto, or use a GPU",
        )
    if not recipe.train.liger:
        return
    if find_spec("liger_kernel") is None:
        raise RecipeError(
            "train.liger = true",
            "its kernels are in liger-kernel, which is not installed",
            "pip install 'realigner[liger]', or leave it out",
        )
    if (device := resolve_device(recipe.model)) != "cuda":
        raise RecipeError(
            f"train.liger = true on {device}", "its kernels run on CUDA devices", "Leave it out, or use a GPU"
        )


def refuse_unshardable(recipe: Recipe) -> None:
    """Refuse what does not work with weights that are spread over processes.

    Raises:
        RecipeError: `model.shard` with a curvature, with Liger's kernels or on a device without process groups.
    """
    from realigner.model.load import resolve_device

    if not recipe.model.shard:
        return
    if recipe.impact.weighting == "impact" and recipe.impact.preconditioner != "identity":
        raise RecipeError(
            f"impact.preconditioner = {recipe.impact.preconditioner} with model.shard",
            "curvature is not computed with parameters spread over processes",
            "Use impact.preconditioner: identity",
        )
    if recipe.train.liger:
        raise RecipeError(
            "train.liger = true with model.shard",
            "its kernels take a loaded model's modules over, which has not been tried with spread parameters",
            "Leave one of them out",
        )
    if (device := resolve_device(recipe.model)) == "mps":
        raise RecipeError(
            f"model.shard on {device}", "processes cannot exchange tensors of such devices", "Set model.shard: false"
        )


def refuse_absent_quantiser(settings: ModelSettings) -> None:
    """Refuse quantised weights that nothing here can make.

    Raises:
        ModelError: `model.quantize` without bitsandbytes.
    """
    if settings.quantize is not None and find_spec("bitsandbytes") is None:
        raise ModelError(
            f"model.quantize = {settings.quantize}",
            "it needs bitsandbytes, which is not installed",
            "pip install 'realigner[qlora]', or leave it out",
        )
