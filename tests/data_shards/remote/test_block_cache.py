"""The node's cache of blocks: bounded, shared by processes, and intact after kills."""

import multiprocessing
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.remote.block_cache import BlockCache


def test_a_block_is_kept_until_it_is_removed(tmp_path: Path) -> None:
    cache = BlockCache(tmp_path, 10_000)
    assert cache.open("a", 5) is None
    cache.add("a", b"hello")
    assert bytes(cache.open("a", 5) or b"") == b"hello"
    assert cache.open("a", 4) is None  # of another size: it belongs to another data set, or was cut short
    mapped = BlockCache(tmp_path, 10_000).open("a", 5)
    cache.remove("a")
    cache.remove("a")
    assert cache.open("a", 5) is None
    assert bytes(mapped or b"") == b"hello"  # memory that was mapped before stays valid


def test_what_was_not_opened_for_longest_is_evicted(tmp_path: Path) -> None:
    cache = BlockCache(tmp_path, 5_000)
    for number in range(5):
        cache.add(f"block-{number}", bytes(1_000))
        os.utime(tmp_path / "blocks" / f"block-{number}", (number, number))
    cache.open("block-0", 1_000)  # now the latest
    cache.add("last", bytes(1_000))
    left = {path.name for path in (tmp_path / "blocks").iterdir()}
    assert {"block-0", "last"} <= left
    assert "block-1" not in left
    assert len(left) <= 5


def test_a_cache_that_cannot_be_made_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot make the cache .*Set NEUROIMAGEN_CACHE to another folder"):
        BlockCache(tmp_path / "file" / "cache", 1_000)


def _fill(folder: Path, limit: int, seed: int) -> None:
    cache = BlockCache(folder, limit)
    rng = np.random.default_rng(seed)
    for _ in range(300):
        name, size = f"block-{rng.integers(60)}", 1000
        with cache.making(name):
            if (view := cache.open(name, size)) is None:
                cache.add(name, bytes([int(name.split("-")[1])]) * size)
            else:
                assert bytes(view) == bytes([int(name.split("-")[1])]) * size


def test_killed_writers_leave_a_cache_that_works(tmp_path: Path) -> None:
    """kill -9 amid heavy use by several processes: bounded, no half block, no lock left."""
    context = multiprocessing.get_context("fork")
    for round_number in range(3):
        writers = [context.Process(target=_fill, args=(tmp_path, 20_000, round_number * 3 + i)) for i in range(3)]
        for writer in writers:
            writer.start()
        time.sleep(0.05)
        writers[0].kill()
        for writer in writers:
            writer.join(60)
        assert [writer.exitcode for writer in writers[1:]] == [0, 0]
    _fill(tmp_path, 20_000, 99)
    blocks = [path for path in (tmp_path / "blocks").iterdir() if not path.name.startswith(".")]
    assert 10_000 <= sum(path.stat().st_size for path in blocks) <= 20_000
    for path in blocks:
        assert path.read_bytes() == bytes([int(path.name.split("-")[1])]) * 1000


def test_a_block_that_changes_its_name_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eviction lists the folder; what is renamed between the listing and the look at its size would escape it."""
    cache = BlockCache(tmp_path, 5_000)
    for number in range(4):
        cache.add(f"block-{number}", bytes(1_000))
    writing = threading.Event()
    renamed = threading.Event()
    real_replace, real_scandir = Path.replace, os.scandir

    def replace(self: Path, target: Path) -> Path:
        if target.name == "slow":
            writing.set()
            time.sleep(0.2)  # so that the other thread is at its listing
        done = real_replace(self, target)
        renamed.set()
        return done

    def scandir(path: Path) -> list[os.DirEntry[str]]:
        entries = list(real_scandir(path))
        renamed.wait(0.5)
        return entries

    monkeypatch.setattr(Path, "replace", replace)
    monkeypatch.setattr(os, "scandir", scandir)
    slow = threading.Thread(target=cache.add, args=("slow", bytes(1_000)))
    slow.start()
    assert writing.wait(10)
    renamed.clear()
    cache.add("last", bytes(1_000))
    slow.join()
    monkeypatch.undo()
    assert sum(path.stat().st_size for path in (tmp_path / "blocks").iterdir()) <= 5_000
    assert int((tmp_path / "used").read_text()) >= sum(p.stat().st_size for p in (tmp_path / "blocks").iterdir())
