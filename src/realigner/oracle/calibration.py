"""From a model's log-odds to a probability that can be believed: p = σ(slope · log-odds + offset), fitted to labels.

Platt scaling (both parameters) or temperature scaling (slope 1/T, no offset), by maximum likelihood. With Platt the
labels are softened as its author proposed, so that few examples do not give certainty.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from realigner import atomic
from realigner.errors import OracleError

FORMAT = 1
LEAST = 10
"""Examples; fewer say nothing."""
FOLDS = 5
Method = Literal["platt", "temperature"]


@dataclass(frozen=True, slots=True)
class Calibration:
    """A fitted scale, and what it was fitted for."""

    slope: float = 1.0
    """Per nat of log-odds; above 0."""
    offset: float = 0.0
    """In nats."""
    judge: str = ""
    """The identity of the uncalibrated judge."""
    method: str = "none"
    examples: int = 0
    log_loss_before: float | None = None
    """Mean, in nats an example."""
    log_loss_after: float | None = None
    """The same with the scale, each example scored by a scale fitted without it (5 folds)."""

    def probability(self, log_odds: float) -> float:
        """Return the probability of compliance."""
        return _sigmoid(self.slope * log_odds + self.offset)

    @property
    def identity(self) -> str:
        """Slope and offset in full: nothing else of it changes a verdict."""
        return f"{self.slope!r},{self.offset!r}"

    def save(self, path: str | Path) -> None:
        """Write a JSON file that `load` reads back."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        atomic.write_text(Path(path), json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n")

    @classmethod
    def load(cls, path: str | Path, judge: str) -> Calibration:
        """Read a file of `save`.

        Args:
            path: the file.
            judge: the identity of the judge that is to use it.

        Raises:
            OracleError: there is no such file, it is something else, or it was fitted for another judge.
        """
        remedy = "Make it with: realigner calibrate RECIPE --output FILE"
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise OracleError(f"calibration {path}", f"it cannot be read ({error.strerror})", remedy) from None
        except ValueError:
            raise OracleError(f"calibration {path}", "it is not JSON", remedy) from None
        calibration = _read(content)
        if calibration is None:
            raise OracleError(f"calibration {path}", "it is no calibration of this version", remedy)
        if calibration.judge != judge:
            raise OracleError(
                f"calibration {path}, fitted for {calibration.judge}",
                f"the judge is {judge}, whose log-odds mean something else",
                "Fit it again: realigner calibrate RECIPE --output FILE",
            )
        return calibration


def _read(content: Any) -> Calibration | None:
    names = Calibration.__dataclass_fields__
    if not isinstance(content, Mapping) or content.get("format") != FORMAT or set(content) != {"format", *names}:
        return None
    numbers = (content["slope"], content["offset"])
    if not all(isinstance(number, int | float) and math.isfinite(number) for number in numbers) or numbers[0] <= 0:
        return None
    return Calibration(**{name: content[name] for name in names})


def fit(log_odds: Sequence[float], compliant: Sequence[bool], method: Method, judge: str) -> Calibration:
    """Fit a scale to labelled examples.

    Args:
        log_odds: the model's, for compliance, in nats.
        compliant: the labels.
        method: `platt` needs examples of both classes, `temperature` too, to tell a good scale from a large one.
        judge: the identity of the uncalibrated judge.

    Raises:
        OracleError: too few examples, one class only, or log-odds that do not rise with compliance.
    """
    counts = (sum(compliant), len(compliant) - sum(compliant))
    given = f"{counts[0]} compliant and {counts[1]} non_compliant examples"
    if len(compliant) < LEAST or min(counts) < 2:
        raise OracleError(given, f"a calibration needs at least {LEAST}, and 2 of each label", "Give more examples")
    slope, offset = _fitted(log_odds, compliant, method)
    if slope <= 0:
        raise OracleError(
            f"{given}: the judge's log-odds do not rise with compliance (slope {slope:.3g})",
            "such a judge knows nothing that a calibration could bring out",
            "Choose another model, or look at its prompt and at the labels",
        )
    return Calibration(
        slope,
        offset,
        judge,
        method,
        len(compliant),
        log_loss([_sigmoid(value) for value in log_odds], compliant),
        log_loss(_held_out(log_odds, compliant, method), compliant),
    )


def log_loss(probabilities: Sequence[float], compliant: Sequence[bool]) -> float:
    """Return the mean of −log p(label), in nats; probabilities are kept 1e-12 away from 0 and 1."""
    chances = (p if label else 1.0 - p for p, label in zip(probabilities, compliant, strict=True))
    return -sum(math.log(min(max(p, 1e-12), 1.0)) for p in chances) / len(compliant)


def _held_out(log_odds: Sequence[float], compliant: Sequence[bool], method: Method) -> list[float]:
    """Return the probability of each example under a scale that was fitted without it."""
    # Folds go through each class in turn, so that none lacks a class.
    order = sorted(range(len(compliant)), key=lambda place: (compliant[place], place))
    fold = {place: number % FOLDS for number, place in enumerate(order)}
    found = [0.0] * len(compliant)
    for number in range(FOLDS):
        kept = [place for place in order if fold[place] != number]
        slope, offset = _fitted([log_odds[p] for p in kept], [compliant[p] for p in kept], method)
        for place in order:
            if fold[place] == number:
                found[place] = _sigmoid(slope * log_odds[place] + offset)
    return found


def _fitted(log_odds: Sequence[float], compliant: Sequence[bool], method: Method) -> tuple[float, float]:
    """Return (slope, offset) of greatest likelihood."""
    import numpy as np
    from scipy.optimize import minimize

    odds, labels = np.asarray(log_odds, dtype=float), np.asarray(compliant, dtype=bool)
    good = int(labels.sum())
    bad = len(labels) - good
    # Platt's targets: the posterior mean of each class under a uniform prior, instead of 1 and 0.
    targets = np.where(labels, (good + 1) / (good + 2), 1 / (bad + 2))

    def loss(parameters: Any) -> tuple[float, Any]:
        slope, offset = (parameters[0], parameters[1]) if method == "platt" else (parameters[0], 0.0)
        z = slope * odds + offset
        # −[t log σ(z) + (1 − t) log(1 − σ(z))] = log(1 + e^z) − t z
        value = float(np.sum(np.logaddexp(0.0, z) - targets * z))
        residual = 1.0 / (1.0 + np.exp(-np.clip(z, -700, 700))) - targets
        gradient = [float(np.sum(residual * odds)), float(np.sum(residual))]
        return value, np.array(gradient[: len(parameters)])

    start = np.zeros(2 if method == "platt" else 1)
    found = minimize(loss, start, jac=True, method="BFGS", options={"gtol": 1e-8})
    slope, *offset = (float(value) for value in found.x)
    return slope, offset[0] if offset else 0.0


def _sigmoid(value: float) -> float:
    return 1.0 / (1.0 + math.exp(-value)) if value >= 0 else math.exp(value) / (1.0 + math.exp(value))
