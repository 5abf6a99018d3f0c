"""What people decided of single responses: read from a file, put in the place of the oracle's verdict, and counted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from realigner.data.rows import InvalidRow, Row, shorten
from realigner.data.sources import data_files, json_lines
from realigner.errors import DataError, did_you_mean
from realigner.policy import Policy
from realigner.records import Label, Pair, RuleVerdict, Verdict, prompt_key, text_hash

SIDES = ("chosen", "rejected")
DECIDED = (Label.COMPLIANT, Label.NON_COMPLIANT)
REMEDY = "Export it again: realigner review export STUDY FILE --as verdicts"
SAID = "human"
"""What a reason begins with where people decided, not the oracle."""


@dataclass(frozen=True, slots=True)
class HumanVerdict:
    """What people said of one response of a pair."""

    pair_id: str
    side: str
    verdict: Verdict | None
    """None where they decided single rules: those of `by_rule`."""
    text: str
    """Hash of prompt and response; empty where the file has none."""
    by_rule: tuple[RuleVerdict, ...] = ()
    """They stand in the place of the oracle's, and the policy joins them with its verdicts on the other rules."""


@dataclass(slots=True)
class HumanTally:
    """What became of the verdicts of people."""

    used: int = 0
    changed: int = 0
    """Of the used, the ones that differ from what the oracle says."""
    other_text: int = 0
    """Not used: the pair has another prompt or response than the one that people saw."""
    unknown: int = 0
    """Not used: no such pair in the data."""

    def as_dict(self) -> dict[str, int]:
        """Return the counts by name."""
        return {name: getattr(self, name) for name in ("used", "changed", "other_text", "unknown")}


class HumanVerdicts:
    """Verdicts of people by pair and side. All are held in memory: people do not decide millions."""

    def __init__(self, verdicts: Iterable[HumanVerdict], policy: Policy | None = None) -> None:
        """Take in the verdicts; of two on the same response, the last. Those on single rules need the policy."""
        self._policy = policy
        self._verdicts = {(item.pair_id, item.side): item for item in verdicts}
        self.start()

    def __len__(self) -> int:
        return len(self._verdicts)

    def start(self) -> None:
        """Start counting afresh."""
        self.tally, self._found = HumanTally(unknown=len(self._verdicts)), set[tuple[str, str]]()

    def put(self, pair: Pair, verdicts: Sequence[Verdict]) -> tuple[Verdict, Verdict]:
        """Return the verdicts on (chosen, rejected), people's where there are any."""
        texts = (pair.chosen, pair.rejected)
        chosen, rejected = (
            self._put(pair, side, text, verdict) for side, text, verdict in zip(SIDES, texts, verdicts, strict=True)
        )
        return chosen, rejected

    def _put(self, pair: Pair, side: str, text: str, verdict: Verdict) -> Verdict:
        found = self._verdicts.get((pair.id, side))
        if found is None:
            return verdict
        if (pair.id, side) not in self._found:
            self._found.add((pair.id, side))
            self.tally.unknown -= 1
        if found.text and found.text != text_hash(prompt_key(pair.prompt), text):
            self.tally.other_text += 1
            return verdict
        said = found.verdict or self._joined(found, verdict)
        self.tally.used += 1
        self.tally.changed += said.label is not verdict.label
        return said

    def _joined(self, found: HumanVerdict, verdict: Verdict) -> Verdict:
        """Return the policy's verdict where people decided some of the rules and the oracle the others."""
        own = {rule.rule: rule for rule in (*verdict.rules, *found.by_rule)}
        if self._policy is None or own.keys() != {rule.id for rule in self._policy.rules}:
            raise DataError(
                f"verdicts of people on single rules of pair '{found.pair_id}'",
                "the oracle judges whole responses, so that there is nothing to join them with",
                "Name an oracle that judges rule by rule, or leave out human.path",
            )
        return self._policy.decide([own[rule.id] for rule in self._policy.rules])


