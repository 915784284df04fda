"""The reader: what the plan says, decoded exactly, joined, prefetched, resumable, the same on any number of ranks."""

import gc
import threading
import time

import numpy as np
import pytest
import torch

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.format.storage import CorruptSampleError
from neuroimagen.data_shards.loading.plan import BalancedPlan, SequentialPlan, ShufflePlan
from neuroimagen.data_shards.loading.reader import Batch, Reader


def _equal(first: Batch, second: Batch) -> bool:
    return torch.equal(first.rows, second.rows) and torch.equal(first.eeg, second.eeg)


def test_batches_hold_what_the_plan_and_the_index_say(make_dataset) -> None:
    dataset = make_dataset(40)
    plan = ShufflePlan(np.arange(40), 0, 12)
    batches = list(Reader(dataset, plan, image_size_px=8).epoch(3))
    assert [len(batch) for batch in batches] == [12, 12, 12, 4]
    for step, batch in enumerate(batches):
        rows = plan.batch(3, step)
        assert batch.rows.tolist() == rows.tolist()
        np.testing.assert_array_equal(batch.eeg.numpy(), np.stack([dataset.eeg(row) for row in rows]))
        assert batch.eeg.dtype == torch.float32
        for tensor, column in ((batch.label, "label"), (batch.subject, "subject"), (batch.stimulus, "stimulus")):
            assert tensor.dtype == torch.int64
            assert tensor.tolist() == getattr(dataset.index, column)[rows].tolist()
        np.testing.assert_array_equal(batch.images.numpy(), dataset.stimuli.images(batch.stimulus.numpy(), 8))
        assert batch.images.shape == (len(rows), 3, 8, 8)


def test_large_segments_are_decoded_whole(make_dataset) -> None:
    """More samples than one piece of the decoder, and not a multiple of it."""
    dataset = make_dataset(3, n_channels=7, n_samples=10_001)
    batch = Reader(dataset, SequentialPlan(np.arange(3), 3)).read(np.array([2, 0, 2]))
    np.testing.assert_array_equal(batch.eeg.numpy(), np.stack([dataset.eeg(row) for row in (2, 0, 2)]))


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_resume_and_ranks_give_the_same_global_batches(make_dataset, world_size: int) -> None:
    dataset = make_dataset(60)
    plan = BalancedPlan(np.arange(60), dataset.index.label, 3, 3, 1)
    whole = list(Reader(dataset, plan).epoch(2))
    for start in (0, 3):
        ranks = [list(Reader(dataset, plan, rank=r, world_size=world_size).epoch(2, start)) for r in range(world_size)]
        for step, shares in enumerate(zip(*ranks, strict=True), start=start):
            assert torch.equal(torch.cat([share.eeg for share in shares]), whole[step].eeg)
            assert torch.equal(torch.cat([share.rows for share in shares]), whole[step].rows)


def test_a_kept_batch_is_never_overwritten_and_a_dropped_one_is_reused(make_dataset) -> None:
    dataset = make_dataset(60)
    reader = Reader(dataset, ShufflePlan(np.arange(60), 0, 6), prefetch_batches=1, decode_threads=2)
    kept = list(reader.epoch(0))
    copies = [batch.eeg.clone() for batch in kept]
    views = [batch.eeg[2:3] for batch in kept]
    del kept
    list(reader.epoch(1))
    for view, copy in zip(views, copies, strict=True):
        assert torch.equal(view, copy[2:3])
    del views, view
    gc.collect()
    places = {batch.eeg.data_ptr() for batch in reader.epoch(2)}
    # Two at the consumer, which keeps the last batch until it is given the next, one waiting, and two being decoded.
    assert len(places) <= 5


@pytest.mark.parametrize("decode_threads", [1, 3])
def test_parts_of_a_batch_meet_in_the_order_of_the_plan(make_dataset, decode_threads: int) -> None:
    """Batches of several chunks, with a remainder, decoded by threads that overtake each other."""
    dataset = make_dataset(700)
    plan = ShufflePlan(np.arange(700), 0, 300)
    for step, batch in enumerate(Reader(dataset, plan, decode_threads=decode_threads).epoch(1)):
        rows = plan.batch(1, step)
        assert batch.rows.tolist() == rows.tolist()
        np.testing.assert_array_equal(batch.eeg.numpy(), np.stack([dataset.eeg(row) for row in rows]))


def test_epochs_follow_each_other_without_end(make_dataset) -> None:
    dataset = make_dataset(20)
    reader = Reader(dataset, ShufflePlan(np.arange(20), 0, 6))
    one_by_one = [batch for epoch, start in ((3, 2), (4, 0), (5, 0)) for batch in reader.epoch(epoch, start)]
    stream = reader.epochs(3, 2)
    assert all(_equal(next(stream), batch) for batch in one_by_one)
    stream.close()


def test_reading_leaves_pytorchs_threads_to_the_trainer(make_dataset) -> None:
    """Segments large enough for PyTorch's thread pool: no thread beside the reader's own may start."""
    dataset = make_dataset(8, n_channels=64, n_samples=1000)
    seen = []

    class Store:
        def get(self, stimuli: np.ndarray) -> torch.Tensor:
            seen.append(torch.get_num_threads())
            return torch.zeros(len(stimuli), 1)

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        list(Reader(dataset, SequentialPlan(np.arange(8), 4), latents={"vae": Store()}).epoch(0))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert set(seen) == {1}


