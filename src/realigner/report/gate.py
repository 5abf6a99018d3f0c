"""A gate: conditions on figures in a YAML file, and whether a run meets them. What was not measured does not pass.

```yaml
gate:
  agreement.corrected.lower: ">= 0.85"
  utility.mmlu.diff.lower: ">= -0.01"
  stress.refusal_suppression.after.upper: ["<= 0.10", "< 1"]
```
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from realigner.errors import GateNotMet, InputError, did_you_mean
from realigner.report.figures import FIELDS, field_of, read_figures, refuse_unknown, why_missing
from realigner.report.interval import Figure
from realigner.report.rundir import NotMeasured, RunFiles, items, mapping
from realigner.strict_yaml import load_yaml, yaml_fault

VERDICT = "gate.json"
"""In the run directory: what became of the recipe's gate when the report was written."""
NO_VARIATION = "no variation"
"""The method of an interval without width: there was nothing to resample."""
HOLDS = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
_CONDITION = re.compile(r"\s*(>=|<=|>|<)\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*")
_REMEDY = 'Write e.g. `agreement.after.lower: ">= 0.85"`; see docs/evidence.md'


class GateError(InputError):
    """A gate file cannot be read, or a condition in it means nothing."""


@dataclass(frozen=True, slots=True)
class Condition:
    """One line of a gate file."""

    figure: str
    field: str
    sign: str
    bound: float

    @property
    def text(self) -> str:
        """The condition as the file has it: `agreement.after.lower >= 0.85`."""
        return f"{self.figure}.{self.field} {self.sign} {self.bound:g}"


@dataclass(frozen=True, slots=True)
class Checked:
    """A condition and what became of it."""

    condition: Condition
    value: float | None
    """None where it was not measured."""
    met: bool
    words: str
    """What was found, for people."""


@dataclass(frozen=True, slots=True)
class GateVerdict:
    """All conditions of a gate."""

    checked: tuple[Checked, ...]

    @property
    def met(self) -> bool:
        """Whether every condition holds."""
        return all(check.met for check in self.checked)

    @property
    def unmet(self) -> list[Checked]:
        """The conditions that do not hold, not measured ones included."""
        return [check for check in self.checked if not check.met]

    def lines(self) -> list[str]:
        """Return the verdict for people."""
        lines = [f"{'met' if c.met else 'NOT MET':<8} {c.condition.text}: {c.words}" for c in self.checked]
        total = len(self.checked)
        last = f"all {total} conditions hold" if self.met else f"{len(self.unmet)} of {total} conditions do not hold"
        return [*lines, last]

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "met": self.met,
            "conditions": [
                {
                    "figure": c.condition.figure,
                    "field": c.condition.field,
                    "condition": f"{c.condition.sign} {c.condition.bound:g}",
                    "value": c.value,
                    "met": c.met,
                    "found": c.words,
                }
                for c in self.checked
            ],
        }


def read_gate(path: str | Path) -> tuple[Condition, ...]:
    """Read a gate file.

    Raises:
        GateError: it cannot be read, names nothing, or a condition is no comparison with a number.
        FigureError: a condition names a figure that no run can have.
    """
    path = Path(path)
    try:
        content = load_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise GateError(f"gate {path}", f"it cannot be read ({error.strerror})", "Check the path") from None
    except UnicodeDecodeError:
        raise GateError(f"gate {path}", "it is not UTF-8", "Save it as UTF-8") from None
    except yaml.YAMLError as error:
        line, fault = yaml_fault(error)
        raise GateError(f"gate {path}{line}", fault, "Mend the line") from None
    named = content.get("gate") if isinstance(content, dict) else None
    if not isinstance(named, dict) or not named or len(content) > 1:
        raise GateError(f"gate {path}", "it must be one mapping `gate:` from figures to conditions", _REMEDY)
    found = []
    for name, texts in named.items():
        figure, field = _split(str(name))
        refuse_unknown(figure)
        for text in texts if isinstance(texts, list) and texts else [texts]:
            match = _CONDITION.fullmatch(text) if isinstance(text, str) else None
            if match is None or not math.isfinite(float(match[2])):
                rule = "a condition is >=, <=, > or < and a number, in quotes"
                raise GateError(f"gate {path}: {name}: {text!r}", rule, _REMEDY)
            found.append(Condition(figure, field, match[1], float(match[2])))
    return tuple(found)


