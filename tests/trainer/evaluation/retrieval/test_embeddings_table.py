"""The table of embeddings: what it holds, what its metadata say, and EEG that the run cannot embed."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.trainer.evaluation.retrieval.alignment_retrieval import embed_rows, load_alignment
from neuroimagen.trainer.evaluation.retrieval.embeddings_table import (
    METADATA_KEY,
    embed_array,
    embed_dataset,
    write_embeddings,
)
from neuroimagen.trainer.networks.alignment import AlignmentModel


@pytest.fixture(scope="module")
def model(run: Path) -> AlignmentModel:
    found = load_alignment(run)
    assert found is not None
    return found


def test_a_data_set_s_segments_come_back_with_their_names(
    run: Path, study: Path, model: AlignmentModel, tmp_path: Path
) -> None:
    dataset = Dataset.open(study)
    rows = dataset.rows("val")
    write_embeddings(embed_dataset(model, dataset, rows), tmp_path / "out.parquet", model=model, run=run)
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.column("segment").to_pylist() == rows.tolist()
    assert set(table.column("split").to_pylist()) == {"val"}
    keys = [dataset.stimuli.keys[number] for number in dataset.index.stimulus[rows]]
    assert table.column("stimulus").to_pylist() == keys
    embeddings = np.array(table.column("embedding_image").to_pylist(), dtype=np.float32)
    assert np.array_equal(embeddings, embed_rows(model, dataset, rows)["image"])
    description = json.loads(table.schema.metadata[METADATA_KEY])
    assert description["kinds"] == ["image"]
    assert description["centres"]["image"] == pytest.approx(model.centre("image").tolist())


def test_new_eeg_gives_what_the_data_set_s_gives(study: Path, model: AlignmentModel) -> None:
    dataset = Dataset.open(study)
    rows = dataset.rows("test")[:3]
    eeg = np.stack([dataset.eeg(int(row)) for row in rows])
    own = embed_dataset(model, dataset, rows).column("embedding_image").to_pylist()
    for dtype in (np.float32, np.float64):
        table = embed_array(model, eeg.astype(dtype), subject=2)
        np.testing.assert_allclose(table.column("embedding_image").to_pylist(), own, atol=1e-6)
        assert table.column("subject").to_pylist() == [2, 2, 2]
    assert len(embed_array(model, eeg[:0], subject=1)) == 0


def test_eeg_that_does_not_fit_is_refused(model: AlignmentModel) -> None:
    good = np.zeros((2, 8, 40))
    with pytest.raises(UserError, match="8 channels × 39 samples; the run's encoder was trained on 8 × 40"):
        embed_array(model, good[:, :, :39], subject=1)
    with pytest.raises(UserError, match=r"expected numbers \[segments, channels, samples\]"):
        embed_array(model, good[0], subject=1)
    good[1, 3, 5] = np.nan
    with pytest.raises(UserError, match="segment 1 of the EEG holds NaN"):
        embed_array(model, good, subject=1)
