"""What `realigner migrate` found: as a page like a run's report, and as a section of the run's own report."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from realigner.report.chain import Moved, read_moved
from realigner.report.rundir import NotMeasured, Part, RunFiles, items, mapping, number, part
from realigner.report.text import Excerpt, excerpt, one_line

MOST = 12
"""Migrations that a run's report shows."""
HAD = ("carried", "computed", "reused", "asked")
"""How the verdicts on a rule were had, as migrate.json counts them."""


@dataclass(frozen=True)
class Took:
    """What asking one judge took."""

    judge: str
    calls: int
    input_tokens: int
    output_tokens: int
    cost: float | None
    """None: it is paid and has no price."""


@dataclass(frozen=True)
class Side:
    """One response of a pair that moved."""

    side: str
    text: Excerpt
    left_out: int
    was: str
    now: str
    reason: str


@dataclass(frozen=True)
class Example:
    """One pair that moved, under a rule that is behind it."""

    id: str
    before: str
    after: str
    prompt: Excerpt
    earlier_turns: int
    sides: tuple[Side, ...]


@dataclass(frozen=True)
class MigrationPage:
    """The content of the page."""

    run: str
    old: str
    new: str
    title: str
    moved: Moved
    had: tuple[tuple[str, tuple[int, ...]], ...]
    """(rule, verdicts by how they were had, in the order of `HAD`)."""
    took: tuple[Took, ...]
    currency: str
    people: tuple[int, int]
    """Responses that people decided under the old policy, and those of which something stands."""
    examples: tuple[tuple[str, tuple[Example, ...]], ...]


def render_migration(directory: Path, examples: str = "examples.jsonl") -> str:
    """Return the page of a directory that `realigner migrate` wrote, or is writing.

    Args:
        directory: holds `migrate.json` and the examples.
        examples: name of their file, JSONL.

    Raises:
        NotMeasured: the files are not there or damaged.
    """
    from realigner.report.page import LABELS, render

    return render("migration.html.j2", it=read_migration(RunFiles(directory), examples), labels=LABELS)


def read_migrations(run: RunFiles) -> list[tuple[str, Part[MigrationPage]]]:
    """Return (name of the directory, what it holds) for each migration in a run directory."""
    folders = sorted(path.parent for path in run.path.glob("migrate-*/migrate.json"))[:MOST]
    return [(folder.name, part(lambda files: read_migration(files, None), RunFiles(folder))) for folder in folders]


def read_migration(files: RunFiles, examples: str | None = "examples.jsonl") -> MigrationPage:
    """Return what the page shows.

    Args:
        files: of the directory.
        examples: name of the file of examples; None: they are not read.

    Raises:
        NotMeasured: the files are not there or damaged.
    """
    content = files.json("migrate.json")
    old, new = mapping(content.get("old_policy")), mapping(content.get("new_policy"))
    asked, people = mapping(content.get("asked")), mapping(content.get("people"))
    return MigrationPage(
        run=Path(str(content.get("run") or "")).name,
        old=_name(old),
        new=_name(new),
        title=str(new.get("title") or ""),
        moved=read_moved("migrate.json", content, old, ()),
        had=tuple(
            (str(rule), tuple(_count(mapping(counts).get(kind)) for kind in HAD))
            for rule, counts in mapping(content.get("verdicts")).items()
        ),
        took=tuple(_took(str(judge), mapping(spent)) for judge, spent in mapping(asked.get("judges")).items()),
        currency=str(asked.get("currency") or ""),
        people=(_count(people.get("decided")), _count(people.get("kept"))),
        examples=() if examples is None else _examples(files.path / examples),
    )


def _examples(path: Path) -> tuple[tuple[str, tuple[Example, ...]], ...]:
    by_rule: dict[str, list[Example]] = {}
    for row in _lines(path):
        by_rule.setdefault(str(row.get("rule")), []).append(_example(row))
    return tuple((rule, tuple(found)) for rule, found in by_rule.items())


def _lines(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            yield mapping(json.loads(line))
    except (OSError, ValueError) as error:
        raise NotMeasured(f"{path.name} cannot be read ({error})") from None


def _example(row: Mapping[str, Any]) -> Example:
    return Example(
        id=str(row.get("id")),
        before=str(row.get("from")),
        after=str(row.get("to")),
        prompt=excerpt(str(row.get("prompt") or ""), limit=4000, head=500),
        earlier_turns=_count(row.get("earlier_turns")),
        sides=tuple(_side(mapping(side)) for side in items(row.get("sides"))),
    )


def _side(side: Mapping[str, Any]) -> Side:
    return Side(
        side=str(side.get("side")),
        text=excerpt(str(side.get("text") or ""), limit=4000),
        left_out=_count(side.get("left_out")),
        was=str(side.get("was")),
        now=str(side.get("is")),
        reason=one_line(str(side.get("reason") or ""), 600),
    )


def _took(judge: str, spent: Mapping[str, Any]) -> Took:
    calls, entered, written = (_count(spent.get(name)) for name in ("calls", "input_tokens", "output_tokens"))
    return Took(judge, calls, entered, written, number(spent.get("cost")))


def _name(policy: Mapping[str, Any]) -> str:
    return f"{policy.get('id', '')} {policy.get('version', '')}".strip()


def _count(value: Any) -> int:
    found = number(value)
    return 0 if found is None else int(found)
