"""What the stage `measure` measures: one section a part; a part whose section is `null` is not measured.

A section enters `EvaluateSettings` (as `NAME: XSettings | None = None`) together with the part that reads it
(`evaluate/parts.py: PARTS`), so that a recipe can name only what there is.
"""

from __future__ import annotations

from realigner.recipe_parts import FilePath, PositiveInt, Section


class UtilitySettings(Section):
    """What the model can still do: benchmark tasks before and after."""

    tasks: tuple[str, ...] = ("mmlu", "hellaswag", "gsm8k")
    """Names of tasks."""
    limit: PositiveInt | None = None
    """Documents of a task. `null`: all."""


class ValuesSettings(Section):
    """Which values moved: statements scored by log-likelihood, before and after."""

    items: tuple[FilePath, ...]
    """Files of statements."""


class InsideSettings(Section):
    """The direction between compliant and non-compliant responses in hidden states, before and after."""

    pairs: PositiveInt = 100
    """Responses of each kind."""
