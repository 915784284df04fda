"""Reads Alljoined-1.6M (Xu et al. 2025), preprocessed: 20 subjects, 32 channels, images of THINGS.

    <eeg>/sub-01/preprocessed_eeg_{training,test}_flat.npy   a pickled {'preprocessed_eeg_data': [trials, 32, T],
                                                             'ch_names', 'times'}
    <eeg>/sub-01/experiment_metadata.parquet                 one row a presentation, in the order of the experiment:
                                                             partition (stim_train, stim_test), image_path, dropped,
                                                             session, block_id …; category_name, if it is there
    <images>/<file>, or <images>/<concept>/<file>            as image_path ends

The rows of a partition that are not dropped are the trials of its array, in the same order. Known slips of the
published files are put right, and each is noted: sessions of subject 8 that are labelled as subject 19's, a row of
subject 6 out of place, and the channel name Afz. Any other disagreement is refused.
"""

import argparse
import dataclasses
import re
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
from neuroimagen.data_shards.sources.published.tables import read_parquet
from neuroimagen.data_shards.sources.readers.npy import load_npy
from neuroimagen.data_shards.sources.things.image_set import concept_name
from neuroimagen.data_shards.sources.things.trials import checked_times, rate_of

_FILES = {"stim_train": "preprocessed_eeg_training_flat.npy", "stim_test": "preprocessed_eeg_test_flat.npy"}
_ORDER = ("session", "block_id", "sequence_id", "sequence_image_id")
"""Columns that give the order of the experiment; those that a file has."""
_LABELLED_AS_ANOTHER = {8: 19}
_ROW_OUT_OF_PLACE = (6,)
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
        first: tuple[Path, tuple[str, ...], int, np.ndarray] | None = None
        for subject in self._subjects():
            folder = options.eeg / f"sub-{subject:02d}"
            table = self._table(folder / "experiment_metadata.parquet", subject, notes)
            for partition, name in _FILES.items():
                path = folder / name
                eeg, channels, times = self._array(path, notes)
                self._files[f"{folder.name}/{name}"] = path
                if first is None:
                    first = (path, channels, eeg.shape[2], times)
                elif (channels, eeg.shape[2]) != first[1:3] or not np.array_equal(times, first[3]):
                    raise UserError(f"{path} has other channels, samples or times than {first[0]}.")
                own = [row for row in table if row["partition"] == partition and not row["dropped"]]
                if len(own) != len(eeg):
                    raise UserError(
                        f"{path} has {len(eeg)} trials; experiment_metadata.parquet beside it has {len(own)} rows of "
                        f"{partition} that are not dropped. They belong to different versions of the files."
                    )
                self._arrays.append((len(rows), eeg))
                rows += [self._row(row, subject) for row in own]
                is_test += [partition == "stim_test"] * len(own)
            self._files[f"{folder.name}/experiment_metadata.parquet"] = folder / "experiment_metadata.parquet"
        assert first is not None
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
        self._finish(options.images, division, notes=notes)

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
        """The rows of a subject's table, checked and in the order of the experiment."""
        table = read_parquet([path], ("partition", "image_path", "dropped", "session"))
        kept = ("subject", "partition", "image_path", "dropped", *_ORDER, "category_name")
        rows = table.select([name for name in kept if name in table.column_names]).to_pylist()
        if odd := {str(row["partition"]) for row in rows} - set(_FILES):
            raise UserError(f"{path}: partition {sorted(odd)[0]!r} is neither stim_train nor stim_test.")
        others = sorted({row["subject"] for row in rows} - {subject}) if "subject" in table.column_names else []
        if others and others != [_LABELLED_AS_ANOTHER.get(subject)]:
            raise UserError(f"{path}: rows are labelled as subject {others[0]}'s; the folder is subject {subject}'s.")
        if others:
            wrong = [row for row in rows if row["subject"] == others[0]]
            sessions = ", ".join(map(str, sorted({row["session"] for row in wrong})))
            notes.append(
                f"{path.parent.name}: {len(wrong)} rows of sessions {sessions} are labelled as subject {others[0]}'s, "
                f"a known slip; they are taken as subject {subject}'s"
            )
        return self._in_order(rows, [name for name in _ORDER if name in table.column_names], subject, path, notes)

    def _in_order(self, rows: list[dict], columns: list[str], subject: int, path: Path, notes: list[str]) -> list[dict]:
        keys = [tuple(row[name] for name in columns) for row in rows]
        if any(value is None for key in keys for value in key):
            raise UserError(f"{path}: a row has no {' or no '.join(columns)}.")
        later = [place for place in range(1, len(keys)) if keys[place] < keys[place - 1]]
        if not later:
            return rows
        if len(later) == 1 and subject in _ROW_OUT_OF_PLACE:
            for place in (later[0], later[0] - 1):
                rest = rows[:place] + rows[place + 1 :]
                rest_keys = keys[:place] + keys[place + 1 :]
                if all(a <= b for a, b in pairwise(rest_keys)):
                    home = sum(key <= keys[place] for key in rest_keys)
                    notes.append(
                        f"{path.parent.name}: row {place} is out of place, a known slip; it is taken as row {home}"
                    )
                    return [*rest[:home], rows[place], *rest[home:]]
        raise UserError(
            f"{path}: row {later[0]} comes before the one above it by {', '.join(columns)} ({len(later)} such rows). "
            "Which trial belongs to which row cannot be told."
        )

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
        for text in filter(None, (note, f"channel renamed: {', '.join(renamed)}" if renamed else None)):
            if text not in notes:
                notes.append(text)
        return eeg, tuple(_CHANNEL_SLIPS.get(name, name) for name in names), times

    @staticmethod
    def _row(row: dict, subject: int) -> Row:
        path = PurePosixPath(str(row["image_path"]).replace("\\", "/"))
        concept = row.get("category_name") or path.parent.name
        if ".." in path.parts or not path.name or not concept:
            raise UserError(f"image_path {row['image_path']!r} names no image and class.")
        return Row(
            image=str(path),
            class_name=concept_name(str(concept)),
            subject=subject,
            session=str(row["session"]),
            block=-1 if row.get("block_id") is None else int(row["block_id"]),
        )

    def _read(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        starts = np.array([start for start, _ in self._arrays])
        for row, place in zip(rows.tolist(), (np.searchsorted(starts, rows, side="right") - 1).tolist(), strict=True):
            start, eeg = self._arrays[place]
            yield eeg[row - start]
