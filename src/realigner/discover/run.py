"""Discovery from old preferences to a recovered policy, in order: propose, merge, vote, filter, validate, rewrite."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from realigner.discover.bias import Bias, find_biases
from realigner.discover.candidate import Candidate, Material, Votes, tally
from realigner.discover.cluster import Embed, merge_by_votes, merge_by_wording
from realigner.discover.controls import controls
from realigner.discover.discovery import Discovery, FoundRule, Lead, ids_where
from realigner.discover.features import NAMED
from realigner.discover.pointwise import Labels, pointwise_labels, pointwise_votes, policy_of, reproduced, rule_ids
from realigner.discover.propose import propose
from realigner.discover.select import Kept, margin, passes, select
from realigner.discover.validate import best_direction, figures, reconstruction, share
from realigner.errors import DataError
from realigner.progress import SILENT, Progress
from realigner.records import Label, Pair, prompt_key, text_hash

LEAST_PAIRS = 200
"""Pairs below which nothing is tried: a quarter of them is held out."""
LEAST_PROMPTS = 50
"""Distinct prompts below which nothing is tried: the sides are split by prompt."""
MOST_LEADS = 20
"""Candidates that were not kept and are listed all the same."""
SIDES = {"propose": 0.5, "validate": 0.25, "held_out": 0.25}
"""Shares of the prompts, in expectation."""


class Voter(Protocol):
    """Judges candidates by their wording, on pairs; see `llm_vote`."""

    answers: Counter[str]
    """What was wanted of it, and what of that could not be read: `votes`, `unreadable_votes` and so on."""

    @property
    def identity(self) -> str:
        """Who proposes and votes."""
        ...

    def propose(self, pairs: Sequence[Pair]) -> list[Candidate]:
        """Return candidates by wording."""
        ...

    def votes(self, candidates: Sequence[Candidate], pairs: Sequence[Pair]) -> list[Votes]:
        """Return the votes of each candidate."""
        ...

    def pointwise(self, candidate: Candidate, rule_id: str, pairs: Sequence[Pair]) -> Labels:
        """Return what the rule says of each response alone."""
        ...


@dataclass(frozen=True)
class _Side:
    """One side of the split."""

    material: Material

    @property
    def pairs(self) -> Sequence[Pair]:
        return self.material.pairs


def draw(pairs: Iterable[Pair], most: int | None, seed: int) -> list[Pair]:
    """Return at most so many pairs, drawn by a hash of their ids, in their own order."""
    every = list(pairs)
    if most is None or len(every) <= most:
        return every
    drawn = sorted(range(len(every)), key=lambda i: text_hash("draw", str(seed), every[i].id))[:most]
    return [every[i] for i in sorted(drawn)]


def side_of(pair: Pair, seed: int) -> str:
    """Return the side of a pair: a function of its prompt and the seed alone, so a prompt is on one side only."""
    draw = int(text_hash("discover", str(seed), prompt_key(pair.prompt)), 16) / 2.0**64
    reached = 0.0
    for name, part in SIDES.items():
        reached += part
        if draw < reached:
            return name
    return name


def discover(
    pairs: Iterable[Pair],
    *,
    name: str = "recovered",
    seed: int = 0,
    voter: Voter | None = None,
    embed: Embed | None = None,
    progress: Progress = SILENT,
) -> Discovery:
    """Recover what old preference data were teaching, as rules that judge one response alone.

    All pairs are held in memory. Floors and tests are fixed (docs/discover.md); none of them is a setting.

    Args:
        pairs: OLD preferences.
        name: id of the recovered policy.
        seed: of the split and of the intervals.
        voter: a language model that proposes rules by wording and votes by them. None: statistics alone.
        embed: vectors of wordings, to merge alike ones; None: TF-IDF.
        progress: shows the steps.

    Raises:
        DataError: too few pairs or prompts, or pairs that are all alike.
    """
    every = list(pairs)
    _refuse_hopeless(every)
    split: dict[str, list[Pair]] = {side: [] for side in SIDES}
    for pair in every:
        split[side_of(pair, seed)].append(pair)
    sides = {side: _Side(Material(found)) for side, found in split.items()}
    _refuse_empty(split)
    proposing = sides["propose"].material
    candidates = _merged(propose(proposing, progress), proposing, progress)
    if voter is not None:
        candidates = [*merge_by_wording(voter.propose(split["propose"]), embed), *candidates]
    votes = {side: _votes(candidates, found, voter, progress) for side, found in sides.items() if side != "held_out"}
    merged = merge_by_votes(candidates, votes["propose"])
    places = {id(vote): place for place, vote in enumerate(votes["propose"])}
    heads = [candidate for candidate, _ in merged]
    told = {side: [found[places[id(vote)]] for _, vote in merged] for side, found in votes.items()}
    kept = select(
        heads,
        told["propose"],
        told["validate"],
        [float(np.mean(proposing.alone(head, vote).preferred)) for head, vote in merged],
        proposing.length_votes,
        [sides["validate"].material.alone(head, vote) for head, vote in zip(heads, told["validate"], strict=True)],
    )
    leads = find_leads(heads, told["validate"], kept)
    chosen = [next(place for place, head in enumerate(heads) if head is item.candidate) for item in kept]
    known = {side: [found[place] for place in chosen] for side, found in told.items()}
    known["held_out"] = _votes([item.candidate for item in kept], sides["held_out"], voter)
    biases = _biases(kept, known, heads, told["propose"], sides)
    return _conclude(kept, known, leads, biases, sides, every, len(candidates), name, seed, voter)


def _merged(candidates: Sequence[Candidate], material: Material, progress: Progress) -> list[Candidate]:
    """Return candidates that vote differently; of those that vote alike, one with a named feature speaks,
    then the one that condemns least.
    """
    votes = _votes(candidates, _Side(material), None, progress)
    shares = [
        round(float(np.mean(material.alone(candidate, vote).preferred)), 2)
        for candidate, vote in zip(candidates, votes, strict=True)
    ]
    order = sorted(
        (i for i in range(len(candidates)) if np.any(votes[i])), key=lambda i: (candidates[i].of_phrase, shares[i])
    )
    found = merge_by_votes([candidates[i] for i in order], [votes[i] for i in order])
    return [candidate for candidate, _ in found]


def _votes(
    candidates: Sequence[Candidate], side: _Side, voter: Voter | None, progress: Progress = SILENT
) -> list[Votes]:
    """Return the votes of each candidate on one side; those by wording are asked together."""
    worded = [candidate for candidate in candidates if candidate.by_wording]
    asked = voter.votes(worded, side.pairs) if voter is not None and worded else []
    answers = dict(zip(map(id, worded), asked, strict=True))
    found = []
    with progress.task("Counting votes", len(candidates)) as advance:
        for candidate in candidates:
            found.append(answers[id(candidate)] if candidate.by_wording else side.material.votes(candidate))
            advance(1)
    return found


def _conclude(
    kept: Sequence[Kept],
    votes: dict[str, list[Votes]],
    leads: Sequence[Lead],
    biases: Sequence[Bias],
    sides: dict[str, _Side],
    every: Sequence[Pair],
    proposed: int,
    name: str,
    seed: int,
    voter: Voter | None,
) -> Discovery:
    """Measure what was kept on the held-out side, and put it into words; `votes` are the kept rules', by side."""
    candidates = [item.candidate for item in kept]
    weights = [item.weight for item in kept]
    held = sides["held_out"]
    content = [place for place, item in enumerate(kept) if item.candidate.kind == "content"]

    def margins(side: str, places: Iterable[int]) -> Any:
        chosen = list(places)
        return margin([weights[i] for i in chosen], [votes[side][i] for i in chosen], len(sides[side].pairs))

    ids = rule_ids(candidates)
    alone = [_alone(candidate, rule_id, held, voter) for candidate, rule_id in zip(candidates, ids, strict=True)]
    kept_alone = [_kept_alone([alone[i] for i in content], len(held.pairs), place) for place in (0, 1)]
    rules = tuple(
        FoundRule(
            id=ids[place],
            candidate=item.candidate,
            weight=item.weight,
            figures=figures(votes["held_out"][place], held.pairs, seed),
            with_length=item.with_length,
            reproduced=None if labels is None else reproduced(votes["held_out"][place], pointwise_votes(labels)),
            supports=_evidence(votes, sides, place, 1),
            opposes=_evidence(votes, sides, place, -1),
        )
        for place, (item, labels) in enumerate(zip(kept, alone, strict=True))
    )
    explained = {side: margins(side, content) for side in sides}
    return Discovery(
        policy=policy_of([candidates[i] for i in content], name, seed) if content else None,
        rules=rules,
        leads=tuple(leads),
        biases=tuple(biases),
        reconstruction=reconstruction(explained["held_out"], held.pairs, seed) if content else None,
        with_form=reconstruction(margins("held_out", range(len(kept))), held.pairs, seed) if kept else None,
        alone=reconstruction(kept_alone[0] - kept_alone[1], held.pairs, seed) if content else None,
        preferred_kept=share(kept_alone[0], held.pairs, seed) if content else None,
        baselines=_baselines(sides, seed),
        counts={
            **{side: len(found.pairs) for side, found in sides.items()},
            "candidates": proposed,
            "pairs": len(every),
        },
        unrelated={bias.form: _unrelated(bias, sides, explained) for bias in biases if bias.named},
        proposer="statistics" if voter is None else f"statistics and {voter.identity}",
        answers={} if voter is None else dict(voter.answers),
        seed=seed,
    )


