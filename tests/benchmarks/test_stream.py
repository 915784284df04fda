"""`bench stream`: loaders take turns, and what another environment's process is told and answers."""

import sys
from pathlib import Path

import numpy as np
import pytest

from neuroimagen.benchmarks.stream import BATCH_SIZE, MosaicML, measure, noise_dataset
from neuroimagen.data_shards.errors import UserError

# What stream_mosaicml.py asks of MosaicML streaming. The package's own start, which wants torchvision, must not run.
_STREAMING = {
    "streaming/__init__.py": "raise ImportError('torchvision')",
    "streaming/base.py": """
import numpy, pathlib
class MDSWriter:
    def __init__(self, *, out, columns, size_limit):
        assert columns == {"eeg": "ndarray:float16:3,20"} and size_limit == 1 << 26
        self.out, self.rows = pathlib.Path(out), []
    def write(self, sample):
        assert sample["eeg"].dtype == numpy.float16 and sample["eeg"].shape == (3, 20)
        self.rows.append(sample["eeg"])
    def __enter__(self):
        return self
    def __exit__(self, *_):
        self.out.mkdir()
        numpy.save(self.out / "rows.npy", numpy.stack(self.rows))
class StreamingDataset:
    def __init__(self, *, local, shuffle, shuffle_seed, batch_size):
        assert shuffle and batch_size == 128
        self.rows = numpy.load(local + "/rows.npy")
    def __len__(self):
        return len(self.rows)
    def __getitem__(self, row):
        return {"eeg": self.rows[row]}
""",
    "mosaicml_streaming-0.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: mosaicml-streaming\nVersion: 0.0\n",
}


def test_loaders_take_turns_and_the_first_epoch_only_warms_up() -> None:
    called: list[str] = []

    def epoch(name: str, seconds: list[float]):  # type: ignore[no-untyped-def]
        def once() -> tuple[int, float]:
            called.append(name)
            return 10, seconds.pop(0)

        return once

    figures = measure({"a": epoch("a", [9.0, 1.0, 2.0]), "b": epoch("b", [9.0, 4.0, 5.0])}, repeats=2)
    assert called == ["a", "b"] * 3
    assert figures == {"a": [10.0, 5.0], "b": [2.5, 2.0]}


def test_the_other_environment_gets_the_same_eeg_and_counts_every_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, content in _STREAMING.items():
        path = tmp_path / "packages" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "packages"))
    dataset = noise_dataset(tmp_path / "data", BATCH_SIZE + 5, n_channels=3, n_samples=20)
    with MosaicML(Path(sys.executable), dataset, tmp_path) as other:
        assert other.versions["mosaicml-streaming"] == "0.0"
        for _ in range(2):
            samples, seconds = other.epoch()
            assert samples == BATCH_SIZE + 5
            assert seconds > 0
    written = np.load(tmp_path / "mosaicml" / "rows.npy")
    scale = dataset.index.scale[:, None, None]
    np.testing.assert_array_equal(written * scale, np.stack([dataset.eeg(row) for row in range(len(dataset))]))


def test_an_environment_that_does_not_serve_is_a_clear_error(tmp_path: Path) -> None:
    dataset = noise_dataset(tmp_path / "data", 2, n_channels=3, n_samples=20)
    with pytest.raises(UserError, match="--mosaicml process ended with code 1"):
        MosaicML(Path(sys.executable), dataset, tmp_path)
    assert not (tmp_path / "mosaicml").exists()
    with pytest.raises(UserError, match="cannot start --mosaicml /nonexistent"):
        MosaicML(Path("/nonexistent"), dataset, tmp_path)
