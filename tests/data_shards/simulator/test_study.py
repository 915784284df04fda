"""The simulated study: EEGCVPR40's files, determinism, designs, shards, and what goes wrong."""

import argparse
import hashlib
import json
import resource
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.simulator import study as simulate
from neuroimagen.data_shards.simulator.ceiling import measure_ceiling
from neuroimagen.data_shards.simulator.drawn_stimuli import CLASSES
from neuroimagen.data_shards.simulator.forward_model import ForwardModelConfig
from neuroimagen.data_shards.simulator.study import Study, StudyConfig, write_eegcvpr40, write_shards
from neuroimagen.launch.commands import data_simulate


def small_study(*, images_per_class: int = 7, design: str = "random", **model: float) -> Study:
    """3 classes, 2 subjects: 42 segments unless `images_per_class` says otherwise."""
    config = ForwardModelConfig(**{"num_classes": 3, "num_subjects": 2, **model})
    return Study(StudyConfig(model=config, images_per_class=images_per_class, design=design, image_size_px=32))


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module", autouse=True)
def _quick_ceiling() -> Iterator[None]:
    """The figure itself is test_ceiling's business; a twentieth of the draws will do here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulate, "measure_ceiling", partial(measure_ceiling, num_draws=5000))
        yield


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small study in EEGCVPR40's layout. Read only."""
    out = tmp_path_factory.mktemp("study") / "raw"
    write_eegcvpr40(small_study(), out)
    return out


def test_files_have_the_layout_of_eegcvpr40(files: Path) -> None:
    content = torch.load(files / "eeg_5_95_std.pth", weights_only=True)
    assert set(content) == {"dataset", "labels", "images"}
    assert content["labels"] == [item.wnid for item in CLASSES[:3]]
    assert len(content["dataset"]) == 42
    assert len(content["images"]) == len(set(content["images"])) == 21
    shown = set()
    for item in content["dataset"]:
        assert set(item) == {"eeg", "image", "label", "subject"}
        assert item["eeg"].dtype == torch.float32
        assert item["eeg"].shape[0] == 128
        assert item["eeg"].shape[1] >= 491
        assert content["images"][item["image"]].startswith(content["labels"][item["label"]] + "_")
        shown.add((item["subject"], item["image"]))
    assert shown == {(subject, image) for subject in (1, 2) for image in range(21)}
    for name in content["images"]:
        with Image.open(files / "images" / name.split("_")[0] / f"{name}.JPEG") as picture:
            assert (picture.format, picture.mode, picture.size) == ("JPEG", "RGB", (32, 32))
            assert {layer[1:3] for layer in picture.layer} == {(1, 1)}  # no channel is subsampled


def test_splits_are_by_image_and_every_image_is_tested_once(files: Path) -> None:
    items = torch.load(files / "eeg_5_95_std.pth", weights_only=True)["dataset"]
    folds = torch.load(files / "block_splits_by_image_all.pth", weights_only=True)["splits"]
    assert len(folds) == 6
    tested: list[int] = []
    for fold in folds:
        assert set(fold) == {"train", "val", "test"}
        assert sorted(fold["train"] + fold["val"] + fold["test"]) == list(range(42))
        images = {part: {items[row]["image"] for row in rows} for part, rows in fold.items()}
        assert not (images["train"] & images["val"] | images["train"] & images["test"] | images["val"] & images["test"])
        assert all({image % 3 for image in images[part]} == {0, 1, 2} for part in images)
        tested += images["test"]
    assert sorted(tested) == list(range(21))
    (single,) = torch.load(files / "block_splits_by_image_single.pth", weights_only=True)["splits"]
    rows = single["train"] + single["val"] + single["test"]
    assert sorted(rows) == [row for row in range(42) if items[row]["subject"] == 1]


def test_what_lies_beside_the_files_of_eegcvpr40(files: Path) -> None:
    names = set(torch.load(files / "eeg_5_95_std.pth", weights_only=True)["images"])
    captions = json.loads((files / "captions.json").read_text())
    scenes = json.loads((files / "scenes.json").read_text())
    assert set(captions) == set(scenes) == names
    name = f"{CLASSES[1].wnid}_3"
    assert CLASSES[1].name in captions[name]
    assert scenes[name]["class_index"] == 1
    assert len(scenes[name]["layout"]) == 9
    presentation = json.loads((files / "presentation.json").read_text())
    assert len(presentation["block"]) == len(presentation["order"]) == 42
    study = json.loads((files / "study.json").read_text())
    assert study["config"]["model"]["num_classes"] == 3
    assert study["ceiling"]["chance"] < study["ceiling"]["achievable"] <= study["ceiling"]["accuracy"] + 0.01
    assert len(study["channel_names"]) == 128
    assert "numpy" in study["versions"]