def check_gate(run_dir: str | Path, conditions: Sequence[Condition]) -> GateVerdict:
    """Hold a run against a gate. A figure that was not measured, or has no interval, does not pass.

    Raises:
        GateError: a condition on a share could never fail, or never hold.
    """
    run = RunFiles(Path(run_dir))
    figures = read_figures(run)
    return GateVerdict(tuple(_check(run, condition, figures) for condition in conditions))


def refuse_unmet(run_dir: str | Path, gate: str | Path) -> None:
    """Raise unless a run meets the gate.

    Raises:
        GateNotMet: with every condition that does not hold.
        GateError: the gate cannot be used.
    """
    verdict = check_gate(run_dir, read_gate(gate))
    if not verdict.met:
        told = "; ".join(f"{check.condition.text} ({check.words})" for check in verdict.unmet)
        raise GateNotMet(f"gate {gate}: {told}", "every condition must hold", f"Look at {run_dir}/report.html")


@dataclass(frozen=True, slots=True)
class StoredCheck:
    """A condition as `gate.json` has it."""

    condition: str
    found: str
    met: bool


def read_verdict_of_gate(run: RunFiles) -> tuple[StoredCheck, ...]:
    """Return what the stage `report` found of the recipe's gate.

    Raises:
        NotMeasured: no gate was held against the run.
    """
    checks = [mapping(item) for item in items(run.json(VERDICT).get("conditions"))]
    if not checks:
        raise NotMeasured(f"{VERDICT} holds no condition")
    return tuple(
        StoredCheck(
            condition=f"{check.get('figure')}.{check.get('field')} {check.get('condition')}",
            found=str(check.get("found") or "not recorded"),
            met=check.get("met") is True,
        )
        for check in checks
    )


def _check(run: RunFiles, condition: Condition, figures: Mapping[str, Figure]) -> Checked:
    figure = figures.get(condition.figure)
    if figure is None:
        return Checked(condition, None, False, f"not measured: {why_missing(run, condition.figure, figures)}")
    if figure.unit == "share" and condition.field in ("value", "lower", "upper") and abs(condition.bound) > 1:
        raise GateError(condition.text, "a share lies between 0 and 1 (a change of one: between -1 and 1)", _REMEDY)
    value = field_of(figure, condition.field)
    if condition.field in ("lower", "upper") and figure.interval.method == NO_VARIATION:
        why = f"all {figure.interval.n} items came out alike, so that its interval says nothing of others"
        return Checked(condition, None, False, f"not measured: {why}")
    if value is None:
        missing = {"lower": "it has no interval", "upper": "it has no interval"}.get(
            condition.field, "it was not given"
        )
        return Checked(condition, None, False, f"not measured: {missing}")
    met = HOLDS[condition.sign](value, condition.bound)
    found = figure.interval
    around = "" if found.low is None or found.high is None else f", interval {found.low:.4g} to {found.high:.4g}"
    of = "" if found.n is None else f", n {found.n}"
    own = "" if condition.field == "value" else f"{condition.field} {value:.4g}, "
    return Checked(condition, value, met, f"{own}value {found.value:.4g}{around}{of}")


def _split(name: str) -> tuple[str, str]:
    figure, _, field = name.rpartition(".")
    if figure and field in FIELDS:
        return figure, field
    near = did_you_mean(field, FIELDS)
    raise GateError(
        f"gate: '{name}'",
        f"a condition names a figure and one of its fields: {', '.join(FIELDS)}",
        f"Write e.g. agreement.after.lower.{near}",
    )
