"""Reads EEGCVPR40 as it circulates in Parquet files, with the images inside.

    train*.parquet, validation*.parquet (or val*), test*.parquet, with the columns
    image               {'bytes': the image file, 'path': its name or null}
    conditioning_image  the segment, [channels, samples] or [samples, channels], here [128, 440]
    caption             text
    label_folder        WordNet id
    label               number of the class
    subject             number

The files' names say the split. Their segments have no time of recording, so the order of presentation is unknown; the
study is a block design all the same (docs/explanation/drift.md).
"""

import argparse
import dataclasses
import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.format.parquet import open_parquet, plain_texts
from neuroimagen.data_shards.format.schema import DatasetMetadata
from neuroimagen.data_shards.sources.class_names import EEGCVPR40_CLASS_NAMES, differing_classes
from neuroimagen.data_shards.sources.options import (
    add_class_names,
    add_sfreq,
    add_split,
    add_split_seed,
    add_subjects,
    options_from,
)
from neuroimagen.data_shards.sources.published.columns import Row, RowSource
from neuroimagen.data_shards.sources.published.tables import read_text_mapping
from neuroimagen.data_shards.sources.splits import DROPPED, Division, divide
from neuroimagen.data_shards.sources.subjects import LABELS_KEY, mapping_notes, number_subjects

