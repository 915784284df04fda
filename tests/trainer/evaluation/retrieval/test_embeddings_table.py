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
    array_table,
    centres_of,
    embed_dataset,
    embed_segments,
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
    table = embed_dataset(model, dataset, rows)
    write_embeddings(table, tmp_path / "out.parquet", centres=centres_of(model), run=run)
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


def test_segments_in_memory_give_what_the_data_set_s_give(study: Path, model: AlignmentModel) -> None:
    dataset = Dataset.open(study)
    rows = dataset.rows("test")[:3]
    eeg, subjects = np.stack([dataset.eeg(int(row)) for row in rows]), dataset.index.subject[rows].astype(np.int64)
    own = embed_dataset(model, dataset, rows).column("embedding_image").to_pylist()
    found = embed_segments(model, eeg, subjects)
    table = array_table(found, segments=rows, subjects=subjects)
    assert table.column("embedding_image").to_pylist() == own
    assert table.column("segment").to_pylist() == rows.tolist()
    assert table.column("subject").to_pylist() == subjects.tolist()
    none = embed_segments(model, eeg[:0], subjects[:0])
    assert {kind: values.shape for kind, values in none.items()} == {"image": (0, len(own[0]))}


def test_a_data_set_of_another_size_is_refused(model: AlignmentModel, tiny_dataset_folder: Path) -> None:
    with pytest.raises(UserError, match="6 channels × 20 samples; the run's encoder was trained on 8 × 40"):
        embed_dataset(model, Dataset.open(tiny_dataset_folder), np.array([0]))
