"""Reading the policy file, and saying in plain words what is wrong with it: all faults in one message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from realigner.errors import PolicyError, did_you_mean
from realigner.policy.checks import KINDS
from realigner.policy.shipped import is_shipped, shipped_file, shipped_hint
from realigner.strict_yaml import load_yaml, yaml_fault


def read_policy_file(path: str | Path) -> dict[str, Any]:
    """Return the content of a policy file, or of a shipped policy (`realigner:NAME`), as plain values.

    Raises:
        PolicyError: no such file, a directory, not UTF-8, not YAML (with the line), or not a mapping.
    """
    given = f"policy {path}"
    file: Path | Traversable = shipped_file(str(path)) if is_shipped(path) else Path(path)
    try:
        content = load_yaml(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PolicyError(
            given, "no such file", f"Check the path, or write one with `realigner init DIR`.{shipped_hint(path)}"
        ) from None
    except IsADirectoryError:
        raise PolicyError(given, "it is a directory", "Name the policy's YAML file") from None
    except UnicodeDecodeError as error:
        raise PolicyError(f"{given}, byte {error.start}", "it is not UTF-8", "Save it as UTF-8") from None
    except yaml.YAMLError as error:
        line, fault = yaml_fault(error)
        raise PolicyError(f"{given}{line}", fault, "Correct the line; quote text with special signs") from None
    except OSError as error:
        raise PolicyError(given, f"it cannot be read ({error.strerror})", "Check its permissions") from None
    if not isinstance(content, dict):
        raise PolicyError(given, "a policy is a mapping with id, version, title and rules", "See docs/policy.md")
    return content


def explain(error: ValidationError, content: Mapping[str, Any], source: str, model: type[BaseModel]) -> PolicyError:
    """Return one error that names the place (by rule id), the value and the remedy of every fault."""
    lines = [
        _explain_fault(dict(fault), content, model).rstrip(".")
        for fault in error.errors(include_url=False)
        # pydantic also calls a list too short when it is all its entries that are faulty
        if not (fault["type"] == "too_short" and fault["input"])
    ]
    faults = lines[0] if len(lines) == 1 else f"{len(lines)} faults\n- " + "\n- ".join(lines)
    return PolicyError(f"policy {source}", faults, "docs/policy.md describes every key")


def _explain_fault(fault: dict[str, Any], content: Mapping[str, Any], model: type[BaseModel]) -> str:
    location: Sequence[str | int] = fault["loc"]
    place, value, kind = _place(location, content), fault["input"], fault["type"]
    if kind == "extra_forbidden":
        known = _known_keys(location[:-1], model)
        return f"{place}: unknown key.{did_you_mean(str(location[-1]), known)}"
    if kind == "missing":
        return f"{place}: missing"
    if kind == "check_kind":
        return f"{place}: {_explain_check(value)}"
    message = fault["msg"].removeprefix("Value error, ")
    if kind == "value_error":
        return f"{place}: {message}"
    if kind == "string_type" and isinstance(value, (bool, int, float)):
        return f"{place}: {value!r} was read as {type(value).__name__}, not as text; put it in quotes"
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        message = "must be a mapping of keys and values"
    if kind in ("too_short", "string_too_short"):
        return f"{place}: needs at least one {'character' if kind.startswith('string') else 'entry'}"
    return f"{place}: {value!r}: {message}"


def _explain_check(value: Any) -> str:
    kinds = ", ".join(KINDS)
    if not isinstance(value, dict):
        return f"{value!r} is not a check; write a mapping with one of {kinds}"
    found = [name for name in KINDS if name in value]
    if len(found) > 1:
        return f"one check cannot be {' and '.join(found)} at once; combine them with all, any or not"
    guess = next((hint for key in value if (hint := did_you_mean(str(key), KINDS))), "")
    return f"keys {', '.join(map(repr, value)) or '(none)'} name no check; use one of {kinds}.{guess}"


def _place(location: Sequence[str | int], content: Mapping[str, Any]) -> str:
    """Return "rule 'r1': forbid.any[2].regex"; kinds of checks stand in brackets in a location and are left out."""
    parts = [part for part in location if not str(part).startswith("<")]
    rule = ""
    if len(parts) > 1 and parts[0] == "rules" and isinstance(parts[1], int):
        rule, parts = f"rule {_rule_name(content, parts[1])}", parts[2:]
    path = "".join(f"[{part + 1}]" if isinstance(part, int) else f".{part}" for part in parts).lstrip(".")
    return ": ".join(text for text in (rule, path) if text) or "the file"


def _rule_name(content: Mapping[str, Any], index: int) -> str:
    try:
        return repr(str(content["rules"][index]["id"]))
    except (KeyError, TypeError, IndexError):
        return f"number {index + 1}"


def _known_keys(location: Sequence[str | int], model: type[BaseModel]) -> list[str]:
    """Return the keys that may stand at a location, by walking the models' annotations."""
    here: Any = model
    for part in location:
        if isinstance(part, int):
            continue
        if part.startswith("<"):
            here = KINDS[part.strip("<>")]
            continue
        fields = getattr(here, "model_fields", {})
        field = next((f for name, f in fields.items() if part == (f.alias or name)), None)
        if field is None:
            return []
        nested = [field.annotation, *getattr(field.annotation, "__args__", ())]
        here = next((candidate for candidate in nested if hasattr(candidate, "model_fields")), here)
    return [field.alias or name for name, field in getattr(here, "model_fields", {}).items()]