_COLUMNS = ("image", "conditioning_image", "caption", "label_folder", "label", "subject")
_SPLITS = {"train": "train", "val": "val", "validation": "val", "test": "test"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class EegCvpr40ParquetOptions:
    """What to take from the files."""

    eeg: tuple[Path, ...]
    """Files, or folders that hold them."""
    subjects: tuple[int, ...] | None = None
    """Subjects to keep, after the split; None keeps all."""
    n_channels: int = 128
    sfreq: float | None = None
    """Sampling rate in Hz; None takes 1000."""
    class_names: Path | None = None
    """JSON {WordNet id: name} for classes beyond EEGCVPR40's."""
    split: str | None = None
    """None takes the split that the files' names say."""
    split_seed: int = 0


class EegCvpr40ParquetSource(RowSource):
    """The files; making it reads all columns but the EEG, once. One row group is held in memory at a time."""

    NAME = "eegcvpr40-parquet"
    HELP = "EEGCVPR40 as Parquet files that hold EEG and images"
    DESCRIPTION = (
        "Read EEGCVPR40 from Parquet files named train*, validation* and test*, with the columns image, "
        "conditioning_image, caption, label_folder, label and subject."
    )
    EXAMPLES = """
    neuroimagen data ingest eegcvpr40-parquet --eeg EEG_Image_CVPR/data --out data/cvpr40
    """

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        default = EegCvpr40ParquetOptions
        parser.add_argument(
            "--eeg", type=Path, nargs="+", required=True, metavar="PATH", help="the Parquet files, or their folder"
        )
        add_subjects(parser, "keep these only; applied after the split (default: all)")
        parser.add_argument(
            "--n-channels",
            type=int,
            default=default.n_channels,
            metavar="N",
            help="channels of a segment; says which axis is time (default: 128)",
        )
        add_sfreq(parser, "1000")
        add_class_names(parser)
        add_split(parser, "by-image or leave-subject-out:S (default: the split that the files' names say)")
        add_split_seed(parser)

    @classmethod
    def from_arguments(cls, args: argparse.Namespace) -> "EegCvpr40ParquetSource":
        return cls(options_from(args, EegCvpr40ParquetOptions))

    def __init__(self, options: EegCvpr40ParquetOptions) -> None:
        self._options = options
        found = _found_files(options.eeg)
        self._cells = _Cells([path for path, _ in found])
        shown = [self._seen(row, cells) for row, cells in self._cells.all(_COLUMNS[:1] + _COLUMNS[2:])]
        files = [path for path, _ in found]
        notes: list[str] = []
        names = {**EEGCVPR40_CLASS_NAMES, **(read_text_mapping(options.class_names) if options.class_names else {})}
        _check_classes(shown, names)
        numbers, self._subject_labels = number_subjects([each.subject for each in shown])
        notes += mapping_notes(self._subject_labels)
        self._rows = [
            Row(image=each.image, class_name=names[each.wnid], subject=number)
            for each, number in zip(shown, numbers.tolist(), strict=True)
        ]
        self._files = {path.name: path for path in files}
        self._set_shape(notes)
        self._sfreq = 1000.0 if options.sfreq is None else options.sfreq
        own = [split for path, split in found for _ in range(self._cells.num_rows(path))]
        division = self._divided(own, numbers, notes)
        first: dict[str, _Cell] = {}
        for row, each in enumerate(shown):
            first.setdefault(each.image, _Cell(self._cells, row))
        self._finish(
            files[0].parent,
            division,
            notes=notes,
            wnids={names[each.wnid]: each.wnid for each in shown},
            captions=_detailed_captions(shown),
            paths=first,
        )

    def metadata(self) -> DatasetMetadata:
        metadata = super().metadata()
        return dataclasses.replace(metadata, provenance={**metadata.provenance, LABELS_KEY: self._subject_labels})

    def _seen(self, row: int, cells: dict[str, Any]) -> "_Seen":
        where, image = self._cells.where(row), cells["image"]
        if not isinstance(image, dict) or not isinstance(image.get("bytes"), bytes):
            raise UserError(f"{where}: 'image' holds no bytes of an image; export the data set with its images.")
        if not re.fullmatch(r"n\d{8}", str(cells["label_folder"])):
            raise UserError(f"{where}: label_folder {str(cells['label_folder'])[:60]!r} is no WordNet id.")
        digest = hashlib.sha256(image["bytes"]).hexdigest()
        name = re.split(r"[\\/]", image.get("path") or "")[-1].strip() or f"{cells['label_folder']}_{digest[:10]}"
        return _Seen(
            image=name,
            digest=digest,
            wnid=cells["label_folder"],
            label=str(cells["label"]),
            subject=str(cells["subject"]),
            caption=str(cells["caption"] or "").strip(),
        )

    def _set_shape(self, notes: list[str]) -> None:
        """Which axis is time, from the first segment."""
        channels = self._options.n_channels
        rows, columns = self._cells.eeg(0).shape
        self._is_transposed = rows != channels and columns == channels
        if rows != channels and columns != channels:
            raise UserError(
                f"{self._cells.where(0)}: the segment is {rows} × {columns}, and no axis has {channels} channels. Give "
                "--n-channels."
            )
        self._n_channels, self._n_samples = channels, rows if self._is_transposed else columns
        if self._is_transposed:
            notes.append(f"segments are stored as [{rows} samples, {columns} channels]; they are transposed")

    def _divided(self, own: Sequence[str], subject: np.ndarray, notes: list[str]) -> Division:
        options = self._options
        if options.split is None:
            division = Division(splits=np.array(own), rule="split of the published files")
        else:
            division = divide(
                split=options.split,
                column=None,
                image=[row.image for row in self._rows],
                label=np.unique([row.class_name for row in self._rows], return_inverse=True)[1],
                subject=subject,
                seed=options.split_seed,
            )
            notes.append(f"the split that the files' names say is not used, because --split is {options.split}")
        if options.subjects is None:
            return division
        if unknown := sorted(set(options.subjects) - set(subject.tolist())):
            raise UserError(f"subject {unknown[0]} is not in the files; they have {np.unique(subject).tolist()}.")
        kept = np.isin(subject, options.subjects)
        rule = f"{division.rule}; subjects {', '.join(map(str, sorted(options.subjects)))}"
        return Division(splits=np.where(kept, division.splits, DROPPED), rule=rule)

    def _read(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        expected = (self._n_samples, self._n_channels) if self._is_transposed else (self._n_channels, self._n_samples)
        for row in rows.tolist():
            eeg = self._cells.eeg(row)
            if eeg.shape != expected:
                raise UserError(f"{self._cells.where(row)}: the segment is {eeg.shape}, the first is {expected}.")
            yield eeg.T if self._is_transposed else eeg


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Seen:
    """A row without its EEG."""

    image: str
    digest: str
    wnid: str
    label: str
    subject: str
    caption: str


class _Cells:
    """Rows of several Parquet files, numbered through; a row group is read at a time."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._groups: list[tuple[int, int]] = []  # (file, row group)
        self._starts = [0]
        self._held: dict[tuple[str, ...], tuple[int, pa.Table]] = {}
        for number, path in enumerate(paths):
            file = self._open(path)
            if missing := [name for name in _COLUMNS if name not in file.schema_arrow.names]:
                raise UserError(f"{path} has no column {missing[0]!r}; it has {', '.join(file.schema_arrow.names)}.")
            for group in range(file.num_row_groups):
                self._groups.append((number, group))
                self._starts.append(self._starts[-1] + file.metadata.row_group(group).num_rows)
        if self._starts[-1] == 0:
            raise UserError(f"{', '.join(path.name for path in paths)} hold no rows.")

    def num_rows(self, path: Path) -> int:
        sizes = np.diff(self._starts).tolist()
        return sum(size for (file, _), size in zip(self._groups, sizes, strict=True) if self._paths[file] == path)

    def where(self, row: int) -> str:
        """The file and the row in it, for messages."""
        file = self._groups[self._group(row)][0]
        first = next(start for (each, _), start in zip(self._groups, self._starts, strict=False) if each == file)
        return f"{self._paths[file]}, row {row - first}"

    def all(self, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
        for number, start in enumerate(self._starts[:-1]):
            for place, cells in enumerate(self._table(number, tuple(columns)).to_pylist()):
                yield start + place, cells

    def eeg(self, row: int) -> np.ndarray:
        """The segment of a row, float32, as it is stored."""
        number = self._group(row)
        column = self._table(number, ("conditioning_image",)).column(0)
        cell = column[row - self._starts[number]].as_py()
        try:
            eeg = np.asarray(cell, dtype=np.float32)
        except (ValueError, TypeError):
            eeg = np.empty(0, dtype=np.float32)
        if eeg.ndim != 2:
            raise UserError(f"{self.where(row)}: 'conditioning_image' is no table of numbers.")
        return eeg

    def image(self, row: int) -> bytes:
        number = self._group(row)
        cell = self._table(number, ("image",)).column(0)[row - self._starts[number]].as_py()
        return bytes(cell["bytes"])

    def _group(self, row: int) -> int:
        return int(np.searchsorted(self._starts, row, side="right")) - 1

    def _table(self, number: int, columns: tuple[str, ...]) -> pa.Table:
        if self._held.get(columns, (-1, None))[0] != number:
            file, group = self._groups[number]
            try:
                table = self._open(self._paths[file]).read_row_group(group, columns=list(columns))
                table = plain_texts(table, where=str(self._paths[file]))
            except (OSError, pa.ArrowException) as error:
                raise UserError(f"cannot read {self._paths[file]}: {str(error).splitlines()[0]}") from None
            self._held[columns] = (number, table)
        return self._held[columns][1]

    def _open(self, path: Path) -> pq.ParquetFile:
        return open_parquet(path)


@dataclasses.dataclass(frozen=True)
class _Cell:
    """The image of a row, for `ImageFiles`."""

    cells: _Cells
    row: int

    def read_bytes(self) -> bytes:
        return self.cells.image(self.row)


def _found_files(given: Sequence[Path]) -> list[tuple[Path, str]]:
    """The files and the split that each name says."""
    files = [file for path in given for file in (sorted(path.glob("**/*.parquet")) if path.is_dir() else [path])]
    if not files:
        raise UserError(f"{', '.join(map(str, given))}: there is no Parquet file.")
    found = []
    for path in files:
        word = re.match(r"[a-z]+", path.name.lower())
        if word is None or word[0] not in _SPLITS:
            raise UserError(f"{path}: the name must begin with train, validation or test, which says the split.")
        found.append((path, _SPLITS[word[0]]))
    return found


def _check_classes(shown: Sequence[_Seen], names: dict[str, str]) -> None:
    """Label, label_folder and the image's name say the same class, and an image has one content."""
    folder_of: dict[str, str] = {}
    label_of: dict[str, str] = {}
    digest_of: dict[str, str] = {}
    for each in shown:
        if folder_of.setdefault(each.label, each.wnid) != each.wnid or (
            label_of.setdefault(each.wnid, each.label) != each.label
        ):
            raise UserError(
                f"label {each.label} stands beside label_folder {each.wnid} and {folder_of[each.label]}: the columns "
                "say different classes."
            )
        if digest_of.setdefault(each.image, each.digest) != each.digest:
            raise UserError(f"two images are called {each.image}; give every image a name of its own.")
    if wrong := differing_classes([(each.image, each.wnid) for each in shown]):
        raise UserError(f"label_folder and the image's name say different classes: {wrong}.")
    if unknown := sorted({each.wnid for each in shown} - set(names)):
        raise UserError(
            f"{len(unknown)} classes have no known name, the first is {unknown[0]}. Give --class-names FILE, JSON of "
            "the form {wnid: name}."
        )


def _detailed_captions(shown: Sequence[_Seen]) -> dict[str, str]:
    """The caption of each image where captions tell the images of a class apart; one for a class is not detailed."""
    of_class: dict[str, set[str]] = {}
    for each in shown:
        of_class.setdefault(each.wnid, set()).add(each.caption)
    return {each.image: each.caption for each in shown if each.caption and len(of_class[each.wnid]) > 1}
