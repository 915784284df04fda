"""Reads the files of EEGCVPR40 (Spampinato et al., CVPR 2017), or any study in their layout.

    <eeg>.pth     {'dataset': [{'eeg': Tensor [C, L], 'image': int, 'label': int, 'subject': int}, …],
                   'labels': [WordNet id, …], 'images': [name, …]}, and 'means', 'stddevs' beside raw int16 EEG
    <splits>.pth  {'splits': [{'train': [int], 'val': [int], 'test': [int]}, …]}, positions in 'dataset'
    <images>/<wnid>/<name>.JPEG

Beside the EEG file a study may have three files that the published data set lacks; `data simulate` writes them:

    captions.json      {picture name: detailed caption}
    presentation.json  {'block': [int], 'order': [int]}, one number a segment of 'dataset'
    study.json         whatever describes the study; 'sfreq' (Hz), 'channel_names' and 'band_hz' are used

Without presentation.json block and order are derived: a subject saw each class as one run of pictures, so `block`
counts a subject's classes in the order in which they first appear in the file, and `order` counts the segments X
"""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from neuroimagen.data_shards.common.errors import UsageError, UserError
from neuroimagen.data_shards.format.images import decode_image
from neuroimagen.data_shards.format.schema import ClassInfo, DatasetMetadata, SegmentRecord, StimulusRecord
from neuroimagen.data_shards.format.tables import file_sha256
from neuroimagen.data_shards.sources.class_names import EEGCVPR40_CLASS_NAMES, class_caption
from neuroimagen.data_shards.sources.eegcvpr40_file import EegCvpr40File, read_json_object
from neuroimagen.data_shards.sources.splits import DROPPED, SplitRule, read_folds, split_of_segments

PUBLISHED_COUNTS = {"segments": 11_965, "classes": 40, "images": 1_996, "subjects": 6}
"""Of the published files; other figures in files that carry its 40 classes are reported, not refused."""
_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"


@dataclasses.dataclass(frozen=True, kw_only=True)
class EegCvpr40Options:
    """What to take from the files; the defaults are those of the published loader."""

    eeg: Path
    images: Path
    splits: Path | None = None
    split: str = "fold:0"
    """fold:N, single, by-image or leave-subject-out:S."""
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
    """JSON {picture name: detailed caption}; None takes captions.json beside the EEG file, if there is one."""
    class_names: Path | None = None
    """JSON {WordNet id: name} for classes beyond EEGCVPR40's."""
    on_missing: str = "skip"
    """Missing or unreadable pictures: skip (report them and go on without their segments) or stop."""
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


