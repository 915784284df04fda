"""ThoughtViz's pickle, as Python 2 wrote it."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from source_files import Bomb, write_image

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.sources.ingest import ingest
from neuroimagen.data_shards.sources.published.thoughtviz import ThoughtVizOptions, ThoughtVizSource

CLASSES = ("apple", "car", "dog")


def content() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        **{f"x_{half}": rng.standard_normal((n, 14, 32, 1)) for half, n in (("train", 60), ("test", 12))},
        **{f"y_{half}": np.eye(3)[np.arange(n) % 3] for half, n in (("train", 60), ("test", 12))},
    }


def write(folder: Path, given: dict[str, Any]) -> Path:
    """Protocol 2 with the names that NumPy had in the days of Python 2."""
    (folder / "data.pkl").write_bytes(pickle.dumps(given, protocol=2).replace(b"numpy._core", b"numpy.core"))
    for name in CLASSES:
        write_image(folder / "images" / f"{name}.jpg", 0)
    return folder


def source(folder: Path, **changes: Any) -> ThoughtVizSource:
    given = {"eeg": folder / "data.pkl", "images": folder / "images", "classes": CLASSES, **changes}
    return ThoughtVizSource(ThoughtVizOptions(**given))


def test_the_file_becomes_a_data_set(tmp_path: Path) -> None:
    given = content()
    made = source(write(tmp_path, given))
    dataset = ingest(made, tmp_path / "out")
    assert dataset.metadata.split_counts == {"train": 54, "val": 6, "test": 12}
    assert (dataset.metadata.n_channels, dataset.metadata.n_samples, dataset.metadata.sfreq) == (14, 32, 128.0)
    assert dataset.stimuli.keys == CLASSES
    for place, record in enumerate(made.segments("test")):
        np.testing.assert_array_equal(record.eeg, given["x_test"][place, :, :, 0].astype(np.float32))
        assert record.stimulus == CLASSES[place % 3]
    assert any("each class has one stimulus" in note for note in made.notes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_test": np.eye(4)[np.arange(12) % 4]}, "4 classes; --classes names 3"),
        ({"y_test": np.ones((12, 3))}, "a row is not one-hot"),
        ({"x_test": np.zeros((11, 14, 32, 1))}, "expected"),
        ({"x_test": np.zeros((12, 14, 30, 1))}, "different channels or samples"),
        ({"x_test": [1]}, "must be arrays"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        source(write(tmp_path, {**content(), **changes}))


def test_a_bomb_does_not_go_off(tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    with pytest.raises(UserError, match=r"asks for posix\.system"):
        source(write(tmp_path, {**content(), "more": Bomb(witness)}))
    assert not witness.exists()
    with pytest.raises(UserError, match="must hold x_train"):
        source(write(tmp_path, {"x": 1}))
