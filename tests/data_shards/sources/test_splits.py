"""Splits: published folds checked position by position, by image, one subject left out."""

from pathlib import Path

import numpy as np
import pytest
import torch

from neuroimagen.data_shards.common.errors import UsageError, UserError
from neuroimagen.data_shards.sources.readers.split_file import read_folds
from neuroimagen.data_shards.sources.splits import SplitRule, divide, divide_zero_shot, split_of_segments

IMAGE = np.tile(np.arange(1996), 3)
LABEL = IMAGE // 50
SUBJECT = np.repeat([1, 2, 3], 1996)


def _split(rule: str, *, seed: int = 0) -> np.ndarray:
    return split_of_segments(SplitRule.parse(rule), folds=None, image=IMAGE, label=LABEL, subject=SUBJECT, seed=seed)[0]


def _write(path: Path, **fold: object) -> Path:
    torch.save({"splits": [{"train": [0, 1], "val": [2], "test": [3], **fold}]}, path)
    return path


def test_by_image_is_80_10_10_in_every_class_and_keeps_an_image_in_one_split() -> None:
    splits = _split("by-image")
    counts = {split: len(np.unique(IMAGE[splits == split])) for split in ("train", "val", "test")}
    assert counts == {"train": 1597, "val": 199, "test": 200}
    assert sum(counts.values()) == 1996
    for label in range(40):
        for split, share in (("val", 5), ("test", 5)):
            assert abs(len(np.unique(IMAGE[(splits == split) & (label == LABEL)])) - share) <= 1
    assert (splits[:1996] == splits[1996:3992]).all()
    assert (splits != _split("by-image", seed=1)).any()
    assert (splits == _split("by-image")).all()


def test_leave_subject_out_tests_on_that_subject_only_and_validates_on_unseen_images() -> None:
    splits = _split("leave-subject-out:2")
    assert set(SUBJECT[splits == "test"]) == {2}
    assert (splits[SUBJECT == 2] == "test").all()
    train, val = (set(IMAGE[splits == split]) for split in ("train", "val"))
    assert not train & val
    assert abs(len(val) - 200) <= 1
    with pytest.raises(UserError, match=r"leave-subject-out:7: the data has subjects \[1, 2, 3\]"):
        _split("leave-subject-out:7")


def test_folds_are_read_and_applied(tmp_path: Path) -> None:
    folds = read_folds(_write(tmp_path / "s.pth", test=[5]), num_segments=6)
    for rule in ("fold:0", "single"):
        splits, words = split_of_segments(
            SplitRule.parse(rule), folds=folds, image=np.arange(6), label=np.zeros(6), subject=np.ones(6), seed=0
        )
        assert splits.tolist() == ["train", "train", "val", "", "", "test"]
        assert words == "fold 0 of 1 of the split file"


def test_wrong_rules_name_the_right_ones(tmp_path: Path) -> None:
    for text in ("fold", "fold:x", "fold:-1", "leave-subject-out", "bytheway"):
        with pytest.raises(UsageError, match="is not one of fold:N"):
            SplitRule.parse(text)
    with pytest.raises(UsageError, match="give --splits"):
        _split("fold:0")
    arrays = {"image": np.arange(6), "label": np.zeros(6), "subject": np.ones(6), "seed": 0}
    folds = read_folds(_write(tmp_path / "s.pth"), num_segments=6) * 2
    with pytest.raises(UserError, match=r"has folds 0\.\.1"):
        split_of_segments(SplitRule.parse("fold:2"), folds=folds, **arrays)
    with pytest.raises(UserError, match="this one has 2"):
        split_of_segments(SplitRule.parse("single"), folds=folds, **arrays)


SESSION = np.tile(np.repeat(["ses-1", "ses-2", "ses-10", "ses-9"], 499), 3)


def test_by_session_holds_out_each_subject_s_last_two_sessions_in_natural_order() -> None:
    given = {"split": "by-session", "column": None, "image": IMAGE, "label": LABEL, "subject": SUBJECT}
    division = divide(**given, session=SESSION)
    expected = {"ses-1": "train", "ses-2": "train", "ses-9": "val", "ses-10": "test"}
    assert division.splits.tolist() == [expected[session] for session in SESSION]
    assert division.rule.startswith("by session")


