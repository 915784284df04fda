"""The forms of THINGS-EEG2 that are cut into trials already: arrays [images, repetitions, channels, samples].

Arrays stay in their files, mapped; one image's trials are read at a time.
"""

import abc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.reading import read_json
from neuroimagen.data_shards.sources.readers.npy import load_npy
from neuroimagen.data_shards.sources.readers.pth import load_pth
from neuroimagen.data_shards.sources.things.trials import Form, SubjectHalf, Trial, checked_times


class ArrayHalf(SubjectHalf):
    """An array of trials with what the file says of it."""

    def __init__(
        self,
        path: Path,
        eeg: np.ndarray,
        *,
        channel_names: Sequence[Any],
        times: object,
        images: tuple[str, ...] | None = None,
        session: np.ndarray | None = None,
        form: Form,
    ) -> None:
        if eeg.ndim != 4 or eeg.dtype.kind not in "iuf" or 0 in eeg.shape:
            raise UserError(
                f"{path}: the EEG is {eeg.dtype} {list(eeg.shape)}; expected numbers [images, repetitions, channels, "
                "samples]."
            )
        self.num_images, count, channels, self.num_samples = eeg.shape
        if not all(isinstance(name, str) for name in channel_names):
            raise UserError(f"{path}: 'ch_names' must be a list of names.")
        self.channel_names = tuple(map(str, channel_names))
        if len(self.channel_names) != channels:
            raise UserError(
                f"{path}: {len(self.channel_names)} channel names for {channels} channels. Which name belongs to which "
                "channel cannot be told."
            )
        self.times, note = checked_times(times, self.num_samples, where=str(path))
        if note:
            form.note(note, str(path))
        self.images = images
        self.repetitions = np.full(self.num_images, count, dtype=np.int64)
        self._eeg = eeg
        self._session = np.full((self.num_images, count), "", dtype="U8") if session is None else session
        self.sessions = self._session.reshape(-1)

    def trials(self, image: int) -> Sequence[Trial]:
        return [
            Trial(eeg=eeg, session=str(session), order=order)
            for order, (eeg, session) in enumerate(zip(self._eeg[image], self._session[image], strict=True))
        ]


class _FileAHalf(Form):
    """Forms with one file for each subject and half."""

    FILES: ClassVar[Mapping[str, str]]
    """Half → file name."""

    def path(self, subject: int, half: str) -> Path:
        return self._root / f"sub-{subject:02d}" / self.FILES[half]

    def files(self, subject: int) -> Mapping[str, Path]:
        paths = (self.path(subject, half) for half in self.FILES)
        return {str(path.relative_to(self._root)): path for path in paths}

    @abc.abstractmethod
    def open(self, subject: int, half: str) -> ArrayHalf: ...


class DictionaryForm(_FileAHalf):
    """The authors' files (np.save of a dictionary), and those of NICE, ATM and after (a plain pickle named .npy)."""

    NAME = "dictionary in .npy"
    PREPROCESSING = "as in the files"
    FILES: ClassVar = {"train": "preprocessed_eeg_training.npy", "test": "preprocessed_eeg_test.npy"}

    def open(self, subject: int, half: str) -> ArrayHalf:
        path = self.path(subject, half)
        content = load_npy(path)
        if not isinstance(content, dict) or not {"preprocessed_eeg_data", "ch_names", "times"} <= set(content):
            raise UserError(f"{path} must hold 'preprocessed_eeg_data', 'ch_names' and 'times'.")
        return ArrayHalf(
            path,
            _array(content["preprocessed_eeg_data"], path),
            channel_names=_names(content["ch_names"], path),
            times=content["times"],
            form=self,
        )


