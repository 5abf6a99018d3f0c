"""Win rates among any number of systems, from files of their answers: each pair in both orders, then strengths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from realigner.data.prompts import is_text, prompt_of
from realigner.data.rows import InvalidRow
from realigner.data.sources import open_rows
from realigner.errors import DataError, OracleError
from realigner.evaluate.bradley_terry import Game, bradley_terry
from realigner.evaluate.evidence import Evidence, Figure
from realigner.evaluate.pairwise import Match, by_verdicts
from realigner.evaluate.statistics import Interval, share_interval
from realigner.evaluate.win_rate import SCORES, Compared, choose, summarise
from realigner.oracle import ask, build_oracle
from realigner.policy import Policy
from realigner.progress import SILENT, Progress
from realigner.recipe import DataSettings, OracleSettings
from realigner.recipe_evaluate import PolicyPairSettings, WinRateSettings
from realigner.records import Judgement, Message, Prompt, prompt_key
from realigner.spent import Spent

Key = tuple[str, int]
"""A prompt's identity, and which of the answers to it this is."""


@dataclass(frozen=True, slots=True)
class Answers:
    """The answers of one system."""

    prompts: dict[Key, Prompt] = field(default_factory=dict)
    texts: dict[Key, str] = field(default_factory=dict)

    def add(self, prompt: Prompt, text: str) -> None:
        """Add an answer; the second to a prompt is its second sample."""
        name, sample = prompt_key(prompt), 0
        while (name, sample) in self.texts:
            sample += 1
        self.prompts[name, sample], self.texts[name, sample] = prompt, text


@dataclass(frozen=True, slots=True)
class League:
    """What came of comparing all systems with each other."""

    systems: tuple[str, ...]
    prompts: int
    """Answers to the same prompts that were compared, of each pair of systems."""
    left_out: Mapping[str, int]
    """Answers of a system to prompts that another one did not answer."""
    pairs: Mapping[tuple[str, str], Evidence]
    """For each two systems the evidence, the first in the place of `before`."""
    rates: Mapping[str, Interval]
    """Each system's win rate over all its comparisons, a tie half."""
    strengths: Mapping[str, Figure]
    """Bradley-Terry, of more than two systems; empty where there is no finite estimate."""
    why_not: str
    facts: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "systems": list(self.systems),
            "prompts": self.prompts,
            "left_out": dict(self.left_out),
            "rates": dict(self.rates),
            "strengths": dict(self.strengths),
            "strengths_missing": self.why_not,
            "pairs": [
                {"a": a, "b": b, "figures": dict(found.figures), "warnings": list(found.warnings)}
                for (a, b), found in self.pairs.items()
            ],
            **self.facts,
        }


def read_answers(path: Path, name: str) -> dict[str, Answers]:
    """Return the answers of a file (JSONL or Parquet of prompt and response), or of both sides of a run directory.

    Raises:
        DataError: the file or a row cannot be used; it names the place.
    """
    if path.is_dir():
        return _of_run(path, name)
    found = Answers()
    for row in open_rows(DataSettings(path=str(path))):
        if isinstance(row.columns, InvalidRow):
            raise DataError(f"{row.source}: {row.columns.reason} ({row.columns.found})", row.columns.rule, "Mend it")
        for column in ("prompt", "response"):
            if column not in row.columns:
                raise DataError(
                    f"{row.source}: no column '{column}'",
                    f"its columns are {', '.join(row.columns)}",
                    "Give JSONL or Parquet with the columns prompt and response, or a run directory",
                )
        response = row.columns["response"]
        if response != "" and not is_text(response):
            raise DataError(f"{row.source}: the response is no text", "a response is valid Unicode text", "Mend it")
        found.add(prompt_of(row, row.columns["prompt"]), response)
    if not found.texts:
        raise DataError(f"answers {path}", "it has no row", "Give a file with answers")
    return {name: found}


def _of_run(path: Path, name: str) -> dict[str, Answers]:
    file = path / "responses.parquet"
    if not file.is_file():
        raise DataError(f"answers {path}", "it holds no responses.parquet", "Name a run directory, or a file")
    sides: dict[str, Answers] = {}
    for row in pq.read_table(file, columns=["model", "prompt", "response"]).to_pylist():
        prompt = tuple(Message(role=turn["role"], content=turn["content"]) for turn in row["prompt"])
        sides.setdefault(f"{name}:{row['model']}", Answers()).add(prompt, row["response"])
    return sides


