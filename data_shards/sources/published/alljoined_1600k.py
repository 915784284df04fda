"""Reads Alljoined-1.6M (Xu et al. 2025), preprocessed: 20 subjects, 32 channels, images of THINGS.

    <eeg>/sub-01/preprocessed_eeg_{training,test}_flat.npy   a pickled {'preprocessed_eeg_data': [trials, 32, T],
                                                             'ch_names', 'times'}
    <eeg>/sub-01/experiment_metadata.parquet                 one row a presentation, in the order of the arrays:
                                                             partition (stim_train, stim_test …), image_path, session,
                                                             dropped; or stim_order.parquet, before any was dropped
    <eeg>/experiment_metadata_categories.parquet             image_path → category_name, where the tables have none
    <images>/<image_path>, or where its last parts lie

The rows of a partition that are not dropped are the trials of its array, in the same order. Known slips of the
published files are put right, and each is noted: rows of subject 8 that are labelled as subject 19's, a row of subject
6 that stim_order.parquet has two places too late, and the channel name Afz. Other disagreements are refused.
"""

import argparse
import dataclasses
import re
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path, PurePosixPath

import numpy as np

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.sources.options import (
    add_images,
    add_sfreq,
    add_split,
    add_split_seed,
    add_subjects,
    options_from,
)
from neuroimagen.data_shards.sources.published.columns import Row, RowSource, zero_shot_division
from neuroimagen.data_shards.sources.published.tables import Column, Kind, read_rows
from neuroimagen.data_shards.sources.readers.npy import load_npy
from neuroimagen.data_shards.sources.things.image_set import concept_name
from neuroimagen.data_shards.sources.things.trials import checked_times, rate_of

