"""What the new policy moved, and whether rules of earlier policies still hold; for a run that names the one before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from realigner.records import Outcome
from realigner.report.interval import Interval, read_interval
from realigner.report.rundir import NotMeasured, Part, RunFiles, items, mapping, number, part, texts


@dataclass(frozen=True)
class Moved:
    """The matrix of outcomes, the alignment debt, and the rules behind it."""

    since: str
    pairs: int
    changed: int
    debt: Mapping[str, int]
    outcomes: tuple[str, ...]
    matrix: tuple[tuple[str, tuple[int, ...]], ...]
    """(old outcome, pairs by new outcome)."""
    rules: tuple[tuple[str, str, int, str], ...]
    """(rule, what became of it, pairs moved, where to)."""
    only_old: int
    only_new: int
    other_judges: tuple[str, ...]


@dataclass(frozen=True)
class Held:
    """A surviving rule, or all surviving rules of one policy, before and after."""

    name: str
    note: str
    before: Interval | None
    after: Interval | None
    p: float | None
    regressed: bool


@dataclass(frozen=True)
class Earlier:
    """What is left of earlier policies."""

    policies: tuple[Held, ...]
    rules: tuple[Held, ...]
    method: str


@dataclass(frozen=True)
class Chain:
    """The section: each half is there or says why it is not."""

    moved: Part[Moved]
    earlier: Part[Earlier]


def read_chain(run: RunFiles) -> Chain | None:
    """Return the section; None for a run that follows none."""
    if part(lambda r: r.recipe("previous"), run).value is None:
        return None
    return Chain(part(_moved, run), part(_earlier, run))


def _moved(run: RunFiles) -> Moved:
    content = run.json("previous.json")
    chain = items(content.get("chain"))
    if not chain:
        raise NotMeasured("previous.json holds no moves")
    before = mapping(mapping(chain[-1]).get("policy"))
    return read_moved("previous.json", content, before, texts(content.get("other_judges")))


def read_moved(name: str, content: Mapping[str, Any], before: Mapping[str, Any], other_judges: Sequence[str]) -> Moved:
    """Return the moves that a file holds.

    Args:
        name: of the file.
        content: what it holds; the moves are under `moves`.
        before: the record of the earlier policy.
        other_judges: the `by` of rules that were judged by another judge before.

    Raises:
        NotMeasured: it holds none.
    """
    moves = mapping(content.get("moves"))
    matrix = mapping(moves.get("matrix"))
    if not matrix:
        raise NotMeasured(f"{name} holds no moves")
    rows = [(name, tuple(_count(mapping(matrix.get(name)).get(to)) for to in Outcome)) for name in Outcome]
    used = [place for place, name in enumerate(Outcome) if sum(rows[place][1]) or sum(row[place] for _, row in rows)]
    outcomes = tuple(name.value for place, name in enumerate(Outcome) if place in used)
    return Moved(
        since=f"{before.get('id', '')} {before.get('version', '')}".strip() or "not recorded",
        pairs=_count(moves.get("pairs")),
        changed=_count(moves.get("changed")),
        debt={kind: _count(count) for kind, count in mapping(moves.get("debt")).items()},
        outcomes=outcomes,
        matrix=tuple(
            (name.value, tuple(rows[place][1][to] for to in used))
            for place, name in enumerate(Outcome)
            if place in used
        ),
        rules=tuple(_rule(mapping(rule)) for rule in items(moves.get("rules"))),
        only_old=_count(moves.get("only_old")),
        only_new=_count(moves.get("only_new")),
        other_judges=tuple(other_judges),
    )


def _rule(rule: Mapping[str, Any]) -> tuple[str, str, int, str]:
    was, name = rule.get("was"), str(rule.get("rule", ""))
    status = str(rule.get("status", ""))
    if was is not None and was != name:
        status += f", was {was}"
    moves = (mapping(move) for move in items(rule.get("moves")))
    words = "; ".join(f"{move.get('from')} to {move.get('to')} {_count(move.get('pairs')):,}" for move in moves)
    return name, status, _count(rule.get("changed")), words


def _earlier(run: RunFiles) -> Earlier:
    found = mapping(run.summary("earlier_policies"))
    policies = [mapping(link) for link in items(found.get("policies"))]
    rules = [mapping(rule) for rule in items(found.get("rules"))]
    if not policies:
        raise NotMeasured("summary.json names no earlier policy")
    return Earlier(
        policies=tuple(_policy(link) for link in policies),
        rules=tuple(
            _held(str(rule.get("rule")), f"since {(texts(rule.get('since')) or ['?'])[0]}", rule) for rule in rules
        ),
        method=str(found.get("method", "")),
    )


def _policy(link: Mapping[str, Any]) -> Held:
    policy = mapping(link.get("policy"))
    kinds = (("surviving", "in force"), ("edited", "edited"), ("dropped", "dropped"))
    note = ", ".join(f"{len(texts(link.get(kind)))} {word}" for kind, word in kinds if texts(link.get(kind)))
    return _held(f"{policy.get('id', '')} {policy.get('version', '')}", f"rules: {note}", link)


def _held(name: str, note: str, figures: Mapping[str, Any]) -> Held:
    return Held(
        name=name,
        note=note,
        before=read_interval(figures.get("before")),
        after=read_interval(figures.get("after")),
        p=number(figures.get("p_holm")),
        regressed=figures.get("regressed") is True,
    )


def _count(value: Any) -> int:
    found = number(value)
    return 0 if found is None else int(found)