class WhitenedForm(_FileAHalf):
    """train.pt and test.pt of UBP and after: float16, with the image and the session of every trial."""

    NAME = "train.pt and test.pt"
    PREPROCESSING = "as in the files (whitened by session, if their names say so)"
    FILES: ClassVar = {"train": "train.pt", "test": "test.pt"}

    def open(self, subject: int, half: str) -> ArrayHalf:
        path = self.path(subject, half)
        content = load_pth(path)
        if not isinstance(content, dict) or not {"eeg", "img", "ch_names", "times"} <= set(content):
            raise UserError(f"{path} must hold 'eeg', 'img', 'ch_names' and 'times'.")
        eeg = _array(content["eeg"], path)
        session = None
        if (given := content.get("session")) is not None:
            numbers = _array(given, path)
            if numbers.shape != eeg.shape[:2] or not (numbers == np.rint(numbers)).all():
                raise UserError(f"{path}: 'session' must be a whole number for each of the {eeg.shape[:2]} trials.")
            session = numbers.astype(np.int64).astype("U8")
        return ArrayHalf(
            path,
            eeg,
            channel_names=_names(content["ch_names"], path),
            times=content["times"],
            images=self._one_per_row(_array(content["img"], path), len(eeg), "img", path),
            session=session,
            form=self,
        )

    @staticmethod
    def _one_per_row(values: np.ndarray, num_images: int, key: str, path: Path) -> tuple[str, ...]:
        """The image of each row, from names [images] or [images, repetitions] that must agree."""
        if values.dtype.kind != "U" or values.ndim not in (1, 2) or len(values) != num_images:
            raise UserError(f"{path}: {key!r} is {values.dtype} {list(values.shape)}; expected names of {num_images}.")
        rows = values.reshape(num_images, -1)
        if (mixed := np.flatnonzero((rows != rows[:, :1]).any(axis=1))).size:
            raise UserError(f"{path}: the repetitions of image {mixed[0]} have several names in {key!r}.")
        return tuple(rows[:, 0].tolist())


class NeuroBridgeForm(_FileAHalf):
    """train.npy and test.npy [concepts, images, repetitions, channels, samples]; names and times in info.json.

    Earlier versions of its preprocessing pickled a dictionary with 'data', 'ch_names' and 'times' into each file.
    """

    NAME = "train.npy and test.npy with info.json"
    PREPROCESSING = "as in the files"
    FILES: ClassVar = {"train": "train.npy", "test": "test.npy"}

    def files(self, subject: int) -> Mapping[str, Path]:
        info = self._root / "info.json"
        return {**({info.name: info} if info.exists() else {}), **super().files(subject)}

    def open(self, subject: int, half: str) -> ArrayHalf:
        path = self.path(subject, half)
        content = load_npy(path)
        info = content if isinstance(content, dict) else self._info()
        if missing := [key for key in ("ch_names", "times") if key not in info]:
            raise UserError(f"{path}: {missing[0]!r} stands neither in it nor in {self._root / 'info.json'}.")
        eeg = _array(content["data"] if isinstance(content, dict) and "data" in content else content, path)
        if eeg.ndim == 5:
            eeg = eeg.reshape(-1, *eeg.shape[2:])
        return ArrayHalf(path, eeg, channel_names=_names(info["ch_names"], path), times=info["times"], form=self)

    def _info(self) -> dict[str, Any]:
        path = self._root / "info.json"
        try:
            content = read_json(path)
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror or error}. It holds the channels' names.") from None
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path} is not JSON: {error}.") from None
        if not isinstance(content, dict):
            raise UserError(f"{path} holds {type(content).__name__} where an object is expected.")
        return content


def _array(value: Any, path: Path) -> np.ndarray:
    if not isinstance(value, np.ndarray) and hasattr(value, "numpy"):  # a tensor
        value = value.numpy()
    if not isinstance(value, np.ndarray):
        raise UserError(f"{path} holds {type(value).__name__} where an array is expected.")
    return value


def _names(value: Any, path: Path) -> list[Any]:
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if not isinstance(value, list | tuple):
        raise UserError(f"{path}: 'ch_names' must be a list of names.")
    return list(value)
