"""A whole data set behind a URL, from a server that fails, stalls, truncates and corrupts: opened, read, repacked."""

import json
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.dataset.joined import JoinedDataset
from neuroimagen.data_shards.dataset.verify import verify
from neuroimagen.data_shards.format.storage import CorruptSampleError
from neuroimagen.data_shards.loading.plan import BlockShufflePlan, ShufflePlan
from neuroimagen.data_shards.loading.reader import Reader
from neuroimagen.launch.cli import main


def _assert_same(remote: Dataset, local: Dataset) -> None:
    plan = ShufflePlan(np.arange(len(local)), 0, 16)
    batches = zip(
        Reader(remote, plan, image_size_px=8).epoch(1), Reader(local, plan, image_size_px=8).epoch(1), strict=True
    )
    for far, near in batches:
        assert torch.equal(far.rows, near.rows)
        assert torch.equal(far.eeg, near.eeg)
        assert torch.equal(far.images, near.images)


def test_a_url_opens_like_a_folder_and_every_block_is_fetched_once(served: Any) -> None:
    remote = served.open()
    assert remote.digest == served.local.digest
    assert served.server.count(".tar") == 0
    _assert_same(remote, served.local)
    tars = [request for request in served.server.requests if request[0].endswith(".tar")]
    assert len(tars) == len(set(tars)), "a block was fetched twice"
    assert all(stop - start <= 10_000 for _, start, stop in tars)
    again = served.open()
    _assert_same(again, served.local)
    assert served.server.count(".tar") == len(tars)
    assert served.server.count("parquet") == 2
    _assert_same(pickle.loads(pickle.dumps(again)), served.local)
    assert served.server.count(".tar") == len(tars)


@pytest.mark.parametrize("fault", ["500", "drop", "stall", "truncate", "corrupt"])
def test_failures_that_end_do_not_show(served: Any, fault: str) -> None:
    """The first two requests of every file fail; they are repeated, and damaged blocks are fetched again."""
    worst = 1 if fault == "corrupt" else 2
    served.server.fault = lambda path, number: fault if number < worst and not path.endswith("dataset.json") else None
    remote = served.open(timeout_s=0.5 if fault == "stall" else 60.0, block_bytes=40_000)
    _assert_same(remote, served.local)


def test_failures_that_last_are_one_clear_error(served: Any) -> None:
    remote = served.open(attempts=3)
    served.server.fault = lambda path, number: "500" if path.endswith(".tar") else None
    with pytest.raises(UserError, match=r"http://.*segments/00000\.tar in 3 attempts: .*500"):
        remote.eeg(0)
    served.server.fault = lambda path, number: "corrupt" if path.endswith(".tar") else None
    with pytest.raises(CorruptSampleError, match=r"http://.*00000\.tar: segment 000000000 at offset 512 is damaged"):
        remote.eeg(0)
    served.server.fault = lambda path, number: "404" if path.endswith(".tar") else None
    asked = len(served.server.requests)
    with pytest.raises(UserError, match=r"segments/00000\.tar does not exist"):
        remote.eeg(0)
    assert len(served.server.requests) == asked + 1, "a missing file is not requested again"
    served.server.fault = lambda path, number: None
    _assert_same(remote, served.local)
    with pytest.raises(UserError, match=r"no-such/dataset\.json does not exist"):
        Dataset.open(f"{served.server.url}/no-such", remote_options=served.options)
    with pytest.raises(UserError, match="cannot read http://127"):
        Dataset.open("http://127.0.0.1:1/data", remote_options=served.options)


def test_a_shard_that_was_cut_short_is_named(served: Any) -> None:
    shard = served.server.folder / "data" / "segments" / "00001.tar"
    shard.write_bytes(shard.read_bytes()[:30_000])
    remote = served.open()
    row = int(np.flatnonzero(remote.index.shard == 1)[-1])
    with pytest.raises(CorruptSampleError, match=r"00001\.tar gave 0 bytes at offset .* cut short or changed"):
        remote.eeg(row)


def test_a_server_without_ranges_serves_too(served: Any) -> None:
    served.server.ranges = False
    remote = served.open()
    _assert_same(remote, served.local)
    # Images and segments: hardly more than once each; two threads may ask for a shard at the same time.
    assert served.server.count(".tar") <= 4 * (len(remote.segments) + 1)


