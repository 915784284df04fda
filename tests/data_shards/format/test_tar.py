"""Tars: the same members give the same bytes, and `tarfile` reads them."""

import tarfile
from pathlib import Path

import pytest

from neuroimagen.data_shards.format.tar import (
    BLOCK_BYTES,
    ShardWriter,
    is_valid_key,
    member_header,
    padded,
    shard_name,
)

SAMPLES = [[("a.eeg.npy", b"x" * 700), ("a.json", b"{}")], [("b.eeg.npy", b""), ("b.json", b"y" * 512)]]


def written(folder: Path, shard: int) -> tuple[Path, list[list[int]], int]:
    folder.mkdir(exist_ok=True)
    with ShardWriter(folder, shard) as tar:
        offsets = [tar.add(sample) for sample in SAMPLES]
    return folder / shard_name(shard), offsets, tar.num_bytes


def test_offsets_and_size_are_those_of_the_file(tmp_path: Path) -> None:
    path, offsets, num_bytes = written(tmp_path / "a", 3)
    content = path.read_bytes()
    assert path.name == "00003.tar"
    assert len(content) == num_bytes
    for sample, places in zip(SAMPLES, offsets, strict=True):
        for (_, expected), offset in zip(sample, places, strict=True):
            assert content[offset : offset + len(expected)] == expected
    with tarfile.open(path, "r:") as archive:
        read = [(member.name, archive.extractfile(member).read()) for member in archive]
    assert read == [member for sample in SAMPLES for member in sample]


def test_the_same_samples_give_the_same_bytes(tmp_path: Path) -> None:
    assert written(tmp_path / "a", 0)[0].read_bytes() == written(tmp_path / "b", 0)[0].read_bytes()
    assert len(member_header("a", 5)) == BLOCK_BYTES


def test_a_shard_that_fails_has_no_end(tmp_path: Path) -> None:
    def fail(tar: ShardWriter) -> None:
        with tar:
            tar.add(SAMPLES[0])
            raise ZeroDivisionError

    writer = ShardWriter(tmp_path, 0)
    with pytest.raises(ZeroDivisionError):
        fail(writer)
    assert (tmp_path / "00000.tar").stat().st_size == writer.num_bytes


def test_padding_is_to_whole_blocks() -> None:
    assert [padded(n) for n in (0, 1, 512, 513)] == [0, 512, 512, 1024]


def test_keys_that_tar_or_webdataset_would_misread_are_not_valid() -> None:
    assert all(map(is_valid_key, ("a", "000000001", "n02389026_31190", "A-b_c", "x" * 80)))
    assert not any(map(is_valid_key, ("", ".a", "a.b", "a/b", "..", "-a", "_a", "ä", "a b", "x" * 81, "a\n")))
