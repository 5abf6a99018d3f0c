"""The checks that rules are made of, and how they combine.

To add a check: a class like those of `text_checks`, one line in `KINDS`, one alternative in `Check`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag

from realigner.policy.base import BaseCheck, Finding, Target, yes_or_no
from realigner.policy.code import PythonCheck
from realigner.policy.text_checks import LengthCheck, ReadabilityCheck, RegexCheck, WordsCheck
from realigner.records import Judgement, Label


class _Combined(BaseCheck):
    """Several checks in one. A part without an answer matters only where the other parts do not decide."""

    def _members(self) -> tuple[BaseCheck, ...]:
        raise NotImplementedError

    def walk(self) -> Iterator[BaseCheck]:
        """Yield this check and every check inside it."""
        yield self
        for member in self._members():
            yield from member.walk()

    def _combine(self, question: Judgement, default: Target, decisive: bool) -> Finding:
        """Return the first finding that equals `decisive`; without one, one without an answer; else all."""
        findings = []
        for member in self._members():
            finding = yes_or_no(member.find(question, default))
            if finding.matched is decisive:
                return finding
            findings.append(finding)
        unanswered = [finding for finding in findings if finding.matched is None]
        if unanswered:
            return next((finding for finding in unanswered if finding.label is Label.INVALID), unanswered[0])
        return Finding(not decisive, " and ".join(finding.fact for finding in findings))


class AllCheck(_Combined):
    """Matches where every part matches."""

    every: tuple[Check, ...] = Field(alias="all", min_length=1)

    def _members(self) -> tuple[BaseCheck, ...]:
        return self.every

    def find(self, question: Judgement, default: Target) -> Finding:
        """Stop at the first part that does not match."""
        return self._combine(question, default, decisive=False)


class AnyCheck(_Combined):
    """Matches where at least one part matches."""

    some: tuple[Check, ...] = Field(alias="any", min_length=1)

    def _members(self) -> tuple[BaseCheck, ...]:
        return self.some

    def find(self, question: Judgement, default: Target) -> Finding:
        """Stop at the first part that matches."""
        return self._combine(question, default, decisive=True)


class NotCheck(_Combined):
    """Matches where its part does not."""

    negated: Check = Field(alias="not")

    def _members(self) -> tuple[BaseCheck, ...]:
        return (self.negated,)

    def find(self, question: Judgement, default: Target) -> Finding:
        """Turn yes into no; no answer stays no answer."""
        finding = yes_or_no(self.negated.find(question, default))
        return finding if finding.matched is None else finding._replace(matched=not finding.matched)


KINDS: dict[str, type[BaseCheck]] = {
    "regex": RegexCheck,
    "words": WordsCheck,
    "length": LengthCheck,
    "readability": ReadabilityCheck,
    "python": PythonCheck,
    "all": AllCheck,
    "any": AnyCheck,
    "not": NotCheck,
}


def _kind_of(value: Any) -> str | None:
    """Return the tag of a check's kind: its one telling key, in brackets so that error places can leave it out."""
    if isinstance(value, BaseCheck):
        return next(f"<{name}>" for name, kind in KINDS.items() if isinstance(value, kind))
    found = [name for name in KINDS if name in value] if isinstance(value, dict) else []
    return f"<{found[0]}>" if len(found) == 1 else None


Check = Annotated[
    Annotated[RegexCheck, Tag("<regex>")]
    | Annotated[WordsCheck, Tag("<words>")]
    | Annotated[LengthCheck, Tag("<length>")]
    | Annotated[ReadabilityCheck, Tag("<readability>")]
    | Annotated[PythonCheck, Tag("<python>")]
    | Annotated[AllCheck, Tag("<all>")]
    | Annotated[AnyCheck, Tag("<any>")]
    | Annotated[NotCheck, Tag("<not>")],
    Discriminator(_kind_of, custom_error_type="check_kind", custom_error_message="not a check"),
]

for _model in (AllCheck, AnyCheck, NotCheck):
    _model.model_rebuild()
