"""`bench stream`: loaders take turns, and the exchange with another environment's process."""

import sys
from pathlib import Path

import numpy as np
import pytest

from neuroimagen.benchmarks.stream import BATCH_SIZE, PEERS, Peer, measure, noise_dataset, write_eeg
from neuroimagen.benchmarks.stream_peer import LIBRARIES
from neuroimagen.data_shards.common.errors import UserError

# What stream_peer.py uses of the libraries. MosaicML's __init__, which needs torchvision, must not run. Both print.
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
        print("opened")
    def __len__(self):
        return len(self.rows)
    def __getitem__(self, row):
        return {"eeg": self.rows[row]}
""",
    "mosaicml_streaming-0.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: mosaicml-streaming\nVersion: 0.0\n",
}
_LITDATA = {
    "litdata/__init__.py": """
import numpy, os, pathlib, pickle, torch
def optimize(*, fn, inputs, output_dir, chunk_bytes, num_workers):
    assert chunk_bytes == 1 << 26 and num_workers == 1
    fn = pickle.loads(pickle.dumps(fn))
    pathlib.Path(output_dir).mkdir()
    numpy.save(output_dir + "/rows.npy", numpy.stack([fn(row)["eeg"] for row in inputs]))
    os.system("echo from a worker")
class StreamingDataset:
    def __init__(self, folder, *, shuffle):
        assert shuffle
        self.rows = numpy.load(folder + "/rows.npy")
    def __len__(self):
        return len(self.rows)
    def __getitem__(self, row):
        return {"eeg": self.rows[row]}
class StreamingDataLoader(torch.utils.data.DataLoader):
    pass
""",
    "litdata-0.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: litdata\nVersion: 0.0\n",
}
_PACKAGES = {"mosaicml": _STREAMING, "litdata": _LITDATA}


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


@pytest.mark.parametrize("library", PEERS)
def test_the_other_environment_gets_the_same_eeg_and_counts_every_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    for name, content in _PACKAGES[library].items():
        path = tmp_path / "packages" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "packages"))
    dataset = noise_dataset(tmp_path / "data", BATCH_SIZE + 5, n_channels=3, n_samples=20)
    with Peer(library, Path(sys.executable), write_eeg(dataset, tmp_path / "eeg.npy")) as other:
        assert other.versions[LIBRARIES[library].distribution] == "0.0"
        for _ in range(2):
            samples, seconds = other.epoch()
            assert samples == BATCH_SIZE + 5
            assert seconds > 0
    written = np.load(tmp_path / library / "rows.npy")
    assert written.dtype == np.float16
    scale = dataset.index.scale[:, None, None]
    np.testing.assert_array_equal(written * scale, np.stack([dataset.eeg(row) for row in range(len(dataset))]))


@pytest.mark.parametrize("library", PEERS)
def test_an_environment_that_does_not_serve_is_a_clear_error(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], library: str
) -> None:
    eeg = write_eeg(noise_dataset(tmp_path / "data", 2, n_channels=3, n_samples=20), tmp_path / "eeg.npy")
    with pytest.raises(UserError, match=f"--{library} process ended with code 1"):
        Peer(library, Path(sys.executable), eeg)
    assert "is not installed here" in capfd.readouterr().err
    assert not (tmp_path / library).exists()
    with pytest.raises(UserError, match=f"cannot start --{library} /nonexistent"):
        Peer(library, Path("/nonexistent"), eeg)
