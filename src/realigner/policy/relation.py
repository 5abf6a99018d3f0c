"""Whether an edited check matches more or less than before: only where that can be proved from the file."""

from __future__ import annotations

from typing import Literal

from realigner.policy.base import BaseCheck, Target
from realigner.policy.checks import AllCheck, AnyCheck, NotCheck
from realigner.policy.code import PythonCheck
from realigner.policy.text_checks import LengthCheck, ReadabilityCheck, TextCheck, WordsCheck
from realigner.policy.words import fold

Relation = Literal["same", "more", "less", "unknown"]
"""`more`: whatever the old check matched, the new one does too."""
_TURNED: dict[Relation, Relation] = {"same": "same", "more": "less", "less": "more", "unknown": "unknown"}


def same_check(old: BaseCheck | None, new: BaseCheck | None) -> bool:
    """Say whether two checks are written alike and call the same code."""
    if old is None or new is None:
        return old is new
    # Not `==`: it would also compare what each object compiled or imported for itself.
    return _written(old) == _written(new)


def relation(old: BaseCheck, new: BaseCheck, default: Target) -> Relation:
    """Return how what `new` matches lies to what `old` matches; `unknown` wherever there is no proof."""
    if same_check(old, new):
        return "same"
    if isinstance(old, PythonCheck) or isinstance(new, PythonCheck):
        return "unknown"  # by itself it may answer with a label, which it may not inside a combination
    if isinstance(old, NotCheck) and isinstance(new, NotCheck):
        return _TURNED[relation(old.negated, new.negated, default)]
    if isinstance(old, AnyCheck) or isinstance(new, AnyCheck):
        return _of_parts(_parts(old, AnyCheck), _parts(new, AnyCheck), default, added="more")
    if isinstance(old, AllCheck) or isinstance(new, AllCheck):
        return _of_parts(_parts(old, AllCheck), _parts(new, AllCheck), default, added="less")
    if not isinstance(old, TextCheck) or not isinstance(new, TextCheck):
        return "unknown"
    if (old.where or default) != (new.where or default):
        return "unknown"
    if isinstance(old, WordsCheck) and isinstance(new, WordsCheck):
        before, after = ({fold(word) for word in check.words} for check in (old, new))
        return _order(after >= before, after <= before)
    if isinstance(old, LengthCheck) and isinstance(new, LengthCheck) and old.length.unit == new.length.unit:
        return _bounds((old.length.min, old.length.max), (new.length.min, new.length.max))
    if isinstance(old, ReadabilityCheck) and isinstance(new, ReadabilityCheck):
        return _bounds((old.readability.min, old.readability.max), (new.readability.min, new.readability.max))
    return "unknown"


def _written(check: BaseCheck) -> tuple[object, list[str]]:
    code = [part.code_hash for part in check.walk() if isinstance(part, PythonCheck)]
    return check.model_dump(mode="json", by_alias=True, exclude_defaults=True), code


def _parts(check: BaseCheck, kind: type[AnyCheck] | type[AllCheck]) -> list[BaseCheck]:
    """Return the parts of a combination; any other check is its own only part."""
    if not isinstance(check, kind):
        return [check]
    return list(check.some if isinstance(check, AnyCheck) else check.every)


def _of_parts(old: list[BaseCheck], new: list[BaseCheck], default: Target, added: Relation) -> Relation:
    """Compare combinations: parts that both have fall away, and one changed part is compared by itself."""
    gone = [part for part in old if not any(same_check(part, other) for other in new)]
    come = [part for part in new if not any(same_check(part, other) for other in old)]
    if not gone and not come:
        return "same"
    if not gone:
        return added
    if not come:
        return _TURNED[added]
    if len(gone) == len(come) == 1 and not isinstance(gone[0], (AnyCheck, AllCheck)):
        return relation(gone[0], come[0], default)
    return "unknown"


def _bounds(old: tuple[float | None, float | None], new: tuple[float | None, float | None]) -> Relation:
    inf = float("inf")
    (a, b), (c, d) = ((-inf if low is None else low, inf if high is None else high) for low, high in (old, new))
    return _order(c <= a and d >= b, c >= a and d <= b)


def _order(superset: bool, subset: bool) -> Relation:
    if superset and subset:
        return "same"
    return "more" if superset else "less" if subset else "unknown"