def test_the_cache_keeps_its_bound(served: Any) -> None:
    remote = served.open(cache_bytes=50_000)
    blocks = served.options.cache_folder / "blocks"
    most = 0
    for batch in Reader(remote, ShufflePlan(np.arange(200), 0, 8)).epoch(0):
        np.testing.assert_array_equal(batch.eeg[0].numpy(), served.local.eeg(int(batch.rows[0])))
        most = max(most, sum(path.stat().st_size for path in list(blocks.iterdir()) if path.exists()))
    assert 20_000 < most <= 50_000


def test_ranks_of_a_node_share_one_cache(served: Any) -> None:
    """Four processes read one plan at once: together they fetch every block once."""
    script = Path(__file__).with_name("remote_rank.py")
    command = [sys.executable, str(script), f"{served.server.url}/data", str(served.options.cache_folder)]
    ranks = [subprocess.Popen([*command, str(rank)], stdout=subprocess.PIPE) for rank in range(4)]
    answers = [json.loads(process.communicate(timeout=300)[0]) for process in ranks]
    plan = BlockShufflePlan(np.arange(200), served.local.index.shard, 3, 16, window_shards=1)
    for step in range(plan.steps_per_epoch):
        assert [row for rank in range(4) for row in answers[rank]["rows"][step]] == plan.batch(0, step).tolist()
    for rank in range(4):
        near = Reader(served.local, plan, rank=rank, world_size=4).epoch(0)
        assert answers[rank]["sums"] == [float(batch.eeg.sum()) for batch in near]
    tars = [request for request in served.server.requests if request[0].endswith(".tar")]
    assert len(tars) == len(set(tars))
    assert served.server.count("parquet") == 2


def test_streaming_fetches_every_block_once_and_measures_waiting(served: Any) -> None:
    """A block-shuffled epoch through a cache of a fifth of the data fetches every block once."""
    assert sum(served.local.metadata.segment_shards) > 2 * 150_000
    remote = served.open(cache_bytes=150_000, read_ahead_bytes=30_000)
    plan = BlockShufflePlan(np.arange(200), remote.index.shard, 3, 8, window_shards=1)
    reader = Reader(remote, plan)
    served.server.fault = lambda path, number: time.sleep(0.01)
    assert sorted(row for batch in reader.epoch(0) for row in batch.rows.tolist()) == list(range(200))
    assert reader.wait_seconds > 0.05
    starts = [(path, start) for path, start, _ in served.server.requests if path.endswith(".tar")]
    assert len(set(starts)) == len(starts)


def test_verify_info_and_repack_take_urls(
    served: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NEUROIMAGEN_CACHE", str(served.options.cache_folder))
    url = f"{served.server.url}/data"
    assert main(["data", "verify", url]) == 0
    assert main(["data", "info", url]) == 0
    assert main(["data", "repack", url, "--out", str(tmp_path / "near"), "--shard-mib", "0.125"]) == 0
    for path in sorted(served.local.folder.rglob("*.tar")):
        assert path.read_bytes() == (tmp_path / "near" / path.relative_to(served.local.folder)).read_bytes()
    (served.server.folder / "data" / "segments" / "stray.tar").write_bytes(b"")
    assert any("stray.tar" in problem for problem in verify(url))


def test_other_protocols_are_opened_by_fsspec(served: Any) -> None:
    """A synchronous file system, and a protocol that nothing opens."""
    _assert_same(Dataset.open(f"file://{served.local.folder}", remote_options=served.options), served.local)
    with pytest.raises(UserError, match="cannot open nope://x/y"):
        Dataset.open("nope://x/y", remote_options=served.options)


def test_a_forked_process_reads(served: Any) -> None:
    """As the workers of a DataLoader do."""
    remote = served.open()
    expected = remote.eeg(0)
    child = os.fork()
    if child == 0:
        same = all(np.array_equal(remote.eeg(row), served.local.eeg(row)) for row in (0, 150, 199))
        os._exit(0 if same and np.array_equal(remote.eeg(0), expected) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_remote_data_set_joins_a_local_one(served: Any, make_dataset: Any) -> None:
    """Its blocks are fetched ahead as if it were alone: each once."""
    here = make_dataset(40, n_channels=8, n_samples=40, seed=3, name="here")
    near = JoinedDataset([here, served.local])
    far = JoinedDataset([here, served.open()])
    plan = ShufflePlan(near.rows("train"), 0, 16)
    for first, second in zip(Reader(far, plan).epoch(0), Reader(near, plan).epoch(0), strict=True):
        assert torch.equal(first.rows, second.rows)
        assert torch.equal(first.eeg, second.eeg)
    tars = [request for request in served.server.requests if request[0].endswith(".tar")]
    assert tars
    assert len(tars) == len(set(tars)), "a block was fetched twice"