def read_human_verdicts(path: str | Path, policy: Policy) -> HumanVerdicts:
    """Read JSON Lines of `{"id": …, "side": "chosen" | "rejected", "label": …}` as `review export` writes them.

    `rules` (the broken ones), `reason`, `policy` and `text` are optional; other keys are left alone. A line with
    `by_rule` ({rule: label}) instead of `label`, as `realigner migrate` writes it, decides those rules alone.

    Raises:
        DataError: the file is missing or empty, a line is broken, given twice, or speaks of another policy.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"verdicts of people {path}", "no such file", "Check human.path")
    data_files(path, split="train")  # refuses an unknown extension
    first: dict[tuple[str, str], str] = {}
    found = []
    for row in json_lines(path):
        verdict = _verdict(row, policy)
        key = verdict.pair_id, verdict.side
        if key in first:
            raise DataError(
                f"{row.source}: pair '{key[0]}', {key[1]}, was decided at {first[key]}",
                "a response has one verdict",
                "Remove one of the two",
            )
        first[key] = row.source
        found.append(verdict)
    if not found:
        raise DataError(f"verdicts of people {path}", "it has no line", "Check human.path, or leave it out")
    return HumanVerdicts(found, policy)


def _verdict(row: Row, policy: Policy) -> HumanVerdict:
    if isinstance(row.columns, InvalidRow):
        raise DataError(f"{row.source}: {row.columns.reason} ({row.columns.found})", row.columns.rule, REMEDY)
    columns: dict[str, Any] = dict(row.columns)
    pair_id, side, label = (columns.get(name) for name in ("id", "side", "label"))
    if isinstance(pair_id, bool) or not isinstance(pair_id, str | int):
        raise DataError(f"{row.source}: id is {shorten(pair_id)}", "an id is a text or a whole number", REMEDY)
    if side not in SIDES:
        raise DataError(f"{row.source}: side is {shorten(side)}", f"a side is {' or '.join(SIDES)}", REMEDY)
    if label not in DECIDED and "by_rule" not in columns:
        rule = f"people decide {' or '.join(DECIDED)}; what they cannot decide is left out"
        raise DataError(f"{row.source}: label is {shorten(label)}", rule, REMEDY)
    name = f"{policy.id} {policy.version}"
    if columns.get("policy", name) != name:
        raise DataError(
            f"{row.source}: decided under policy {shorten(columns['policy'])}",
            f"this run's policy is '{name}', and under it nobody has decided",
            "Have people decide again, or leave out human.path",
        )
    by_rule = columns.get("by_rule") or {}
    if not isinstance(by_rule, dict) or any(said not in DECIDED for said in by_rule.values()):
        rule = f"it is a mapping of rules to {' or '.join(DECIDED)}"
        raise DataError(f"{row.source}: by_rule is {shorten(by_rule)}", rule, REMEDY)
    rules = [*by_rule, *(columns.get("rules") or [])]
    for rule in rules:
        known = [item.id for item in policy.rules]
        if rule not in known:
            raise DataError(
                f"{row.source}: rule {shorten(rule)}",
                f"the rules of the policy are {', '.join(known)}",
                f"Correct it.{did_you_mean(str(rule), known)}",
            )
    text = str(columns.get("text") or "")
    if by_rule:
        of_rules = tuple(RuleVerdict(rule, Label(said), SAID) for rule, said in by_rule.items())
        return HumanVerdict(str(pair_id), str(side), None, text, of_rules)
    reason = columns.get("reason") or ""
    people = len(columns.get("annotators") or ())
    by = f"{SAID}, {people} people" if people > 1 else SAID
    verdict = Verdict(
        Label(str(label)),
        tuple(RuleVerdict(str(rule), Label.NON_COMPLIANT, SAID) for rule in rules),
        f"{by}: {reason}" if reason else by,
    )
    return HumanVerdict(str(pair_id), str(side), verdict, text)
