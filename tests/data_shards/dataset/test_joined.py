"""Several data sets as one: whose rows, in which layout and unit, and what is refused."""

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.dataset.joined import SUBJECT_STRIDE, JoinedDataset
from neuroimagen.data_shards.format.schema import ClassInfo, DatasetMetadata, SegmentRecord, StimulusRecord
from neuroimagen.data_shards.loading.plan import ShufflePlan
from neuroimagen.data_shards.loading.reader import Reader
from neuroimagen.data_shards.writing.writer import DatasetWriter

NAMES = ("Fz", "Cz", "Pz", "Oz")
Make = Callable[..., Dataset]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """make(name, num_segments=30, channel_names=NAMES, n_channels=4, n_samples=20, sfreq=250.0, unit=1.0): noise of two
    subjects; of ten segments seven are for training, two for validation and one for testing.
    """

    def make(
        name: str,
        *,
        num_segments: int = 30,
        channel_names: tuple[str, ...] | None = NAMES,
        n_channels: int = 4,
        n_samples: int = 20,
        sfreq: float = 250.0,
        unit: float = 1.0,
        subjects: tuple[int, int] = (1, 2),
    ) -> Dataset:
        rng = np.random.default_rng(list(name.encode()))
        metadata = DatasetMetadata(
            name=name,
            n_channels=n_channels,
            n_samples=n_samples,
            sfreq=sfreq,
            classes=(ClassInfo(name="a"), ClassInfo(name="b")),
            channel_names=channel_names,
        )
        buffer = io.BytesIO()
        Image.fromarray(np.zeros((8, 8, 3), dtype=np.uint8)).save(buffer, "PNG")
        with DatasetWriter(tmp_path / name, metadata) as writer:
            for label in range(2):
                writer.add_stimulus(
                    StimulusRecord(
                        key=f"p{label}", image=buffer.getvalue(), extension="png", label=label, caption="a picture"
                    )
                )
            for number in range(num_segments):
                noise = rng.standard_normal((n_channels, n_samples)) * np.arange(1, n_channels + 1)[:, None]
                writer.add_segment(
                    SegmentRecord(
                        eeg=(unit * (2.0 + noise)).astype(np.float32),
                        stimulus=f"p{number % 2}",
                        label=number % 2,
                        subject=subjects[number % 2],
                        split=("val", "val", "test")[number % 10] if number % 10 < 3 else "train",
                    )
                )
        return Dataset.open(tmp_path / name)

    return make


def test_rows_continue_and_only_training_splits_join(make: Make) -> None:
    first, second = make("first"), make("second", num_segments=20)
    joined = JoinedDataset([first, second])
    assert len(joined) == 50
    train = joined.rows("train")
    assert train.tolist() == first.rows("train").tolist() + (30 + second.rows("train")).tolist()
    assert joined.rows("val").tolist() == first.rows("val").tolist()
    # The recipe's subjects are the first's; subject 1 of the other is somebody else.
    own = joined.rows("train", (1,))
    assert own.tolist() == first.rows("train", (1,)).tolist() + (30 + second.rows("train")).tolist()
    assert set(joined.index.subject[30:].tolist()) == set(joined.subjects) == {SUBJECT_STRIDE + 1, SUBJECT_STRIDE + 2}
    assert set(joined.index.label[30:].tolist()) == {2, 3}
    assert JoinedDataset([first, second]).digest == joined.digest
    assert joined.digest not in (first.digest, JoinedDataset([second, first]).digest)
    again = pickle.loads(pickle.dumps(joined))
    assert np.array_equal(again.eeg(45), joined.eeg(45))
    with pytest.raises(UserError, match="named twice"):
        JoinedDataset([first, second, first])


def test_channels_length_and_unit_become_the_first_s(make: Make) -> None:
    """The other names one channel more, in another order and other letters, is longer, and is in volts."""
    first = make("first")
    second = make(
        "second", channel_names=("OZ", "T7", "pz", "CZ", "Fz"), n_channels=5, n_samples=25, unit=1e-6, num_segments=40
    )
    joined = JoinedDataset([first, second])
    assert np.array_equal(joined.eeg(7), first.eeg(7))
    raw = second.eeg(5)[[4, 3, 2, 0], :20]
    gains = joined.eeg(35) / raw
    assert np.allclose(gains, gains[0, 0], rtol=1e-5)  # one factor
    # Of channels with deviations 1 to 4 and 1 to 5: the medians 2.5 and 3.
    assert gains[0, 0] == pytest.approx(1e6 * 2.5 / 3, rel=0.1)
    assert np.array_equal(joined.eeg(35), JoinedDataset([first, second]).eeg(35))


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_batches_do_not_depend_on_the_ranks(make: Make, world_size: int) -> None:
    joined = JoinedDataset([make("first"), make("second", channel_names=NAMES[::-1])])
    plan = ShufflePlan(joined.rows("train"), 5, 12, drop_last=True)
    shares = [list(Reader(joined, plan, rank=rank, world_size=world_size).epoch(3, 1)) for rank in range(world_size)]
    assert len(shares[0]) == plan.steps_per_epoch - 1
    for step, batches in enumerate(zip(*shares, strict=True), start=1):
        rows = torch.cat([batch.rows for batch in batches])
        assert rows.tolist() == plan.batch(3, step).tolist()
        eeg = torch.cat([batch.eeg for batch in batches])
        assert torch.equal(eeg, torch.from_numpy(np.stack([joined.eeg(row) for row in rows.tolist()])))
        assert torch.cat([batch.subject for batch in batches]).tolist() == joined.index.subject[rows].tolist()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sfreq": 500.0}, r"sampled at 500 Hz, the first data set at 250 Hz"),
        ({"n_samples": 19}, r"segments of 19 samples, the first data set of 20"),
        ({"channel_names": ("Fz", "Cz", "Pz", "T8")}, r"lacks 1 of the first data set's 4 channels: Oz"),
        ({"channel_names": None}, r"other does not name its channels"),
        ({"unit": 0.0}, r"most channels are flat"),
        ({"subjects": (1, SUBJECT_STRIDE)}, r"subject numbers must be below"),
    ],
)
def test_what_cannot_join_is_refused(make: Make, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        JoinedDataset([make("first"), make("other", **changes)])


def test_unnamed_channels_are_taken_in_order(make: Make) -> None:
    first = make("first", channel_names=None)
    other = make("other", channel_names=None, n_samples=22)
    joined = JoinedDataset([first, other])
    assert np.corrcoef(joined.eeg(31).ravel(), other.eeg(1)[:, :20].ravel())[0, 1] == pytest.approx(1.0)
    with pytest.raises(UserError, match=r"5 channels, the first data set 4, and neither names"):
        JoinedDataset([first, make("wide", channel_names=None, n_channels=5)])
    with pytest.raises(UserError, match="the first data set does not name"):
        JoinedDataset([first, make("named")])
