"""Reads segments that are preprocessed already, from an array in memory or on disk, with a table of labels.

    <eeg>.npy      [segments, channels, samples], any real dtype; or an .npz that holds it as 'eeg'
    <table>.csv    one row per segment, in the same order. Columns: image (path below the image folder), class;
                   optional: subject (default 1; any label), session, split (train, val, test), caption, block (counts a
                   subject's blocks), order (within the block), recording (unique in the table), onset_s (of the
                   segment's first sample, in seconds from the recording's start)

--split divides the segments; without it the split column does, and without that the images are divided 80/10/10 %.
"""

import argparse
import dataclasses
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from neuroimagen.data_shards.common.errors import UsageError, UserError
from neuroimagen.data_shards.common.reading import reason
from neuroimagen.data_shards.format.npz import open_npz
from neuroimagen.data_shards.format.schema import ClassInfo, DatasetMetadata, SegmentRecord, StimulusRecord, check_names
from neuroimagen.data_shards.sources.base import Source
from neuroimagen.data_shards.sources.class_names import class_caption, refuse_differing_classes
from neuroimagen.data_shards.sources.options import add_images, add_sfreq, add_split, add_split_seed, interval
from neuroimagen.data_shards.sources.readers.csv_table import read_csv_table
from neuroimagen.data_shards.sources.readers.hashes import file_records
from neuroimagen.data_shards.sources.readers.images import ImageFiles, listed
from neuroimagen.data_shards.sources.readers.npy import load_npy
from neuroimagen.data_shards.sources.splits import divide
from neuroimagen.data_shards.sources.stimulus_keys import keys_of_images
from neuroimagen.data_shards.sources.subjects import LABELS_KEY, mapping_notes, number_subjects

MICROVOLTS = {"V": 1e6, "mV": 1e3, "uV": 1.0, "nV": 1e-3}
"""Value of --unit → microvolts."""
_OPTIONAL = ("subject", "session", "split", "caption", "block", "order", "recording", "onset_s")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelTable:
    """What was seen in each segment: columns of equal length, one entry per segment."""

    image: tuple[str, ...]
    """Path of the image below the image folder."""
    class_name: tuple[str, ...]
    subject: tuple[str, ...]
    """Labels; numbers keep their value, see subjects.number_subjects."""
    split: tuple[str, ...] | None
    caption: tuple[str | None, ...]
    block: np.ndarray
    """int64; −1: unknown. So is `order`."""
    order: np.ndarray
    session: tuple[str, ...]
    """Empty: unknown. So is `recording`."""
    recording: tuple[str, ...]
    onset_s: np.ndarray
    """float64; NaN: unknown."""
    notes: tuple[str, ...] = ()
    """What was not used of the table, one sentence each."""

    def __len__(self) -> int:
        return len(self.image)

    @classmethod
    def read(cls, path: Path) -> "LabelTable":
        """Read a CSV (or, by its name, a TSV). Raises UserError naming column and line."""
        table = read_csv_table(path, ("image", "class"), _OPTIONAL)
        return cls(
            image=table.column("image"),
            # Composed characters: "é" is one class, whether it was typed as one character or as two.
            class_name=tuple(unicodedata.normalize("NFC", name) for name in table.column("class")),
            subject=table.column("subject", "1"),
            split=table.column("split") if "split" in table.names else None,
            caption=tuple(caption or None for caption in table.column("caption")),
            block=table.whole_numbers("block", -1),
            order=table.whole_numbers("order", -1),
            session=table.column("session"),
            recording=table.column("recording"),
            onset_s=table.numbers("onset_s"),
            notes=table.notes,
        )


def load_segments(path: Path) -> np.ndarray:
    """[segments, channels, samples] from .npy (mapped) or from 'eeg' of an .npz. Raises UserError naming the file."""
    if path.suffix == ".npz":
        try:
            with open_npz(path) as archive:
                if "eeg" not in archive:
                    raise UserError(f"{path} holds {sorted(archive)}; the EEG must be called 'eeg'.")
                eeg = archive["eeg"]
        except UserError:
            raise
        except Exception as error:  # zipfile and zlib have types of their own
            raise UserError(f"cannot read {path}: {reason(error)}.") from None
    else:
        eeg = load_npy(path)
    if not isinstance(eeg, np.ndarray) or eeg.ndim != 3 or eeg.dtype.kind not in "iuf":
        found = f"{eeg.dtype} {eeg.shape}" if isinstance(eeg, np.ndarray) else type(eeg).__name__
        raise UserError(f"{path} holds {found}; expected numbers [segments, channels, samples].")
    return eeg


