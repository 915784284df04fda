"""The benchmark of a large data set, on a small one: its figures are there, and every segment was read."""

from pathlib import Path

from neuroimagen.benchmarks import million
from neuroimagen.benchmarks.stream import noise_dataset


def test_epoch_and_starts(tmp_path: Path) -> None:
    noise_dataset(tmp_path / "data", 1000, n_channels=2, n_samples=50)
    epoch = million._stream_epoch(tmp_path / "data")
    assert epoch["samples"] == 1000
    assert len(epoch["anonymous_mib"]) == len(epoch["file_mib"]) == 8
    assert min(epoch["anonymous_mib"]) > 1
    million._plot(epoch, tmp_path / "memory.png")
    assert (tmp_path / "memory.png").stat().st_size > 1000
    assert set(million._start_at(tmp_path / "data", 0.9)) == {"open_s", "first_batch_s", "cpu_s", "samples_per_second"}


def test_the_made_up_index_opens(tmp_path: Path) -> None:
    million._write_index(tmp_path, 70_000)
    assert million._open_index(tmp_path)["columns_mib"] > 2
