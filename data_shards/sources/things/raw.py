"""THINGS-EEG2's raw recordings, cut and whitened as the preprocessed files were.

    <eeg>/sub-01/ses-01/raw_eeg_{training,test}.npy   np.save of {'raw_eeg_data': [63 channels + stim, n], in V,
                                                      'ch_names', 'ch_types', 'sfreq'}

The stim line holds the image's number at its onset; 99999 is a target, which is left out. MNE cuts −0.2 to 1.0 s,
subtracts the mean before the image, and resamples each epoch to 250 Hz; the last second is kept. Then each session is
whitened (whitening.py) with all of its channels.

A subject's epochs (float32) are kept in a temporary file while they are read; the raw files are mapped, so memory holds
some hundred epochs at a time.
"""

import dataclasses
import math
import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from neuroimagen.data_shards.common.blas import single_blas_thread
from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.sources.readers.npy import load_npy
from neuroimagen.data_shards.sources.things.channels import usual_order
from neuroimagen.data_shards.sources.things.trials import HALVES, Form, SubjectHalf, Trial
from neuroimagen.data_shards.sources.things.whitening import noise_covariance, whitening_matrix

TARGET_CODE = 99_999
SFREQ = 250.0
_TMIN_S, _TMAX_S = -0.2, 1.0
_KEPT_SAMPLES = 250
"""The last of an epoch: from the image's onset on."""
_EPOCHS_AT_ONCE = 200
_WORDS = {"train": "training", "test": "test"}
_MICROVOLT = 1e6


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Recording:
    """One raw file, checked; its EEG stays in the file."""

    name: str
    session: str
    half: str
    eeg: np.ndarray
    """float64 [all channels, n], mapped."""
    ch_names: list[str]
    ch_types: list[str]
    sfreq: float
    picks: list[int]
    """EEG channels in the usual order."""
    onsets: np.ndarray
    """int64 [trials]: samples."""
    codes: np.ndarray
    """int64 [trials]: the image's number, from 1."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Subject:
    """Every trial of a subject: columns over all recordings, in the order of time."""

    recordings: list[_Recording]
    of_recording: np.ndarray
    """int64 [trials]: position in `recordings`."""
    order: np.ndarray
    """int64 [trials]: within the recording."""
    image: np.ndarray
    """int64 [trials]: number of the image in its half, from 0."""


class RawForm(Form):
    """The raw recordings of all sessions."""

    NAME = "raw recordings"
    SHOWS_ALL_IMAGES = False

    def __init__(self, root: Path, *, whitening: str = "session") -> None:
        super().__init__(root)
        self._whitening = whitening
        self._subjects: dict[int, _Subject] = {}
        self._counts: dict[str, list[tuple[int, int, str]]] = {}
        """Why trials are left out → of each file with such: how many, of how many, its name."""
        self._epochs: tuple[int, np.ndarray] | None = None
        """A subject and its epochs [trials, C, T] in the temporary file."""
        steps = ["cut -0.2 to 1.0 s by MNE", "baseline -0.2 to 0 s", "resampled to 250 Hz", "the last 250 samples"]
        if whitening == "session":
            steps.append("whitened by session, covariance of its training epochs (Ledoit-Wolf)")
        self.PREPROCESSING = ", ".join(steps)

    @property
    def notes(self) -> list[str]:
        counted = [
            f"{sum(n for n, _, _ in each)} of {sum(of for _, of, _ in each)} trials are {why}: {len(each)} recordings, "
            f"the first is {each[0][2]}"
            for why, each in self._counts.items()
        ]
        return [*super().notes, *counted]

    def _count(self, why: str, which: np.ndarray, name: str) -> None:
        if which.any():
            self._counts.setdefault(why, []).append((int(which.sum()), len(which), name))

    def files(self, subject: int) -> Mapping[str, Path]:
        found = sorted((self._root / f"sub-{subject:02d}").glob("ses-*/raw_eeg_*.npy"))
        return {str(path.relative_to(self._root)): path for path in found}

    def open(self, subject: int, half: str) -> "RawHalf":
        if subject not in self._subjects:
            self._subjects[subject] = self._read(subject)
        return RawHalf(self, subject, self._subjects[subject], half)

    def epochs(self, subject: int) -> np.ndarray:
        """float32 [trials, C, T], whitened if so configured, in the order of `_Subject`. Kept for the last subject."""
        if self._epochs is None or self._epochs[0] != subject:
            self._epochs = None  # frees the other's file first
            self._epochs = (subject, self._cut(self._subjects[subject]))
        return self._epochs[1]

    def _read(self, subject: int) -> _Subject:
        folder = self._root / f"sub-{subject:02d}"
        sessions = sorted(path for path in folder.glob("ses-*") if path.is_dir())
        recordings = []
        for path in sessions:
            for half in HALVES:
                file = path / f"raw_eeg_{_WORDS[half]}.npy"
                if not file.is_file():
                    raise UserError(f"{file} is missing. Every session has a training and a test file.")
                recordings.append(
                    self._open(file, session=path.name.removeprefix("ses-").lstrip("0") or "0", half=half)
                )
        first = recordings[0]
        for other in recordings[1:]:
            if _eeg_names(other) != _eeg_names(first) or other.sfreq != first.sfreq:
                raise UserError(f"{other.name} has other channels or another rate than {first.name}.")
        lengths = [len(recording.codes) for recording in recordings]
        return _Subject(
            recordings=recordings,
            of_recording=np.repeat(np.arange(len(recordings)), lengths),
            order=np.concatenate([np.arange(length) for length in lengths]),
            image=np.concatenate([recording.codes - 1 for recording in recordings]),
        )

    def _open(self, path: Path, *, session: str, half: str) -> _Recording:
        content = load_npy(path)
        name = str(path.relative_to(self._root))
        keys = ("raw_eeg_data", "ch_names", "ch_types", "sfreq")
        if not isinstance(content, dict) or not set(keys) <= set(content):
            raise UserError(f"{path} must hold {', '.join(keys)}.")
        eeg, names, types = content["raw_eeg_data"], list(content["ch_names"]), list(content["ch_types"])
        if not isinstance(eeg, np.ndarray) or eeg.ndim != 2 or eeg.dtype.kind != "f":
            raise UserError(f"{path}: 'raw_eeg_data' must be numbers [channels, samples].")
        if not len(names) == len(types) == len(eeg):
            raise UserError(f"{path}: {len(names)} names and {len(types)} types for {len(eeg)} channels.")
        sfreq = float(content["sfreq"])
        if not SFREQ <= sfreq <= 100_000:
            raise UserError(f"{path}: the sampling rate is {sfreq:g} Hz; expected {SFREQ:g} or more.")
        stim = [place for place, kind in enumerate(types) if kind == "stim"]
        if len(stim) != 1:
            raise UserError(f"{path}: expected one channel of type 'stim', found {len(stim)}.")
        onsets, codes = self._events(np.asarray(eeg[stim[0]]), path)
        inside = (onsets + round(_TMIN_S * sfreq) >= 0) & (onsets + round(_TMAX_S * sfreq) < eeg.shape[1])
        self._count("dropped: they run over the recording's ends", ~inside, name)
        brain = [place for place, kind in enumerate(types) if kind == "eeg"]
        return _Recording(
            name=name,
            session=session,
            half=half,
            eeg=eeg,
            ch_names=names,
            ch_types=types,
            sfreq=sfreq,
            picks=[brain[place] for place in usual_order([names[place] for place in brain])],
            onsets=onsets[inside],
            codes=codes[inside],
        )

    def _events(self, stim: np.ndarray, path: Path) -> tuple[np.ndarray, np.ndarray]:
        """Sample and number of every image on the stim line, without targets."""
        if not np.isfinite(stim).all() or (stim != np.rint(stim)).any() or (stim < 0).any():
            raise UserError(f"{path}: the stim line holds values that are no codes.")
        changed = np.flatnonzero(np.diff(stim, prepend=0.0) != 0)
        onsets = changed[stim[changed] > 0]
        codes = stim[onsets].astype(np.int64)
        targets = codes == TARGET_CODE
        self._count(f"targets (code {TARGET_CODE}) and left out", targets, str(path.relative_to(self._root)))
        if targets.all():
            raise UserError(f"{path}: the stim line holds no image's number.")
        return onsets[~targets], codes[~targets]

    def _cut(self, subject: _Subject) -> np.ndarray:
        first = subject.recordings[0]
        shape = (len(subject.image), len(first.picks), _KEPT_SAMPLES)
        try:
            with tempfile.NamedTemporaryFile(prefix="neuroimagen-things-", suffix=".f32") as file:
                # Room is taken now: a disk that fills up under a map ends the process without a message.
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, max(math.prod(shape) * 4, 1))
                # The file loses its name with the `with`, and goes when the map does.
                epochs = np.memmap(file.name, np.float32, "r+" if hasattr(os, "posix_fallocate") else "w+", shape=shape)
        except OSError as error:
            size = math.prod(shape) * 4 / 1e9
            raise UserError(
                f"cannot make a temporary file of {size:.1f} GB in {tempfile.gettempdir()}: {error.strerror or error}. "
                "Set TMPDIR to a folder with room."
            ) from None
        for session in sorted({recording.session for recording in subject.recordings}):
            own = [place for place, recording in enumerate(subject.recordings) if recording.session == session]
            if self._whitening == "session":
                matrix = self._matrix([subject.recordings[place] for place in own])
            else:
                matrix = np.eye(len(first.picks)) * _MICROVOLT
            for place in own:
                rows = np.flatnonzero(subject.of_recording == place)
                done = 0
                for batch in _batches(subject.recordings[place]):
                    with single_blas_thread():
                        epochs[rows[done : done + len(batch)]] = matrix @ batch
                    done += len(batch)
        return epochs

    def _matrix(self, recordings: list[_Recording]) -> np.ndarray:
        training = next(recording for recording in recordings if recording.half == "train")
        epochs = (epoch for batch in _batches(training) for epoch in batch)
        pairs = zip(training.codes.tolist(), epochs, strict=True)
        covariance = noise_covariance(pairs, dict(Counter(training.codes.tolist())))
        return whitening_matrix(covariance, tuple(_eeg_names(training)), where=training.name)


class RawHalf(SubjectHalf):
    """The trials of a half; reading the first of a subject cuts all of them."""

    num_samples = _KEPT_SAMPLES
    times = np.arange(_KEPT_SAMPLES) / SFREQ

    def __init__(self, form: RawForm, subject: int, trials: _Subject, half: str) -> None:
        self._form, self._subject, self._trials = form, subject, trials
        self.channel_names = tuple(_eeg_names(trials.recordings[0]))
        of_half = np.array([recording.half == half for recording in trials.recordings])
        rows = np.flatnonzero(of_half[trials.of_recording])
        self._rows = rows[np.argsort(trials.image[rows], kind="stable")]
        image = trials.image[self._rows]
        self.num_images = int(image.max()) + 1 if len(image) else 0
        self.repetitions = np.bincount(image, minlength=self.num_images)
        self._first = np.concatenate([[0], np.cumsum(self.repetitions)])
        names = np.array([recording.session for recording in trials.recordings])
        self.sessions = names[trials.of_recording[self._rows]]

    def trials(self, image: int) -> Sequence[Trial]:
        rows = self._rows[self._first[image] : self._first[image + 1]]
        return [self._trial(row) for row in rows.tolist()]

    def _trial(self, row: int) -> Trial:
        place = int(self._trials.of_recording[row])
        recording, order = self._trials.recordings[place], int(self._trials.order[row])
        return Trial(
            eeg=self._form.epochs(self._subject)[row],
            session=recording.session,
            recording=recording.name.removesuffix(".npy"),
            onset_s=float(recording.onsets[order] / recording.sfreq),
            block=place,
            order=order,
        )


def _eeg_names(recording: _Recording) -> list[str]:
    return [recording.ch_names[place] for place in recording.picks]


def _batches(recording: _Recording) -> Iterator[np.ndarray]:
    """float64 [at most 200, C, T]: the epochs of a recording, in V, in the order of time."""
    import mne

    with mne.utils.use_log_level("ERROR"):
        info = mne.create_info(recording.ch_names, recording.sfreq, recording.ch_types)
        raw: Any = mne.io.RawArray(np.asarray(recording.eeg, dtype=np.float64), info)
        events = np.stack([recording.onsets, np.zeros_like(recording.onsets), recording.codes], axis=1)
        for first in range(0, len(events), _EPOCHS_AT_ONCE):
            epochs = mne.Epochs(
                raw,
                events[first : first + _EPOCHS_AT_ONCE],
                tmin=_TMIN_S,
                tmax=_TMAX_S,
                baseline=(None, 0),
                picks=recording.picks,
                preload=True,
                reject_by_annotation=False,
            )
            if epochs.info["sfreq"] != SFREQ:
                epochs.resample(SFREQ)
            usual = [epochs.ch_names.index(name) for name in _eeg_names(recording)]
            yield epochs.get_data(copy=False)[:, usual, -_KEPT_SAMPLES:]
