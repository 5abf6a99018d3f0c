"""The population of an audit cut into cells of one stratum and one verdict, with what was seen of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from realigner.audit.estimate import Cell, Rate, mean_rate, ratio_rate
from realigner.audit.records import AuditSample, Kind
from realigner.audit.truth import DECIDED, Truth
from realigner.records import Label

Reading = Mapping[Label | None, bool | None]
"""What a truth says of the property that is counted: it has it, it has it not, or (None) that is not known."""

COMPLIES: Reading = {Label.COMPLIANT: True, Label.NON_COMPLIANT: False, None: None}
AT_MOST: Reading = {Label.COMPLIANT: True, Label.NON_COMPLIANT: False, None: True}
AT_LEAST: Reading = {Label.COMPLIANT: True, Label.NON_COMPLIANT: False, None: False}
UNKNOWN: Reading = {Label.COMPLIANT: False, Label.NON_COMPLIANT: False, None: True}


@dataclass(frozen=True, slots=True)
class Domain:
    """Which responses an estimate speaks of; None is any."""

    outcome: str | None = None
    group: str | None = None
    topic: str | None = None
    rule: str | None = None
    """The rule by which they are judged; None is the whole policy."""

    def said(self, kind: Kind) -> Label | None:
        """Return what the judge said; None where the response is not of the domain."""
        wanted = ((self.outcome, kind.outcome), (self.group, kind.group), (self.topic, kind.topic))
        if any(name is not None and name != value for name, value in wanted):
            return None
        return kind.label if self.rule is None else kind.rule(self.rule)


class Seen:
    """A sample with the truths of its items; makes the cells from which everything is estimated."""

    def __init__(self, sample: AuditSample, truths: Mapping[str, Truth]) -> None:
        self.sample = sample
        self.known = [(item, truths[item.id]) for item in sample.items if item.id in truths]

    def values(self, name: str) -> list[str]:
        """Return the values of a field of Kind in the population, without the empty one."""
        return sorted({str(getattr(row.kind, name)) for row in self.sample.frame} - {""})

    def size(self, domain: Domain, said: Label | None = None) -> int:
        """Return how many responses the domain has, or how many of them the judge called `said`."""
        found = ((domain.said(row.kind), row.size) for row in self.sample.frame)
        return sum(size for label, size in found if label is not None and said in (None, label))

    def cells(self, domain: Domain, reading: Reading = COMPLIES) -> list[tuple[Label, Cell]]:
        """Return the cells of a domain, each with the judge's verdict; `hits` have the property of the reading."""
        sizes: Counter[tuple[int, Label]] = Counter()
        seen: Counter[tuple[int, Label]] = Counter()
        hits: Counter[tuple[int, Label]] = Counter()
        for row in self.sample.frame:
            label = domain.said(row.kind)
            if label is not None:
                sizes[row.stratum, label] += row.size
        for item, truth in self.known:
            label, has = domain.said(item.kind), reading[truth.by(domain.rule)]
            if label is not None and has is not None:
                seen[item.stratum, label] += 1
                hits[item.stratum, label] += has
        return [(key[1], Cell(size, seen[key], hits[key])) for key, size in sizes.items()]

    def rate(self, domain: Domain, reading: Reading = COMPLIES, *, beyond: int = 0) -> Rate | None:
        """Return the share of a domain that has the property of the reading."""
        return mean_rate([cell for _, cell in self.cells(domain, reading)], beyond=beyond)

    def accuracy(self, domain: Domain) -> Rate | None:
        """Return the share of the judge's decided verdicts that are right."""
        return mean_rate([_counting(label, cell) for label, cell in self.cells(domain) if label in DECIDED])

    def precision(self, domain: Domain, label: Label) -> Rate | None:
        """Return, of the responses that the judge calls so, the share that is so."""
        return mean_rate([_counting(label, cell) for said, cell in self.cells(domain) if said is label])

    def recall(self, domain: Domain, label: Label) -> Rate | None:
        """Return, of the responses that are so and that the judge decided, the share that it calls so."""
        cells = [(said, _counting(label, cell)) for said, cell in self.cells(domain) if said in DECIDED]
        return ratio_rate([cell for _, cell in cells], [said is label for said, _ in cells])


def _counting(label: Label, cell: Cell) -> Cell:
    """Turn a cell that counts compliant responses into one that counts those of `label`."""
    return cell if label is Label.COMPLIANT else Cell(cell.size, cell.seen, cell.seen - cell.hits)
