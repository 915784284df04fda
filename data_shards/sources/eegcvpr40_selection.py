"""Which segments of an EEGCVPR40 file go into the data set: by split, subject, length, image and values."""

import dataclasses
from pathlib import Path

import numpy as np

from neuroimagen.data_shards.common.errors import UsageError, UserError
from neuroimagen.data_shards.sources.eegcvpr40_file import EegCvpr40File
from neuroimagen.data_shards.sources.readers.images import ImageFiles, listed
from neuroimagen.data_shards.sources.readers.split_file import read_folds
from neuroimagen.data_shards.sources.splits import DROPPED, SplitRule, split_of_segments


@dataclasses.dataclass(frozen=True, kw_only=True)
class EegCvpr40Options:
    """What to take from the files; the defaults are those of the published loader."""

    eeg: Path
    images: Path
    splits: Path | None = None
    split: str = "fold:0"
    """fold:N, single, by-image, by-session or leave-subject-out:S."""
    split_seed: int = 0
    subjects: tuple[int, ...] | None = None
    """Subjects to keep, after the split; None keeps all."""
    length: tuple[int, int] = (450, 600)
    """Recorded lengths to keep, in samples, both ends included."""
    window: tuple[int, int] = (20, 460)
    """Samples to keep: start, and end (excluded)."""
    n_channels: int = 128
    sfreq: float | None = None
    """Sampling rate in Hz; None takes the file's own, or 1000."""
    captions: Path | None = None
    """JSON {image name: detailed caption}; None takes captions.json beside the EEG file, if there is one."""
    class_names: Path | None = None
    """JSON {WordNet id: name} for classes beyond EEGCVPR40's."""
    on_missing: str = "skip"
    """Missing or unreadable images: skip (report them and leave their segments out) or stop."""
    on_nan: str = "stop"
    """Segments with NaN or infinity: stop or skip."""
    on_flat: str = "stop"
    """Segments with a channel that never varies: stop, skip or keep."""

    def __post_init__(self) -> None:
        SplitRule.parse(self.split)
        for name, (low, high), least in (("length", self.length, 1), ("window", self.window, 0)):
            if not least <= low <= high or (name == "window" and low == high):
                raise UsageError(f"--{name} {low}:{high} is empty or negative.")
        for name, value, allowed in (
            ("missing", self.on_missing, ("stop", "skip")),
            ("nan", self.on_nan, ("stop", "skip")),
            ("flat", self.on_flat, ("stop", "skip", "keep")),
        ):
            if value not in allowed:
                raise UsageError(f"--on-{name} {value!r} is not one of {', '.join(allowed)}.")


