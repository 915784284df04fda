"""Reads ThoughtViz's data (Kumar et al. 2018, Tirupattur et al. 2018): imagined or seen objects, 14 channels, 128 Hz.

    <eeg>.pkl               pickled by Python 2: {'x_train': [N, 14, 32, 1], 'y_train': one-hot [N, 10], 'x_test', …}
    <images>/<class>.jpg    one image for each class

No image belongs to a trial, only its class, so each class has one stimulus. Whose trial it is, is not in the file;
trials are windows of 32 samples that were cut from longer ones with an overlap.
"""

import argparse
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from neuroimagen.data_shards.common.errors import UsageError, UserError
from neuroimagen.data_shards.sources.options import add_images, add_sfreq, add_split_seed, options_from
from neuroimagen.data_shards.sources.published.columns import Row, RowSource
from neuroimagen.data_shards.sources.readers.pickles import load_pickle
from neuroimagen.data_shards.sources.splits import Division

_KEYS = ("x_train", "y_train", "x_test", "y_test")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ThoughtVizOptions:
    """What to take from the file."""

    eeg: Path
    images: Path
    classes: tuple[str, ...]
    """Names of the classes in the order of the one-hot columns."""
    split_seed: int = 0
    sfreq: float | None = None
    """Sampling rate in Hz; None: 128."""

    def __post_init__(self) -> None:
        if len(set(self.classes)) != len(self.classes):
            raise UsageError("--classes names a class twice.")
        if bad := [name for name in self.classes if "/" in name or name.startswith(".")]:
            raise UsageError(f"--classes: {bad[0]!r} is no name of a file.")


class ThoughtVizSource(RowSource):
    """The file; its arrays stay on disk, mapped, where the pickle allows it."""

    NAME = "thoughtviz"
    HELP = "ThoughtViz's data.pkl (14 channels, a class a trial)"
    DESCRIPTION = (
        "Read ThoughtViz's pickle; nothing in it is run. Only the class of a trial is known, so --images holds "
        "one image for each class. The file's test part is the test split; a tenth of the training part is val."
    )
    EXAMPLES = """
    neuroimagen data ingest thoughtviz --eeg data.pkl --images class_images/ \\
      --classes apple car dog gold mobile rose scooter tiger wallet watch --out data/thoughtviz
    """

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--eeg", type=Path, required=True, metavar="FILE", help="data.pkl")
        add_images(parser, "folder of one image for each class, <class>.jpg")
        parser.add_argument(
            "--classes", nargs="+", required=True, metavar="NAME", help="in the order of the one-hot columns"
        )
        add_split_seed(parser, "which training trials are val (default: 0)")
        add_sfreq(parser, "128")

    @classmethod
    def from_arguments(cls, args: argparse.Namespace) -> "ThoughtVizSource":
        return cls(options_from(args, ThoughtVizOptions))

    def __init__(self, options: ThoughtVizOptions) -> None:
        content = load_pickle(options.eeg, encoding="latin1")
        if not isinstance(content, dict) or not set(_KEYS) <= set(content):
            raise UserError(f"{options.eeg} must hold {', '.join(_KEYS)}.")
        self._parts = [self._part(content, half, options) for half in ("train", "test")]
        rows = [
            Row(image=options.classes[label], class_name=options.classes[label], subject=1)
            for _, labels in self._parts
            for label in labels.tolist()
        ]
        if len({eeg.shape[1:] for eeg, _ in self._parts}) != 1:
            raise UserError(f"{options.eeg}: x_train and x_test have different channels or samples.")
        self._rows = rows
        self._n_channels, self._n_samples = self._parts[0][0].shape[1:]
        self._sfreq = options.sfreq or 128.0
        self._files = {options.eeg.name: options.eeg}
        num_train = len(self._parts[0][1])
        splits = np.array(["train"] * num_train + ["test"] * len(self._parts[1][1]))
        held_out = np.random.default_rng(options.split_seed).permutation(num_train)[: num_train // 10]
        splits[held_out] = "val"
        rule = f"the file's test part; a tenth of its training part is val, seed {options.split_seed}"
        notes = [
            "trials show their class only: each class has one stimulus, and no subject is known (all are subject 1)",
            "trials are overlapping windows, so val shares samples with train: its figures are too good",
        ]
        self._finish(options.images, Division(splits=splits, rule=rule), notes=notes)

    @staticmethod
    def _part(content: dict, half: str, options: ThoughtVizOptions) -> tuple[np.ndarray, np.ndarray]:
        eeg, one_hot = content[f"x_{half}"], content[f"y_{half}"]
        where = f"{options.eeg}: x_{half} and y_{half}"
        if not isinstance(eeg, np.ndarray) or not isinstance(one_hot, np.ndarray):
            raise UserError(f"{where} must be arrays.")
        if eeg.ndim == 4 and eeg.shape[3] == 1:
            eeg = eeg[..., 0]
        if eeg.ndim != 3 or eeg.dtype.kind not in "iuf" or one_hot.ndim != 2 or len(one_hot) != len(eeg):
            raise UserError(
                f"{where} are {list(eeg.shape)} and {list(one_hot.shape)}; expected [N, 14, 32, 1], [N, 10]."
            )
        if one_hot.shape[1] != len(options.classes):
            raise UserError(f"{where}: {one_hot.shape[1]} classes; --classes names {len(options.classes)}.")
        if not ((one_hot == 1).sum(axis=1) == 1).all() or not ((one_hot == 0) | (one_hot == 1)).all():
            raise UserError(f"{where}: a row is not one-hot.")
        return eeg, one_hot.argmax(axis=1)

    def _read(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        (train, _), (test, _) = self._parts
        for row in rows.tolist():
            yield train[row] if row < len(train) else test[row - len(train)]