def test_latents_of_the_stimuli_come_along(make_dataset) -> None:
    dataset = make_dataset(20)

    class Store:
        def get(self, stimuli: np.ndarray) -> torch.Tensor:
            return torch.as_tensor(stimuli).float()[:, None] * 2

    batch = next(iter(Reader(dataset, SequentialPlan(np.arange(20), 5), latents={"vae": Store()}).epoch(0)))
    assert batch.latents["vae"].reshape(-1).tolist() == (batch.stimulus * 2).tolist()


def test_errors_of_the_background_thread_are_raised(make_dataset) -> None:
    dataset = make_dataset(20)
    shard = dataset.folder / "segments" / "00000.tar"
    content = bytearray(shard.read_bytes())
    content[int(dataset.index.offset[7]) + 200] ^= 1
    shard.write_bytes(content)
    reader = Reader(dataset, SequentialPlan(np.arange(20), 5))
    received = []
    with pytest.raises(CorruptSampleError, match=r"00000\.tar: segment 000000007 at offset \d+ is damaged"):
        received.extend(reader.epoch(0))
    assert len(received) <= 1


def _damage(dataset, rows) -> None:
    for row in rows:
        shard = dataset.segments.path(int(dataset.index.shard[row]))
        content = bytearray(shard.read_bytes())
        content[int(dataset.index.offset[row]) + 200] ^= 1
        shard.write_bytes(content)


@pytest.mark.parametrize("world_size", [1, 3])
def test_damaged_segments_are_replaced_alike_on_any_number_of_ranks(make_dataset, world_size: int) -> None:
    dataset = make_dataset(200)
    label, split = dataset.index.label, dataset.index.split_code
    damaged = [7, int(np.flatnonzero((label == label[7]) & (split == split[7]) & (np.arange(200) > 7))[0])]
    _damage(dataset, damaged)
    plan = ShufflePlan(np.arange(200), 0, 50)
    readers = [Reader(dataset, plan, rank=r, world_size=world_size, on_corrupt="skip") for r in range(world_size)]
    batches = [list(reader.epoch(0)) for reader in readers]
    rows = torch.cat([batches[r][step].rows for step in range(4) for r in range(world_size)]).numpy()
    planned = np.concatenate([plan.batch(0, step) for step in range(4)])
    assert np.isin(planned[rows != planned], damaged).all()
    assert (rows != planned).sum() == 2
    assert (label[rows] == label[planned]).all()
    assert (split[rows] == split[planned]).all()
    assert set().union(*(reader.corrupt for reader in readers)) == set(damaged)
    for batch in batches[0]:
        np.testing.assert_array_equal(batch.eeg[0].numpy(), dataset.eeg(int(batch.rows[0])))


def test_much_damage_is_an_error_even_when_skipping(make_dataset) -> None:
    dataset = make_dataset(200)
    _damage(dataset, range(0, 200, 20))
    with pytest.raises(CorruptSampleError, match=r"[34] of 200 segments are damaged, more than 1 %"):
        list(Reader(dataset, SequentialPlan(np.arange(200), 10), on_corrupt="skip").epoch(0))


def test_prefetch_is_bounded_in_bytes(make_dataset) -> None:
    dataset = make_dataset(40)
    batch_bytes = 4 * 4 * 5 * 33
    for prefetch_bytes, expected in ((batch_bytes * 3, 3), (1, 1), (1 << 30, 10)):
        plan = SequentialPlan(np.arange(40), 4)
        reader = Reader(dataset, plan, prefetch_batches=8, prefetch_bytes=prefetch_bytes, decode_threads=2)
        assert reader._batches_ahead == expected


def test_leaving_early_ends_the_thread(make_dataset) -> None:
    before = threading.active_count()
    for batch in Reader(make_dataset(40), SequentialPlan(np.arange(40), 2)).epoch(0):
        assert len(batch) == 2
        break
    gc.collect()
    assert threading.active_count() == before


def test_waiting_is_counted_and_prefetch_bounded(make_dataset) -> None:
    dataset = make_dataset(40)

    class SlowPlan(SequentialPlan):
        asked = 0

        def batch(self, epoch: int, step: int) -> np.ndarray:
            self.asked += 1
            time.sleep(0.02)
            return super().batch(epoch, step)

    plan = SlowPlan(np.arange(40), 4)
    reader = Reader(dataset, plan, prefetch_batches=2, decode_threads=1)
    assert sum(len(batch) for batch in reader.epoch(0)) == 40
    assert reader.wait_seconds > 0.1
    plan.asked = 0
    batches = reader.epoch(1)
    next(batches)
    time.sleep(0.3)
    # One taken, two waiting, one for the thread that decodes.
    assert plan.asked == 4
    batches.close()


def test_more_ranks_than_rows_gives_empty_parts(make_dataset) -> None:
    plan = SequentialPlan(np.arange(3), 4)
    shares = [next(iter(Reader(make_dataset(3, name=str(r)), plan, rank=r, world_size=4).epoch(0))) for r in range(4)]
    assert sorted(len(share) for share in shares) == [0, 1, 1, 1]
    assert all(share.eeg.shape[1:] == (5, 33) for share in shares)


def test_wrong_requests_are_refused(make_dataset) -> None:
    dataset = make_dataset(4)
    plan = SequentialPlan(np.arange(4), 4)
    with pytest.raises(ValueError, match="rank 1"):
        Reader(dataset, plan, rank=1)
    with pytest.raises(UserError, match="prefetch"):
        Reader(dataset, plan, prefetch_batches=0)
    with pytest.raises(UserError, match="not one of train, val, test"):
        dataset.rows("validation")
    with pytest.raises(UserError, match="subject 9"):
        dataset.rows("train", subjects=[9])
