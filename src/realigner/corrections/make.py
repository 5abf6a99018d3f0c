"""From PUNISH pairs to accepted corrections: candidates are written, checked as text, judged, and the best is taken.

A pair without an accepted candidate gets None, never an empty text: training then suppresses both of its answers
(dual NPO), and the count of such pairs is reported.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from realigner.corrections.candidate import Candidate, CorrectionTally
from realigner.corrections.checks import Fate, TextChecks, cleaned, is_flat_refusal
from realigner.corrections.journal import Draft, Journal, candidate_key
from realigner.corrections.prompt import writer_instructions, writer_messages
from realigner.corrections.similarity import words_of
from realigner.corrections.writers import Order, Writer
from realigner.oracle import Oracle, ask
from realigner.oracle.meter import BYTES_PER_TOKEN, LEAST_BYTES_PER_TOKEN, JudgeSpent, Meter
from realigner.oracle.remember import NotRemembered
from realigner.policy import Policy
from realigner.progress import SILENT, Progress
from realigner.recipe_corrections import GenerateCorrections
from realigner.records import Judgement, Label, Pair, Verdict, text_hash

_OF_JUDGE = {Label.NON_COMPLIANT: Fate.NON_COMPLIANT, Label.UNSURE: Fate.UNSURE, Label.INVALID: Fate.INVALID}
_OF_SECOND = {
    Label.NON_COMPLIANT: Fate.SECOND_NON_COMPLIANT,
    Label.UNSURE: Fate.SECOND_UNSURE,
    Label.INVALID: Fate.SECOND_INVALID,
}


class Corrector:
    """Corrects pairs, a batch at a time. Call it with PUNISH pairs; it returns a text or None for each.

    Args:
        policy: what candidates are written and judged under.
        oracle: the judge of triage, the same object.
        settings: `corrections.generate` of the recipe.
        writer: who writes.
        journal: remembers candidates.
        meter: holds the limits of the command.
        second: another judge of the same policy, who must accept as well.
        seed: of the recipe; a candidate's own seed follows from it, its prompt and its number.
        batch_size: the most questions in one call of a judge.
        may_write: says whether anything may be written now; where not, a candidate that is not known raises
            `NotRemembered`, as a judge's verdict does.
        keep: called with each candidate when its fate is known, pair by pair.
        progress: counts candidates.
    """

    def __init__(
        self,
        policy: Policy,
        oracle: Oracle,
        settings: GenerateCorrections,
        writer: Writer,
        journal: Journal,
        *,
        meter: Meter | None = None,
        second: Oracle | None = None,
        seed: int = 0,
        batch_size: int = 256,
        may_write: Callable[[], bool] = lambda: True,
        keep: Callable[[Candidate], object] | None = None,
        progress: Progress = SILENT,
    ) -> None:
        self._policy, self._oracle, self._second = policy, oracle, second
        self._settings, self._writer, self._journal = settings, writer, journal
        self._meter = Meter() if meter is None else meter
        self._seed, self._batch_size = seed, batch_size
        self._may_write, self._keep, self._progress = may_write, keep, progress
        self._checked = False
        self._who = f"{writer.identity}:{policy.hash}:{seed}"
        self._instructions = writer_instructions(policy)
        self._checks = TextChecks(
            policy, settings.most_similar, settings.longest, refuse_refusals=settings.refusals == "rejected"
        )
        self.tally = CorrectionTally()

    def __call__(self, pairs: Sequence[Pair]) -> list[str | None]:
        """Return the accepted correction of each pair, or None.

        Raises:
            LimitReached: a limit is reached; every candidate and verdict so far is remembered.
            OracleError: the writer or a judge cannot be asked.
        """
        candidates = self._candidates(pairs)
        for of_pair in candidates:
            self._check(of_pair)
        self._judge([candidate for of_pair in candidates for candidate in of_pair if candidate.fate is Fate.ACCEPTED])
        return [self._settle(of_pair) for of_pair in candidates]

    @property
    def spent(self) -> dict[str, Any]:
        """What writing took: calls, tokens and cost, as plain JSON types."""
        return self._meter.by_judge.get(self._writer.identity, JudgeSpent(self._writer.costs)).as_dict()

    def _candidates(self, pairs: Sequence[Pair]) -> list[list[Candidate]]:
        """Return every pair's candidates: those of the journal, and new ones."""
        found: list[dict[int, Candidate]] = [{} for _ in pairs]
        missing: list[tuple[int, int]] = []
        for place, pair in enumerate(pairs):
            for number in range(self._settings.candidates):
                draft = self._journal.find(candidate_key(self._who, pair.prompt, number))
                if draft is None:
                    missing.append((place, number))
                else:
                    found[place][number] = Candidate(pair, number, draft, known=True)
        # Pairs that share a prompt share their candidates: each is written once.
        first: dict[str, tuple[int, int]] = {}
        again: list[tuple[tuple[int, int], tuple[int, int]]] = []
        for place, number in missing:
            key = candidate_key(self._who, pairs[place].prompt, number)
            if key in first:
                again.append(((place, number), first[key]))
            else:
                first[key] = (place, number)
        for (place, number), draft in self._written(pairs, list(first.values())):
            found[place][number] = Candidate(pairs[place], number, draft, known=False)
        for (place, number), (where, which) in again:
            found[place][number] = Candidate(pairs[place], number, found[where][which].draft, known=True)
        return [[of_pair[number] for number in sorted(of_pair)] for of_pair in found]

    def _written(
        self, pairs: Sequence[Pair], wanted: Sequence[tuple[int, int]]
    ) -> Iterator[tuple[tuple[int, int], Draft]]:
        """Write candidates in parts that pass no limit; each is in the journal before the next is awaited."""
        if wanted and not self._may_write():
            raise NotRemembered
        if wanted and not self._checked:
            self._progress.say(f"writer: {self._writer.check()}")
            self._checked = True
        orders = [self._order(pairs[place], number) for place, number in wanted]
        costs, start = self._writer.costs, 0
        with self._progress.task("Writing corrections", len(orders)) as advance:
            while start < len(orders):
                rest = orders[start:]
                size = self._meter.room(costs, len(rest), (_tokens(order, LEAST_BYTES_PER_TOKEN) for order in rest))
                for offset, draft in self._writer.write(rest[:size]):
                    place, number = wanted[start + offset]
                    self._note(pairs[place], number, rest[offset], draft)
                    advance(1)
                    yield (place, number), draft
                start += size

    def _note(self, pair: Pair, number: int, order: Order, draft: Draft) -> None:
        entered = _tokens(order, BYTES_PER_TOKEN) if draft.input_tokens is None else draft.input_tokens
        written = self._writer.costs.max_output_tokens if draft.output_tokens is None else draft.output_tokens
        if draft.finish != "error":
            self._meter.spend(self._writer.costs, 1, entered, written, self._writer.identity)
            self.tally.input_tokens += entered
            self.tally.output_tokens += written
        if draft.keep:
            facts = {
                "id": pair.id,
                "candidate": number,
                "writer": self._writer.identity,
                "policy": f"{self._policy.id} {self._policy.version} {self._policy.hash}",
            }
            self._journal.add(candidate_key(self._who, pair.prompt, number), draft, facts)

    def _order(self, pair: Pair, number: int) -> Order:
        seed = int(text_hash(candidate_key(str(self._seed), pair.prompt, number)), 16) % 2**31
        return Order(writer_messages(self._instructions, pair.prompt), seed)

    def _check(self, candidates: Sequence[Candidate]) -> None:
        """Check the texts of a pair's candidates."""
        earlier: list[str] = []
        for candidate in candidates:
            draft = candidate.draft
            candidate.text = cleaned(draft.text)
            if draft.finish == "length":
                candidate.fate, candidate.why = Fate.TRUNCATED, "it was cut at max_tokens"
            elif draft.finish != "stop":
                candidate.fate, candidate.why = Fate.NOT_WRITTEN, draft.error or draft.finish
            else:
                wrong = self._checks.find(candidate.text, candidate.pair, earlier)
                if wrong is not None:
                    candidate.fate, candidate.why = wrong
                earlier.append(candidate.text)

    def _judge(self, candidates: Sequence[Candidate]) -> None:
        """Ask the oracle about each candidate, and the second one as well: agreement is known on the same items."""
        questions = [Judgement(candidate.pair.prompt, candidate.text) for candidate in candidates]
        for candidate, verdict in zip(candidates, ask(self._oracle, questions, self._batch_size), strict=True):
            candidate.verdict = verdict
            if verdict.label is not Label.COMPLIANT:
                candidate.fate, candidate.why = _OF_JUDGE[verdict.label], verdict.reason
            elif refused := self._refuses(candidate.text, verdict):
                candidate.fate, candidate.why = Fate.REFUSAL, refused
        if self._second is None:
            return
        for candidate, verdict in zip(candidates, ask(self._second, questions, self._batch_size), strict=True):
            candidate.second = verdict
            assert candidate.verdict is not None
            self.tally.both[candidate.verdict.label, verdict.label] += 1
            if candidate.fate is Fate.ACCEPTED and verdict.label is not Label.COMPLIANT:
                candidate.fate, candidate.why = _OF_SECOND[verdict.label], verdict.reason

    def _refuses(self, text: str, verdict: Verdict) -> str:
        """Return why a flat refusal is rejected although the decision lets it pass, or an empty string."""
        if not is_flat_refusal(text):
            return ""
        about = self._checks.refusal_rules
        against = [rule for rule in verdict.rules if rule.rule in about and rule.label is not Label.COMPLIANT]
        return "; ".join(f"{rule.rule}: {rule.reason}" for rule in against)

    def _settle(self, candidates: Sequence[Candidate]) -> str | None:
        """Choose a pair's correction, count, and hand the candidates over."""
        accepted = [candidate for candidate in candidates if candidate.fate is Fate.ACCEPTED]
        best = min(accepted, key=_strangeness, default=None)
        if best is not None:
            best.chosen = True
        self.tally.pairs += 1
        self.tally.corrected += best is not None
        for candidate in candidates:
            self.tally.fates[candidate.fate] += 1
            self.tally.known += candidate.known
            self.tally.written += not candidate.known
            if self._keep is not None:
                self._keep(candidate)
        return None if best is None else best.text


def _strangeness(candidate: Candidate) -> tuple[float, int]:
    """Return how far a candidate's length is from the old answers', as a ratio; among equals the first one is best.

    All accepted candidates comply; what else training could learn from them is mostly their length.
    """
    pair = candidate.pair
    usual = (len(words_of(pair.chosen)) + len(words_of(pair.rejected))) / 2
    return abs(math.log((len(words_of(candidate.text)) + 1) / (usual + 1))), candidate.number


def _tokens(order: Order, bytes_per_token: int) -> int:
    size = sum(len(message["content"].encode("utf-8", "replace")) for message in order.messages)
    return -(-size // bytes_per_token)
