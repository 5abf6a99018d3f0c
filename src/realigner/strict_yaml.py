"""YAML that users write: the safe loader, and a key given twice is an error instead of a silent loss of the first."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import yaml


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        if isinstance(node, yaml.MappingNode):
            seen = set()
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                    if key.value in seen:
                        problem = f"the key {key.value!r} is given twice"
                        raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
                    seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


def load_yaml(text: str) -> Any:
    """Return what a document says, as plain values.

    Raises:
        yaml.YAMLError: it is not YAML, has tags beyond plain values, or gives a key twice.
    """
    return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader


def yaml_fault(error: yaml.YAMLError) -> tuple[str, str]:
    """Return where a document is broken, as `, line 3` or nothing, and how, for an error message."""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or error
    return "" if mark is None else f", line {mark.line + 1}", f"it is not valid YAML ({problem})"
