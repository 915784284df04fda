"""What `ingest` adds to a source: preprocessing fitted on the training split, provenance, equal bytes."""

from pathlib import Path

import numpy as np
import pytest
from source_files import write_image, write_table

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.dataset.verify import verify
from neuroimagen.data_shards.sources.arrays import ArraySource, LabelTable
from neuroimagen.data_shards.sources.ingest import ingest
from neuroimagen.data_shards.writing.preprocessing import Preprocessing


@pytest.fixture
def source(tmp_path: Path) -> ArraySource:
    """10 segments [3, 16] of 10 images; the test split has another mean than the rest."""
    splits = ["train"] * 6 + ["val"] * 2 + ["test"] * 2
    rows = [{"image": f"{n}.png", "class": ("cat", "dog")[n % 2], "split": split} for n, split in enumerate(splits)]
    for row in rows:
        write_image(tmp_path / "images" / row["image"], 0)
    eeg = np.random.default_rng(0).standard_normal((10, 3, 16)) * 5 + 7
    eeg[8:] += 100
    table = LabelTable.read(write_table(tmp_path / "table.csv", rows))
    return ArraySource(eeg, table, name="mine", images=tmp_path / "images", sfreq=100.0)


def test_preprocessing_is_fitted_on_the_training_split(source: ArraySource, tmp_path: Path) -> None:
    train = np.concatenate([record.eeg for record in source.segments("train")], axis=1)
    dataset = ingest(source, tmp_path / "out", preprocessing=Preprocessing(standardise=True, clamp=30))
    np.testing.assert_allclose(dataset.metadata.preprocessing["channel_mean"], train.mean(axis=1), rtol=1e-5)
    assert np.stack([dataset.eeg(row) for row in dataset.rows("train")]).std() == pytest.approx(1, abs=1e-2)
    assert dataset.eeg(int(dataset.rows("test")[0])).mean() == pytest.approx(20, abs=3)
    assert set(dataset.metadata.provenance["versions"]) == {"python", "neuroimagen", "numpy", "pyarrow"}
    assert list(verify(tmp_path / "out")) == []


def test_the_number_of_threads_changes_no_byte(source: ArraySource, tmp_path: Path) -> None:
    for workers in (1, 3):
        ingest(source, tmp_path / f"out{workers}", preprocessing=Preprocessing(detrend=True), workers=workers)
    for path in (tmp_path / "out1").rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "out3" / path.relative_to(tmp_path / "out1")).read_bytes()


@pytest.mark.parametrize(
    "error", [IndexError("index 0 is out of bounds"), UnicodeEncodeError("utf-8", "x", 0, 1, "no")]
)
def test_what_files_make_a_reader_raise_is_one_line(
    source: ArraySource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(split: str | None = None) -> None:
        raise error

    monkeypatch.setattr(source, "segments", fail)
    with pytest.raises(UserError, match=r"cannot read the recordings \(ArraySource\): .*--debug shows where") as raised:
        ingest(source, tmp_path / "out")
    assert raised.value.__cause__ is error
