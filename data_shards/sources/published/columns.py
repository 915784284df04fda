"""A source whose segments are rows: what was seen, by whom, when; the EEG is read row by row."""

import abc
import dataclasses
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.format.schema import ClassInfo, DatasetMetadata, SegmentRecord, StimulusRecord
from neuroimagen.data_shards.format.tar import is_valid_key
from neuroimagen.data_shards.sources.base import Source
from neuroimagen.data_shards.sources.class_names import class_caption
from neuroimagen.data_shards.sources.readers.hashes import file_records
from neuroimagen.data_shards.sources.readers.images import ImageContent, ImageFiles, listed
from neuroimagen.data_shards.sources.splits import DROPPED, Division, divide, divide_zero_shot
from neuroimagen.data_shards.sources.stimulus_keys import unique_keys


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """A segment without its EEG."""

    image: str
    """Name of the image, below the image folder."""
    class_name: str
    subject: int
    session: str = ""
    recording: str = ""
    onset_s: float = math.nan
    block: int = -1
    order: int = -1


class RowSource(Source):
    """Sets `_rows` and the facts below in `__init__`, and calls `_finish`."""

    NAME: str
    """The name in the registry."""

    _rows: Sequence[Row]
    _channel_names: tuple[str, ...] | None = None
    _n_channels: int
    _n_samples: int
    _sfreq: float
    _band_hz: tuple[float, float] | None = None
    _files: dict[str, Path]
    """Name in dataset.json → file whose hash is recorded."""
    _steps: Mapping[str, Any] = {}
    """What was done to the EEG."""

    @abc.abstractmethod
    def _read(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """The EEG of these rows, real numbers [C, T], in their order, which ascends."""

    def _finish(
        self,
        images: Path,
        division: Division,
        *,
        notes: Sequence[str],
        wnids: Mapping[str, str] | None = None,
        captions: Mapping[str, str] | None = None,
        paths: Mapping[str, Path | ImageContent] | None = None,
        on_missing: str = "stop",
    ) -> None:
        """Check the images and the classes.

        wnids: of each class name. captions: of each image. paths: where an image lies, if not below `images` by its
        name. on_missing: stop, or skip the segments of images that cannot be stored.
        """
        self._division = division
        self._splits = division.splits.copy()
        names = list(dict.fromkeys(row.image for row in self._rows))
        where: dict[str, Path | ImageContent] = {name: (paths or {}).get(name, images / name) for name in names}
        self._images = ImageFiles(where)
        self._captions = captions or {}
        notes = [*notes, *division.notes, *self._images.notes]
        if problems := self._images.problems:
            message = f"{len(problems)} of {len(names)} images under {images} can't be stored: {listed(problems)}"
            if on_missing == "stop" or len(problems) == len(names):
                raise UserError(f"{message}.")
            lost = np.array([row.image in problems for row in self._rows])
            self._splits[lost] = DROPPED
            notes.append(f"{message}; {int(lost.sum())} of {len(lost)} segments are left out")
        classes = sorted({row.class_name for row in self._rows})
        self._label = {name: label for label, name in enumerate(classes)}
        self._classes = tuple(ClassInfo(name=name, wnid=(wnids or {}).get(name, "")) for name in classes)
        class_of: dict[str, str] = {}
        for row in self._rows:
            if class_of.setdefault(row.image, row.class_name) != row.class_name:
                raise UserError(f"image {row.image} has two classes: {class_of[row.image]} and {row.class_name}.")
        self._class_of = class_of
        self._keys = _keys(names)
        kept = self._splits != DROPPED
        if dropped := int((division.splits == DROPPED).sum()):
            notes.append(f"{dropped} of {len(kept)} segments are in none of train, val and test: {division.rule}")
        self._kept = np.flatnonzero(kept)
        self.notes = notes

    def metadata(self) -> DatasetMetadata:
        return DatasetMetadata(
            name=self.NAME,
            n_channels=self._n_channels,
            n_samples=self._n_samples,
            sfreq=self._sfreq,
            channel_names=self._channel_names,
            band_hz=self._band_hz,
            classes=self._classes,
            split_rule=self._division.rule,
            preprocessing=dict(self._steps),
            provenance={"source": self.NAME, "files": file_records(self._files), "notes": list(self.notes)},
        )

    def stimuli(self) -> Iterator[StimulusRecord]:
        shown = dict.fromkeys(self._rows[row].image for row in self._kept.tolist())
        for name in shown:
            content, extension = self._images.read(name)
            class_name = self._class_of[name]
            yield StimulusRecord(
                key=self._keys[name],
                image=content,
                extension=extension,
                label=self._label[class_name],
                caption=class_caption(class_name),
                detailed_caption=self._captions.get(name),
            )

    def segments(self, split: str | None = None) -> Iterator[SegmentRecord]:
        numbers = self._kept if split is None else self._kept[self._splits[self._kept] == split]
        for number, eeg in zip(numbers.tolist(), self._read(numbers), strict=True):
            row = self._rows[number]
            yield SegmentRecord(
                eeg=np.asarray(eeg, dtype=np.float32),
                stimulus=self._keys[row.image],
                label=self._label[row.class_name],
                subject=row.subject,
                split=str(self._splits[number]),
                block=row.block,
                order=row.order,
                session=row.session,
                recording=row.recording,
                onset_s=row.onset_s,
            )

    def num_segments(self) -> int:
        return len(self._kept)


def zero_shot_division(
    rows: Sequence[Row],
    is_test_image: np.ndarray,
    *,
    split: str | None,
    num_val_classes: int,
    seed: int,
    notes: list[str],
) -> Division:
    """Divide rows whose published test images are of classes of their own. `by-image` mixes them, and it is noted."""
    label = np.unique([row.class_name for row in rows], return_inverse=True)[1]
    subject = np.array([row.subject for row in rows])
    session = np.array([row.session for row in rows])
    if split != "by-image":
        return divide_zero_shot(
            split=split,
            is_test_image=is_test_image,
            label=label,
            subject=subject,
            session=session,
            num_val_classes=num_val_classes,
            seed=seed,
        )
    notes.append("--split by-image mixes the published training and test images: the test is not zero-shot")
    image = [row.image for row in rows]
    return divide(split=split, column=None, image=image, label=label, subject=subject, session=session, seed=seed)


def _keys(names: Sequence[str]) -> dict[str, str]:
    """Stimulus key of each image: its file's name without the ending; the path where two files have the same name."""

    def cleaned(text: str) -> str:
        return re.sub(r"[^A-Za-z0-9_-]+", "_", text).strip("_-")[-80:]

    stems = {name: re.sub(r"\.[A-Za-z]{3,4}$", "", name) for name in names}
    keys = {name: cleaned(stem.rsplit("/", 1)[-1]) for name, stem in stems.items()}
    return (
        keys if len(set(keys.values())) == len(keys) and all(map(is_valid_key, keys.values())) else unique_keys(stems)
    )