def _biases(
    kept: Sequence[Kept],
    votes: dict[str, list[Votes]],
    candidates: Sequence[Candidate],
    proposing: Sequence[Votes],
    sides: dict[str, _Side],
) -> list[Bias]:
    """Test each form on the pairs that rules were not proposed from, against pairs of the same content.

    Candidates by wording that were not kept have no votes on the held-out side, and are no controls.
    """
    unseen = ("validate", "held_out")
    rules = [
        np.concatenate([votes[side][place] for side in unseen])
        for place, item in enumerate(kept)
        if item.candidate.kind == "content"
    ]
    able = [i for i, candidate in enumerate(candidates) if candidate.kind == "content" and not candidate.by_wording]
    forms, content = {}, {}
    for names, form in _forms(sides["propose"].material).items():
        chosen = [candidates[able[i]] for i in controls([proposing[i] for i in able], form)]
        content[names] = rules + [
            np.concatenate([sides[side].material.votes(candidate) for side in unseen]) for candidate in chosen
        ]
        forms[names] = np.concatenate([_forms(sides[side].material)[names] for side in unseen])
    return find_biases(forms, content, [prompt_key(pair.prompt) for side in unseen for pair in sides[side].pairs])


def find_leads(candidates: Sequence[Candidate], validating: Sequence[Votes], kept: Sequence[Kept]) -> list[Lead]:
    """Return the candidates that were not kept, strongest first by their mean vote on the validation pairs."""
    chosen = [item.candidate for item in kept]
    found = [
        Lead(candidate.text, *tally(vote))
        for candidate, vote in zip(candidates, validating, strict=True)
        if candidate not in chosen and passes(vote)
    ]
    return sorted(found, key=lambda lead: lead.oppose - lead.support)[:MOST_LEADS]


