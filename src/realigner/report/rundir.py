"""Reading a run directory that may be incomplete: each part is there, or the page says why it is not.

Readers raise `NotMeasured`; `part` turns that into a `Part` that a template can show. Rows are streamed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import yaml

if TYPE_CHECKING:
    import pyarrow as pa

Value = TypeVar("Value")
BATCH_ROWS = 4096


class NotMeasured(Exception):
    """A part of the run is not there, or cannot be read; the message says which and is shown on the page."""


@dataclass(frozen=True)
class Part(Generic[Value]):
    """What a section found: a value, or the reason why there is none."""

    value: Value | None
    missing: str = ""


def part(build: Callable[[RunFiles], Value], run: RunFiles) -> Part[Value]:
    """Return what `build` makes of the run, or the reason why it could not."""
    try:
        return Part(build(run))
    except NotMeasured as reason:
        return Part(None, str(reason))


@dataclass(frozen=True)
class RunFiles:
    """The files of one run directory, each read when first asked for."""

    path: Path

    @cached_property
    def _parsed(self) -> dict[str, dict[str, Any]]:
        return {}

    @cached_property
    def _summary(self) -> dict[str, Any]:
        return _mapping(self._text("summary.json"), "summary.json", json.loads)

    @cached_property
    def _manifest(self) -> dict[str, Any]:
        return _mapping(self._text("manifest.json"), "manifest.json", json.loads)

    @cached_property
    def _recipe(self) -> dict[str, Any]:
        return _mapping(self.recipe_text, "recipe.yaml", yaml.safe_load)

    def json(self, name: str) -> dict[str, Any]:
        """Return a JSON object of the run directory, to be read and not changed.

        Raises:
            NotMeasured: the file is not there, or is no JSON object.
        """
        if name not in self._parsed:
            self._parsed[name] = _mapping(self._text(name), name, json.loads)
        return self._parsed[name]

    @cached_property
    def recipe_text(self) -> str:
        """The recipe as it was stored."""
        return self._text("recipe.yaml")

    def summary(self, *keys: str) -> Any:
        """Return the value at `keys` of summary.json.

        Raises:
            NotMeasured: the file or the value is not there.
        """
        return _at(self._summary, keys, "summary.json")

    def manifest(self, *keys: str) -> Any:
        """Return the value at `keys` of manifest.json.

        Raises:
            NotMeasured: the file or the value is not there.
        """
        return _at(self._manifest, keys, "manifest.json")

    def recipe(self, *keys: str) -> Any:
        """Return the value at `keys` of recipe.yaml.

        Raises:
            NotMeasured: the file or the value is not there.
        """
        return _at(self._recipe, keys, "recipe.yaml")

    def facts(self, stage: str) -> dict[str, Any]:
        """Return what a stage recorded about itself.

        Raises:
            NotMeasured: the manifest has no facts of this stage.
        """
        facts = self.manifest("stages", stage, "facts")
        if not isinstance(facts, dict):
            raise NotMeasured(f"manifest.json holds no facts of the stage '{stage}'")
        return facts

    def batches(self, name: str, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Stream some columns of a Parquet file. A column may be a leaf of a nested one (`verdicts.chosen.rule`).

        Raises:
            NotMeasured: the file or a column is not there, or the file is damaged.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = self._existing(name)
        try:
            with pq.ParquetFile(path) as file:
                leaves = {_leaf_name(file.schema.column(i).path) for i in range(len(file.schema))}
                for column in columns:
                    if not any(leaf == column or leaf.startswith(f"{column}.") for leaf in leaves):
                        raise NotMeasured(f"{name} has no column '{column}'")
                wanted = [
                    file.schema.column(i).path
                    for i in range(len(file.schema))
                    if any(f"{_leaf_name(file.schema.column(i).path)}.".startswith(f"{c}.") for c in columns)
                ]
                yield from file.iter_batches(batch_size=BATCH_ROWS, columns=wanted)
        except (pa.ArrowException, OSError) as error:
            raise NotMeasured(f"{name} cannot be read ({error})") from None

    def has_column(self, name: str, column: str) -> bool:
        """Say whether a Parquet file has a column; False also where it cannot be read."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return column in pq.read_schema(self._existing(name)).names
        except (NotMeasured, pa.ArrowException, OSError):
            return False

    def rows(self, name: str, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Stream rows with some columns as dictionaries; raises as `batches` does."""
        for batch in self.batches(name, columns):
            yield from batch.to_pylist()

    def steps(self) -> tuple[list[dict[str, Any]], int]:
        """Return the lines of metrics.jsonl and how many could not be read (a stopped run tears its last line).

        Raises:
            NotMeasured: the file is not there or holds no step.
        """
        steps, torn = [], 0
        with self._existing("metrics.jsonl").open("rb") as lines:
            for line in lines:
                if not line.strip():
                    continue
                try:
                    step = json.loads(line)
                except ValueError:
                    step = None
                if isinstance(step, dict):
                    steps.append(step)
                else:
                    torn += 1
        if not steps:
            raise NotMeasured("metrics.jsonl holds no training step")
        return steps, torn

    def _existing(self, name: str) -> Path:
        path = self.path / name
        if not path.is_file():
            raise NotMeasured(f"the run directory has no {name}")
        return path

    def _text(self, name: str) -> str:
        try:
            return self._existing(name).read_text(encoding="utf-8")
        except (UnicodeDecodeError, OSError) as error:
            raise NotMeasured(f"{name} cannot be read ({error})") from None


def mapping(value: Any) -> Mapping[str, Any]:
    """Return `value` if it is a mapping, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def number(value: Any) -> float | None:
    """Return `value` as a float if it is a finite number, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def items(value: Any) -> list[Any]:
    """Return `value` if it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def texts(value: Any) -> list[str]:
    """Return the items of a list as strings; of anything else, none."""
    return [str(item) for item in items(value)]


def _leaf_name(path: str) -> str:
    """`verdicts.chosen.list.element.rule` -> `verdicts.chosen.rule`."""
    return path.replace(".list.element", "").replace(".list.item", "")


def _mapping(text: str, name: str, parse: Callable[[str], Any]) -> dict[str, Any]:
    try:
        content = parse(text)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise NotMeasured(f"{name} cannot be read ({str(error).splitlines()[0]})") from None
    if not isinstance(content, dict):
        raise NotMeasured(f"{name} is not a mapping")
    return content


def _at(content: Any, keys: Sequence[str], name: str) -> Any:
    for depth, key in enumerate(keys):
        if not isinstance(content, Mapping) or content.get(key) is None:
            raise NotMeasured(f"{name} has no value '{'.'.join(keys[: depth + 1])}'")
        content = content[key]
    return content
