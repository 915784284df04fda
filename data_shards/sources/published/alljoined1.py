"""Reads Alljoined1 (Xu et al. 2024) as the hub has it: 8 subjects, 64 channels, 512 Hz, images of COCO.

    <eeg>/…/train-00000-of-….parquet, …   columns EEG ([64][samples], V), subject_id, session, block, trial, 73k_id,
                                          coco_id, curr_time (s)
    <table>.csv                           coco_id, image (below the image folder), class; caption

COCO gives an image many objects and no one class, so the table is the user's. Some sessions are not published.
"""

import argparse
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.sources.options import add_images, add_split, add_split_seed, add_subjects, options_from
from neuroimagen.data_shards.sources.published.columns import Row, RowSource
from neuroimagen.data_shards.sources.published.tables import Column, Kind, read_matrices, read_rows
from neuroimagen.data_shards.sources.readers.csv_table import read_csv_table
from neuroimagen.data_shards.sources.splits import divide

_COLUMNS = {
    "subject_id": Column(Kind.WHOLE_NUMBER),
    "session": Column(Kind.NAME),
    "block": Column(Kind.WHOLE_NUMBER),
    "trial": Column(Kind.WHOLE_NUMBER),
    "coco_id": Column(Kind.WHOLE_NUMBER),
    "curr_time": Column(Kind.NUMBER),
}
_SFREQ = 512.0
_MICROVOLT = 1e6
_LARGEST_V = 1e-2
"""Volts stay below; microvolts do not."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Alljoined1Options:
    """What to take from the files."""

    eeg: Path
    table: Path
    images: Path
    subjects: tuple[int, ...] | None = None
    split: str | None = None
    """by-image, by-session or leave-subject-out:S; None: the files' own (train, test), by-image for val."""
    split_seed: int = 0


class Alljoined1Source(RowSource):
    """The Parquet files; a batch of rows is held at a time."""

    NAME = "alljoined1"
    HELP = "Alljoined1, the hub's Parquet files (8 subjects, COCO images)"
    DESCRIPTION = (
        "Read Alljoined1's Parquet files. COCO images have many objects: the table gives each its class, columns "
        "coco_id, image, class, and caption if you have one. Without --split the images are divided 80/10/10 %."
    )
    EXAMPLES = """
    neuroimagen data ingest alljoined1 --eeg Alljoined1/data --table classes.csv --images coco/ --out data/alljoined1
    """

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--eeg", type=Path, required=True, metavar="DIR", help="folder of the Parquet files")
        parser.add_argument("--table", type=Path, required=True, metavar="FILE", help="CSV: coco_id, image, class …")
        add_images(parser)
        add_subjects(parser)
        add_split(parser, "by-image, by-session or leave-subject-out:S (default: by-image, 80/10/10 %%)")
        add_split_seed(parser)

    @classmethod
    def from_arguments(cls, args: argparse.Namespace) -> "Alljoined1Source":
        return cls(options_from(args, Alljoined1Options))

    def __init__(self, options: Alljoined1Options) -> None:
        self._options = options
        notes: list[str] = []
        paths = sorted(options.eeg.rglob("*.parquet")) if options.eeg.is_dir() else []
        if not paths:
            hint = "; the .h5 files are not read" if any(options.eeg.rglob("*.h5")) else ""
            raise UserError(
                f"{options.eeg} holds no Parquet files{hint}. Get the data set's Parquet copy from the hub."
            )
        self._paths = paths
        trials = read_rows(paths, _COLUMNS, also=("EEG",))
        shown = _table(options.table)
        self._file_row: list[int] = []
        rows: list[Row] = []
        unlisted: dict[int, int] = {}
        for place, row in enumerate(trials):
            if options.subjects is not None and row["subject_id"] not in options.subjects:
                continue
            image = shown.get(row["coco_id"])
            if image is None:
                unlisted[row["coco_id"]] = unlisted.get(row["coco_id"], 0) + 1
                continue
            self._file_row.append(place)
            rows.append(
                Row(
                    image=image[0],
                    class_name=image[1],
                    subject=row["subject_id"],
                    session=str(row["session"]),
                    recording=f"subj{row['subject_id']:02d}_session{row['session']}_block{row['block']}",
                    onset_s=row["curr_time"],
                    block=row["block"],
                    order=row["trial"],
                )
            )
        if unlisted:
            names = ", ".join(map(str, list(unlisted)[:10])) + (" …" if len(unlisted) > 10 else "")
            notes.append(
                f"{sum(unlisted.values())} of {len(trials)} segments left out: {options.table.name} has no row for "
                f"{len(unlisted)} images (coco_id {names})"
            )
        if not rows:
            raise UserError(f"no segment is left: {options.table} has no row for any image, or no subject is chosen.")
        self._rows = rows
        sample = next(self._read(np.array([0])))
        self._n_channels, self._n_samples = sample.shape
        if np.abs(sample).max() > _LARGEST_V * _MICROVOLT:
            raise UserError(f"{paths[0]}: the EEG reaches {np.abs(sample).max() / _MICROVOLT:g}; expected volts.")
        self._sfreq = _SFREQ
        self._files = {str(path.relative_to(options.eeg)): path for path in paths} | {options.table.name: options.table}
        self._steps = {"unit": "microvolt", "steps": "as in the files"}
        division = divide(
            split=options.split,
            column=None,
            image=[row.image for row in rows],
            label=np.unique([row.class_name for row in rows], return_inverse=True)[1],
            subject=np.array([row.subject for row in rows]),
            session=np.array([row.session for row in rows]),
            seed=options.split_seed,
        )
        captions = {name: caption for name, _, caption in shown.values() if caption}
        self._finish(options.images, division, notes=notes, captions=captions)

    def _read(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        for eeg in read_matrices(self._paths, "EEG", [self._file_row[row] for row in rows.tolist()]):
            yield eeg * _MICROVOLT


def _table(path: Path) -> dict[int, tuple[str, str, str]]:
    """coco_id → image, class, caption."""
    table = read_csv_table(path, ("coco_id", "image", "class"), ("caption",))
    shown = {}
    for number, (key, image, name, caption) in enumerate(
        zip(
            table.whole_numbers("coco_id", -1).tolist(),
            table.column("image"),
            table.column("class"),
            table.column("caption"),
            strict=True,
        )
    ):
        if key in shown:
            raise UserError(f"{path}, line {number + 2}: coco_id {key} has two rows.")
        if ".." in Path(image).parts or Path(image).is_absolute():
            raise UserError(f"{path}, line {number + 2}: image {image!r} lies outside the image folder.")
        shown[key] = (image, name, caption)
    return shown
