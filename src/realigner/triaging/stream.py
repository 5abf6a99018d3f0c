"""Triage as a stream: pairs go in, triaged pairs come out in the same order, and only one batch is held."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import ExitStack
from itertools import islice

from realigner.data import split_of
from realigner.errors import OracleError
from realigner.oracle import Oracle, ask
from realigner.progress import SILENT, Progress
from realigner.records import Correction, Judgement, Outcome, Pair, TriagedPair, Verdict
from realigner.triaging.corrections import CorrectionIndex, refuse_judged, refuse_unasked
from realigner.triaging.human import HumanVerdicts
from realigner.triaging.outcomes import Over, direction, outcome
from realigner.triaging.tally import TriageTally

Corrections = Mapping[str, Correction] | CorrectionIndex
Correct = Callable[[Sequence[Pair]], list[str | None]]
"""Given PUNISH pairs that have no accepted correction, returns one for each that it found one for."""


def triage(
    pairs: Iterable[Pair],
    oracle: Oracle,
    *,
    corrections: Corrections | None = None,
    correct: Correct | None = None,
    over: Over = "chosen",
    human: HumanVerdicts | None = None,
    seed: int = 0,
    eval_fraction: float = 0.1,
    batch_size: int = 256,
    tally: TriageTally | None = None,
    progress: Progress = SILENT,
) -> Iterator[TriagedPair]:
    """Judge both responses of every pair, each alone with its prompt, and yield what follows, pair by pair.

    Args:
        pairs: the OLD preferences; their order and the order inside each pair are kept.
        oracle: judges responses, and corrections before they are used.
        corrections: proposed y_c by pair id; used for PUNISH pairs where the oracle finds them compliant.
        correct: finds accepted y_c for PUNISH pairs that have none yet; it judges what it proposes itself.
        over: whether a correction is preferred to the chosen response alone, or to both old ones.
        human: verdicts of people on single responses; they stand in the place of the oracle's.
        seed: of the split into train and eval, which goes by prompt.
        eval_fraction: share of prompts held out, in expectation.
        batch_size: the most questions in one call of the oracle; the result does not depend on it.
        tally: filled while streaming; complete when the iterator is exhausted.
        progress: counts pairs.

    Raises:
        OracleError: the oracle breaks its contract, or batch_size is below 1.
    """
    if batch_size < 1:
        raise OracleError(
            f"batch_size = {batch_size}", "an oracle is asked at least one question at a time", "Raise it"
        )
    tally = TriageTally() if tally is None else tally
    total = len(pairs) if isinstance(pairs, Sized) else None
    return _stream(
        iter(pairs), oracle, corrections, correct, over, human, seed, eval_fraction, batch_size, tally, progress, total
    )


def _stream(
    pairs: Iterator[Pair],
    oracle: Oracle,
    corrections: Corrections | None,
    correct: Correct | None,
    over: Over,
    human: HumanVerdicts | None,
    seed: int,
    eval_fraction: float,
    batch_size: int,
    tally: TriageTally,
    progress: Progress,
    total: int | None,
) -> Iterator[TriagedPair]:
    with ExitStack() as stack:
        index = _opened(corrections, stack)
        if human is not None:
            human.start()
            tally.human = human.tally
        advance = stack.enter_context(progress.task("Triage", total))
        # A pair asks two questions, so this many pairs fill one call.
        while batch := list(islice(pairs, max(1, batch_size // 2))):
            verdicts = _judge(oracle, batch, batch_size)
            if human is not None:
                verdicts = [human.put(pair, said) for pair, said in zip(batch, verdicts, strict=True)]
            accepted = _accept(oracle, batch, verdicts, index, batch_size, tally)
            if correct is not None:
                _correct(correct, batch, verdicts, accepted, tally)
            for pair, (chosen, rejected), correction in zip(batch, verdicts, accepted, strict=True):
                found = outcome(chosen.label, rejected.label)
                triaged = TriagedPair(
                    pair=pair,
                    split=split_of(pair.prompt, seed, eval_fraction),
                    chosen_verdict=chosen,
                    rejected_verdict=rejected,
                    outcome=found,
                    direction=direction(found, correction is not None, over),
                    correction=correction,
                )
                tally.add(triaged)
                yield triaged
            advance(len(batch))
        if index is not None:
            tally.corrections_unknown += index.count_unknown()


def _opened(corrections: Corrections | None, stack: ExitStack) -> CorrectionIndex | None:
    """Return the index to look in; one made here is closed with the stack, the caller's stays open."""
    if corrections is None:
        return None
    if isinstance(corrections, CorrectionIndex):
        corrections.forget_found()
        return corrections
    return stack.enter_context(CorrectionIndex.from_mapping(corrections))


def _judge(oracle: Oracle, batch: Sequence[Pair], batch_size: int) -> list[tuple[Verdict, Verdict]]:
    """Return the verdicts on (chosen, rejected) of every pair."""
    questions = [Judgement(pair.prompt, text) for pair in batch for text in (pair.chosen, pair.rejected)]
    answers = ask(oracle, questions, batch_size)
    return list(zip(answers[::2], answers[1::2], strict=True))


def _correct(
    correct: Correct,
    batch: Sequence[Pair],
    verdicts: Sequence[tuple[Verdict, Verdict]],
    accepted: list[str | None],
    tally: TriageTally,
) -> None:
    """Have the PUNISH pairs corrected that have no accepted correction yet; put what comes of it into `accepted`."""
    places = [
        place
        for place, (chosen, rejected) in enumerate(verdicts)
        if accepted[place] is None and outcome(chosen.label, rejected.label) is Outcome.PUNISH
    ]
    for place, text in zip(places, correct([batch[place] for place in places]), strict=True):
        accepted[place] = text
        tally.corrections_written += text is not None


def _accept(
    oracle: Oracle,
    batch: Sequence[Pair],
    verdicts: Sequence[tuple[Verdict, Verdict]],
    index: CorrectionIndex | None,
    batch_size: int,
    tally: TriageTally,
) -> list[str | None]:
    """Return the accepted correction of each pair of a batch, or None; count the others by reason."""
    accepted: list[str | None] = [None] * len(batch)
    if index is None:
        return accepted
    proposed: list[int] = []
    questions: list[Judgement] = []
    for place, (pair, (chosen, rejected)) in enumerate(zip(batch, verdicts, strict=True)):
        correction = index.find(pair.id)
        if correction is None:
            continue
        refusal = refuse_unasked(correction, pair, outcome(chosen.label, rejected.label))
        if refusal is None:
            proposed.append(place)
            questions.append(Judgement(pair.prompt, correction.text))
        else:
            tally.corrections_refused[refusal] += 1
    for place, question, verdict in zip(proposed, questions, ask(oracle, questions, batch_size), strict=True):
        refusal = refuse_judged(verdict.label)
        if refusal is None:
            accepted[place] = question.response
            tally.corrections_accepted += 1
        else:
            tally.corrections_refused[refusal] += 1
    return accepted
