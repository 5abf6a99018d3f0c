"""The order of training, over a grid of sizes."""

from __future__ import annotations

from collections import Counter

import pytest
from accelerate.data_loader import BatchSamplerShard
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.utils.data import BatchSampler

from realigner.errors import RecipeError
from realigner.records import Outcome
from realigner.train import StratifiedSampler

sizes = st.tuples(*[st.integers(0, 40)] * 4).filter(lambda counts: sum(counts) > 0)
batch_sizes = st.integers(2, 20)


def outcomes_of(counts: tuple[int, ...]) -> list[str]:
    return [name for name, n in zip(("INVERT", "NEUTRAL", "PUNISH", "CONFIRM"), counts, strict=True) for _ in range(n)]


def batches_of(sampler: StratifiedSampler) -> list[list[int]]:
    order = list(sampler)
    return [order[i : i + sampler.batch_size] for i in range(0, len(order), sampler.batch_size)]


@settings(deadline=None)
@given(sizes, batch_sizes, st.integers(0, 3))
@example((1, 0, 0, 900), 16, 0)
@example((40, 1, 40, 0), 2, 0)
def test_an_epoch_is_every_conflict_once_and_every_batch_holds_both_groups(
    counts: tuple[int, ...], batch_size: int, epoch: int
) -> None:
    outcomes = outcomes_of(counts)
    sampler = StratifiedSampler(outcomes, batch_size, seed=3)
    sampler.set_epoch(epoch)
    batches = batches_of(sampler)
    seen = Counter(position for batch in batches for position in batch)
    conflict = [Outcome(name).is_conflict for name in outcomes]
    retained = len(outcomes) - sum(conflict)

    assert len(sampler) == sum(seen.values()) == sampler.steps * batch_size
    assert len(batches) == sampler.steps > 0
    assert all(len(batch) == batch_size for batch in batches)
    if sum(conflict) and retained:
        assert all(seen[i] == 1 for i, is_conflict in enumerate(conflict) if is_conflict)
        assert all(0 < sum(conflict[i] for i in batch) < batch_size for batch in batches)
    else:  # one group alone: repeated only to fill the last batch
        assert sampler.repeats < batch_size
    for group in (True, False):
        times = [seen[i] for i, is_conflict in enumerate(conflict) if is_conflict == group]
        assert not times or max(times) - min(times) <= 1
    assert sampler.repeats == sum(seen.values()) - len(seen)
    assert sampler.left_out == len(outcomes) - len(seen)
    assert not (sampler.repeats and sampler.left_out)


@settings(deadline=None)
@given(sizes, batch_sizes)
def test_batches_hold_the_groups_in_nearly_their_overall_shares(counts: tuple[int, ...], batch_size: int) -> None:
    outcomes = outcomes_of(counts)
    batches = batches_of(StratifiedSampler(outcomes, batch_size, seed=0))
    conflicts = [sum(Outcome(outcomes[i]).is_conflict for i in batch) for batch in batches]
    assert max(conflicts) - min(conflicts) <= 1


def test_classes_are_spread_over_the_batches() -> None:
    outcomes = outcomes_of((8, 32, 24, 16))
    for batch in batches_of(StratifiedSampler(outcomes, 10, seed=0)):
        found = Counter(outcomes[i] for i in batch)
        assert found["INVERT"] == 1
        assert found["PUNISH"] == 3
        assert found["CONFIRM"] == 2
        assert found["NEUTRAL"] == 4


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    outcomes = outcomes_of((9, 11, 7, 13))

    def order(seed: int, epoch: int) -> list[int]:
        sampler = StratifiedSampler(outcomes, 8, seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(1, 2) == order(1, 2)
    assert order(1, 2) != order(1, 3)
    assert order(1, 2) != order(2, 2)


def test_rare_conflicts_leave_retained_pairs_to_other_epochs() -> None:
    sampler = StratifiedSampler(outcomes_of((3, 500, 2, 500)), 16, seed=0)
    assert (sampler.steps, sampler.left_out, sampler.repeats) == (5, 1000 - 75, 0)
    first = set(sampler)
    sampler.set_epoch(1)
    assert len(first | set(sampler)) > len(first) + 50


@pytest.mark.parametrize(("ranks", "micro"), [(1, 4), (2, 4), (2, 2), (4, 1)])
def test_a_step_holds_the_same_pairs_however_it_is_cut(ranks: int, micro: int) -> None:
    """As accelerate deals micro-batches to ranks."""
    sampler = StratifiedSampler(outcomes_of((9, 11, 7, 13)), 8, seed=5)
    whole = [set(batch) for batch in batches_of(sampler)]
    dealt = [list(BatchSamplerShard(BatchSampler(sampler, micro, False), ranks, rank)) for rank in range(ranks)]
    accumulated = 8 // (ranks * micro)
    for step, expected in enumerate(whole):
        mine = [shard[step * accumulated : (step + 1) * accumulated] for shard in dealt]
        assert {i for batches in mine for batch in batches for i in batch} == expected


def test_a_step_of_one_pair_cannot_hold_both_groups() -> None:
    with pytest.raises(RecipeError, match="an optimizer step of 1 pair: it holds at least one conflict and one ret"):
        StratifiedSampler(["INVERT", "NEUTRAL"], 1, seed=0)
    assert list(StratifiedSampler(["INVERT", "PUNISH"], 1, seed=0)) in ([0, 1], [1, 0])


def test_dealing_by_length_evens_micro_batches_out_and_leaves_every_step_its_pairs() -> None:
    outcomes = outcomes_of((16, 16, 16, 16))
    lengths = [10 + (i * 37) % 500 for i in range(64)]
    plain = list(StratifiedSampler(outcomes, 16, seed=3))
    dealt = list(StratifiedSampler(outcomes, 16, seed=3, lengths=lengths, micro_batch=4))
    longest, widest = max(lengths), {"plain": 0, "dealt": 0}
    for start in range(0, 64, 16):
        assert sorted(dealt[start : start + 16]) == sorted(plain[start : start + 16])
        for name, order in (("plain", plain), ("dealt", dealt)):
            sums = [sum(lengths[i] for i in order[at : at + 4]) for at in range(start, start + 16, 4)]
            widest[name] = max(widest[name], max(sums) - min(sums))
    assert widest["dealt"] < longest / 2 < widest["plain"]
