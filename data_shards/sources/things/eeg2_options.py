"""What to take from THINGS-EEG2: options, and how the command line gives them."""

import dataclasses
from pathlib import Path

from neuroimagen.data_shards.common.errors import UsageError
from neuroimagen.data_shards.sources.options import (
    Container,
    add_images,
    add_sfreq,
    add_split,
    add_split_seed,
    add_subjects,
    add_window,
)
from neuroimagen.data_shards.sources.splits import SplitRule
from neuroimagen.data_shards.sources.things.repetitions import parse_repetitions


@dataclasses.dataclass(frozen=True, kw_only=True)
class ThingsEeg2Options:
    """What to take from the files."""

    eeg: Path
    images: Path
    subjects: tuple[int, ...] | None = None
    """None takes every sub-NN folder."""
    channels: tuple[str, ...] | None = None
    """Names, or the one word occipito-parietal; None takes all."""
    window: tuple[int, int] | None = None
    """Samples to keep: start, and end (excluded); None keeps all."""
    repetitions: tuple[str, ...] = ("keep",)
    """keep: one segment per presentation; average: one per image and subject; or both by split: train=keep …"""
    split: str | None = None
    """leave-subject-out:S or by-session; None: the published zero-shot test."""
    val_concepts: int = 100
    """Training concepts held out for validation."""
    split_seed: int = 0
    sfreq: float | None = None
    """Sampling rate in Hz; None derives it from the file's times."""
    whitening: str | None = None
    """Of raw recordings: session or none; None: session."""

    def __post_init__(self) -> None:
        parse_repetitions(self.repetitions)
        if self.split is not None:
            SplitRule.parse(self.split)
        if self.window is not None and not 0 <= self.window[0] < self.window[1]:
            raise UsageError(f"--window {self.window[0]}:{self.window[1]} is empty or negative.")
        if self.whitening not in (None, "session", "none"):
            raise UsageError(f"--whitening {self.whitening!r} is neither session nor none.")


def add_eeg2_options(parser: Container) -> None:
    """Each option has the name of its field."""
    default = ThingsEeg2Options
    parser.add_argument("--eeg", type=Path, required=True, metavar="DIR", help="folder of sub-01, sub-02 …")
    add_images(parser, "folder of training_images, test_images and image_metadata.npy")
    add_subjects(parser)
    parser.add_argument(
        "--channels",
        nargs="+",
        metavar="NAME",
        help="channels to keep, or occipito-parietal: those whose names begin with O or P (default: all)",
    )
    add_window(parser, None, "samples to keep, of those in the file")
    parser.add_argument(
        "--repetitions",
        nargs="+",
        default=list(default.repetitions),
        metavar="HOW",
        help="keep: one segment per presentation; average: their mean per image and subject; by split: "
        "train=keep test=average (default: keep)",
    )
    add_split(
        parser,
        "leave-subject-out:S: the test images of subject S are the test split, the others' training images are "
        "train and val; by-session: the last session is the test split (default: every subject's test images)",
    )
    parser.add_argument(
        "--val-concepts",
        type=int,
        default=default.val_concepts,
        metavar="N",
        help="training concepts for val (default: 100)",
    )
    add_split_seed(parser, "which concepts those are (default: 0)")
    add_sfreq(parser, "from the file's times")
    parser.add_argument(
        "--whitening",
        metavar="HOW",
        help="of raw recordings: session, by the covariance of its training trials; or none (default: session)",
    )