def test_one_seed_one_study(files: Path, tmp_path: Path) -> None:
    write_eegcvpr40(small_study(), tmp_path / "again", workers=1)
    assert digests(tmp_path / "again") == digests(files)
    other = small_study(seed=1)
    assert other.scene(0) != small_study().scene(0)
    assert other.segment(0)[:, :400].tobytes() != small_study().segment(0)[:, :400].tobytes()


def test_neither_threads_nor_chunks_nor_size_change_a_segment() -> None:
    study = small_study()
    expected = [study.segment(index).tobytes() for index in range(study.num_segments)]
    for workers, chunk in ((1, 1), (3, 5), (2, 1000)):
        assert [eeg.tobytes() for eeg in study.segments(workers=workers, chunk=chunk)] == expected
    larger = small_study(images_per_class=9)
    assert larger.segment(41).tobytes() == expected[41]
    assert larger.jpeg(20) == study.jpeg(20)


@pytest.mark.parametrize("design", ["random", "block"])
def test_presentation_shows_every_picture_once_a_subject(design: str) -> None:
    study = small_study(images_per_class=20, design=design)
    for subject in range(2):
        places = [study.block_and_order(stimulus * 2 + subject) for stimulus in range(60)]
        assert sorted(places) == [(block, order) for block in range(3) for order in range(20)]
        labels = {block: {study.label(s) for s, place in enumerate(places) if place[0] == block} for block in range(3)}
        assert all(len(found) == (1 if design == "block" else 3) for found in labels.values())


@pytest.mark.parametrize(("design", "telling"), [("random", False), ("block", True)])
def test_drift_tells_the_class_in_a_block_design_only(design: str, telling: bool) -> None:
    """Each segment's mean after the evoked response, against the classes' means over the other segments."""
    study = small_study(images_per_class=16, design=design, drift=3.0, num_subjects=1, variability=50.0, snr_db=20.0)
    means = np.stack([study.model.scale * eeg[:, 460:].mean(1) for eeg in study.segments()])
    labels = np.arange(study.num_segments) % 3
    train, test = np.arange(48) < 24, np.arange(48) >= 24
    centres = np.stack([means[train & (labels == c)].mean(0) for c in range(3)])
    guess = np.linalg.norm(means[test][:, None] - centres, axis=2).argmin(1)
    accuracy = np.mean(guess == labels[test])
    assert accuracy > 0.8 if telling else accuracy < 0.7


