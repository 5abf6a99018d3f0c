"""Every exception a user can meet. A message names what was given, the rule it broke, and the remedy."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class RealignerError(Exception):
    """Base of all errors raised on purpose; `exit_code` is what the command line returns.

    Args:
        given: what was found, with its value and place.
        rule: the rule that it breaks.
        remedy: what the user can do now.
    """

    exit_code = 1

    def __init__(self, given: str, rule: str, remedy: str) -> None:
        self.given, self.rule, self.remedy = given, rule, remedy
        end = "" if rule.endswith((".", "?")) else "."
        super().__init__(f"{given}: {rule}{end} {remedy}".rstrip())

    def __reduce__(self) -> tuple[type[RealignerError], tuple[str, str, str]]:
        """Let the error pass between processes: an exception is made again from its arguments, not its message."""
        return type(self), (self.given, self.rule, self.remedy)


class InputError(RealignerError):
    """Something the user gave is wrong (exit code 2)."""

    exit_code = 2


class RecipeError(InputError):
    """The recipe is missing a key, misspells one, or gives it a value out of range."""


class DataError(InputError):
    """The preference data cannot be read as pairs."""


class PolicyError(InputError):
    """The policy file is not a valid policy."""


class OracleError(InputError):
    """The oracle cannot be built or asked as configured."""


class JudgeError(RealignerError):
    """A judge that had been reached stopped answering. What it had answered is kept; the same command goes on."""


class TemplateError(InputError):
    """Text cannot be turned into tokens and a response mask without guessing."""


class ModelError(InputError):
    """The model or its adapter cannot be loaded or trained as asked."""


class GoldError(InputError):
    """The gold batch cannot be drawn from the triaged pairs."""


class WeightsError(InputError):
    """The impact weights leave nothing to train on."""


class ReviewError(InputError):
    """A study, its answers, or what was asked of them is wrong."""


class StaleKeyError(InputError):
    """A stored stage was computed from other inputs than the ones given now."""


class RunDirError(InputError):
    """The run directory is in use, incomplete, or belongs to another recipe."""


class DiskError(InputError):
    """There is not enough room to write what the run will write."""


class AuditError(InputError):
    """An audit cannot be drawn or scored from what was given."""


class TrainingDiverged(RealignerError):
    """A loss became infinite or not a number; the message names the examples."""


class LimitReached(RealignerError):
    """A limit on calls or money would be passed, or is reached (exit code 3). What was answered is kept."""

    exit_code = 3


class GateNotMet(RealignerError):
    """A stated requirement does not hold, or nothing shows yet that it does (exit code 3)."""

    exit_code = 3


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the nearest known word, or an empty string."""
    near = get_close_matches(word, list(known), n=1)
    return f" Did you mean '{near[0]}'?" if near else ""
