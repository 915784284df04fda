"""THINGS-EEG2 in both forms."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from source_files import Bomb, write_image
from stored_eeg import assert_as_stored

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.sources.ingest import ingest
from neuroimagen.data_shards.sources.readers.npy import load_npy
from neuroimagen.data_shards.sources.things_eeg2 import ThingsEeg2Options, ThingsEeg2Source


def _save_pickled(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, content, allow_pickle=True)


@pytest.fixture(params=[(17, 100, np.float32), (63, 250, np.float64)], ids=["17 channels", "63 channels"])
def things(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """6 training concepts × 2 images × 4 repetitions, 3 test concepts × 1 × 5, two subjects."""
    n_channels, n_samples, dtype = request.param
    train = [f"{c + 1:05d}_thing_{c}" for c in range(6) for _ in range(2)]
    test = [f"{c + 1:05d}_new_{c}" for c in range(3)]
    names = {"train": [f"thing_{n // 2}_{n}.jpg" for n in range(12)], "test": [f"new_{n}.jpg" for n in range(3)]}
    for half, concepts in (("train", train), ("test", test)):
        for concept, name in zip(concepts, names[half], strict=True):
            write_image(
                tmp_path / "images" / {"train": "training_images", "test": "test_images"}[half] / concept / name, 0
            )
    _save_pickled(
        tmp_path / "images" / "image_metadata.npy",
        {
            "train_img_concepts": train,
            "train_img_files": names["train"],
            "test_img_concepts": test,
            "test_img_files": names["test"],
        },
    )
    for subject in (1, 2):
        for word, shape in (("training", (12, 4)), ("test", (3, 5))):
            _save_pickled(
                tmp_path / "eeg" / f"sub-{subject:02d}" / f"preprocessed_eeg_{word}.npy",
                {
                    "preprocessed_eeg_data": np.random.default_rng(subject)
                    .standard_normal((*shape, n_channels, n_samples))
                    .astype(dtype),
                    "ch_names": [f"C{c}" for c in range(n_channels)],
                    "times": np.arange(n_samples) / n_samples,
                },
            )
    return tmp_path


def _things(folder: Path, **changes: Any) -> ThingsEeg2Source:
    return ThingsEeg2Source(
        ThingsEeg2Options(**{"eeg": folder / "eeg", "images": folder / "images", "val_concepts": 2, **changes})
    )


@pytest.mark.parametrize(("repetitions", "counts"), [("keep", (64, 32, 30)), ("average", (16, 8, 6))])
def test_things_eeg2_keeps_or_averages_repetitions(things: Path, repetitions: str, counts: tuple) -> None:
    source = _things(things, repetitions=repetitions)
    dataset = ingest(source, things / "out")
    assert tuple(dataset.metadata.split_counts[split] for split in ("train", "val", "test")) == counts
    assert source.num_segments() == len(dataset)
    assert dataset.metadata.sfreq == dataset.metadata.n_samples
    classes = {split: set(dataset.index.label[dataset.rows(split)].tolist()) for split in ("train", "val", "test")}
    assert not classes["train"] & classes["val"]
    assert not (classes["train"] | classes["val"]) & classes["test"]
    assert dataset.metadata.classes[0].name == "thing 0"
    raw = load_npy(things / "eeg" / "sub-02" / "preprocessed_eeg_test.npy")["preprocessed_eeg_data"][1]
    stimulus = dataset.stimuli.keys.index("new_1")
    rows = np.flatnonzero((dataset.index.subject == 2) & (dataset.index.stimulus == stimulus))
    expected = raw if repetitions == "keep" else raw.mean(axis=0, keepdims=True)
    for row, eeg in zip(rows, expected, strict=True):
        assert_as_stored(dataset.eeg(row), eeg, roundings=2)


def test_things_eeg2_names_what_is_wrong(things: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"subject 7 is not under .*; there are \[1, 2\]"):
        _things(things, subjects=(7,))
    with pytest.raises(UserError, match="--val-concepts 6 of 6"):
        _things(things, val_concepts=6)
    next((things / "images" / "test_images").rglob("new_1.jpg")).unlink()
    with pytest.raises(
        UserError, match=r"1 of 15 images are missing or unreadable: test_images/.*new_1\.jpg \(missing\)"
    ):
        _things(things)
    witness = tmp_path / "witness"
    _save_pickled(things / "eeg" / "sub-01" / "preprocessed_eeg_test.npy", {"preprocessed_eeg_data": Bomb(witness)})
    with pytest.raises(UserError, match=r"is refused: its pickle asks for posix\.system"):
        _things(things)
    assert not witness.exists()


def test_things_eeg2_files_that_differ_or_are_absent_are_named(things: Path) -> None:
    """Channels in another order have the same shape: mixed silently, every spatial filter would be wrong."""
    path = things / "eeg" / "sub-02" / "preprocessed_eeg_training.npy"
    content = load_npy(path)
    names = content["ch_names"]
    for changes, message in (
        ({"ch_names": [names[0], *names[:0:-1]]}, r"sub-02.*training\.npy has .* differ from channel 1 on"),
        (
            {"preprocessed_eeg_data": content["preprocessed_eeg_data"][..., :-1]},
            r"sub-02.*training\.npy has .* samples",
        ),
        ({"preprocessed_eeg_data": content["preprocessed_eeg_data"][:, :, :-1], "ch_names": names[:-1]}, "same order"),
    ):
        _save_pickled(path, {**content, **changes})
        with pytest.raises(UserError, match=message):
            ingest(_things(things), things / "out")
    path.unlink()
    with pytest.raises(UserError, match=r"1 of 4 EEG files are missing, the first is .*sub-02.*training\.npy"):
        _things(things)
    assert len(ingest(_things(things, subjects=(1,)), things / "out")) > 0
    with pytest.raises(UserError, match=r"sfreq is 0\.0"):
        _things(things, subjects=(1,), sfreq=0.0).metadata()
