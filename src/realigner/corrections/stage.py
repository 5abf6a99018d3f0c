"""Corrections as a part of triage: what is opened before, and what is written after."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from realigner.corrections.candidate import Candidate
from realigner.corrections.journal import Journal
from realigner.corrections.leakage import LeakageSample, leakage
from realigner.corrections.make import Corrector
from realigner.corrections.writers import Writer, build_writer
from realigner.oracle import Oracle, open_oracle
from realigner.oracle.build import build_policy_oracle, judged_by
from realigner.oracle.meter import Meter, Prices
from realigner.policy import Policy
from realigner.progress import SILENT, Progress
from realigner.recipe import OracleSettings, Recipe
from realigner.recipe_corrections import GenerateCorrections, SecondOpinion
from realigner.records import TriagedPair
from realigner.spent import Spent

ACCEPTED, CANDIDATES, LEAKAGE = "corrections.jsonl", "candidates.jsonl", "leakage.json"
JOURNAL = "candidates.jsonl"
FILE = "file"
"""Stands for the writer of corrections that came from `corrections.path`."""


@dataclass
class Corrections:
    """The corrector of a stage, and what it has to tell."""

    corrector: Corrector
    writer: Writer
    judge: str
    second: str | None
    sample: LeakageSample
    chosen: dict[str, Candidate] = field(default_factory=dict)
    """Corrections by pair id, until their pair comes by."""
    out: dict[str, IO[str]] = field(default_factory=dict)

    def keep(self, candidate: Candidate) -> None:
        """Note what became of a candidate."""
        if candidate.chosen:
            self.chosen[candidate.pair.id] = candidate
        self._write(CANDIDATES, candidate.as_dict())

    def passing(self, triaged: Iterable[TriagedPair]) -> Iterator[TriagedPair]:
        """Pass pairs through, and write each correction with who wrote and who accepted it."""
        for item in triaged:
            self.sample.add(item)
            if item.correction is not None:
                self._write(ACCEPTED, self._provenance(item))
            yield item

    def report(self) -> dict[str, Any]:
        """Return the value-leakage report."""
        return leakage(
            self.sample,
            writer=self.writer.identity,
            judge=self.judge,
            second=self.second,
            both=self.corrector.tally.both,
            same_model=any(self.writer.weights in judge for judge in (self.judge, self.second or "")),
        )

    def facts(self) -> dict[str, Any]:
        """Return what became of pairs and candidates, and who wrote, as plain JSON types."""
        facts = {"writer": self.writer.identity, "spent": self.corrector.spent, "second_judge": self.second}
        return {**self.corrector.tally.as_dict(), **facts}

    def _provenance(self, item: TriagedPair) -> dict[str, Any]:
        candidate = self.chosen.pop(item.pair.id, None)
        facts: dict[str, Any] = {"id": item.pair.id, "correction": item.correction}
        if candidate is None:
            return {**facts, "writer": FILE, "judge": self.judge}
        return {
            **facts,
            "writer": self.writer.identity,
            "model": candidate.draft.model,
            "candidate": candidate.number,
            "seed": candidate.draft.seed,
            "judge": self.judge,
            "reason": candidate.verdict.reason if candidate.verdict else "",
            "second_judge": self.second,
            "second_reason": candidate.second.reason if candidate.second else "",
        }

    def _write(self, name: str, line: Mapping[str, Any]) -> None:
        if name in self.out:
            self.out[name].write(json.dumps(line, ensure_ascii=False) + "\n")


@contextmanager
def correcting(
    recipe: Recipe,
    policy: Policy,
    oracle: Oracle,
    *,
    spent: Spent | None = None,
    out: Mapping[str, Path] | None = None,
    progress: Progress = SILENT,
) -> Iterator[Corrections | None]:
    """Open what corrections need, for as long as pairs are triaged; None where the recipe has no writer.

    Args:
        recipe: its `corrections.generate`.
        policy: the new policy.
        oracle: the open oracle of triage.
        spent: what the command has spent so far.
        out: where to write `ACCEPTED` and `CANDIDATES`, each if it is there.
        progress: counts candidates.

    Raises:
        OracleError, ModelError: the writer or the second judge cannot be asked, or the journal cannot be used.
    """
    generate = None if recipe.corrections is None else recipe.corrections.generate
    if generate is None:
        yield None
        return
    writer, judged = build_writer(generate), judged_by(oracle)
    with ExitStack() as stack:
        second = stack.enter_context(_second(recipe, policy, oracle, generate.second, spent))
        journal = stack.enter_context(Journal.open(journal_path(generate, recipe.output)))
        meter = _meter(recipe, generate, oracle, spent)
        meter.price(writer.costs)  # a model without a price under max_cost is refused now, not after triage
        corrector = Corrector(
            policy,
            oracle,
            generate,
            writer,
            journal,
            meter=meter,
            second=second,
            seed=recipe.seed,
            batch_size=recipe.oracle.questions_at_a_time,
            may_write=lambda: judged is None or judged.meter.may_ask,
            keep=lambda candidate: corrections.keep(candidate),
            progress=progress,
        )
        corrections = Corrections(
            corrector, writer, oracle.identity, None if second is None else second.identity, LeakageSample(recipe.seed)
        )
        for name, path in (out or {}).items():
            # Half of a surrogate pair cannot be written as UTF-8; such a candidate is rejected, and shown escaped.
            corrections.out[name] = stack.enter_context(path.open("w", encoding="utf-8", errors="backslashreplace"))
        yield corrections


def journal_path(generate: GenerateCorrections, output: str | Path) -> Path:
    """Return where candidates are remembered: `corrections.generate.journal`, or beside the run directory."""
    return Path(generate.journal) if generate.journal is not None else Path(output).parent / JOURNAL


def writer_identities(recipe: Recipe, policy: Policy) -> dict[str, Any] | None:
    """Return what decides generated corrections, for the key of triage; None where the recipe has no writer."""
    from realigner.oracle import build_oracle

    generate = None if recipe.corrections is None else recipe.corrections.generate
    if generate is None:
        return None
    second = generate.second and build_oracle(_second_settings(recipe.oracle, generate.second), policy).identity
    left_out = {"writer", "second", "journal", "prices", "max_calls", "max_cost"}
    return {
        **generate.model_dump(mode="json", exclude=left_out),
        "writer": build_writer(generate).identity,
        "second": second,
    }


def _meter(recipe: Recipe, generate: GenerateCorrections, oracle: Oracle, spent: Spent | None) -> Meter:
    """Return the meter of the writer: its own limits, over everything that the command spends."""
    judged = judged_by(oracle)
    shared = judged.meter.spent if judged is not None else spent
    path = generate.prices or recipe.oracle.prices
    prices = None if path is None else Prices.load(path)
    return Meter(prices, generate.max_calls, generate.max_cost, Spent() if shared is None else shared)


@contextmanager
def _second(
    recipe: Recipe, policy: Policy, oracle: Oracle, opinion: SecondOpinion | None, spent: Spent | None
) -> Iterator[Oracle | None]:
    """Open the second judge; with the store of the first one, where that has it open."""
    if opinion is None:
        yield None
        return
    settings = _second_settings(recipe.oracle, opinion)
    judged = judged_by(oracle)
    if judged is not None:
        yield build_policy_oracle(settings, policy, judged.store, judged.meter)
        return
    with open_oracle(settings, policy, recipe.output, spent) as opened:
        yield opened


def _second_settings(first: OracleSettings, opinion: SecondOpinion) -> OracleSettings:
    """Return the first oracle with the judges exchanged, and without noise: the second is not the one under study."""
    return first.model_copy(
        update={
            "kind": "judges",
            "path": None,
            "fallbacks": False,
            "llm": opinion.llm or first.llm,
            "classifier": opinion.classifier or first.classifier,
            "noise": None,
        }
    )
