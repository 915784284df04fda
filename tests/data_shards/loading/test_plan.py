"""Plans: pure, exact, balanced, the same on any number of ranks."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.permutation import derive_key, permute
from neuroimagen.data_shards.loading.plan import (
    BalancedPlan,
    BlockShufflePlan,
    Plan,
    SequentialPlan,
    ShufflePlan,
    rank_slice,
)

seeds = st.integers(0, 2**31)


@given(length=st.integers(1, 600), seed=seeds)
def test_permute_is_a_permutation(length: int, seed: int) -> None:
    images = permute(np.arange(length), length, derive_key(seed))
    np.testing.assert_array_equal(np.sort(images), np.arange(length))


def test_permute_of_mixed_lengths_equals_one_at_a_time() -> None:
    lengths = np.array([1, 2, 7, 1000, 65_537])
    keys = derive_key(3, np.arange(5))
    together = permute(lengths - 1, lengths, keys)
    alone = [int(permute(np.array([n - 1]), int(n), key)[0]) for n, key in zip(lengths, keys, strict=True)]
    assert together.tolist() == alone


def test_permutations_of_four_are_equally_likely() -> None:
    draws = permute(np.arange(4)[None], 4, derive_key(1, np.arange(24_000))[:, None])
    counts = np.unique(draws @ [64, 16, 4, 1], return_counts=True)[1]
    # χ² with 23 degrees of freedom exceeds 49.7 once in a thousand.
    assert len(counts) == 24
    assert ((counts - 1000) ** 2 / 1000).sum() < 49.7


def test_permutation_mixes_places() -> None:
    """Where a tenth of the places lands among the tenths, over 200 keys: χ² with 81 degrees of freedom."""
    length = 1000
    images = permute(np.arange(length)[None], length, derive_key(2, np.arange(200))[:, None])
    counts = np.zeros((10, 10))
    np.add.at(counts, (np.broadcast_to(np.arange(length) // 100, images.shape), images // 100), 1)
    assert ((counts - 2000) ** 2 / 2000).sum() < 126  # once in a thousand
    followers = (np.diff(images, axis=1) == 1).sum(axis=1)
    assert 0.7 < followers.mean() < 1.3  # a random permutation has one on average


@settings(max_examples=50)
@given(num_rows=st.integers(1, 300), batch=st.integers(1, 50), seed=seeds, epoch=st.integers(0, 5))
def test_shuffle_gives_every_row_once_an_epoch(num_rows: int, batch: int, seed: int, epoch: int) -> None:
    rows = np.arange(num_rows) * 3 + 1
    plan = ShufflePlan(rows, seed, batch)
    batches = [plan.batch(epoch, step) for step in range(plan.steps_per_epoch)]
    assert all(len(rows) == batch for rows in batches[:-1])
    np.testing.assert_array_equal(np.sort(np.concatenate(batches)), rows)


def test_shuffle_differs_between_epochs_and_seeds_and_drops_the_rest_on_request() -> None:
    rows = np.arange(103)
    plan = ShufflePlan(rows, 0, 10, drop_last=True)
    assert plan.steps_per_epoch == 10
    orders = {tuple(plan.batch(epoch, 0)) for epoch in range(20)} | {tuple(ShufflePlan(rows, 1, 10).batch(0, 0))}
    assert len(orders) == 21
    left_out = [set(range(103)) - {row for step in range(10) for row in plan.batch(epoch, step)} for epoch in range(20)]
    assert len(set().union(*left_out)) > 20


@st.composite
def balanced_cases(draw: st.DrawFn) -> tuple[np.ndarray, int, int, int]:
    """Labels with rare classes (2 rows) beside common ones, P, K, seed."""
    counts = draw(st.lists(st.integers(2, 40), min_size=1, max_size=12))
    labels = np.repeat(np.arange(len(counts)) * 7, counts)
    seed = draw(seeds)
    labels = labels[np.random.default_rng(seed).permutation(len(labels))]
    return labels, draw(st.integers(1, len(counts))), draw(st.integers(2, 6)), seed


@given(case=balanced_cases())
@settings(max_examples=60)
def test_balanced_batches_are_balanced_with_rare_classes(case: tuple[np.ndarray, int, int, int]) -> None:
    labels, P, K, seed = case
    rows = np.arange(len(labels)) + 1000
    plan = BalancedPlan(rows, labels, P, K, seed)
    counts = dict(zip(*np.unique(labels, return_counts=True), strict=True))
    seen = np.zeros(len(labels), dtype=int)
    for step in range(plan.steps_per_epoch):
        batch = plan.batch(1, step)
        of_batch = labels[batch - 1000]
        classes, sizes = np.unique(of_batch, return_counts=True)
        assert len(classes) == P
        assert set(sizes) == {K}
        for label in classes:
            chosen, times = np.unique(batch[of_batch == label], return_counts=True)
            assert len(chosen) == min(K, counts[label])
            assert times.max() - times.min() <= 1
        np.add.at(seen, batch - 1000, 1)
    # Classes take turns, so whole stretches are even; one that is cut short differs by two at most.
    per_class = np.array([seen[labels == label].sum() // K for label in counts])
    assert per_class.max() - per_class.min() <= 2


def test_balanced_class_walks_through_all_its_rows_before_one_returns() -> None:
    labels = np.repeat([0, 1, 2], [24, 24, 2000])
    plan = BalancedPlan(np.arange(len(labels)), labels, 3, 4, seed=5)
    first_passes = np.concatenate([plan.batch(0, step) for step in range(6)])
    rare = first_passes[labels[first_passes] < 2]
    np.testing.assert_array_equal(np.sort(rare), np.arange(48))
    second = np.concatenate([plan.batch(0, step) for step in range(6, 12)])
    assert rare.tolist() != second[labels[second] < 2].tolist()


def test_balanced_classes_take_turns_when_batches_cross_rounds() -> None:
    labels = np.repeat(np.arange(10), 100)
    plan = BalancedPlan(np.arange(1000), labels, 4, 5, seed=0)
    for start in (0, 5, 10, 45):  # 5 batches of 4 classes are 2 rounds of 10
        classes = np.concatenate([labels[plan.batch(0, step)][::5] for step in range(start, start + 5)])
        assert np.unique(classes, return_counts=True)[1].tolist() == [2] * 10
    neighbours = [frozenset(labels[plan.batch(0, step)][::5]) for step in range(50)]
    assert len(set(neighbours)) > 30


def test_balanced_plan_knows_which_classes_repeat_a_row_within_a_batch() -> None:
    labels = np.repeat([7, 2, 5, 9], [4, 40, 3, 5])
    plan = BalancedPlan(np.arange(len(labels)), labels, 4, 5, seed=3)
    assert plan.short_classes == {5: 3, 7: 4}  # fewest first; of 9 a batch takes all
    batches = [plan.batch(epoch, step) for epoch in range(5) for step in range(plan.steps_per_epoch)]
    repeating = {int(labels[row]) for batch in batches for row in batch if (batch == row).sum() > 1}
    assert repeating == set(plan.short_classes)
    assert BalancedPlan(np.arange(len(labels)), labels, 4, 3, seed=3).short_classes == {}


def _plans(num_rows: int = 97) -> list[Plan]:
    rows = np.arange(num_rows)
    return [SequentialPlan(rows, 12), ShufflePlan(rows, 3, 12), BalancedPlan(rows, rows % 5, 4, 3, 3)]


@settings(max_examples=60)
@given(data=st.data(), seed=seeds, epoch=st.integers(0, 3))
def test_block_shuffle_gives_every_row_once(data: st.DataObject, seed: int, epoch: int) -> None:
    counts = data.draw(st.lists(st.integers(1, 30), min_size=1, max_size=12))
    shard = np.repeat(np.arange(len(counts)) * 3, counts)
    streams = data.draw(st.integers(1, min(4, len(shard))))
    batch = streams * data.draw(st.integers(1, 9))
    window_shards = data.draw(st.integers(1, 4))
    rows = np.arange(len(shard)) * 2 + 1
    shuffled = data.draw(st.permutations(range(len(shard))))
    plan = BlockShufflePlan(
        rows[shuffled], shard[shuffled], seed, batch, window_shards=window_shards, num_streams=streams
    )
    steps = [plan.batch(epoch, step) for step in range(plan.steps_per_epoch)]
    assert sorted(np.concatenate(steps).tolist()) == rows.tolist()
    assert all(len(step) == batch for step in steps[:-1])
    # In any order and from a plan made anew: nothing depends on what was asked before.
    anew = BlockShufflePlan(rows, shard, seed, batch, window_shards=window_shards, num_streams=streams)
    for step in reversed(range(len(steps))):
        np.testing.assert_array_equal(anew.batch(epoch, step), steps[step])


def test_block_shuffle_reads_a_window_of_shards_and_mixes_it() -> None:
    shard = np.repeat(np.arange(40), 25)
    plan = BlockShufflePlan(np.arange(1000), shard, 7, 20, window_shards=4)
    order = np.concatenate([plan.batch(0, step) for step in range(50)])
    for first in range(0, 1000, 100):
        window = order[first : first + 100]
        assert len(np.unique(shard[window])) == 4
        assert len(np.unique(shard[window[:20]])) > 1
    seen: dict[int, list[int]] = {}
    for step in range(50):
        for place in np.unique(shard[plan.batch(0, step)]).tolist():
            seen.setdefault(place, []).append(step)
    assert max(steps[-1] - steps[0] for steps in seen.values()) < 5
    assert not np.array_equal(order, np.concatenate([plan.batch(1, step) for step in range(50)]))


def test_block_shuffle_streams_keep_nodes_to_their_own_shards() -> None:
    shard = np.repeat(np.arange(40), 25)
    plan = BlockShufflePlan(np.arange(1000), shard, 7, 20, window_shards=2, num_streams=4)
    shards = [
        {int(place) for step in range(50) for place in shard[rank_slice(plan.batch(0, step), rank, 4)]}
        for rank in range(4)
    ]
    assert [len(own) for own in shards] == [10, 10, 10, 10]
    assert len(set().union(*shards)) == 40
    with pytest.raises(UserError, match="must divide"):
        BlockShufflePlan(np.arange(10), np.zeros(10), 0, 6, num_streams=4)


@settings(max_examples=20)
@given(world_size=st.integers(1, 64), new_world_size=st.integers(1, 64), change=st.integers(0, 9))
def test_ranks_join_to_the_same_global_batches_also_when_their_number_changes(
    world_size: int, new_world_size: int, change: int
) -> None:
    for plan in _plans():
        steps = range(plan.steps_per_epoch)
        expected = [plan.batch(2, step) for step in steps]
        for step in steps:
            size = world_size if step < change else new_world_size
            batch = plan.batch(2, step)
            slices = [rank_slice(batch, rank, size) for rank in range(size)]
            np.testing.assert_array_equal(np.concatenate(slices), expected[step])
            assert max(map(len, slices)) - min(map(len, slices)) <= 1


def test_steps_do_not_depend_on_what_was_asked_before() -> None:
    for plan, fresh in zip(_plans(), _plans(), strict=True):
        forward = [plan.batch(1, step) for step in range(plan.steps_per_epoch)]
        for step in reversed(range(plan.steps_per_epoch)):
            np.testing.assert_array_equal(fresh.batch(1, step), forward[step])


def test_a_step_costs_the_same_in_a_large_data_set() -> None:
    """Nothing that a step allocates grows with the rows: 4 million of them would take 4 MB even as flags."""
    rows = np.arange(4_000_000)
    plans = (
        ShufflePlan(rows, 0, 128),
        BalancedPlan(rows, rows % 40, 32, 4, 0),
        BlockShufflePlan(rows, rows // 5000, 0, 128),
    )
    for plan in plans:
        plan.batch(0, 0)
        tracemalloc.start()
        for step in range(20):
            plan.batch(0, plan.steps_per_epoch - 1 - 1000 * step)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 1 << 20


def test_wrong_requests_say_what_to_do() -> None:
    with pytest.raises(UserError, match="empty"):
        ShufflePlan(np.array([], dtype=int), 0, 4)
    with pytest.raises(UserError, match="Ask for fewer"):
        BalancedPlan(np.arange(4), np.array([0, 0, 1, 1]), 3, 2, 0)
    with pytest.raises(UserError, match=r"classes \[7\] have fewer than two"):
        BalancedPlan(np.arange(5), np.array([0, 0, 1, 1, 7]), 2, 2, 0)
    with pytest.raises(UserError, match="positive pair"):
        BalancedPlan(np.arange(4), np.array([0, 0, 1, 1]), 2, 1, 0)
    with pytest.raises(UserError, match="Make it smaller"):
        ShufflePlan(np.arange(3), 0, 4, drop_last=True)
    with pytest.raises(IndexError):
        SequentialPlan(np.arange(3), 2).batch(0, 2)
    with pytest.raises(ValueError, match="rank 2"):
        rank_slice(np.arange(3), 2, 2)