class EegCvpr40Selection:
    """The segments that the options select. Making it reads every image and every kept sample once.

    Raises UserError, naming the first segment or the images, for what the options say to stop at.
    """

    def __init__(self, recording: EegCvpr40File, options: EegCvpr40Options) -> None:
        self._recording, self._options = recording, options
        self.notes: list[str] = []
        """What was dropped or looks odd, one sentence each."""
        self.missing_images: list[str] = []
        """Names of images that are not there or can't be read."""
        folds = None
        if options.splits is not None:
            folds = read_folds(options.splits, num_segments=len(recording.label))
        self.split, self.split_rule = split_of_segments(
            SplitRule.parse(options.split),
            folds=folds,
            image=recording.image,
            label=recording.label,
            subject=recording.subject,
            session=recording.session,
            seed=options.split_seed,
        )
        keep = self.split != DROPPED
        self._note_dropped(keep, "in none of train, val and test")
        keep = self._keep_subjects(keep)
        keep = self._keep_lengths(keep)
        keep = self._keep_readable_images(keep)
        self.positions = self._keep_finite(np.flatnonzero(keep))
        """int64 positions in the file's 'dataset' of the selected segments, ascending."""

    def _note_dropped(self, keep: np.ndarray, why: str) -> None:
        if dropped := int((~keep).sum()):
            self.notes.append(f"{dropped} of {len(keep)} segments dropped: {why}")

    def _keep_subjects(self, keep: np.ndarray) -> np.ndarray:
        wanted = self._options.subjects
        if wanted is None:
            return keep
        present = np.unique(self._recording.subject).tolist()
        if unknown := [subject for subject in wanted if subject not in present]:
            raise UserError(f"subject {unknown[0]} is not in {self._options.eeg}; it has {present}.")
        chosen = np.isin(self._recording.subject, wanted)
        self._note_dropped(chosen | ~keep, f"subject is not among {sorted(wanted)}")
        return keep & chosen

    def _keep_lengths(self, keep: np.ndarray) -> np.ndarray:
        (low, high), end = self._options.length, self._options.window[1]
        length = self._recording.length
        chosen = (length >= low) & (length <= high)
        self._note_dropped(chosen | ~keep, f"length outside {low}..{high} samples")
        if (short := np.flatnonzero(keep & chosen & (length < end))).size:
            remedy = f"--length {end}:{high} or another --window" if end <= high else f"a --window up to {high} at most"
            raise UserError(
                f"dataset[{short[0]}] of {self._options.eeg} has {length[short[0]]} samples, passes "
                f"--length {low}:{high}, and ends before the window does ({end}); {short.size} such segments. Use "
                f"{remedy}."
            )
        return keep & chosen

    def _keep_readable_images(self, keep: np.ndarray) -> np.ndarray:
        folder, recording = self._options.images, self._recording
        if not folder.is_dir():
            raise UserError(f"{folder} is not a folder of images; --images takes the one that holds <wnid>/.")
        wanted = np.unique(recording.image[keep])
        paths = {name: image_path(folder, name) for name in (recording.image_names[image] for image in wanted)}
        self.images = ImageFiles(paths)
        self.notes += self.images.notes
        problems = self.images.problems
        if not problems:
            return keep
        self.missing_images = sorted(problems)
        message = f"{len(problems)} of {len(wanted)} images are missing or unreadable: {listed(problems, limit=None)}"
        if len(problems) == len(wanted):
            raise UserError(
                f"none of the {len(wanted)} images can be read under {folder}, the first would be "
                f"{paths[next(iter(problems))]}. Is --images the folder that holds <wnid>/<name>.JPEG?"
            )
        if self._options.on_missing == "stop":
            raise UserError(f"{message}. Put them under {folder}, or leave their segments out with --on-missing skip.")
        self.notes.append(message)
        unreadable = [image for image in wanted if recording.image_names[image] in problems]
        chosen = ~np.isin(recording.image, unreadable)
        self._note_dropped(chosen | ~keep, "image missing or unreadable")
        return keep & chosen

    def _keep_finite(self, positions: np.ndarray) -> np.ndarray:
        """Positions without NaN, infinity and flat channels, as the options say; looks at every sample once."""
        options = self._options
        nan: list[int] = []
        flat: dict[int, list[int]] = {}
        for position in positions.tolist():
            eeg = self._recording.window(position, *options.window)
            low, high = eeg.min(axis=1), eeg.max(axis=1)  # NaN anywhere in a channel makes both NaN
            if not (np.isfinite(low).all() and np.isfinite(high).all()):
                nan.append(position)
            elif (low == high).any():
                flat[position] = np.flatnonzero(low == high).tolist()
        if nan:
            message = f"{len(nan)} segments hold NaN or infinity, the first is dataset[{nan[0]}]"
            if options.on_nan == "stop":
                raise UserError(f"{options.eeg}: {message}. Leave them out with --on-nan skip.")
            self.notes.append(f"{message}: dropped")
        if flat:
            first = next(iter(flat))
            message = (
                f"{len(flat)} segments have flat channels, the first is dataset[{first}] (channels {flat[first][:10]})"
            )
            if options.on_flat == "stop":
                raise UserError(f"{options.eeg}: {message}. Leave them out with --on-flat skip, or --on-flat keep.")
            self.notes.append(f"{message}: {'kept' if options.on_flat == 'keep' else 'dropped'}")
        left_out = nan + (list(flat) if options.on_flat == "skip" else [])
        return positions[~np.isin(positions, left_out)]


def image_path(folder: Path, name: str) -> Path:
    """<images>/<wnid>/<name>.JPEG; ImageNet names begin with the WordNet id."""
    return folder / name.split("_", 1)[0] / f"{name}.JPEG"