def test_by_session_without_enough_sessions_says_whose(tmp_path: Path) -> None:
    given = {"split": "by-session", "column": None, "image": IMAGE, "label": LABEL, "subject": SUBJECT}
    two = np.where((SUBJECT == 2) & (SESSION != "ses-1"), "ses-2", SESSION)
    with pytest.raises(UserError, match=r"1 of 3 subjects have fewer \(subject 2: ses-1, ses-2\)\. Leave them out"):
        divide(**given, session=two)
    for session in (None, [""] * len(IMAGE)):
        with pytest.raises(UserError, match=r"the session of 5988 of 5988 segments is unknown.* column 'session'"):
            divide(**given, session=session)


def test_the_option_decides_before_the_column() -> None:
    column = ["val"] * len(IMAGE)
    given = {"column": column, "image": [f"{n}.png" for n in IMAGE], "label": LABEL, "subject": SUBJECT}
    own = divide(split=None, **given)
    assert (own.splits.tolist(), own.rule, own.notes) == (column, "split column of the table", ())
    ruled = divide(split="by-image", **given)
    assert set(ruled.splits) == {"train", "val", "test"}
    assert ruled.notes == ("the table's column 'split' is not used, because --split is by-image",)
    assert (divide(split=None, **{**given, "column": None}).splits == ruled.splits).all()


def test_a_subject_alone_cannot_be_left_out() -> None:
    with pytest.raises(UserError, match="no other subject to train on"):
        divide(
            split="leave-subject-out:1", column=None, image=IMAGE, label=LABEL, subject=np.ones(len(IMAGE), dtype=int)
        )


CONCEPT = IMAGE % 40  # every session has all of them
IS_TEST = CONCEPT >= 35
ZERO_SHOT = {"is_test_image": IS_TEST, "label": CONCEPT, "subject": SUBJECT, "session": SESSION, "num_val_classes": 4}


@pytest.mark.parametrize("split", [None, "leave-subject-out:2", "by-session"])
def test_zero_shot_validation_shares_no_class_with_training_and_test(split: str | None) -> None:
    splits = divide_zero_shot(split=split, **ZERO_SHOT).splits
    classes = {name: set(CONCEPT[splits == name].tolist()) for name in ("train", "val", "test")}
    assert classes["test"] == set(range(35, 40))
    assert len(classes["val"]) == 4
    assert classes["train"] | classes["val"] == set(range(35))
    assert not classes["train"] & classes["val"]


def test_zero_shot_rules_take_only_what_they_say() -> None:
    assert (divide_zero_shot(split=None, **ZERO_SHOT).splits != "").all()
    left_out = divide_zero_shot(split="leave-subject-out:2", **ZERO_SHOT).splits
    assert ((left_out == "test") == (IS_TEST & (SUBJECT == 2))).all()
    assert ((left_out == "") == ((SUBJECT == 2) != IS_TEST)).all()
    by_session = divide_zero_shot(split="by-session", **ZERO_SHOT)
    assert set(SESSION[by_session.splits == "test"]) == {"ses-10"}
    assert set(SESSION[by_session.splits == "val"]) == {"ses-9"}
    assert set(SESSION[by_session.splits == "train"]) == {"ses-1", "ses-2"}


def test_what_is_no_zero_shot_split_is_refused() -> None:
    with pytest.raises(UsageError, match="by-image does not keep"):
        divide_zero_shot(split="by-image", **ZERO_SHOT)
    with pytest.raises(UserError, match="1 classes have training and test images"):
        divide_zero_shot(split=None, **{**ZERO_SHOT, "is_test_image": IS_TEST & (IMAGE > 35)})
    with pytest.raises(UserError, match=r"35 of 35 training classes .* leave none"):
        divide_zero_shot(split=None, **{**ZERO_SHOT, "num_val_classes": 35})
