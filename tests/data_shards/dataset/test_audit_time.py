"""Time that tells the class, and segments of two splits that share samples."""

import numpy as np
from index_columns import make_index

from neuroimagen.data_shards.dataset import audit_time as audit

SPLITS = np.array([0, 0, 1, 2, 2])


def test_two_classes_in_blocks_are_told_by_time() -> None:
    """Twice chance is certainty with two classes; time telling all of them was no problem."""
    labels, blocks = np.repeat([0, 1], 10), np.repeat([0, 1], 10)
    orders, splits = np.tile(np.arange(10), 2), np.tile([0, 0, 0, 0, 2], 4)
    columns = (labels, np.ones(20, dtype=int), blocks, orders, splits)
    (finding,) = audit.check_time(*columns)
    assert finding.level == "problem"
    assert "taken for one" not in finding.text
    (finding,) = audit.check_time(*columns, origin="each recording is taken for one")
    assert "(each recording is taken for one)" in finding.text
    (finding,) = audit.check_time(np.tile([0, 1], 10), *columns[1:])
    assert finding.level == "good"


def test_a_block_tells_the_class_where_its_neighbours_in_time_are_in_another_split() -> None:
    """The first image of each block is tested and the second validates: the third is as far as the block before."""
    blocks, orders = np.repeat(np.arange(6), 10), np.tile(np.arange(10), 6)
    splits = np.tile([2, 1, *[0] * 8], 6)
    (finding,) = audit.check_time(blocks % 3, np.ones(60, dtype=int), blocks, orders, splits)
    assert finding.level == "problem"
    assert finding.figures["accuracy"] == finding.figures["told_by_block"] == 1.0


def test_an_unknown_order_is_said_to_be_unknown() -> None:
    unknown = np.full(5, -1)
    (finding,) = audit.check_time(np.arange(5), np.ones(5, dtype=int), unknown, unknown, SPLITS)
    assert finding.level == "note"
    assert "unknown" in finding.text


def test_segments_that_share_samples_are_counted_by_pair_of_splits() -> None:
    """Rapid presentation: an image every 0.2 s, segments of 1 s, split by image."""
    splits = np.tile([0, 0, 0, 1, 2], 8)
    index = make_index(split_code=splits, onset_s=np.arange(40) * 0.2, recording_code=np.repeat([0, 1], 20))
    found = list(audit.check_shared_samples(index, n_samples=100, sfreq=100.0))
    assert [(finding.level, finding.figures["shared"]) for finding in found] == [
        ("problem", 8),
        ("problem", 8),
        ("note", 8),
    ]
    assert "8 of 8 test segments share samples with train segments" in found[0].text
    assert "000000004 and 000000000 of r0, 0.8 s apart" in found[0].text
    (finding,) = audit.check_shared_samples(index, n_samples=20, sfreq=100.0)
    assert finding.level == "good"


def test_without_onsets_it_is_said_that_shared_samples_are_not_known() -> None:
    (finding,) = audit.check_shared_samples(make_index(split_code=SPLITS), n_samples=100, sfreq=100.0)
    assert (finding.level, finding.figures["unknown"]) == ("note", 5)
    onset = np.array([0, 9, 18, 27, np.nan])
    index = make_index(split_code=SPLITS, onset_s=onset, recording_code=np.zeros(5))
    (finding,) = audit.check_shared_samples(index, n_samples=100, sfreq=100.0)
    assert finding.level == "good"
    assert "1 of 5 segments have no onset" in finding.text
