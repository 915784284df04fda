"""What every form of THINGS-EEG2's files is read as: trials of one subject and half, by image."""

import abc
import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from neuroimagen.data_shards.common.errors import UserError

HALVES = ("train", "test")
_RATES_HZ = (10.0, 100_000.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trial:
    """One presentation of an image."""

    eeg: np.ndarray
    """[C, T], as stored: all channels and samples of the file."""
    session: str = ""
    recording: str = ""
    onset_s: float = math.nan
    """Of the first sample, in seconds from the start of the recording."""
    block: int = -1
    order: int = -1


class SubjectHalf(abc.ABC):
    """The trials of one subject in the training or the test half."""

    channel_names: tuple[str, ...]
    num_samples: int
    times: np.ndarray
    """float64 [num_samples]: seconds after the image's onset; or fewer than two where the file does not say."""
    num_images: int
    images: tuple[str, ...] | None = None
    """The name of each image where the file holds them."""
    sessions: np.ndarray
    """Text [trials], image by image; empty: unknown."""
    repetitions: np.ndarray
    """int64 [num_images]: how many trials each image has."""

    @abc.abstractmethod
    def trials(self, image: int) -> Sequence[Trial]:
        """The trials of an image, in the order of `sessions`."""


class Form(abc.ABC):
    """Files of one form, of all subjects."""

    NAME: str
    """In words."""
    SHOWS_ALL_IMAGES: bool = True
    """Whether every image has a place in the files, so that another number of images is a mistake."""
    PREPROCESSING: str
    """What was done to the EEG before, or is done on reading."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._said: dict[str, list[str]] = {}
        """What was left out or looks odd → the files of which it is true; filled by `open`."""

    @property
    def notes(self) -> list[str]:
        """What was left out or looks odd in the files that were opened, one sentence for each kind."""
        return [f"{_files(where)}: {text}" for text, where in self._said.items()]

    def note(self, text: str, where: str) -> None:
        self._said.setdefault(text, []).append(where)

    @abc.abstractmethod
    def files(self, subject: int) -> Mapping[str, Path]:
        """The files that the subject's data are read from, by their name in dataset.json."""

    @abc.abstractmethod
    def open(self, subject: int, half: str) -> SubjectHalf:
        """Check and open; reads little. Raises UserError naming the file."""


def _files(where: Sequence[str]) -> str:
    return where[0] if len(where) == 1 else f"{len(where)} files ({where[0]} …)"


def checked_times(times: object, num_samples: int, *, where: str) -> tuple[np.ndarray, str | None]:
    """The time of every sample from a file's `times`, and a note if only the last of them belong to the samples.

    The usual preprocessing epochs from −0.2 s, drops the samples before the image and leaves `times` as it was: 300
    entries for 250 samples. Raises UserError where there are fewer times than samples, or times that no clock gives.
    """
    values = np.asarray(times, dtype=np.float64).reshape(-1)
    if len(values) < num_samples:
        raise UserError(f"{where}: {len(values)} times for {num_samples} samples.")
    note = None
    if len(values) > num_samples:
        note = (
            f"{len(values)} times for {num_samples} samples: the last {num_samples} are taken, "
            f"{values[-num_samples]:.3f} to {values[-1]:.3f} s"
        )
        values = values[-num_samples:]
    steps = np.diff(values)
    if len(steps) and (not np.isfinite(values).all() or not (steps > 0).all()):
        raise UserError(f"{where}: its times do not ascend, so they give no sampling rate.")
    if len(steps) and np.ptp(steps) > 0.5 * steps.mean():
        raise UserError(f"{where}: its times are not evenly spaced ({steps.min():g} to {steps.max():g} s apart).")
    return values, note


def rate_of(times: np.ndarray, *, where: str) -> float:
    """Sampling rate in Hz. Raises UserError if there is none, or one that no EEG has."""
    if len(times) < 2:
        raise UserError(f"{where}: its times do not give a sampling rate; give --sfreq.")
    rate = float(round((len(times) - 1) / (times[-1] - times[0]), 3))
    if not _RATES_HZ[0] <= rate <= _RATES_HZ[1]:
        raise UserError(
            f"{where}: its times give a sampling rate of {rate:g} Hz; are they milliseconds? Give --sfreq in Hz."
        )
    return rate
