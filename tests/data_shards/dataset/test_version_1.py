"""Data sets of schema version 1 still open, verify, stream and repack; what they lack is unknown."""

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from version_1 import make_version_1

from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.dataset.joined import JoinedDataset
from neuroimagen.data_shards.dataset.verify import verify
from neuroimagen.data_shards.format.schema import ClassInfo, DatasetMetadata, SegmentRecord, StimulusRecord
from neuroimagen.data_shards.loading.webdataset_source import sample_dictionary
from neuroimagen.data_shards.writing.repack import repack
from neuroimagen.data_shards.writing.writer import DatasetWriter

SEGMENTS_SHA256 = "6eda143bb14361bce6106000e1f24a04fa68800f648156faea43faaff77a06b7"
"""Of segments/00000.tar as the last release before version 2 wrote it, from the records below."""


@pytest.fixture
def old(tmp_path: Path) -> Path:
    metadata = DatasetMetadata(
        name="whole numbers", n_channels=2, n_samples=5, sfreq=100.0, classes=(ClassInfo(name="a"), ClassInfo(name="b"))
    )
    with DatasetWriter(tmp_path / "old", metadata) as writer:
        for number in range(2):
            buffer = io.BytesIO()
            Image.new("RGB", (8, 8), (200 * number, 0, 90)).save(buffer, "PNG")
            stimulus = StimulusRecord(
                key=f"s{number}", image=buffer.getvalue(), extension="png", label=number, caption=f"class {number}"
            )
            writer.add_stimulus(stimulus)
        for row in range(6):
            eeg = (np.arange(10).reshape(2, 5) * (row + 1) - 20).astype(np.float32)
            record = SegmentRecord(
                eeg=eeg,
                stimulus=f"s{row % 2}",
                label=row % 2,
                subject=1 + row // 3,
                split=("train", "val", "test")[row % 3],
                block=row // 3,
                order=row % 3,
            )
            writer.add_segment(record)
    make_version_1(tmp_path / "old")
    return tmp_path / "old"


def test_the_fixture_is_what_version_1_wrote(old: Path) -> None:
    assert hashlib.sha256((old / "segments" / "00000.tar").read_bytes()).hexdigest() == SEGMENTS_SHA256


def test_version_1_opens_and_says_that_the_time_is_unknown(old: Path) -> None:
    dataset = Dataset.open(old)
    assert dataset.metadata.schema_version == 1
    assert (dataset.index.block.tolist(), dataset.index.order.tolist()) == ([0, 0, 0, 1, 1, 1], [0, 1, 2, 0, 1, 2])
    assert dataset.index.session.tolist() == dataset.index.recording.tolist() == [""] * 6
    assert np.isnan(dataset.index.onset_s).all()
    np.testing.assert_array_equal(dataset.eeg(5), np.arange(10).reshape(2, 5) * 6 - 20)
    assert json.loads(sample_dictionary(dataset, 3)["json"])["onset_s"] is None


def test_version_1_is_verified_against_its_own_bytes(old: Path) -> None:
    assert list(verify(old)) == []
    shard = old / "segments" / "00000.tar"
    content = shard.read_bytes()
    shard.write_bytes(content.replace(b'"order": 2', b'"order": 7', 1))
    problems = list(verify(old))
    assert len(problems) == 1
    assert "000000002.json" in problems[0]
    assert "differs from the index" in problems[0]


def test_version_1_is_repacked_as_version_2_with_all_its_fields(old: Path, tmp_path: Path) -> None:
    dataset = Dataset.open(old)
    new = repack(dataset, tmp_path / "new")
    assert new.metadata.schema_version == 2
    assert list(verify(tmp_path / "new")) == []
    for row in range(6):
        before, after = dataset.segment_fields(row), new.segment_fields(row)
        assert np.isnan([before.pop("onset_s"), after.pop("onset_s")]).all()
        assert after == before
        assert bytes(new.eeg_bytes(row)) == bytes(dataset.eeg_bytes(row))


def test_both_versions_join(old: Path, tmp_path: Path) -> None:
    new = repack(Dataset.open(old), tmp_path / "new", order="shuffled")
    joined = JoinedDataset([Dataset.open(old), new])
    assert len(joined.index.onset_s) == len(joined.index.session) == 12