def test_shards_hold_what_ingest_would_make_of_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("neuroimagen.data_shards.simulator.forward_model.LONG_SHARE", 0.2)
    study = small_study()
    ceiling, kept = write_shards(study, tmp_path / "data")
    dataset = Dataset.open(tmp_path / "data")
    segments = list(study.segments())
    rows = [n for n, eeg in enumerate(segments) if eeg.shape[1] <= 600]
    assert kept == len(rows) < 42
    index = dataset.index
    np.testing.assert_array_equal(index.label, [n // 2 % 3 for n in rows])
    np.testing.assert_array_equal(index.subject, [n % 2 + 1 for n in rows])
    np.testing.assert_array_equal(
        list(zip(index.block, index.order, strict=True)), [study.block_and_order(n) for n in rows]
    )
    fold = study.folds()[0]
    for part in ("train", "val", "test"):
        np.testing.assert_array_equal([rows[row] for row in dataset.rows(part)], [n for n in fold[part] if n in rows])
    assert dataset.stimuli.keys[4] == study.name(4)
    assert dataset.metadata.provenance["study"]["ceiling"]["accuracy"] == ceiling.accuracy
    assert (dataset.metadata.n_channels, dataset.metadata.n_samples) == (128, 440)


def test_shards_are_the_same_bytes_again(tmp_path: Path) -> None:
    for name, workers in (("one", 1), ("two", 2)):
        write_shards(small_study(images_per_class=3), tmp_path / name, workers=workers)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")


@pytest.mark.parametrize("write", [write_eegcvpr40, write_shards])
def test_a_folder_in_use_is_refused_before_any_work(write: object, tmp_path: Path) -> None:
    (tmp_path / "kept.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty"):
        write(small_study(), tmp_path)  # type: ignore[operator]
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]


@pytest.mark.parametrize("write", [write_eegcvpr40, write_shards])
def test_a_full_disk_is_one_clear_error(write: object, small_disk: Callable[[int], Path]) -> None:
    place = small_disk(2 << 20)
    with pytest.raises(UserError, match="No space left"):
        write(small_study(), place / "out")  # type: ignore[operator]
    assert list(place.iterdir()) == []


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """As on a full disk, where none can be mounted: files may not grow beyond 1 MB."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(UserError, match=r"cannot write .*out: File too large"):
            write_eegcvpr40(small_study(images_per_class=3), tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_a_study_larger_than_memory_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"GB of memory.*--format shards"):
        write_eegcvpr40(small_study(images_per_class=10_000_000), tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "message"),
    [({"images_per_class": 2}, "3 or more"), ({"image_size_px": 8}, "8 px"), ({"design": "mixed"}, "random or block")],
)
def test_impossible_studies_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        StudyConfig(**options)  # type: ignore[arg-type]


def run_command(*words: str) -> int:
    parser = argparse.ArgumentParser()
    data_simulate.add_arguments(parser)
    return data_simulate.run(parser.parse_args(words))


@pytest.mark.parametrize("layout", ["eegcvpr40", "shards"])
def test_the_command_prints_where_and_what_can_be_reached(
    layout: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ["--classes", "2", "--images-per-class", "3", "--subjects", "1", "--design", "block", "--drift", "1"]
    assert run_command("--out", str(out), "--format", layout, *words) == 0
    printed = capsys.readouterr().out
    assert str(out) in printed
    assert "best accuracy that any decoder of the class could reach: 0.9" in printed
    assert "reads the drift" in printed
    assert (out / ("study.json" if layout == "eegcvpr40" else "dataset.json")).is_file()


def test_the_command_defaults_are_the_study_s() -> None:
    parser = argparse.ArgumentParser()
    data_simulate.add_arguments(parser)
    args, study, model = parser.parse_args(["--out", "x"]), StudyConfig(), ForwardModelConfig()
    assert (args.classes, args.subjects, args.seed) == (model.num_classes, model.num_subjects, model.seed)
    assert args.channels == model.n_channels
    assert (args.snr, args.variability, args.drift) == (model.snr_db, model.variability, model.drift)
    assert (args.images_per_class, args.design, args.image_size) == (
        study.images_per_class,
        study.design,
        study.image_size_px,
    )


@pytest.mark.slow
def test_a_plain_linear_decoder_comes_close_to_the_ceiling() -> None:
    """2,400 training and 400 test segments: shrinkage LDA on 200 principal components ≥ 0.85 of it; layout R² ≥ 0.7."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.linear_model import Ridge

    study = Study(StudyConfig(images_per_class=59))
    count, num_train = 2800, 2400
    eeg = np.empty((count, 128, 110), np.float32)
    for index, segment in zip(range(count), study.segments(), strict=False):
        eeg[index] = segment[:, 20:460].reshape(128, 110, 4).mean(2)
    stimuli = np.arange(count) // 4
    labels = stimuli % 12
    layouts = np.stack([simulate.layout_features(study.scene(int(s))) for s in stimuli])
    flat = eeg.reshape(count, -1)
    flat -= flat[:num_train].mean(0)
    values, vectors = np.linalg.eigh(flat[:num_train] @ flat[:num_train].T)
    components = flat @ (flat[:num_train].T @ (vectors[:, -200:] / np.sqrt(values[-200:])))
    train, test = components[:num_train], components[num_train:]
    decoder = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(train, labels[:num_train])
    ceiling = measure_ceiling(study.model)
    accuracy = decoder.score(test, labels[num_train:])
    error = layouts[num_train:] - Ridge(1e-3).fit(train, layouts[:num_train]).predict(test)
    r2 = 1 - np.mean(error**2, axis=0) / layouts[num_train:].var(0)
    print(f"LDA {accuracy:.3f} of {ceiling.accuracy:.3f}; ridge R² of the layout {r2.mean():.2f} ({r2.round(2)})")
    assert accuracy >= 0.85 * ceiling.accuracy
    assert r2.mean() >= 0.7