def _forms(material: Material) -> dict[tuple[str, str], Votes]:
    layout = next(feature for feature in NAMED if feature.of_form)
    chosen, rejected = material.sides(layout.check)
    return {("longer", "shorter"): material.length_votes, ("formatted", "plain"): (chosen - rejected).astype(np.int8)}


def _unrelated(bias: Bias, sides: dict[str, _Side], explained: dict[str, Any]) -> tuple[str, ...]:
    """Return the ids of the pairs that no content rule explains and this bias does."""
    found: list[str] = []
    for side, part in sides.items():
        forms = _forms(part.material)
        (names, votes) = next((names, votes) for names, votes in forms.items() if bias.form in names)
        wanted = votes if names[0] == bias.form else -votes
        found += ids_where((explained[side] <= 0) & (wanted > 0), [pair.id for pair in part.pairs])
    return tuple(found)


def _evidence(votes: dict[str, list[Votes]], sides: dict[str, _Side], place: int, sign: int) -> tuple[str, ...]:
    return tuple(
        i
        for side, part in sides.items()
        for i in ids_where(votes[side][place] == sign, [pair.id for pair in part.pairs])
    )


def _alone(candidate: Candidate, rule_id: str, side: _Side, voter: Voter | None) -> Labels | None:
    """Return what a rule says of each response alone; None for length, which compares."""
    if candidate.by_wording:
        assert voter is not None  # it proposed it
        return voter.pointwise(candidate, rule_id, side.pairs)
    return pointwise_labels(candidate.rule(rule_id), side.pairs) if candidate.demand else None


def _kept_alone(alone: Sequence[Labels | None], size: int, place: int) -> Any:
    """Return 1 where the preferred (place 0) or the other response of each pair keeps every rule, alone."""
    kept = np.ones(size)
    for labels in alone:
        if labels is not None:
            kept *= np.array([both[place] is Label.COMPLIANT for both in labels])
    return kept


def _baselines(sides: dict[str, _Side], seed: int) -> dict[str, Any]:
    """Return what length alone and refusal alone give back, each in the direction that the proposing side shows."""
    refusal = next(feature for feature in NAMED if feature.name == "refusal")
    found = {}
    for name in ("length alone", "refusal alone"):
        both = {}
        for side in ("propose", "held_out"):
            material = sides[side].material
            chosen, rejected = material.sides(refusal.check)
            both[side] = material.length_votes if name == "length alone" else (chosen - rejected).astype(np.int8)
        sign = best_direction(both["propose"])
        found[name] = reconstruction(sign * both["held_out"].astype(float), sides["held_out"].pairs, seed)
    return found


def _refuse_hopeless(pairs: Sequence[Pair]) -> None:
    prompts = len({prompt_key(pair.prompt) for pair in pairs})
    if len(pairs) < LEAST_PAIRS or prompts < LEAST_PROMPTS:
        raise DataError(
            f"{len(pairs):,} pairs of {prompts:,} prompts",
            f"recovering a policy takes at least {LEAST_PAIRS} pairs of {LEAST_PROMPTS} prompts, of which a quarter is "
            "held out",
            "Give more of the old data",
        )
    for side in ("chosen", "rejected"):
        if len({getattr(pair, side) for pair in pairs}) == 1:
            raise DataError(
                f"{len(pairs):,} pairs whose {side} response is always the same",
                "there is nothing to learn from constant data",
                "Check that data.fields names the right columns",
            )


def _refuse_empty(split: dict[str, list[Pair]]) -> None:
    for side, found in split.items():
        if not found:
            raise DataError(
                f"no pair on the side '{side}' of the split", "the sides are drawn by prompt", "Give more prompts"
            )
