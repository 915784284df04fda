"""Which segments of an EEGCVPR40 file are selected, and what stops the selection."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.sources.eegcvpr40_file import EegCvpr40File
from neuroimagen.data_shards.sources.eegcvpr40_selection import EegCvpr40Options, EegCvpr40Selection, image_path


def options(study: Any, **changes: Any) -> EegCvpr40Options:
    files = {"eeg": study.eeg, "splits": study.splits, "images": study.images}
    return EegCvpr40Options(**{**files, "n_channels": 6, **changes})


def selection(study: Any, **changes: Any) -> EegCvpr40Selection:
    return EegCvpr40Selection(EegCvpr40File(study.eeg, 6), options(study, **changes))


def test_everything_that_is_in_the_split_is_selected(study) -> None:
    selected = selection(study)
    assert selected.positions.tolist() == list(range(80))
    for split, positions in study.folds[0].items():
        assert set(np.flatnonzero(selected.split == split)) == set(positions)
    assert (selected.notes, selected.missing_images) == ([], [])
    study.folds[0]["val"] = []
    study.save()
    assert len(selection(study).positions) == 70
    assert selection(study).notes == ["10 of 80 segments dropped: in none of train, val and test"]


def test_subjects_and_lengths_are_filtered_after_the_split(study) -> None:
    study.content["dataset"][50]["eeg"] = torch.randn(6, 601)
    study.save()
    selected = selection(study, subjects=(2,))
    assert selected.positions.tolist() == [position for position in range(40, 80) if position != 50]
    assert selected.notes == [
        "40 of 80 segments dropped: subject is not among [2]",
        "1 of 80 segments dropped: length outside 450..600 samples",
    ]
    with pytest.raises(UserError, match=r"subject 5 is not in .*; it has \[1, 2\]"):
        selection(study, subjects=(1, 5))


def test_a_segment_that_ends_before_the_window_has_a_remedy(study) -> None:
    study.content["dataset"][4]["eeg"] = torch.randn(6, 455)
    study.save()
    with pytest.raises(UserError, match=r"has 455 samples, passes --length 450:600.* Use --length 460:600 or another"):
        selection(study)
    with pytest.raises(UserError, match=r"before the window does \(700\).* Use a --window up to 600 at most\.$"):
        selection(study, window=(20, 700))


def test_missing_images_are_named_and_counted(study, tmp_path: Path) -> None:
    names = ["n02389026_3", "n03584829_7"]
    image_path(study.images, names[0]).unlink()
    broken = image_path(study.images, names[1])
    broken.write_bytes(broken.read_bytes()[:200])
    with pytest.raises(
        UserError, match=r"2 of 40 images are missing or unreadable: n02389026_3 \(missing\), n03584829_7 \(unreadable"
    ):
        selection(study, on_missing="stop")
    selected = selection(study)
    assert (len(selected.positions), selected.missing_images) == (76, names)
    assert selected.notes[1] == "4 of 80 segments dropped: image missing or unreadable"
    with pytest.raises(UserError, match="none of the 40 images can be read under"):
        selection(study, images=tmp_path)
    with pytest.raises(UserError, match="is not a folder of images"):
        selection(study, images=tmp_path / "none")


@pytest.mark.parametrize(("on_flat", "kept"), [("skip", 79), ("keep", 80)])
def test_nan_and_flat_eeg_stop_or_are_left_out(study, on_flat: str, kept: int) -> None:
    study.content["dataset"][9]["eeg"][2, 20:460] = 3.25
    study.save()
    with pytest.raises(UserError, match=r"1 segments have flat channels, the first is dataset\[9\] \(channels \[2\]\)"):
        selection(study)
    assert len(selection(study, on_flat=on_flat).positions) == kept
    study.content["dataset"][9]["eeg"][2, 100] = float("nan")
    study.content["dataset"][11]["eeg"][0, 100] = float("inf")
    study.save()
    with pytest.raises(UserError, match=r"2 segments hold NaN or infinity, the first is dataset\[9\]"):
        selection(study)
    assert len(selection(study, on_nan="skip").positions) == 78


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window": (20, 20)}, "--window 20:20"),
        ({"length": (600, 450)}, "--length 600:450"),
        ({"on_missing": "perhaps"}, "--on-missing 'perhaps'"),
    ],
)
def test_wrong_options_are_named(study, changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        options(study, **changes)