class EegCvpr40Source:
    """A Source over the files; opening it reads and checks everything but the EEG samples.

    Memory: zip-format .pth files stay on disk, mapped; what is held is one segment at a time and the lists of labels.
    """

    def __init__(self, options: EegCvpr40Options) -> None:
        self.options = options
        self._recording = EegCvpr40File(options.eeg, options.n_channels)
        recording = self._recording
        self._classes = _classes(recording.wnids, options.class_names)
        self.notes: list[str] = []
        """What was dropped or looks odd, a line each."""
        self.missing_images: list[str] = []
        """Names of pictures that are not there or can't be read."""
        self._check_published_counts()

        folds = None
        if options.splits is not None:
            folds = read_folds(options.splits, num_segments=len(recording.label))
        part, self._split_rule = split_of_segments(
            SplitRule.parse(options.split),
            folds=folds,
            image=recording.image,
            label=recording.label,
            subject=recording.subject,
            seed=options.split_seed,
        )
        keep = part != DROPPED
        self._note_dropped(keep, "in no part of the split")
        keep = self._keep_subjects(keep)
        keep = self._keep_lengths(keep)
        keep = self._keep_pictured(keep)
        self._part = part
        self._rows = self._keep_sound(np.flatnonzero(keep))

    def metadata(self) -> DatasetMetadata:
        options, recording = self.options, self._recording
        sources = [options.eeg] + ([options.splits] if options.splits else [])
        parameters = {
            name: value
            for name, value in dataclasses.asdict(options).items()
            if name not in ("eeg", "images", "splits", "captions", "class_names")
        }
        return DatasetMetadata(
            name=options.eeg.stem,
            n_channels=options.n_channels,
            n_samples=options.window[1] - options.window[0],
            sfreq=recording.sfreq if options.sfreq is None else options.sfreq,
            band_hz=recording.band_hz,
            channel_names=recording.channel_names,
            classes=self._classes,
            split_rule=self._split_rule,
            preprocessing={"window": list(options.window), "file_standardised": recording.means is not None},
            provenance={
                "source": "eegcvpr40",
                "files": {path.name: {"bytes": path.stat().st_size, "sha256": file_sha256(path)} for path in sources},
                "parameters": parameters,
                "block_and_order": recording.block_origin,
                "missing_images": self.missing_images,
                "notes": self.notes,
                **({"study": recording.study} if recording.study else {}),
            },
        )

    def stimuli(self) -> Iterator[StimulusRecord]:
        captions = self._detailed_captions()
        recording = self._recording
        used, first = np.unique(recording.image[self._rows], return_index=True)
        for image, row in zip(used.tolist(), self._rows[first].tolist(), strict=True):
            name, label = recording.image_names[image], int(recording.label[row])
            content = self._image_path(image).read_bytes()
            yield StimulusRecord(
                key=name,
                image=content,
                extension="png" if content.startswith(_PNG) else "jpg",
                label=label,
                caption=class_caption(self._classes[label].name),
                detailed_caption=captions.get(name),
            )

    def segments(self, split: str | None = None) -> Iterator[SegmentRecord]:
        recording = self._recording
        for row in self._rows.tolist():
            part = str(self._part[row])
            if split is not None and part != split:
                continue
            yield SegmentRecord(
                eeg=self._window(row),
                stimulus=recording.image_names[int(recording.image[row])],
                label=int(recording.label[row]),
                subject=int(recording.subject[row]),
                block=int(recording.block[row]),
                order=int(recording.order[row]),
                split=part,
            )

    def num_segments(self) -> int:
        return len(self._rows)

    def _window(self, row: int) -> np.ndarray:
        """float32 [C, window]: samples as float, minus the file's means over its standard deviations if it has them."""
        start, end = self.options.window
        recording = self._recording
        eeg = recording.eeg(row)[:, start:end].float().numpy()
        if recording.means is not None and recording.stds is not None:
            eeg = (eeg - recording.means[:, None]) / recording.stds[:, None]
        return eeg

    def _detailed_captions(self) -> dict[str, str]:
        path = self.options.captions or self.options.eeg.with_name("captions.json")
        return _text_dictionary(path) if self.options.captions or path.exists() else {}

    def _note_dropped(self, keep: np.ndarray, why: str) -> None:
        if dropped := int((~keep).sum()):
            self.notes.append(f"{dropped} of {len(keep)} segments dropped: {why}")

    def _keep_subjects(self, keep: np.ndarray) -> np.ndarray:
        wanted = self.options.subjects
        if wanted is None:
            return keep
        present = np.unique(self._recording.subject).tolist()
        if unknown := [subject for subject in wanted if subject not in present]:
            raise UserError(f"subject {unknown[0]} is not in {self.options.eeg}; it has {present}.")
        chosen = np.isin(self._recording.subject, wanted)
        self._note_dropped(chosen | ~keep, f"subject is not among {sorted(wanted)}")
        return keep & chosen

    def _keep_lengths(self, keep: np.ndarray) -> np.ndarray:
        (low, high), end = self.options.length, self.options.window[1]
        length = self._recording.length
        chosen = (length >= low) & (length <= high)
        self._note_dropped(chosen | ~keep, f"length outside {low}..{high} samples")
        if (short := np.flatnonzero(keep & chosen & (length < end))).size:
            remedy = f"--length {end}:{high} or another --window" if end <= high else f"a --window up to {high} at most"
            raise UserError(
                f"dataset[{short[0]}] of {self.options.eeg} has {length[short[0]]} samples, passes "
                f"--length {low}:{high}, and ends before the window does ({end}); {short.size} such segments. Use "
                f"{remedy}."
            )
        return keep & chosen

    def _keep_pictured(self, keep: np.ndarray) -> np.ndarray:
        if not self.options.images.is_dir():
            raise UserError(
                f"{self.options.images} is no folder of pictures; --images takes the one that holds <wnid>/."
            )
        recording = self._recording
        wanted = np.unique(recording.image[keep])
        problems = {int(image): problem for image in wanted if (problem := self._image_problem(int(image)))}
        if not problems:
            return keep
        self.missing_images = sorted(recording.image_names[image] for image in problems)
        names = ", ".join(f"{recording.image_names[image]} ({problem})" for image, problem in problems.items())
        message = f"{len(problems)} of {len(wanted)} pictures are missing or unreadable: {names}"
        if len(problems) == len(wanted):
            raise UserError(
                f"none of the {len(wanted)} pictures can be read under {self.options.images}, the first would be "
                f"{self._image_path(min(problems))}. Is --images the folder that holds <wnid>/<name>.JPEG?"
            )
        if self.options.on_missing == "stop":
            raise UserError(
                f"{message}. Put them under {self.options.images}, or go on without with --on-missing skip."
            )
        self.notes.append(message)
        chosen = ~np.isin(recording.image, list(problems))
        self._note_dropped(chosen | ~keep, "picture missing or unreadable")
        return keep & chosen

    def _image_path(self, image: int) -> Path:
        """<images>/<wnid>/<name>.JPEG; ImageNet names begin with the WordNet id."""
        name = self._recording.image_names[image]
        return self.options.images / name.split("_", 1)[0] / f"{name}.JPEG"

    def _image_problem(self, image: int) -> str | None:
        try:
            content = self._image_path(image).read_bytes()
            decode_image(content)
        except FileNotFoundError:
            return "missing"
        except (OSError, ValueError) as error:
            return f"unreadable: {error}"
        return None if content.startswith((_JPEG, _PNG)) else "neither JPEG nor PNG"

    def _keep_sound(self, rows: np.ndarray) -> np.ndarray:
        """Rows without NaN, infinity and flat channels, as the options say; looks at every sample once."""
        nan: list[int] = []
        flat: dict[int, list[int]] = {}
        for row in rows.tolist():
            eeg = self._window(row)
            low, high = eeg.min(axis=1), eeg.max(axis=1)  # NaN anywhere in a channel makes both NaN
            if not (np.isfinite(low).all() and np.isfinite(high).all()):
                nan.append(row)
            elif (low == high).any():
                flat[row] = np.flatnonzero(low == high).tolist()
        if nan:
            message = f"{len(nan)} segments hold NaN or infinity, the first is dataset[{nan[0]}]"
            if self.options.on_nan == "stop":
                raise UserError(f"{self.options.eeg}: {message}. Leave them out with --on-nan skip.")
            self.notes.append(f"{message}: dropped")
        if flat:
            first = next(iter(flat))
            message = (
                f"{len(flat)} segments have flat channels, the first is dataset[{first}] (channels {flat[first][:10]})"
            )
            if self.options.on_flat == "stop":
                raise UserError(
                    f"{self.options.eeg}: {message}. Leave them out with --on-flat skip, or --on-flat keep."
                )
            self.notes.append(f"{message}: {'kept' if self.options.on_flat == 'keep' else 'dropped'}")
        unsound = nan + (list(flat) if self.options.on_flat == "skip" else [])
        return rows[~np.isin(rows, unsound)]

    def _check_published_counts(self) -> None:
        recording = self._recording
        if set(recording.wnids) != set(EEGCVPR40_CLASS_NAMES):
            return
        found = {
            "segments": len(recording.label),
            "classes": len(recording.wnids),
            "images": len(recording.image_names),
            "subjects": len(np.unique(recording.subject)),
        }
        for name, expected in PUBLISHED_COUNTS.items():
            if found[name] != expected:
                self.notes.append(f"the published files have {expected} {name}, these have {found[name]}")
        if recording.wnids != list(EEGCVPR40_CLASS_NAMES):
            self.notes.append("the classes come in another order than in the published files")


def _classes(wnids: Sequence[str], names_file: Path | None) -> tuple[ClassInfo, ...]:
    names = dict(EEGCVPR40_CLASS_NAMES)
    if names_file is not None:
        names.update(_text_dictionary(names_file))
    if unknown := [wnid for wnid in wnids if wnid not in names]:
        raise UserError(
            f"class {unknown[0]} has no known name. Give --class-names FILE, JSON of the form {{wnid: name}}."
        )
    return tuple(ClassInfo(name=names[wnid], wnid=wnid) for wnid in wnids)


def _text_dictionary(path: Path) -> dict[str, str]:
    raw = read_json_object(path)
    if not all(isinstance(text, str) for text in raw.values()):
        raise UserError(f"{path} must be a JSON object of texts.")
    return raw
