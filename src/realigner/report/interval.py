"""An estimate with its interval, as every figure of the report is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from realigner.report.rundir import NotMeasured, number

Unit = Literal["share", "plain"]
PER_CENT = "\u00a0%"


@dataclass(frozen=True)
class Interval:
    """A value, its interval, the number of units behind it, and how the interval was made."""

    value: float
    low: float | None
    high: float | None
    n: int | None
    method: str

    def shown(self, unit: Unit) -> str:
        """Return the value for people: a share as per cent, anything else to three significant digits."""
        return _figure(self.value, unit)

    def shown_range(self, unit: Unit) -> str:
        """Return the interval for people, or say that there is none."""
        if self.low is None or self.high is None:
            return "no interval"
        low, high = _figure(self.low, unit), _figure(self.high, unit)
        if self.low < 0:
            return f"{low} to {high}"  # a dash would read as a second minus
        return f"{low.removesuffix(PER_CENT)}–{high}"


@dataclass(frozen=True)
class BeforeAfter:
    """The same figure for the model as it was and as it became. Either may be absent."""

    before: Interval | None
    after: Interval | None

    @property
    def both(self) -> tuple[Interval, Interval]:
        """The pair of intervals.

        Raises:
            NotMeasured: one is absent.
        """
        if self.before is None or self.after is None:
            raise NotMeasured("there is no figure for the model " + ("after" if self.before else "before"))
        return self.before, self.after


@dataclass(frozen=True)
class Figure:
    """An interval with what else is known of it: how gates, tables, card and comparisons see a measurement."""

    interval: Interval
    unit: str = "share"
    """`share` (0 to 1), or what one is a unit of: `nats`, `points`, ..."""
    p: float | None = None
    p_holm: float | None = None
    """p corrected for the number of tests of its family."""
    margin: float | None = None
    """How much worse still counts as no worse."""
    non_inferior: bool | None = None
    seed: int | None = None

    @property
    def shown_unit(self) -> Unit:
        """How its numbers are written."""
        return "share" if self.unit == "share" else "plain"


def read_figure(content: Any, unit: str = "plain") -> Figure | None:
    """Return the figure in `{value, low, high, n, method, unit, p, ...}`; None where its value is no finite number."""
    interval = read_interval(content)
    if interval is None:
        return None
    seed, judged = number(content.get("seed")), content.get("non_inferior")
    if "Wilson" in interval.method:
        unit = "share"  # Wilson's interval is of nothing else
    return Figure(
        interval,
        unit=str(content.get("unit") or unit),
        p=number(content.get("p")),
        p_holm=number(content.get("p_holm")),
        margin=number(content.get("margin")),
        non_inferior=judged if isinstance(judged, bool) else None,
        seed=None if seed is None else int(seed),
    )


def read_interval(content: Any) -> Interval | None:
    """Return the interval in `{value, low, high, n, method}`, or None where its value is not a finite number."""
    if not isinstance(content, Mapping):
        return None
    value, n = number(content.get("value")), number(content.get("n"))
    if value is None:
        return None
    low, high = number(content.get("low")), number(content.get("high"))
    if low is None or high is None:
        low = high = None
    method = content.get("method")
    return Interval(value, low, high, None if n is None else int(n), str(method) if method else "method not stated")


def read_before_after(content: Any) -> BeforeAfter:
    """Return the two intervals in `{before, after}`; what is not there is None."""
    content = content if isinstance(content, Mapping) else {}
    return BeforeAfter(read_interval(content.get("before")), read_interval(content.get("after")))


def _figure(value: float, unit: Unit) -> str:
    if unit == "share":
        return f"{100 * value:z.1f}{PER_CENT}".replace("-", "−")
    if value == 0:
        return "0"
    text = f"{value:#.3g}".rstrip(".") if 1e-4 <= abs(value) < 1e3 else f"{value:.3g}"
    return text.replace("-", "−")
