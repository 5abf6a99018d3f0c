"""The policies that come with realigner, loaded by name: `realigner:house-style` stands wherever a path may."""

from __future__ import annotations

from importlib import resources
from importlib.resources.abc import Traversable

from realigner.errors import PolicyError, did_you_mean

PREFIX = "realigner:"


def is_shipped(path: object) -> bool:
    """Say whether a policy's path is the name of a shipped one."""
    return str(path).startswith(PREFIX)


def shipped_names() -> tuple[str, ...]:
    """Return the names of the shipped policies, with their prefix, sorted."""
    files = (resources.files("realigner") / "policies").iterdir()
    return tuple(sorted(PREFIX + file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml")))


def shipped_file(name: str) -> Traversable:
    """Return the file of a shipped policy.

    Raises:
        PolicyError: there is none of that name.
    """
    names = shipped_names()
    if name not in names:
        raise PolicyError(
            f"policy {name}",
            f"realigner ships {', '.join(names)}",
            f"Name one of them, or a file.{did_you_mean(name, names)}",
        )
    return resources.files("realigner") / "policies" / f"{name.removeprefix(PREFIX)}.yaml"


def shipped_hint(path: object) -> str:
    """Return " Did you mean 'realigner:…'?" for a file that is not there but has the name of a shipped policy."""
    name = PREFIX + str(path).replace("\\", "/").rsplit("/", 1)[-1].removesuffix(".yaml")
    return f" Did you mean '{name}', which comes with realigner?" if name in shipped_names() else ""
