"""What every section of the recipe is made of: strictness, ranges, and the marks of values that are paths."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
PositiveInt = Annotated[int, Field(ge=1)]

PathMark = Literal["path: a file", "path: a file or a hub id"]
A_FILE: PathMark = "path: a file"
A_FILE_OR_ID: PathMark = "path: a file or a hub id"

FilePath = Annotated[str, A_FILE]
"""A path relative to the recipe's folder. Only `OptionalFilePath` marks one that may be null."""
OptionalFilePath = Annotated[str | None, A_FILE]
FileOrId = Annotated[str, A_FILE_OR_ID]
"""A path if it looks like one (`.`, `~`, `/`) or is there beside the recipe; otherwise it stays as it is."""
OptionalFileOrId = Annotated[str | None, A_FILE_OR_ID]


class Section(BaseModel):
    """A part of the recipe: frozen, and strict about unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def place_paths(section: Section, place: Callable[[str, PathMark], str]) -> Section:
    """Return the section with every marked path, at any depth, put through `place`."""
    changes: dict[str, Any] = {}
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        mark = next((mark for mark in field.metadata if mark in (A_FILE, A_FILE_OR_ID)), None)
        if mark is not None and value is not None:
            changes[name] = place(value, mark)
        elif isinstance(value, Section):
            changes[name] = place_paths(value, place)
        elif isinstance(value, tuple) and any(isinstance(item, Section) for item in value):
            changes[name] = tuple(place_paths(item, place) if isinstance(item, Section) else item for item in value)
    return section.model_copy(update=changes)
