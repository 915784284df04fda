"""Reads MindBigData ImageNet (Vivancos): one person, five channels of an Emotiv Insight, 128 Hz, one file a trial.

<eeg>/MindBigData_Imagenet_Insight_<wnid>_<image>_<session>_<global>.csv   five lines "AF3,v,v,…", about 3 s
<images>/<wnid>/<wnid>_<image>.JPEG
"""

import argparse
import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from neuroimagen.data_shards.common.errors import UsageError, UserError
from neuroimagen.data_shards.common.reading import read_text
from neuroimagen.data_shards.sources.class_names import EEGCVPR40_CLASS_NAMES
from neuroimagen.data_shards.sources.options import (
    add_class_names,
    add_images,
    add_on_missing,
    add_split,
    add_split_seed,
    add_window,
    options_from,
)
from neuroimagen.data_shards.sources.published.columns import Row, RowSource
from neuroimagen.data_shards.sources.published.tables import read_text_mapping
from neuroimagen.data_shards.sources.splits import divide

_FILE = re.compile(r"MindBigData_Imagenet_\w+?_(n\d{8})_(\d+)_(\d+)_(\d+)\.csv")
_SFREQ = 128.0
_MAX_FILE_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class MindBigDataOptions:
    """What to take from the files."""

    eeg: Path
    images: Path
    class_names: Path | None = None
    """JSON {WordNet id: name} for classes that are not among EEGCVPR40's."""
    window: tuple[int, int] = (0, 352)
    """Samples to keep: start, and end (excluded); 2.75 s, which nearly every trial has."""
    split: str | None = None
    split_seed: int = 0
    on_missing: str = "skip"

    def __post_init__(self) -> None:
        if not 0 <= self.window[0] < self.window[1]:
            raise UsageError(f"--window {self.window[0]}:{self.window[1]} is empty or negative.")
        if self.on_missing not in ("skip", "stop"):
            raise UsageError(f"--on-missing {self.on_missing!r} is neither skip nor stop.")


class MindBigDataSource(RowSource):
    """The folder of files; one is read at a time."""

    NAME = "mindbigdata"
    HELP = "MindBigData ImageNet: one CSV a trial, five channels"
    DESCRIPTION = (
        "Read MindBigData's ImageNet trials. All are of one person. Trials that end before the window does, and files "
        "that hold other channels than the first, are counted and left out."
    )
    EXAMPLES = """
    neuroimagen data ingest mindbigdata --eeg MindBigData-Imagenet/ --images ILSVRC/ --class-names names.json \\
      --detrend --out data/mindbigdata
    """

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--eeg", type=Path, required=True, metavar="DIR", help="folder of the CSV files")
        add_images(parser, "folder of images, <wnid>/<wnid>_<number>.JPEG")
        add_class_names(parser)
        add_window(parser, MindBigDataOptions.window)
        add_split(parser, "by-image, or by-session (default: by-image, 80/10/10 %%)")
        add_split_seed(parser)
        add_on_missing(parser)

    @classmethod
    def from_arguments(cls, args: argparse.Namespace) -> "MindBigDataSource":
        return cls(options_from(args, MindBigDataOptions))

    def __init__(self, options: MindBigDataOptions) -> None:
        self._options = options
        names = {**EEGCVPR40_CLASS_NAMES, **(read_text_mapping(options.class_names) if options.class_names else {})}
        found = sorted(
            (int(match[4]), path, match)
            for path in (options.eeg.iterdir() if options.eeg.is_dir() else ())
            if (match := _FILE.fullmatch(path.name))
        )
        if not found:
            raise UserError(f"{options.eeg} holds no files MindBigData_Imagenet_Insight_<wnid>_<image>_….csv.")
        unknown = sorted({match[1] for _, _, match in found} - set(names))
        if unknown:
            raise UserError(
                f"{len(unknown)} classes have no known name, the first is {unknown[0]}. Give --class-names FILE, JSON "
                "of the form {wnid: name}."
            )
        self._paths: list[Path] = []
        rows: list[Row] = []
        short: list[str] = []
        other: list[str] = []
        channels: tuple[str, ...] | None = None
        for number, path, match in found:
            own, eeg = _trial(path)
            if channels is None:
                channels = own
            if sorted(own) != sorted(channels):
                other.append(path.name)
            elif eeg.shape[1] < options.window[1]:
                short.append(path.name)
            else:
                self._paths.append(path)
                rows.append(
                    Row(
                        image=f"{match[1]}/{match[1]}_{match[2]}.JPEG",
                        class_name=names[match[1]],
                        subject=1,
                        session=match[3],
                        order=number,
                    )
                )
        notes = [
            f"{len(lost)} of {len(found)} trials left out: {why}, the first is {lost[0]}"
            for lost, why in ((short, f"they end before sample {options.window[1]}"), (other, "other channels"))
            if lost
        ]
        if not rows or channels is None:
            raise UserError(f"no trial is left; {'; '.join(notes)}.")
        self._rows = rows
        self._channel_names, self._n_channels = channels, len(channels)
        self._n_samples, self._sfreq = options.window[1] - options.window[0], _SFREQ
        self._files = {}
        notes.append(f"the {len(found)} CSV files are not recorded by their hashes")
        self._steps = {"window": list(options.window)}
        division = divide(
            split=options.split,
            column=None,
            image=[row.image for row in rows],
            label=np.unique([row.class_name for row in rows], return_inverse=True)[1],
            subject=np.ones(len(rows), dtype=np.int64),
            session=np.array([row.session for row in rows]),
            seed=options.split_seed,
        )
        wnids = {name: wnid for wnid, name in names.items()}
        self._finish(options.images, division, notes=notes, wnids=wnids, on_missing=options.on_missing)

    def _read(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        start, end = self._options.window
        for row in rows.tolist():
            own, eeg = _trial(self._paths[row])
            order = [own.index(name) for name in self._channel_names or ()]
            yield eeg[order, start:end]


def _trial(path: Path) -> tuple[tuple[str, ...], np.ndarray]:
    """Channels and float64 [channels, samples] of a file; channels of different lengths are cut to the shortest."""
    if path.stat().st_size > _MAX_FILE_BYTES:
        raise UserError(f"{path} is {path.stat().st_size:,} bytes; a trial takes some kilobytes.")
    try:
        lines = [line for line in read_text(path, limit=_MAX_FILE_BYTES).splitlines() if line.strip(" ,")]
        parts = [line.rstrip(", ").split(",") for line in lines]
        values = [np.array(part[1:], dtype=np.float64) for part in parts]
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not of the form 'AF3,number,number,…': {str(error)[:100]}.") from None
    if not values or min(map(len, values)) == 0:
        raise UserError(f"{path} holds no channel.")
    shortest = min(map(len, values))
    return tuple(part[0].strip() for part in parts), np.stack([value[:shortest] for value in values])