def compare_systems(
    systems: Mapping[str, Answers],
    settings: WinRateSettings,
    policy: Policy | None,
    store: Path,
    *,
    seed: int = 0,
    progress: Progress = SILENT,
) -> League:
    """Compare every two systems on the prompts that all answered.

    Args:
        systems: at least two, by name.
        settings: who chooses; with kind `policy`, the checks of the policy's rules do.
        policy: what is compared by.
        store: remembers what a judge chose.
        seed: of the resampling.
        progress: counts choices.

    Raises:
        DataError: fewer than two systems, or no prompt that all answered.
        RealignerError: the judge cannot be asked, or a limit is reached.
    """
    if len(systems) < 2:
        raise DataError(f"{len(systems)} systems", "a comparison needs two", "Give more files, or a run directory")
    keys = [key for key in next(iter(systems.values())).texts if all(key in each.texts for each in systems.values())]
    if not keys:
        raise DataError(
            f"systems {', '.join(systems)}", "there is no prompt that all of them answered", "Check their prompts"
        )
    decide = _by_policy if isinstance(settings.judge, PolicyPairSettings) else _by_judge
    names = list(combinations(systems, 2))
    matches = {
        (a, b): [Match(systems[a].prompts[key], systems[a].texts[key], systems[b].texts[key]) for key in keys]
        for a, b in names
    }
    compared, facts = decide(matches, keys, settings, policy, store, progress)
    games = [
        Game(b, a, SCORES[each.winner], each.prompt_id)
        for (a, b), found in compared.items()
        for each in found
        if each.winner != "invalid"
    ]
    strengths, why_not = bradley_terry(games, seed) if len(systems) > 2 and games else ({}, "")
    return League(
        tuple(systems),
        len(keys),
        {name: len(each.texts) - len(keys) for name, each in systems.items()},
        {pair: summarise(found, seed, {}) for pair, found in compared.items()},
        {name: _rate(name, compared) for name in systems},
        strengths,
        why_not,
        facts,
    )


_Found = dict[tuple[str, str], list[Compared]]


def _by_judge(
    matches: Mapping[tuple[str, str], Sequence[Match]],
    keys: Sequence[Key],
    settings: WinRateSettings,
    policy: Policy | None,
    store: Path,
    progress: Progress,
) -> tuple[_Found, dict[str, Any]]:
    every = [match for found in matches.values() for match in found]
    asked, facts = choose(settings, every, policy, store, progress=progress, spent=Spent())
    rest = iter(asked)
    return {
        pair: [Compared(m, key[0], key[1], said.winner, said) for m, key, said in zip(found, keys, rest, strict=False)]
        for pair, found in matches.items()
    }, facts


def _by_policy(
    matches: Mapping[tuple[str, str], Sequence[Match]],
    keys: Sequence[Key],
    settings: WinRateSettings,  # noqa: ARG001
    policy: Policy | None,
    store: Path,  # noqa: ARG001
    progress: Progress,
) -> tuple[_Found, dict[str, Any]]:
    if policy is None:
        raise OracleError("no judge and no policy", "something has to say which answer is better", "Give one of them")
    oracle = build_oracle(OracleSettings(), policy)
    found: _Found = {}
    for pair, each in matches.items():
        sides = [
            ask(oracle, [Judgement(match.prompt, text) for match, text in zip(each, texts, strict=True)], 256, progress)
            for texts in ([match.a for match in each], [match.b for match in each])
        ]
        found[pair] = [
            Compared(match, key[0], key[1], by_verdicts(a.label, b.label), None)
            for match, key, a, b in zip(each, keys, *sides, strict=True)
        ]
    return found, {"judge": oracle.identity}


def _rate(name: str, compared: _Found) -> Interval:
    scores, clusters = [], []
    for (a, b), found in compared.items():
        for each in found if name in (a, b) else ():
            score = 0.0 if each.winner == "invalid" else SCORES[each.winner]
            scores.append(score if name == b or each.winner == "invalid" else 1 - score)
            clusters.append(each.prompt_id)
    rate = share_interval(scores, clusters)
    assert rate is not None
    return rate
