"""The EEG file of EEGCVPR40's layout: checked once, then columns as arrays and EEG by position."""

import operator
from pathlib import Path
from typing import Any

import numpy as np

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.reading import read_json
from neuroimagen.data_shards.format.tar import is_valid_key
from neuroimagen.data_shards.sources.class_names import differing_classes
from neuroimagen.data_shards.sources.readers.pth import load_pth


class EegCvpr40File:
    """The .pth file, checked: columns as arrays, EEG by position."""

    def __init__(self, path: Path, n_channels: int) -> None:
        raw = load_pth(path)
        self._path = path
        if not isinstance(raw, dict) or not {"dataset", "labels", "images"} <= set(raw):
            raise UserError(f"{path} must hold a dictionary with 'dataset', 'labels' and 'images'.")
        self._items = self._sequence(raw["dataset"], "dataset")
        self.wnids = [str(wnid) for wnid in self._sequence(raw["labels"], "labels")]
        self.image_names = [str(name) for name in self._sequence(raw["images"], "images")]
        if invalid := [name for name in self.image_names if not is_valid_key(name)]:
            raise UserError(f"{path}: image name {invalid[0][:100]!r} may hold letters, digits, '_' and '-' only.")
        if len(set(self.image_names)) != len(self.image_names):
            raise UserError(f"{path}: names in 'images' repeat.")
        self._check_items(n_channels)
        self.length = np.array([item["eeg"].shape[1] for item in self._items], dtype=np.int64)
        self.label = self._column("label", low=0, high=len(self.wnids))
        self.image = self._column("image", low=0, high=len(self.image_names))
        self.subject = self._column("subject", low=0, high=1 << 31)
        self._check_labels_of_images()
        self.session: list[str] = [""] * len(self.label)
        self.recording: list[str] = [""] * len(self.label)
        self.onset_s = np.full(len(self.label), np.nan)
        self.block, self.order, self.block_origin = self._presentation()
        self.means, self.stds = self._file_standardisation(raw, n_channels)
        self._read_study()

    def eeg(self, position: int) -> Any:
        """Tensor [C, L] as stored, of the segment at `position` of 'dataset'."""
        return self._items[position]["eeg"]

    def window(self, position: int, start: int, end: int) -> np.ndarray:
        """float32 [C, end - start] of a segment; standardised by the file's own means and deviations if it has them."""
        eeg: np.ndarray = self.eeg(position)[:, start:end].float().numpy()
        if self.means is not None and self.stds is not None:
            eeg = (eeg - self.means[:, None]) / self.stds[:, None]
        return eeg

    def _sequence(self, value: object, name: str) -> list[Any]:
        if not isinstance(value, list | tuple) or not value:
            raise UserError(f"{self._path}: {name!r} must be a list that is not empty.")
        return list(value)

    def _check_items(self, n_channels: int) -> None:
        import torch

        for position, item in enumerate(self._items):
            where = f"{self._path}: dataset[{position}]"
            if not isinstance(item, dict) or not {"eeg", "image", "label", "subject"} <= set(item):
                raise UserError(f"{where} must hold 'eeg', 'image', 'label' and 'subject'.")
            eeg = item["eeg"]
            if not isinstance(eeg, torch.Tensor) or eeg.ndim != 2 or eeg.is_complex():
                raise UserError(f"{where}: 'eeg' must be a tensor [channels, samples].")
            if eeg.shape[0] != n_channels:
                raise UserError(
                    f"{where}: EEG of {eeg.shape[0]} channels, expected {n_channels}. If that is what was "
                    f"recorded, give --n-channels {eeg.shape[0]}."
                )

    def _column(self, name: str, *, low: int, high: int) -> np.ndarray:
        values = np.empty(len(self._items), dtype=np.int64)
        for position, item in enumerate(self._items):
            try:
                values[position] = operator.index(item[name])
            except (TypeError, OverflowError, KeyError):
                raise UserError(f"{self._path}: dataset[{position}]: {name!r} is not a whole number.") from None
        outside = np.flatnonzero((values < low) | (values >= high))
        if outside.size:
            raise UserError(
                f"{self._path}: dataset[{outside[0]}]: {name} {values[outside[0]]} is out of range {low}..{high - 1}."
            )
        return values

    def _check_labels_of_images(self) -> None:
        label_of_image = np.full(len(self.image_names), -1)
        label_of_image[self.image] = self.label
        wrong = np.flatnonzero(label_of_image[self.image] != self.label)
        if wrong.size:
            name = self.image_names[self.image[wrong[0]]]
            raise UserError(f"{self._path}: image {name} is seen under two labels, first at dataset[{wrong[0]}].")
        seen = [
            (name, self.wnids[label])
            for name, label in zip(self.image_names, label_of_image.tolist(), strict=True)
            if label >= 0
        ]
        if differing := differing_classes(seen):
            raise UserError(
                f"{self._path}: labels and image names say different classes: {differing}. 'labels', 'images' and "
                "'dataset' do not belong together."
            )

    def _file_standardisation(
        self, raw: dict[str, Any], n_channels: int
    ) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Mean and standard deviation of each channel as a raw file has them, float32 [C] each; None if it has none."""
        import torch

        if "means" not in raw and "stddevs" not in raw:
            return None, None
        figures = []
        for name in ("means", "stddevs"):
            values = raw.get(name)
            if not isinstance(values, torch.Tensor) or values.numel() != n_channels:
                raise UserError(f"{self._path}: {name!r} must be a tensor of {n_channels} numbers.")
            figures.append(values.float().numpy().reshape(-1))
        if not (np.isfinite(figures).all() and (figures[1] > 0).all()):
            raise UserError(f"{self._path}: 'means' and 'stddevs' must be finite and standard deviations positive.")
        return figures[0], figures[1]

    def _presentation(self) -> tuple[np.ndarray, np.ndarray, str]:
        path = self._path.with_name("presentation.json")
        if not path.exists():
            origin = "derived from the order in the file within subject and class"
            return *derived_block_and_order(self.subject, self.label), origin
        raw = read_json_object(path)
        columns = [np.asarray(raw.get(name)) for name in ("block", "order")]
        for column in columns:
            if column.shape != self.label.shape or column.dtype.kind not in "iu":
                raise UserError(
                    f"{path} must hold 'block' and 'order', a list of {len(self.label)} whole numbers each."
                )
        self._read_onsets(path, raw)
        return columns[0], columns[1], "from presentation.json"

    def _read_onsets(self, path: Path, raw: dict[str, Any]) -> None:
        """The optional columns session and recording (texts), and onset_s (seconds) of the segments' first samples."""
        texts = {name: raw[name] for name in ("session", "recording") if name in raw}
        for name, column in texts.items():
            if not isinstance(column, list) or not all(isinstance(text, str) for text in column):
                raise UserError(f"{path}: {name!r} must be a list of texts.")
        for given in (*texts, "onset_s"):
            column = raw.get(given, self.label.tolist())
            if not isinstance(column, list) or len(column) != len(self.label):
                raise UserError(
                    f"{path}: {given!r} must be a list with one entry for each of {len(self.label)} segments."
                )
        self.session = texts.get("session", self.session)
        self.recording = texts.get("recording", self.recording)
        try:
            self.onset_s = np.array(raw.get("onset_s", self.onset_s), dtype=np.float64)
        except (ValueError, TypeError):
            raise UserError(f"{path}: 'onset_s' must be a list of numbers.") from None

    def _read_study(self) -> None:
        path = self._path.with_name("study.json")
        self.study = read_json_object(path) if path.exists() else None
        raw = self.study or {}
        sfreq, names, band = raw.get("sfreq", 1000.0), raw.get("channel_names"), raw.get("band_hz")
        if not isinstance(sfreq, int | float):
            raise UserError(f"{path}: 'sfreq' must be a number of Hz.")
        if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
            raise UserError(f"{path}: 'channel_names' must be a list of names.")
        if band is not None and not (isinstance(band, list) and all(isinstance(edge, int | float) for edge in band)):
            raise UserError(f"{path}: 'band_hz' must be [low, high].")
        self.sfreq = float(sfreq)
        self.channel_names = None if names is None else tuple(names)
        self.band_hz = None if band is None else (float(band[0]), float(band[1]))


def read_json_object(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object. Raises UserError naming the file."""
    try:
        raw = read_json(path)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}") from None
    if not isinstance(raw, dict):
        raise UserError(f"{path} must hold a JSON object.")
    return raw


def derived_block_and_order(subject: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Block (a subject's classes in order of first appearance) and order (within subject and class), int64 each."""
    blocks: dict[tuple[int, int], int] = {}
    blocks_of_subject: dict[int, int] = {}
    counts: dict[tuple[int, int], int] = {}
    block, order = np.empty(len(subject), dtype=np.int64), np.empty(len(subject), dtype=np.int64)
    for position, pair in enumerate(zip(subject.tolist(), label.tolist(), strict=True)):
        if pair not in blocks:
            blocks[pair] = blocks_of_subject.get(pair[0], 0)
            blocks_of_subject[pair[0]] = blocks[pair] + 1
        block[position] = blocks[pair]
        order[position] = counts.get(pair, 0)
        counts[pair] = order[position] + 1
    return block, order
