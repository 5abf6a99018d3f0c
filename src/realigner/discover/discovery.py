"""What was discovered: the rules with their figures, the biases, and whether it may be called the old policy."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from realigner.atomic import write_text
from realigner.discover.bias import Bias
from realigner.discover.candidate import Candidate
from realigner.discover.pointwise import EVIDENCE, policy_yaml
from realigner.discover.validate import FLOOR, LEAST_KEPT, RuleFigures
from realigner.evaluate.statistics import Interval
from realigner.policy import Policy

SHOWN_LEADS = 8
FORMAT = 1
"""Of the JSON file."""


@dataclass(frozen=True)
class FoundRule:
    """One kept rule with what is known about it."""

    id: str
    candidate: Candidate
    weight: float
    figures: RuleFigures
    with_length: str
    reproduced: float | None
    """Share of held-out pairs on which judging each response alone gives the pair's vote; None for rules of form, which
    compare and are not written into a policy."""
    supports: tuple[str, ...]
    """Ids of ALL pairs whose old preference the rule supports."""
    opposes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "id": self.id,
            "text": self.candidate.text,
            "kind": self.candidate.kind,
            "members": list(self.candidate.members),
            "weight": self.weight,
            "length": self.with_length,
            "reproduced": self.reproduced,
            **self.figures.as_dict(),
            "supports": list(self.supports),
            "opposes": list(self.opposes),
        }


@dataclass(frozen=True)
class Lead:
    """A candidate that was not kept: it says nothing that the kept rules do not, or too little to be sure."""

    text: str
    support: int
    """Validation pairs for it."""
    oppose: int


@dataclass(frozen=True)
class Discovery:
    """The result of `discover`."""

    policy: Policy | None
    """The content rules as a policy; None if there are none. Whether it may be called the old one: `recovered`."""
    rules: tuple[FoundRule, ...]
    """Content first, each in the order in which it was kept."""
    leads: tuple[Lead, ...]
    biases: tuple[Bias, ...]
    reconstruction: Interval | None
    """Share of held-out preferences that the content rules give back."""
    with_form: Interval | None
    """The same with the rules of form."""
    alone: Interval | None
    """Share of held-out preferences that the policy gives back by its verdicts on single responses."""
    preferred_kept: Interval | None
    """Share of preferred held-out responses that keep the policy, each judged alone."""
    baselines: dict[str, Interval | None]
    counts: dict[str, int]
    """Pairs on the three sides: propose, validate, held_out; and candidates."""
    unrelated: dict[str, tuple[str, ...]]
    """Ids of pairs whose old preference no content rule supports and a named bias does, by bias."""
    proposer: str
    seed: int
    answers: dict[str, int] = field(default_factory=dict)
    """What was wanted of a language model and what of it could not be read; empty without one."""

    @property
    def recovered(self) -> bool:
        """Whether both floors are reached, each by the lower end of an interval on the held-out side."""
        if self.policy is None or self.reconstruction is None or self.preferred_kept is None:
            return False
        return self.reconstruction["low"] >= FLOOR and self.preferred_kept["low"] >= LEAST_KEPT

    @property
    def verdict(self) -> str:
        """One line: what may be said of the old policy."""
        if self.reconstruction is None or self.policy is None:
            return "ABSTAINS: no rule tells the old preferences apart beyond chance"
        said = f"{_interval(self.reconstruction)} of the held-out preferences"
        if self.recovered:
            return f"RECOVERED: the rules give back {said}"
        if self.reconstruction["low"] >= FLOOR:
            return (
                f"ABSTAINS: the rules give back {said}, but judging one response alone they find only "
                f"{_interval(self.preferred_kept)} of the preferred ones right; below {LEAST_KEPT:.0%} this is not "
                "the old policy"
            )
        return f"ABSTAINS: the rules give back only {said}; below {FLOOR:.0%} this is not the old policy"

    def as_dict(self) -> dict[str, Any]:
        """Return plain values: the content of the JSON file."""
        return {
            "format": FORMAT,
            "recovered": self.recovered,
            "verdict": self.verdict,
            "floor": FLOOR,
            "least_kept": LEAST_KEPT,
            "alone": self.alone,
            "preferred_kept": self.preferred_kept,
            "proposer": self.proposer,
            "answers": self.answers,
            "seed": self.seed,
            "counts": self.counts,
            "reconstruction": self.reconstruction,
            "with_form": self.with_form,
            "baselines": self.baselines,
            "biases": [asdict(bias) for bias in self.biases],
            "unrelated": {name: list(ids) for name, ids in self.unrelated.items()},
            "rules": [rule.as_dict() for rule in self.rules],
            "leads": [asdict(lead) for lead in self.leads],
            "policy_hash": self.policy.hash if self.policy is not None else None,
        }

    def lines(self) -> list[str]:
        """Return what a person reads on the terminal."""
        counts = self.counts
        lines = [
            self.verdict,
            f"Pairs: {counts['propose']:,} to propose from, {counts['validate']:,} to choose by, "
            f"{counts['held_out']:,} held out; {counts['candidates']:,} candidates from {self.proposer}",
            *([_answers_line(self.answers)] if self.answers else []),
            "",
            "Held-out reconstruction (95 % intervals, resampled by prompt)",
            f"  content rules  {_interval(self.reconstruction)}",
        ]
        if self.alone is not None:
            lines.append(f"  judged alone   {_interval(self.alone)}")
        if any(rule.candidate.kind == "form" for rule in self.rules):
            lines.append(f"  and form       {_interval(self.with_form)}")
        lines += [f"  {name:<14} {_interval(value)}" for name, value in self.baselines.items()]
        for kind, title in (
            ("content", "Rules" if self.recovered else "Rules, too weak to be called the old policy"),
            ("form", "Form, kept because content does not explain it"),
        ):
            chosen = [rule for rule in self.rules if rule.candidate.kind == kind]
            if chosen:
                lines += ["", title]
            for rule in chosen:
                lines += [f"  {rule.id}: {rule.candidate.text}", f"    {_figures_line(rule)}"]
        if self.leads and not self.recovered:
            lines += ["", "Leads: for and against on the validation pairs, not kept"]
            lines += [f"  {lead.support:,} : {lead.oppose:,}  {lead.text}" for lead in self.leads[:SHOWN_LEADS]]
        return [*lines, *self._form_lines()]

    def _form_lines(self) -> list[str]:
        """Return what the tests of form found, named or not."""
        if not self.biases:
            return ["", "Form cannot be told from content: it never differs where content is equal"]
        lines = ["", "Form, tested between pairs of equal content"]
        for bias in self.biases:
            lines.append(
                f"  {bias.form} responses: odds × {bias.odds:.2f} ({bias.low:.2f} to {bias.high:.2f}), p {bias.p:.1g}, "
                f"{bias.n:,} pairs"
            )
            if bias.named:
                lines[-1] += (
                    f": a BIAS, not policy (or the trace of a rule that was not found); "
                    f"{len(self.unrelated.get(bias.form, ())):,} pairs have no other reason"
                )
        return lines

    def policy_text(self) -> str:
        """Return the policy file.

        Raises:
            ValueError: there is no policy.
        """
        if self.policy is None:
            raise ValueError("nothing was recovered")
        head = [
            "Recovered from old preference data by realigner discover; read it before you rely on it.",
            self.verdict,
            f"By its verdicts on single responses the policy gives back {_interval(self.alone)} of them.",
            f"Proposed by {self.proposer}, seed {self.seed}. Figures are of held-out pairs, with 95 % intervals.",
        ]
        notes = {rule.id: self._notes(rule) for rule in self.rules if rule.candidate.kind == "content"}
        return policy_yaml(self.policy, notes, head)

    def _notes(self, rule: FoundRule) -> list[str]:
        notes = [_figures_line(rule)]
        if rule.candidate.members:
            notes.append(f"same as: {' | '.join(rule.candidate.members[:3])}")
        for name, ids in (("supported by", rule.supports), ("opposed by", rule.opposes)):
            if ids:
                more = f" … {len(ids):,} in all" if len(ids) > EVIDENCE else ""
                notes.append(f"{name}: {', '.join(ids[:EVIDENCE])}{more}")
        return notes

    def write(self, out: Path) -> list[Path]:
        """Write `out` (only if recovered) and, beside it, the JSON file; return what was written."""
        data = out.with_suffix(".json")
        write_text(data, json.dumps(self.as_dict(), indent=1, ensure_ascii=False) + "\n")
        if not self.recovered:
            return [data]
        write_text(out, self.policy_text())
        return [out, data]


def _answers_line(answers: Mapping[str, int]) -> str:
    """Return what came of asking a language model."""
    count = Counter(answers)
    line = f"The model: {count['requests']:,} requests for rules, {count['unreadable_requests']:,} of them unreadable"
    if not count["proposed"]:
        return f"{line}; it proposed no rule, and what follows is from counts alone"
    line += f"; {count['votes']:,} votes, {count['unreadable_votes']:,} of them unreadable and counted as neither"
    if count["verdicts"]:
        line += f"; {count['verdicts']:,} verdicts on single responses, {count['unreadable_verdicts']:,} unreadable"
    return line


def _figures_line(rule: FoundRule) -> str:
    found = rule.figures
    line = (
        f"accuracy {_interval(found.accuracy)}, relevance {_interval(found.relevance)}, "
        f"value {_number(found.value)}; {len(rule.supports):,} pairs for, {len(rule.opposes):,} against"
    )
    if rule.with_length != "clear":
        line += f"; {rule.with_length}"
    if rule.reproduced is not None and rule.reproduced < 1:
        line += f"; judging one response alone gives the same vote on {rule.reproduced:.1%}"
    return line


def _interval(value: Interval | None) -> str:
    return "not measured" if value is None else f"{value['value']:.1%} ({value['low']:.1%} to {value['high']:.1%})"


def _number(value: Interval | None) -> str:
    return "not measured" if value is None else f"{value['value']:.3f} ({value['low']:.3f} to {value['high']:.3f})"


def ids_where(flags: Sequence[bool], ids: Sequence[str]) -> tuple[str, ...]:
    """Return the ids at the places that are true."""
    return tuple(i for i, flag in zip(ids, flags, strict=True) if flag)