class ArraySource(Source):
    """An array and its LabelTable. `files` are recorded by their hashes."""

    HELP = ".npy or .npz of segments, with a table of labels"
    DESCRIPTION = (
        "Read segments that are preprocessed already. The table has one row per segment: columns image and class, and "
        "may have subject, session, split, caption, block, order, recording and onset_s."
    )
    EXAMPLES = """
    neuroimagen data ingest arrays --eeg segments.npy --table labels.csv --images images/ --sfreq 250 \\
      --out data/mine
    """

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--eeg", type=Path, required=True, metavar="FILE", help=".npy, or .npz with 'eeg': [segments, C, T]"
        )
        parser.add_argument("--table", type=Path, required=True, metavar="FILE", help="CSV or TSV, one row per segment")
        add_images(parser)
        add_sfreq(parser)
        parser.add_argument("--channel-names", nargs="+", metavar="NAME", help="names of the channels, in order")
        parser.add_argument(
            "--band", type=interval, metavar="A:B", help="pass band of the recording, Hz; recorded, not applied"
        )
        parser.add_argument(
            "--unit",
            choices=tuple(MICROVOLTS),
            help="unit of the values, which are stored in microvolt then; without it they are stored as they are, and "
            "new EEG has to come in the same unknown unit",
        )
        add_split(parser)
        add_split_seed(parser)

    @classmethod
    def from_arguments(cls, args: argparse.Namespace) -> "ArraySource":
        return ArraySource(
            load_segments(args.eeg),
            LabelTable.read(args.table),
            name=args.eeg.stem,
            images=args.images,
            sfreq=args.sfreq,
            channel_names=None if args.channel_names is None else tuple(args.channel_names),
            band_hz=args.band,
            unit=args.unit,
            split=args.split,
            split_seed=args.split_seed,
            files=(args.eeg, args.table),
        )

    def __init__(
        self,
        eeg: np.ndarray,
        table: LabelTable,
        *,
        name: str,
        images: Path,
        sfreq: float,
        channel_names: tuple[str, ...] | None = None,
        band_hz: tuple[float, float] | None = None,
        unit: str | None = None,
        split: str | None = None,
        split_seed: int = 0,
        files: tuple[Path, ...] = (),
        source: str = "arrays",
    ) -> None:
        if len(eeg) != len(table) or len(eeg) == 0:
            raise UserError(
                f"{len(eeg)} segments and {len(table)} rows of labels; there must be one row per segment, and at least "
                "one segment."
            )
        if channel_names is not None and (twice := sorted({c for c in channel_names if channel_names.count(c) > 1})):
            raise UsageError(f"channel name {twice[0]!r} is given twice; data sets are matched by channel names.")
        if band_hz is not None and not 0 <= band_hz[0] < band_hz[1] <= sfreq / 2:
            raise UsageError(
                f"--band {band_hz[0]:g}:{band_hz[1]:g} must run from low to high, up to half of the sampling rate "
                f"({sfreq / 2:g} Hz)."
            )
        if channel_names is not None and len(channel_names) != eeg.shape[1]:
            swapped = " The array seems to be [segments, samples, channels]: transpose it." * (
                len(channel_names) == eeg.shape[2]
            )
            raise UserError(
                f"{len(channel_names)} channel names, and the array {eeg.shape} is read as {eeg.shape[1]} channels of "
                f"{eeg.shape[2]} samples.{swapped}"
            )
        self._eeg, self._table, self._images, self._name = eeg, table, images, name
        self._sfreq, self._channel_names, self._band_hz = sfreq, channel_names, band_hz
        self._unit, self._factor = unit, 1.0 if unit is None else MICROVOLTS[unit]
        self._files, self._source = files, source
        names = sorted(set(table.class_name))
        self._classes = tuple(ClassInfo(name=class_name) for class_name in names)
        number = {class_name: label for label, class_name in enumerate(names)}
        self._label = np.array([number[class_name] for class_name in table.class_name], dtype=np.int64)
        self._keys = keys_of_images(table.image)
        self._subject, self._subject_labels = number_subjects(table.subject)
        self._check_recordings()
        self._check_images()
        self._division = divide(
            split=split,
            column=table.split,
            image=table.image,
            label=self._label,
            subject=self._subject,
            session=table.session,
            seed=split_seed,
        )
        self.notes = [
            *table.notes,
            *mapping_notes(self._subject_labels),
            *self._division.notes,
            *self._image_files.notes,
            *self._notes_of_shape(),
            *self._notes_of_flat_channels(),
        ]

    def metadata(self) -> DatasetMetadata:
        return DatasetMetadata(
            name=self._name,
            n_channels=self._eeg.shape[1],
            n_samples=self._eeg.shape[2],
            sfreq=self._sfreq,
            channel_names=self._channel_names,
            band_hz=self._band_hz,
            classes=self._classes,
            split_rule=self._division.rule,
            preprocessing={} if self._unit is None else {"unit": "microvolt", "unit_of_the_files": self._unit},
            provenance={
                "source": self._source,
                LABELS_KEY: self._subject_labels,
                "files": file_records({path.name: path for path in self._files}),
            },
        )

    def stimuli(self) -> Iterator[StimulusRecord]:
        seen: set[str] = set()
        for row, image in enumerate(self._table.image):
            if image in seen:
                continue
            seen.add(image)
            content, extension = self._image_files.read(image)
            yield StimulusRecord(
                key=self._keys[image],
                image=content,
                extension=extension,
                label=int(self._label[row]),
                caption=class_caption(self._table.class_name[row]),
                detailed_caption=self._table.caption[row],
            )

    def segments(self, split: str | None = None) -> Iterator[SegmentRecord]:
        for row, image in enumerate(self._table.image):
            own = str(self._division.splits[row])
            if split is not None and own != split:
                continue
            yield SegmentRecord(
                eeg=np.asarray(self._in_microvolts(self._eeg[row]), dtype=np.float32),
                stimulus=self._keys[image],
                label=int(self._label[row]),
                subject=int(self._subject[row]),
                split=own,
                block=int(self._table.block[row]),
                order=int(self._table.order[row]),
                session=self._table.session[row],
                recording=self._table.recording[row],
                onset_s=float(self._table.onset_s[row]),
            )

    def _in_microvolts(self, eeg: np.ndarray) -> np.ndarray:
        """In float64, so that volts in float32 or 16-bit numbers lose nothing; unchanged without --unit."""
        return eeg if self._unit is None else eeg.astype(np.float64) * self._factor

    def num_segments(self) -> int:
        return len(self._table)

    def _notes_of_shape(self) -> list[str]:
        """A sentence about an array with more channels than samples, unless the channels are named."""
        _, channels, samples = self._eeg.shape
        if channels <= samples or self._channel_names is not None:
            return []
        return [
            f"the array is read as {channels} channels of {samples} samples; if it is [segments, samples, channels], "
            "transpose it (give --channel-names to make sure)"
        ]

    def _notes_of_flat_channels(self) -> list[str]:
        """A sentence about channels that never vary in a segment, if there are any; reads every sample once."""
        flat = {
            row: channels
            for row, eeg in enumerate(self._eeg)
            if (channels := np.flatnonzero(eeg.min(axis=1) == eeg.max(axis=1)).tolist())
        }
        if not flat:
            return []
        row, channels = next(iter(flat.items()))
        return [
            f"{len(flat)} of {len(self._eeg)} segments have channels that never vary, the first is segment {row} "
            f"(channels {', '.join(self._name_of(channel) for channel in channels[:10])}): kept"
        ]

    def _name_of(self, channel: int) -> str:
        return str(channel) if self._channel_names is None else self._channel_names[channel]

    def _check_recordings(self) -> None:
        """A recording is of one session of one subject, and an onset belongs to a recording."""
        owners: dict[str, tuple[int, str]] = {}
        columns = zip(self._table.recording, self._subject.tolist(), self._table.session, strict=True)
        for row, (recording, *owner) in enumerate(columns):
            check_names(owner[1], recording)
            if not recording:
                if not np.isnan(self._table.onset_s[row]):
                    raise UserError(
                        f"segment {row} has an onset but no recording. Give the table a column 'recording'."
                    )
            elif owners.setdefault(recording, (owner[0], owner[1])) != tuple(owner):
                raise UserError(
                    f"recording {recording!r} has segments of subject {owners[recording][0]}, session "
                    f"{owners[recording][1]!r}, and of subject {owner[0]}, session {owner[1]!r}. Give every "
                    "recording a name of its own."
                )

    def _check_images(self) -> None:
        label_of: dict[str, int] = {}
        for image, label in zip(self._table.image, self._label.tolist(), strict=True):
            if label_of.setdefault(image, label) != label:
                raise UserError(f"image {image} has two classes in the table.")
        refuse_differing_classes(
            ((image, self._classes[label].name) for image, label in label_of.items()), where="the table"
        )
        self._image_files = ImageFiles({image: self._images / image for image in label_of})
        if problems := self._image_files.problems:
            raise UserError(
                f"{len(problems)} of {len(label_of)} images under {self._images} can't be stored: {listed(problems)}. "
                "Put them there, or remove their rows from the table and their segments from the array."
            )
