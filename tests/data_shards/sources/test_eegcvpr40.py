"""The EEGCVPR40 source against an independent implementation of the published loader's rule."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stored_eeg import assert_as_stored

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.dataset.verify import verify
from neuroimagen.data_shards.sources.eegcvpr40 import EegCvpr40Source
from neuroimagen.data_shards.sources.eegcvpr40_selection import EegCvpr40Options
from neuroimagen.data_shards.sources.ingest import ingest
from neuroimagen.data_shards.writing.preprocessing import Preprocessing


def _options(study: Any, **changes: Any) -> EegCvpr40Options:
    return EegCvpr40Options(
        **{"eeg": study.eeg, "splits": study.splits, "images": study.images, "n_channels": 6, **changes}
    )


def _ingest(study: Any, out: Path, preprocessing: Preprocessing | None = None, **changes: Any) -> Dataset:
    return ingest(EegCvpr40Source(_options(study, **changes)), out, preprocessing=preprocessing)


def published_rule(eeg_path: Path, splits_path: Path, fold: int, split: str, subject: int) -> list[tuple]:
    """The public loader, written down again: EEGDataset, then Splitter, of eeg_visual_classification.

    EEG as float, transposed, samples 20:460, transposed back; a split's indices are kept where 450 <= length <= 600,
    and here also where the subject fits, which the loader's authors do to `data` before the indices are used.
    """
    loaded = torch.load(eeg_path, weights_only=True)
    data, labels, images = loaded["dataset"], loaded["labels"], loaded["images"]
    indices = torch.load(splits_path, weights_only=True)["splits"][fold][split]
    indices = [i for i in indices if 450 <= data[i]["eeg"].size(1) <= 600]
    samples = []
    for i in sorted(indices):
        if subject and data[i]["subject"] != subject:
            continue
        eeg = data[i]["eeg"].float().t()[20:460, :].t()
        if "means" in loaded:
            eeg = (eeg - loaded["means"].reshape(-1, 1)) / loaded["stddevs"].reshape(-1, 1)
        samples.append((eeg, labels[data[i]["label"]], images[data[i]["image"]], data[i]["subject"]))
    return samples


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("subject", [0, 2])
def test_reads_what_the_published_loader_reads(study, tmp_path: Path, subject: int, raw: bool, zipped: bool) -> None:
    lengths = {3: 449, 30: 601, 50: 1527, 51: 450 + 10, 52: 600}
    for position, item in enumerate(study.content["dataset"]):
        if position in lengths:
            item["eeg"] = torch.randn(6, lengths[position])
        if raw:
            item["eeg"] = (item["eeg"] * 1000).to(torch.int16)
    if raw:
        study.content["means"] = torch.randn(1, 6) * 100
        study.content["stddevs"] = torch.rand(1, 6) * 1000 + 500
    study.save(zipped=zipped)
    for fold in (0, 1):
        subjects = (subject,) if subject else None
        dataset = _ingest(study, tmp_path / f"out{fold}", split=f"fold:{fold}", subjects=subjects)
        for split in ("train", "val", "test"):
            expected = published_rule(study.eeg, study.splits, fold, split, subject)
            rows = dataset.rows(split)
            assert len(rows) == len(expected)
            for row, (eeg, wnid, image, of_subject) in zip(rows, expected, strict=True):
                assert_as_stored(dataset.eeg(row), eeg.numpy())
                assert dataset.metadata.classes[dataset.index.label[row]].wnid == wnid
                assert dataset.stimuli.keys[dataset.index.stimulus[row]] == image
                assert dataset.index.subject[row] == of_subject


def test_data_set_says_where_it_comes_from(study, tmp_path: Path) -> None:
    import hashlib

    dataset = _ingest(study, tmp_path / "out")
    assert list(verify(tmp_path / "out")) == []
    provenance = dataset.metadata.provenance
    assert provenance["files"]["eeg.pth"]["sha256"] == hashlib.sha256(study.eeg.read_bytes()).hexdigest()
    assert provenance["parameters"]["window"] == [20, 460]
    assert provenance["block_and_order"].startswith("derived")
    assert str(tmp_path) not in (tmp_path / "out" / "dataset.json").read_text()
    assert dataset.metadata.n_samples == 440
    assert [info.name for info in dataset.metadata.classes] == ["sorrel", "parachute", "iron", "anemone fish"]
    assert dataset.stimuli.captions[0] == "an image of sorrel"
    with_detail = [caption for caption in dataset.stimuli.detailed_captions if caption]
    assert with_detail == [f"picture {name} in detail" for name in study.content["images"][:30]]
    image = study.images / "n02389026" / "n02389026_0.JPEG"
    assert bytes(dataset.stimuli.encoded(0)) == image.read_bytes()


def test_same_files_give_the_same_bytes(study, tmp_path: Path) -> None:
    options = Preprocessing(standardise=True, detrend=True, clamp=5)
    _ingest(study, tmp_path / "a", options)
    _ingest(study, tmp_path / "b", options)
    for path in (tmp_path / "a").rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()


def test_standardisation_is_fitted_on_the_training_split_only(study, tmp_path: Path) -> None:
    plain = _ingest(study, tmp_path / "plain")
    train = np.concatenate([plain.eeg(row) for row in plain.rows("train")], axis=1)
    dataset = _ingest(study, tmp_path / "out", Preprocessing(standardise=True))
    np.testing.assert_allclose(dataset.metadata.preprocessing["channel_mean"], train.mean(axis=1), atol=1e-4)
    np.testing.assert_allclose(dataset.metadata.preprocessing["channel_std"], train.std(axis=1), rtol=1e-3)
    row = dataset.rows("test")[0]
    expected = (plain.eeg(row) - train.mean(axis=1)[:, None]) / train.std(axis=1)[:, None]
    np.testing.assert_allclose(dataset.eeg(row), expected, atol=5e-3)


def test_split_comes_before_the_subject_filter(study, tmp_path: Path) -> None:
    everyone = _ingest(study, tmp_path / "all")
    one = _ingest(study, tmp_path / "one", subjects=(2,))
    for split in ("train", "val", "test"):
        rows = everyone.rows(split, subjects=[2])
        expected = [everyone.stimuli.keys[i] for i in everyone.index.stimulus[rows]]
        assert [one.stimuli.keys[i] for i in one.index.stimulus[one.rows(split)]] == expected


def test_block_order_and_description_come_from_files_beside_it(study, tmp_path: Path) -> None:
    presentation = {"block": list(range(80)), "order": list(range(80, 0, -1))}
    study.eeg.with_name("presentation.json").write_text(json.dumps(presentation))
    study.eeg.with_name("study.json").write_text(
        json.dumps({"sfreq": 500, "channel_names": list("abcdef"), "band_hz": [5, 95], "ceiling": 0.8})
    )
    dataset = _ingest(study, tmp_path / "out")
    assert dataset.index.block.tolist() == list(range(80))
    assert dataset.index.order.tolist() == list(range(80, 0, -1))
    assert (dataset.metadata.sfreq, dataset.metadata.band_hz) == (500.0, (5.0, 95.0))
    assert dataset.metadata.channel_names == tuple("abcdef")
    assert dataset.metadata.provenance["study"]["ceiling"] == 0.8


def test_class_names_can_be_given(study, tmp_path: Path) -> None:
    old = study.content["labels"][0]
    study.content["labels"] = ["n00000000", *study.content["labels"][1:]]
    study.content["images"] = [name.replace(old, "n00000000") for name in study.content["images"]]
    (study.images / old).rename(study.images / "n00000000")
    for path in (study.images / "n00000000").iterdir():
        path.rename(path.with_name(path.name.replace(old, "n00000000")))
    study.save()
    with pytest.raises(UserError, match=r"class n00000000 has no known name\. Give --class-names"):
        EegCvpr40Source(_options(study))
    (tmp_path / "names.json").write_text('{"n00000000": "gizmo"}')
    source = EegCvpr40Source(_options(study, class_names=tmp_path / "names.json"))
    assert source.metadata().classes[0].name == "gizmo"
    (tmp_path / "names.json").write_text('{"n00000000": 3}')
    with pytest.raises(UserError, match="JSON object whose values are texts"):
        EegCvpr40Source(_options(study, class_names=tmp_path / "names.json"))


def test_counts_other_than_the_published_ones_are_noted_for_its_40_classes_only(study) -> None:
    from neuroimagen.data_shards.sources.class_names import EEGCVPR40_CLASS_NAMES

    assert EegCvpr40Source(_options(study)).notes == []
    study.content["labels"] = list(EEGCVPR40_CLASS_NAMES)
    study.save()
    notes = EegCvpr40Source(_options(study)).notes
    assert "the published files have 11965 segments, these have 80" in notes
    assert len(EEGCVPR40_CLASS_NAMES) == 40


def test_no_sampling_rate_is_not_the_files_own(study) -> None:
    with pytest.raises(UserError, match=r"sfreq is 0\.0"):
        EegCvpr40Source(_options(study, sfreq=0.0)).metadata()
