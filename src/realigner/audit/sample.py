"""Drawing the responses that people audit: stratified, seeded, with known inclusion probabilities.

Strata are made of the pair's outcome, the side, the verdict and the rule that decided. A response that breaks several
rules belongs to the one that is broken least often, so that rare rules are seen. Each stratum is given the same floor;
what is left of n goes to the strata by the square root of their size, between proportional (best for the whole) and
equal (best for each). Inside a stratum the draw is by the rank of a hash of seed and place: it depends neither on the
order of the data nor on other strata.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import sqrt

from realigner.audit.records import AuditItem, AuditSample, FrameRow, Kind, Stratum, Unit
from realigner.errors import AuditError
from realigner.records import Label, Prompt, TriagedPair, prompt_key, text_hash

DEFAULT_N = 500
FLOOR = 10
"""Responses drawn from each stratum at least, where it has as many and n allows; never fewer than LEAST."""
LEAST = 2

Key = tuple[str, ...]


def draw_sample(rows: Iterable[TriagedPair], n: int = DEFAULT_N, seed: int = 0) -> AuditSample:
    """Draw single responses (chosen or rejected) of triaged pairs.

    Args:
        rows: triaged pairs, of which the prompt, both responses, both verdicts and the outcome are used.
        n: responses to draw; all of them where there are fewer.
        seed: of the draw.

    Raises:
        AuditError: no responses, or n is too small for two a stratum.
    """
    units = [unit for row in rows for unit in units_of(row)]
    return draw(lambda: units, n, seed)


def units_of(row: TriagedPair) -> tuple[Unit, Unit]:
    """Return the two responses of a pair."""
    pair, outcome = row.pair, row.outcome.value
    return (
        Unit(f"{pair.id}/chosen", pair.prompt, pair.chosen, row.chosen_verdict, outcome, "chosen"),
        Unit(f"{pair.id}/rejected", pair.prompt, pair.rejected, row.rejected_verdict, outcome, "rejected"),
    )


def draw(
    units: Callable[[], Iterable[Unit]], n: int, seed: int, side: str = "side", rules: Sequence[str] = ()
) -> AuditSample:
    """Draw from units that can be gone through twice; memory holds the sample and one count for each kind.

    Args:
        units: returns all units, the same ones each time.
        n: responses to draw; all of them where there are fewer.
        seed: of the draw.
        side: what `Unit.group` is called: `side` or `model`.
        rules: the rules of the policy, in its order. By default those that the verdicts name.

    Raises:
        AuditError: no responses, or n is too small for two a stratum.
    """
    kinds = Counter(kind_of(unit) for unit in units())
    if not kinds:
        raise AuditError("an audit of 0 responses", "there is nothing to draw from", "Run the stage before it first")
    by, keys = _strata(kinds, n, side)
    sizes: Counter[Key] = Counter()
    for kind, count in kinds.items():
        sizes[keys[kind]] += count
    names = sorted(sizes)
    drawn = dict(zip(names, allocate([sizes[name] for name in names], n), strict=True))
    chosen = _lowest_ranks(units(), keys, drawn, seed)
    number = {name: place for place, name in enumerate(names)}
    items = [
        AuditItem(
            item_id(unit.prompt, unit.response),
            unit.id,
            number[keys[kind_of(unit)]],
            kind_of(unit),
            unit.prompt,
            unit.response,
        )
        for unit in chosen
    ]
    items.sort(key=lambda item: (text_hash(str(seed), "audit-order", item.id), item.unit))
    return AuditSample(
        items=tuple(items),
        strata=tuple(Stratum(" · ".join(name), sizes[name], drawn[name]) for name in names),
        frame=tuple(
            FrameRow(number[keys[kind]], kind, count) for kind, count in sorted(kinds.items(), key=_kind_order)
        ),
        seed=seed,
        by=by,
        rules=tuple(rules) or tuple(dict.fromkeys(rule for kind in kinds for rule, _ in kind.rules)),
    )


def kind_of(unit: Unit) -> Kind:
    """Return what the judge said of a response."""
    rules = tuple((rule.rule, rule.label) for rule in unit.verdict.rules)
    return Kind(unit.outcome, unit.group, unit.verdict.label, rules, unit.topic)


def item_id(prompt: Prompt, response: str) -> str:
    """Return the identity of what people are shown."""
    return text_hash("audit", prompt_key(prompt), response)


def allocate(sizes: Sequence[int], n: int) -> list[int]:
    """Return how many to draw from strata of these sizes, n in all (or everything, where there are fewer).

    Each stratum gets min(size, floor), with floor = FLOOR, or half of an equal share of n where that is less, but never
    less than LEAST, for which n must be enough; the rest goes by √size, never beyond a stratum's size. Ties are broken
    by the order of the strata.
    """
    n = min(n, sum(sizes))
    floor = max(LEAST, min(FLOOR, n // (2 * len(sizes))))
    drawn = [min(size, floor) for size in sizes]
    while True:
        left = n - sum(drawn)
        room = [place for place, size in enumerate(sizes) if drawn[place] < size]
        total = sum(sqrt(sizes[place]) for place in room)
        shares = {place: left * sqrt(sizes[place]) / total for place in room}
        full = [place for place in room if shares[place] >= sizes[place] - drawn[place]]
        if not full:
            break
        for place in full:
            drawn[place] = sizes[place]
    # Whole parts first; what is left over goes to the largest fractions, one each.
    for place in room:
        drawn[place] += int(shares[place])
    by_fraction = sorted(room, key=lambda place: (-(shares[place] % 1), place))
    for place in by_fraction[: n - sum(drawn)]:
        drawn[place] += 1
    return drawn


def _strata(kinds: Counter[Kind], n: int, side: str) -> tuple[str, dict[Kind, Key]]:
    """Return the finest strata of which n gives each LEAST, by name and as a key for each kind."""
    rarest = _rarest(kinds)
    levels: list[tuple[str, Callable[[Kind], Key]]] = [
        (f"outcome, {side}, verdict, rule", lambda k: (k.outcome, k.group, k.label.value, rarest[k])),
        (f"outcome, {side}, verdict", lambda k: (k.outcome, k.group, k.label.value)),
        (f"{side}, verdict", lambda k: (k.group, k.label.value)),
    ]
    least = 0
    for by, key in levels:
        sizes: Counter[Key] = Counter()
        for kind, count in kinds.items():
            sizes[key(kind)] += count
        least = sum(min(LEAST, size) for size in sizes.values())
        if least <= n:
            return by, {kind: key(kind) for kind in kinds}
    raise AuditError(
        f"n = {n}", f"the judge's verdicts make {len(sizes)} strata, and each needs {LEAST}", f"Ask for {least} or more"
    )


def _rarest(kinds: Mapping[Kind, int]) -> dict[Kind, str]:
    """Return for each kind the broken rule that is broken least often over all, or `no rule`."""
    often: Counter[str] = Counter()
    for kind, count in kinds.items():
        for rule in _broken(kind):
            often[rule] += count
    return {kind: min(_broken(kind), key=lambda rule: (often[rule], rule), default="no rule") for kind in kinds}


def _broken(kind: Kind) -> list[str]:
    return [rule for rule, label in kind.rules if label is Label.NON_COMPLIANT]


def _lowest_ranks(units: Iterable[Unit], keys: Mapping[Kind, Key], drawn: Mapping[Key, int], seed: int) -> list[Unit]:
    """Return of each stratum the units whose hashes are lowest."""
    heaps: dict[Key, list[tuple[int, str, Unit]]] = {key: [] for key in drawn}
    for unit in units:
        key = keys[kind_of(unit)]
        entry = (-int(text_hash(str(seed), "audit", unit.id), 16), unit.id, unit)
        heap = heaps[key]
        if len(heap) < drawn[key]:
            heapq.heappush(heap, entry)
        elif entry[:2] > heap[0][:2]:
            heapq.heapreplace(heap, entry)
    return [unit for heap in heaps.values() for _, _, unit in heap]


def _kind_order(entry: tuple[Kind, int]) -> tuple[str, ...]:
    kind, _ = entry
    return (kind.outcome, kind.group, kind.label.value, kind.topic, *(f"{rule} {label}" for rule, label in kind.rules))
