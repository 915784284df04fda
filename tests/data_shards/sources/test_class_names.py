"""EEGCVPR40's classes, and captions of classes."""

import re

import pytest

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.simulator.drawn_stimuli import CLASSES
from neuroimagen.data_shards.sources.class_names import (
    EEGCVPR40_CLASS_NAMES,
    class_caption,
    refuse_differing_classes,
)


def test_the_published_classes_are_in_the_order_of_their_labels() -> None:
    assert len(EEGCVPR40_CLASS_NAMES) == len(set(EEGCVPR40_CLASS_NAMES.values())) == 40
    assert all(re.fullmatch(r"n\d{8}", wnid) for wnid in EEGCVPR40_CLASS_NAMES)
    wnids = list(EEGCVPR40_CLASS_NAMES)
    assert (wnids[0], wnids[10], wnids[39]) == ("n02389026", "n02951358", "n02124075")


def test_simulated_classes_have_their_names_and_ids() -> None:
    for item in CLASSES:
        assert EEGCVPR40_CLASS_NAMES[item.wnid] == item.name


def test_the_caption_of_a_class() -> None:
    assert class_caption("coffee mug") == "an image of coffee mug"


def test_images_named_by_another_class_are_refused_and_the_first_named() -> None:
    good = [
        ("n02389026/n02389026_1.JPEG", "sorrel"),
        ("n02389026_2", "n02389026"),
        ("cat.jpg", "sorrel"),
        ("n1_2", "x"),
    ]
    refuse_differing_classes(good, where="t.csv")
    with pytest.raises(UserError, match=r"^t\.csv: .* n02389026_1 in class n03888257 \(1 images\)"):
        refuse_differing_classes([*good, ("n02389026_1", "parachute")], where="t.csv")
