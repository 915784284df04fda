"""The EEG file of EEGCVPR40's layout: columns, windows, files beside it, and every way in which it can be wrong."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.sources.eegcvpr40_file import EegCvpr40File, derived_block_and_order, read_json_object


def test_columns_and_windows_are_those_of_the_file(study) -> None:
    recording, items = EegCvpr40File(study.eeg, 6), study.content["dataset"]
    for name in ("label", "image", "subject"):
        assert getattr(recording, name).tolist() == [item[name] for item in items]
    assert recording.length.tolist() == [item["eeg"].shape[1] for item in items]
    window = recording.window(7, 20, 460)
    assert (window.dtype, window.shape) == (np.float32, (6, 440))
    np.testing.assert_array_equal(window, items[7]["eeg"][:, 20:460].numpy())
    assert (recording.sfreq, recording.channel_names, recording.band_hz, recording.study) == (1000.0, None, None, None)


def test_a_raw_file_is_standardised_by_its_own_figures(study) -> None:
    item = study.content["dataset"][0]
    item["eeg"] = (item["eeg"] * 1000).to(torch.int16)
    study.content["means"], study.content["stddevs"] = torch.arange(6.0)[None], torch.arange(1.0, 7.0)[None]
    study.save()
    expected = (item["eeg"].numpy().astype(np.float64) - np.arange(6)[:, None]) / np.arange(1, 7)[:, None]
    np.testing.assert_allclose(EegCvpr40File(study.eeg, 6).window(0, 0, 100), expected[:, :100], rtol=1e-6)


def test_block_and_order_follow_the_first_appearance() -> None:
    block, order = derived_block_and_order(np.array([1, 1, 2, 1, 2, 1]), np.array([5, 5, 9, 0, 5, 5]))
    assert block.tolist() == [0, 0, 0, 1, 1, 0]
    assert order.tolist() == [0, 1, 0, 0, 0, 2]


def test_files_beside_it_are_read_and_checked(study) -> None:
    presentation = study.eeg.with_name("presentation.json")
    presentation.write_text(json.dumps({"block": list(range(80)), "order": list(range(80, 0, -1))}))
    recording = EegCvpr40File(study.eeg, 6)
    assert (recording.block.tolist(), recording.block_origin) == (list(range(80)), "from presentation.json")
    presentation.write_text(json.dumps({"block": [1, 2], "order": [1, 2]}))
    with pytest.raises(UserError, match=r"presentation\.json must hold .* a list of 80"):
        EegCvpr40File(study.eeg, 6)
    presentation.unlink()
    for content, message in (
        ({"sfreq": "fast"}, "'sfreq' must be a number of Hz"),
        ({"channel_names": [1]}, "'channel_names' must be a list of names"),
        ({"band_hz": 5}, r"'band_hz' must be \[low, high\]"),
    ):
        study.eeg.with_name("study.json").write_text(json.dumps(content))
        with pytest.raises(UserError, match=message):
            EegCvpr40File(study.eeg, 6)


def test_json_that_is_not_an_object_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[1]")
    with pytest.raises(UserError, match=r"a\.json must hold a JSON object"):
        read_json_object(tmp_path / "a.json")
    with pytest.raises(UserError, match=r"cannot read .*none\.json"):
        read_json_object(tmp_path / "none.json")


def _wrong(study: Any, change: str) -> None:
    """Break the study's content in the way that `change` names."""
    content = study.content
    match change:
        case "no dataset":
            del content["dataset"]
        case "empty":
            content["dataset"] = []
        case "channels":
            content["dataset"][4]["eeg"] = torch.randn(5, 500)
        case "no eeg":
            del content["dataset"][4]["eeg"]
        case "eeg list":
            content["dataset"][4]["eeg"] = [1.0]
        case "label":
            content["dataset"][4]["label"] = 4
        case "image":
            content["dataset"][4]["image"] = 40
        case "subject":
            content["dataset"][4]["subject"] = "1"
        case "two labels":
            content["dataset"][4]["label"] = 3
        case "means":
            content["means"], content["stddevs"] = torch.zeros(5), torch.ones(5)
        case "zero std":
            content["means"], content["stddevs"] = torch.zeros(6), torch.zeros(6)
        case "hostile name":
            content["images"] = ["../../etc/passwd", *content["images"][1:]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("no dataset", "must hold a dictionary with 'dataset'"),
        ("empty", "'dataset' must be a list that is not empty"),
        ("channels", r"dataset\[4\]: EEG of 5 channels, expected 6.*--n-channels 5"),
        ("no eeg", r"dataset\[4\] must hold 'eeg'"),
        ("eeg list", r"dataset\[4\]: 'eeg' must be a tensor"),
        ("label", r"dataset\[4\]: label 4 is out of range 0\.\.3"),
        ("image", r"dataset\[4\]: image 40 is out of range 0\.\.39"),
        ("subject", r"dataset\[4\]: 'subject' is not a whole number"),
        ("two labels", "n02389026_4 is seen under two labels"),
        ("means", "'means' must be a tensor of 6 numbers"),
        ("zero std", "standard deviations positive"),
        ("hostile name", r"image name '\.\./\.\./etc/passwd'"),
    ],
)
def test_wrong_files_are_named(study, change: str, message: str) -> None:
    _wrong(study, change)
    study.save()
    with pytest.raises(UserError, match=message):
        EegCvpr40File(study.eeg, 6)


def test_tensors_of_a_zip_file_are_mapped_not_copied(study) -> None:
    """So memory is bounded by a segment, not by the file."""
    recording = EegCvpr40File(study.eeg, 6)
    mappings = [
        [int(end, 16) for end in line.split()[0].split("-")]
        for line in Path("/proc/self/maps").read_text().splitlines()
        if line.endswith(str(study.eeg))
    ]
    for row in range(80):
        assert any(start <= recording.eeg(row).data_ptr() < end for start, end in mappings)


def test_labels_and_image_names_of_other_classes_are_refused(study) -> None:
    wnids = study.content["labels"]
    study.content["labels"] = [*wnids[1:], wnids[0]]
    study.save()
    with pytest.raises(UserError, match=rf"say different classes: {wnids[0]}_0 in class {wnids[1]}, .* \(40 images\)"):
        EegCvpr40File(study.eeg, 6)
