"""The manifest of a run: from which inputs each stage was computed, and on what."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from realigner.errors import RunDirError
from realigner.recipe import Recipe

FORMAT = 1
"""Version of the run directory's layout; see docs/run-directory.md."""

MANIFEST = "manifest.json"
UPSTREAM = "after"
"""The part of a stage's inputs that holds the keys of the stages before it."""

Inputs = Mapping[str, Any]
"""What a stage is computed from: nested JSON values. Its hash is the stage's key."""

_PACKAGES = ("realigner", "torch", "transformers", "peft", "accelerate", "datasets")


def key_of(inputs: Inputs) -> str:
    """Return the identity of a stage's inputs: 16 hex digits."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]


def stale_stages(records: Mapping[str, Mapping[str, Any]], inputs: Mapping[str, Inputs]) -> dict[str, list[str]]:
    """Return the finished stages that other inputs were given for, each with what changed (`loss.beta 0.3 -> 0.1`)."""
    stale = {}
    for name, record in records.items():
        if record["status"] == "done" and name in inputs and record["key"] != key_of(inputs[name]):
            stale[name] = differences(record["inputs"], inputs[name])
    return stale


def differences(old: Inputs, new: Inputs) -> list[str]:
    """Return what changed, as `loss.beta 0.3 -> 0.1`; changes of earlier stages are named there, not here."""
    before, after = _flat(old), _flat(new)
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    near = [name for name in names if not name.startswith(f"{UPSTREAM}.")]
    shown: dict[str, str] = {}
    for name in near:
        whole = _whole_section(name, before, after)
        if whole is None:
            shown[name] = f"{name} {_show(before, name)} -> {_show(after, name)}"
        elif whole != "":
            shown[whole] = f"{whole} none -> given" if name in after else f"{whole} given -> none"
    return list(shown.values())


def _whole_section(name: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> str | None:
    """Return the section that came or went with this leaf as a whole; None where the leaf alone changed.

    An empty string for what is left of a section that is empty now, or was: its leaves say so.
    """
    with_it, without = (after, before) if name in after else (before, after)
    if with_it[name] == {} and any(other.startswith(f"{name}.") for other in without):
        return ""
    parts = name.split(".")
    for depth in range(2, len(parts)):
        section = ".".join(parts[:depth])
        inside = [other for other in with_it if other.startswith(f"{section}.")]
        if len(inside) > 1 and not any(other == section or other.startswith(f"{section}.") for other in without):
            return section
    return None


def _flat(inputs: Inputs, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in inputs.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _show(flat: Mapping[str, Any], name: str) -> str:
    text = "none" if flat.get(name) is None else str(flat[name])
    return text if len(text) <= 40 else f"{text[:20]}…"


def read_manifest(directory: Path) -> dict[str, Any] | None:
    """Read a run directory's manifest, or return None if it has none.

    Raises:
        RunDirError: it is damaged, or of another layout.
    """
    path = directory / MANIFEST
    if not path.exists():
        return None
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        layout, stages = manifest["format"], manifest["stages"]
    except (ValueError, KeyError, TypeError):
        layout, stages = None, None
    if not isinstance(layout, int) or not isinstance(stages, dict):
        raise RunDirError(f"{path}", "it is no manifest of realigner", "Choose another `output`") from None
    if layout != FORMAT:
        raise RunDirError(
            f"{path}",
            f"its format is {layout}, this version of realigner reads {FORMAT}",
            "Choose another `output`",
        )
    return dict(manifest)


def new_manifest(recipe: Recipe) -> dict[str, Any]:
    """Return the manifest of a run that has not begun."""
    return {
        "format": FORMAT,
        "created": now(),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "versions": versions(),
        "platform": {
            "system": platform.platform(),
            "machine": platform.machine(),
            "processors": os.cpu_count(),
        },
        "seed": recipe.seed,
        "stages": {},
    }


def versions() -> dict[str, str]:
    """Return the versions that decide numbers, without importing anything heavy."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def now() -> str:
    """Return the time as ISO 8601, in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def finite(value: Any) -> Any:
    """Return a JSON value in which numbers that JSON cannot hold (nan, infinity) are null."""
    if isinstance(value, Mapping):
        return {str(name): finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