_FILES = {"stim_train": "preprocessed_eeg_training_flat.npy", "stim_test": "preprocessed_eeg_test_flat.npy"}
_TABLES = ("experiment_metadata.parquet", "stim_order.parquet")
_CATEGORIES = "experiment_metadata_categories.parquet"
_COLUMNS = {
    "partition": Column(Kind.TEXT, nullable=True),
    "image_path": Column(Kind.TEXT, nullable=True),
    "session": Column(Kind.NAME),
    "block_id": Column(Kind.WHOLE_NUMBER, optional=True),
    "sequence_id": Column(Kind.WHOLE_NUMBER, optional=True),
    "sequence_image_id": Column(Kind.WHOLE_NUMBER, optional=True),
    "subject": Column(Kind.WHOLE_NUMBER, optional=True),
    "dropped": Column(Kind.FLAG, optional=True, nullable=True),
    "category_name": Column(Kind.TEXT, optional=True, nullable=True),
}
_ORDER = ("session", "block_id", "sequence_id", "sequence_image_id")
"""Columns that give the order in which the experiment was planned; those that a file has."""
_LABELLED_AS_ANOTHER = {8: 19}
_ROW_TOO_LATE = {6: (73_762, 73_760)}
"""Subject → the row of stim_order.parquet that is out of place, and where it belongs; the authors' code moves it."""
_CHANNEL_SLIPS = {"Afz": "AFz"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class AlljoinedOptions:
    """What to take from the files."""

    eeg: Path
    images: Path
    subjects: tuple[int, ...] | None = None
    split: str | None = None
    """leave-subject-out:S, by-session or by-image; None: the published test partition."""
    val_concepts: int = 100
    """Training concepts held out for validation."""
    split_seed: int = 0
    sfreq: float | None = None


class Alljoined1600kSource(RowSource):
    """The preprocessed files; their arrays stay on disk, mapped."""

    NAME = "alljoined-1.6m"
    HELP = "Alljoined-1.6M, the preprocessed files (20 subjects, THINGS images)"
    DESCRIPTION = (
        "Read Alljoined-1.6M's preprocessed arrays with their tables of trials. The published test partition stays the "
        "test split; val holds out whole training concepts. Known slips of the files are put right and named."
    )
    EXAMPLES = """
    neuroimagen data ingest alljoined-1.6m --eeg preprocessed_eeg/ --images stimuli/images --out data/alljoined
    """

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--eeg", type=Path, required=True, metavar="DIR", help="folder of sub-01, sub-02 …")
        add_images(parser, "folder of the images, as image_path ends")
        add_subjects(parser)
        add_split(
            parser, "leave-subject-out:S, by-session, or by-image, which is not zero-shot (default: published test)"
        )
        parser.add_argument(
            "--val-concepts", type=int, default=100, metavar="N", help="training concepts for val (default: 100)"
        )
        add_split_seed(parser, "which concepts those are (default: 0)")
        add_sfreq(parser, "from the file's times")

    @classmethod
    def from_arguments(cls, args: argparse.Namespace) -> "Alljoined1600kSource":
        return cls(options_from(args, AlljoinedOptions))

    def __init__(self, options: AlljoinedOptions) -> None:
        self._options = options
        notes: list[str] = []
        rows: list[Row] = []
        is_test: list[bool] = []
        self._arrays: list[tuple[int, np.ndarray]] = []
        """The first row of each array, and the array."""
        self._files = {}
        self._categories = self._read_categories()
        first: tuple[Path, tuple[str, ...], int, np.ndarray] | None = None
        for subject in self._subjects():
            folder = options.eeg / f"sub-{subject:02d}"
            path = next((folder / name for name in _TABLES if (folder / name).is_file()), folder / _TABLES[0])
            self._files[f"{folder.name}/{path.name}"] = path
            table = self._table(path, subject, notes)
            for partition, name in _FILES.items():
                array_path = folder / name
                eeg, channels, times = self._array(array_path, notes)
                self._files[f"{folder.name}/{name}"] = array_path
                if first is None:
                    first = (array_path, channels, eeg.shape[2], times)
                elif (channels, eeg.shape[2]) != first[1:3] or not np.array_equal(times, first[3]):
                    raise UserError(f"{array_path} has other channels, samples or times than {first[0]}.")
                own = [row for row in table if row["partition"] == partition and not row["dropped"]]
                if len(own) != len(eeg):
                    raise UserError(
                        f"{array_path} has {len(eeg)} trials; {path.name} beside it has {len(own)} rows of {partition} "
                        "that are not dropped. They belong to different versions of the files."
                    )
                self._arrays.append((len(rows), eeg))
                rows += [self._row(row, subject) for row in own]
                is_test += [partition == "stim_test"] * len(own)
        if first is None or not rows:
            raise UserError(f"{options.eeg} holds no trials of {' and '.join(_FILES)}.")
        self._rows = rows
        self._channel_names, self._n_channels, self._n_samples = first[1], len(first[1]), first[2]
        self._sfreq = rate_of(first[3], where=str(first[0])) if options.sfreq is None else options.sfreq
        self._steps = {"steps": "as in the files", "first_sample_s": float(first[3][0])}
        division = zero_shot_division(
            rows,
            np.array(is_test),
            split=options.split,
            num_val_classes=options.val_concepts,
            seed=options.split_seed,
            notes=notes,
        )
        self._finish(options.images, division, notes=notes, paths=self._paths())

    def _subjects(self) -> list[int]:
        found = sorted(
            int(match[1])
            for path in (self._options.eeg.iterdir() if self._options.eeg.is_dir() else ())
            if (match := re.fullmatch(r"sub-(\d+)", path.name))
        )
        wanted = list(self._options.subjects or found)
        if not found or (unknown := [subject for subject in wanted if subject not in found]):
            what = f"there are {found}" if found else "it holds no sub-01, sub-02 … folders"
            raise UserError(f"subject {unknown[0] if found else ''} is not under {self._options.eeg}; {what}.")
        return wanted

    def _table(self, path: Path, subject: int, notes: list[str]) -> list[dict]:
        """The rows of a subject's table, checked and in the order of the arrays."""
        rows = read_rows([path], _COLUMNS)
        others = sorted({row.get("subject", subject) for row in rows} - {subject})
        if others and others != [_LABELLED_AS_ANOTHER.get(subject)]:
            raise UserError(f"{path}: rows are labelled as subject {others[0]}'s; the folder is subject {subject}'s.")
        if others:
            wrong = [row for row in rows if row["subject"] == others[0]]
            sessions = ", ".join(map(str, sorted({row["session"] for row in wrong})))
            notes.append(
                f"{path.parent.name}: {len(wrong)} rows of sessions {sessions} are labelled as subject {others[0]}'s, "
                f"a known slip; they are taken as subject {subject}'s"
            )
        columns = [name for name in _ORDER if rows and name in rows[0]]
        keys = [tuple(row[name] for name in columns) for row in rows]
        if path.name == _TABLES[1] and subject in _ROW_TOO_LATE and len(rows) > (late := _ROW_TOO_LATE[subject])[0]:
            rows.insert(late[1], rows.pop(late[0]))
            notes.append(f"{path.parent.name}: row {late[0]} of {path.name} is moved to {late[1]}, a known slip")
        elif back := sum(one > other for one, other in pairwise(keys)):
            notes.append(
                f"{path.parent.name}: {back} rows of {path.name} come before the row above them by "
                f"{', '.join(columns)}; the order of the file is taken, as the arrays have it"
            )
        counts = Counter(str(row["partition"]) for row in rows if row["partition"] not in _FILES)
        if counts:
            others_text = ", ".join(f"{name} × {count}" for name, count in sorted(counts.items()))
            notes.append(f"{path.parent.name}: rows of other partitions are left out: {others_text}")
        return [{**row, "dropped": bool(row.get("dropped"))} for row in rows]

    def _array(self, path: Path, notes: list[str]) -> tuple[np.ndarray, tuple[str, ...], np.ndarray]:
        content = load_npy(path)
        keys = {"preprocessed_eeg_data", "ch_names", "times"}
        if not isinstance(content, dict) or not keys <= set(content):
            raise UserError(f"{path} must hold 'preprocessed_eeg_data', 'ch_names' and 'times'.")
        eeg, names = content["preprocessed_eeg_data"], list(content["ch_names"])
        if not isinstance(eeg, np.ndarray) or eeg.ndim != 3 or eeg.dtype.kind not in "iuf":
            raise UserError(f"{path}: 'preprocessed_eeg_data' must be numbers [trials, channels, samples].")
        if len(names) != eeg.shape[1] or not all(isinstance(name, str) for name in names):
            raise UserError(f"{path}: {len(names)} channel names for {eeg.shape[1]} channels.")
        times, note = checked_times(content["times"], eeg.shape[2], where=str(path))
        renamed = [f"{name} → {_CHANNEL_SLIPS[name]}" for name in names if name in _CHANNEL_SLIPS]
        for text in filter(
            None, (note and f"arrays: {note}", f"channel renamed: {', '.join(renamed)}" if renamed else None)
        ):
            if text not in notes:
                notes.append(text)
        return eeg, tuple(_CHANNEL_SLIPS.get(name, name) for name in names), times

    def _row(self, row: dict, subject: int) -> Row:
        path = PurePosixPath((row["image_path"] or "").replace("\\", "/"))
        concept = row.get("category_name") or self._categories.get(path.name) or path.parent.name
        if ".." in path.parts or not path.name or not concept or concept in ("images", "stimuli"):
            raise UserError(
                f"image_path {row['image_path']!r} and its row do not say what the image shows. Put {_CATEGORIES} into "
                f"{self._options.eeg}."
            )
        return Row(
            image=str(path),
            class_name=concept_name(str(concept)),
            subject=subject,
            session=str(row["session"]),
            block=row.get("block_id", -1),
        )

    def _read_categories(self) -> dict[str, str]:
        """File name of an image → its category, from the table beside the subjects' folders."""
        path = self._options.eeg / _CATEGORIES
        if not path.is_file():
            return {}
        self._files[path.name] = path
        rows = read_rows([path], {name: Column(Kind.TEXT) for name in ("image_path", "category_name")})
        return {PurePosixPath(row["image_path"]).name: row["category_name"] for row in rows}

    def _paths(self) -> dict[str, Path]:
        """Where each image lies: below the image folder by all of its path, by its last two parts, or by its name."""
        names = dict.fromkeys(row.image for row in self._rows)
        first = PurePosixPath(next(iter(names)))
        folder = self._options.images
        depths = (len(first.parts), 2, 1)
        depth = next((depth for depth in depths if folder.joinpath(*first.parts[-depth:]).exists()), depths[0])
        return {name: folder.joinpath(*PurePosixPath(name).parts[-depth:]) for name in names}

    def _read(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        starts = np.array([start for start, _ in self._arrays])
        for row, place in zip(rows.tolist(), (np.searchsorted(starts, rows, side="right") - 1).tolist(), strict=True):
            start, eeg = self._arrays[place]
            yield eeg[row - start]
