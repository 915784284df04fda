"""Reads EEGCVPR40 as Parquet, in which it circulates on the hub with its images: 128 channels, 440 samples.

    <eeg>/train*.parquet, validation*.parquet, test*.parquet   columns image ({bytes, path} or bytes),
                                                               conditioning_image ([128][440] numbers), caption,
                                                               label_folder (WordNet id), label, subject

The files' own split is kept unless --split is given. The images are inside the files; they are unpacked into a
temporary folder while the data set is written.
"""

import argparse
import dataclasses
import hashlib
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.sources.class_names import EEGCVPR40_CLASS_NAMES
from neuroimagen.data_shards.sources.options import add_sfreq, add_split, add_split_seed, add_subjects, options_from
from neuroimagen.data_shards.sources.published.columns import Row, RowSource
from neuroimagen.data_shards.sources.published.tables import read_matrices, read_parquet
from neuroimagen.data_shards.sources.splits import divide

_SPLITS = {"train": "train", "validation": "val", "val": "val", "test": "test"}
"""First word of a file's name → split."""
_COLUMNS = ("image", "caption", "label_folder", "label", "subject")
_EEG = "conditioning_image"


@dataclasses.dataclass(frozen=True, kw_only=True)
class EegCvpr40ParquetOptions:
    """What to take from the files."""

    eeg: Path
    images: Path | None = None
    """Folder of the images, <wnid>/<name>.JPEG; None takes those inside the files."""
    subjects: tuple[int, ...] | None = None
    split: str | None = None
    """by-image or leave-subject-out:S; None: the files' own."""
    split_seed: int = 0
    sfreq: float | None = None
    """Sampling rate in Hz; None: 1000, as recorded."""


class EegCvpr40ParquetSource(RowSource):
    """The Parquet files; a batch of rows is held at a time."""

    NAME = "eegcvpr40-parquet"
    HELP = "EEGCVPR40 as Parquet files, images inside"
    DESCRIPTION = (
        "Read the Parquet form of EEGCVPR40: train, validation and test files that hold EEG, image, caption, class and "
        "subject of each segment. Their split is kept unless --split is given."
    )
    EXAMPLES = """
    neuroimagen data ingest eegcvpr40-parquet --eeg eegcvpr40-hub/data --out data/cvpr40
    """

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--eeg", type=Path, required=True, metavar="DIR", help="folder of the Parquet files")
        parser.add_argument(
            "--images",
            type=Path,
            metavar="DIR",
            help="folder of the images, <wnid>/<name>.JPEG (default: those inside the files)",
        )
        add_subjects(parser)
        add_split(parser, "by-image or leave-subject-out:S (default: the files' own)")
        add_split_seed(parser)
        add_sfreq(parser, "1000")

    @classmethod
    def from_arguments(cls, args: argparse.Namespace) -> "EegCvpr40ParquetSource":
        return cls(options_from(args, EegCvpr40ParquetOptions))

    def __init__(self, options: EegCvpr40ParquetOptions) -> None:
        files = sorted(options.eeg.rglob("*.parquet")) if options.eeg.is_dir() else []
        found = {path: _split_of(path) for path in files}
        if not found:
            raise UserError(f"{options.eeg} holds no Parquet files.")
        self._paths = list(found)
        self._unpacked = tempfile.TemporaryDirectory(prefix="neuroimagen-images-")
        folder = Path(self._unpacked.name)
        self._file_row: list[int] = []
        rows: list[Row] = []
        splits: list[str] = []
        captions: dict[str, str] = {}
        paths: dict[str, Path] = {}
        wnid_of_label: dict[int, str] = {}
        place = 0
        for path, split in found.items():
            for number, row in enumerate(read_parquet([path], _COLUMNS, also=(_EEG,)).to_pylist()):
                where = f"{path}, row {number}"
                place += 1
                if options.subjects is not None and row["subject"] not in options.subjects:
                    continue
                wnid = str(row["label_folder"])
                if wnid not in EEGCVPR40_CLASS_NAMES:
                    raise UserError(f"{where}: label_folder {wnid[:40]!r} is not one of EEGCVPR40's 40 classes.")
                if wnid_of_label.setdefault(row["label"], wnid) != wnid:
                    raise UserError(
                        f"{where}: label {row['label']} is {wnid} here, {wnid_of_label[row['label']]} before; labels "
                        "and WordNet ids disagree, so one of them is wrong."
                    )
                name = _unpack(row["image"], wnid, folder, paths, where)
                if row["caption"]:
                    captions.setdefault(name, str(row["caption"]))
                self._file_row.append(place - 1)
                splits.append(split)
                rows.append(Row(image=name, class_name=EEGCVPR40_CLASS_NAMES[wnid], subject=int(row["subject"])))
        if not rows:
            raise UserError(f"no segment is left of {place}; give other --subjects.")
        self._rows = rows
        self._n_channels, self._n_samples = next(self._read(np.array([0]))).shape
        self._sfreq = options.sfreq or 1000.0
        self._files = {str(path.relative_to(options.eeg)): path for path in self._paths}
        self._steps = {"steps": "as in the files"}
        division = divide(
            split=options.split,
            column=splits,
            image=[row.image for row in rows],
            label=np.unique([row.class_name for row in rows], return_inverse=True)[1],
            subject=np.array([row.subject for row in rows]),
            seed=options.split_seed,
        )
        if options.split is None:
            division = dataclasses.replace(division, rule="the files' own train, validation and test")
        notes = [f"{place - len(rows)} of {place} segments left out by --subjects"] if len(rows) < place else []
        wnids = {name: wnid for wnid, name in EEGCVPR40_CLASS_NAMES.items()}
        if options.images is not None:
            paths = {name: options.images / name.split("_")[0] / f"{name}.JPEG" for name in paths}
        self._finish(options.images or folder, division, notes=notes, wnids=wnids, captions=captions, paths=paths)

    def _read(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        yield from read_matrices(self._paths, _EEG, [self._file_row[row] for row in rows.tolist()])


def _split_of(path: Path) -> str:
    word = re.split(r"[-_.]", path.name)[0].lower()
    if word not in _SPLITS:
        raise UserError(f"{path}: the name begins with none of {', '.join(_SPLITS)}, so its split is unknown.")
    return _SPLITS[word]


def _unpack(image: Any, wnid: str, folder: Path, paths: dict[str, Path], where: str) -> str:
    """Write an image into the folder once; returns its name: that in the file, or a digest of its bytes."""
    content = image.get("bytes") if isinstance(image, dict) else image
    if not isinstance(content, bytes):
        raise UserError(f"{where}: 'image' holds no bytes.")
    digest = hashlib.sha256(content).hexdigest()[:16]
    given = Path(str(image.get("path") or "")).stem if isinstance(image, dict) else ""
    name = given if re.fullmatch(rf"{wnid}_\d+", given) else f"{wnid}_{digest}"
    path = folder / f"{wnid}_{digest}"
    if paths.setdefault(name, path) != path:
        raise UserError(f"{where}: image {name} has other bytes than in a row before.")
    if not path.exists():
        path.write_bytes(content)
    return name
