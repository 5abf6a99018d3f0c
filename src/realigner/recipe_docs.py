"""docs/recipe.md, made from the schema and its docstrings: `python -m realigner.recipe_docs > docs/recipe.md`."""

from __future__ import annotations

import ast
import inspect
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from types import ModuleType
from typing import Any

from pydantic import BaseModel

from realigner import recipe, recipe_corrections, recipe_evaluate, recipe_judges, recipe_parts

_INTRODUCTION = """\
# The recipe

<!-- Made by `python -m realigner.recipe_docs > docs/recipe.md`. Change src/realigner/recipe*.py instead. -->

A recipe is one YAML file that decides a run. `realigner init DIR` writes one to start from; only `output`,
`model.path`, `data.path` and `policy.path` have to be given. The same schema is `realigner.recipe.Recipe` in Python,
and any key can be set on the command line:

```
realigner run recipe.yaml --set train.epochs=2 --set model.lora=null
```

Paths are relative to the recipe's folder. An unknown key, a missing one or a value out of range stops before anything
is done, and all faults are listed at once. `realigner check recipe.yaml` also looks at the files behind the keys.
"""
_KINDS = """\
# {Noun}s

Wherever the tables above say *a {noun}*, one of these sections stands; its `kind` says which.
"""
_JUDGE, _PAIR_JUDGE, _WRITER = "judge", "pairwise judge", "writer"
_TYPES = {"integer": "whole number", "number": "number", "boolean": "`true` or `false`", "string": "text"}
_BOUNDS = {"exclusiveMinimum": "> {}", "minimum": "≥ {}", "exclusiveMaximum": "< {}", "maximum": "≤ {}"}


def recipe_page() -> str:
    """Return docs/recipe.md: every key with its values, its default and its meaning."""
    return page_of(recipe.Recipe)


def page_of(root: type[BaseModel], *modules: ModuleType) -> str:
    """Return the page of any schema; the docstrings of its classes are read from `modules`, by default the recipe's."""
    schema = root.model_json_schema()
    sections = {root.__name__: schema, **schema.get("$defs", {})}
    names: dict[str, list[str]] = {}
    for dotted, title in _places(sections, root.__name__, ""):
        names.setdefault(title, []).append(dotted)
    meanings = _docstrings(modules or (recipe_parts, recipe_judges, recipe_corrections, recipe_evaluate, recipe))
    parts = [
        _section(sections, title, ", ".join(f"`{name}`" for name in dotted if name) or "Top level", meanings[title])
        for title, dotted in names.items()
    ]
    told: dict[str, str] = {}
    for noun, kinds in _kinds(sections).items():
        parts.append(_KINDS.format(noun=noun, Noun=noun.capitalize()))
        for kind, title in kinds.items():
            if title in told:
                parts.append(f"## A {noun} of kind `{kind}`\n\nThe same keys as a {told[title]} of kind `{kind}`.\n")
                continue
            told[title] = noun
            for dotted, inner in _places(sections, title, ""):
                heading = f"A {noun} of kind `{kind}`" + (f": `{dotted}`" if dotted else "")
                parts.append(_section(sections, inner, heading, meanings[inner]))
    return "\n".join([_INTRODUCTION, *parts])


def _kinds(sections: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Return the classes by kind of every union that is told apart by a key, under what its members are called."""
    found: dict[str, dict[str, str]] = {}
    for section in sections.values():
        for field in section.get("properties", {}).values():
            for option in (*field.get("anyOf", ()), field.get("items", {}), field):
                mapping = option.get("discriminator", {}).get("mapping", {})
                if mapping:
                    kinds = found.setdefault(_noun(mapping), {})
                    kinds |= {kind: _name_of(reference) for kind, reference in mapping.items()}
    return dict(sorted(found.items()))


def _noun(mapping: Mapping[str, str]) -> str:
    if any("Pair" in reference for reference in mapping.values()):
        return _PAIR_JUDGE
    return _WRITER if all(_WRITER in reference.lower() for reference in mapping.values()) else _JUDGE


def _name_of(reference: str) -> str:
    return reference.rpartition("/")[2]


def _places(sections: Mapping[str, Any], title: str, dotted: str) -> Iterator[tuple[str, str]]:
    """Yield the dotted key and the class of a section and of all sections inside it."""
    yield dotted, title
    for key, field in sections[title]["properties"].items():
        inner = _section_of(field)
        if inner:
            each = "[]" if "items" in field else ""
            yield from _places(sections, inner, f"{dotted}.{key}{each}".lstrip("."))


def _section(sections: Mapping[str, Any], title: str, heading: str, meanings: Mapping[str, str]) -> str:
    table = ["| key | value | default | meaning |", "|---|---|---|---|"]
    required = sections[title].get("required", [])
    for key, field in sorted(sections[title]["properties"].items(), key=lambda pair: pair[0] != "kind"):
        inner = _section_of(field)
        value = _value(field)
        defaults = sections[inner] if inner and "items" not in field else ""
        default = "**required**" if key in required else _default(field, defaults)
        meaning = meanings.get(key) or " ".join(sections[inner]["description"].split() if inner else ())
        table.append(
            "| " + " | ".join(text.replace("|", "\\|") for text in (f"`{key}`", value, default, meaning)) + " |"
        )
    return "\n".join([f"## {heading}", "", " ".join(meanings[""].split()), "", *table, ""])


def _section_of(field: Mapping[str, Any]) -> str:
    """Return the class of a field that is itself a section, or a list of sections, else an empty string."""
    found = [option["$ref"] for option in (*field.get("anyOf", [field]), field.get("items", {})) if "$ref" in option]
    return _name_of(found[0]) if found else ""


def _value(field: Mapping[str, Any]) -> str:
    """Return what a field may hold, e.g. `whole number ≥ 1 or null`."""
    if "anyOf" in field:
        return " or ".join(_value(option) for option in field["anyOf"])
    if "$ref" in field:
        return "a section"
    if "discriminator" in field:
        return f"a {_noun(field['discriminator']['mapping'])}"
    if "enum" in field or "const" in field:
        return ", ".join(f"`{word}`" for word in field.get("enum", [field.get("const")]))
    if field["type"] == "array":
        if "prefixItems" in field:
            return "list of " + ", ".join(_value(item) for item in field["prefixItems"])
        return f"list of {_value(field['items']).removeprefix('a ')}s"
    if field["type"] == "object":
        inner = field["additionalProperties"]
        return "mapping" if "$ref" in inner else f"mapping to {_value(inner)}"
    if field["type"] == "null":
        return "`null`"
    bounds = [text.format(field[name]) for name, text in _BOUNDS.items() if name in field]
    return " ".join([_TYPES[field["type"]], ", ".join(bounds)]).strip()


def _default(field: Mapping[str, Any], inner: Mapping[str, Any] | str) -> str:
    """Return a default as it would stand in the file; of a section, what differs from its own defaults."""
    value = field.get("default", {})
    if isinstance(inner, Mapping) and value is not None:
        value = {key: given for key, given in value.items() if given != inner["properties"][key].get("default", {})}
        return f"`{json.dumps(value)}`" if value else "its defaults"
    return f"`{value}`" if isinstance(value, str) and value else f"`{json.dumps(value)}`"


def _docstrings(modules: Iterable[ModuleType]) -> dict[str, dict[str, str]]:
    """Return the docstring below each field of each class of the modules, those of its base classes among them; a
    class's own is under the empty name.
    """
    found: dict[str, dict[str, str]] = {}
    for node in (node for module in modules for node in ast.parse(inspect.getsource(module)).body):
        if isinstance(node, ast.ClassDef):
            bases = [found[base.id] for base in node.bases if isinstance(base, ast.Name) and base.id in found]
            fields = found[node.name] = {key: text for base in bases for key, text in base.items()}
            fields[""] = ast.get_docstring(node) or ""
            for field, after in zip(node.body, node.body[1:], strict=False):
                if (
                    isinstance(field, ast.AnnAssign)
                    and isinstance(field.target, ast.Name)
                    and isinstance(after, ast.Expr)
                    and isinstance(after.value, ast.Constant)
                ):
                    fields[field.target.id] = " ".join(str(after.value.value).split())
    return found


if __name__ == "__main__":
    sys.stdout.write(recipe_page())
