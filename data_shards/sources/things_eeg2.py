"""Reads THINGS-EEG2 (Gifford et al. 2022), in both circulating forms: 17 channels at 100 Hz, 63 channels at 250 Hz.

    <eeg>/sub-01/preprocessed_eeg_training.npy   pickled {'preprocessed_eeg_data': [images, repetitions, C, T],
    <eeg>/sub-01/preprocessed_eeg_test.npy                'ch_names': [str], 'times': [seconds]}
    <images>/image_metadata.npy                  pickled {'train_img_concepts', 'train_img_files', 'test_img_…'}
    <images>/training_images/<concept>/<file>, <images>/test_images/<concept>/<file>

The test concepts are not among the training concepts (zero-shot); validation holds out whole training concepts in the
same way. The pickles are read by an unpickler that admits arrays and plain containers only. A file is one pickle, so
reading it takes its whole size in memory (8 GB per subject in the 63-channel form), one file at a time.
"""

import argparse
import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.format.schema import ClassInfo, DatasetMetadata, SegmentRecord, StimulusRecord
from neuroimagen.data_shards.sources.base import Source
from neuroimagen.data_shards.sources.class_names import class_caption
from neuroimagen.data_shards.sources.options import add_images, add_sfreq, add_split_seed, add_subjects, options_from
from neuroimagen.data_shards.sources.readers.hashes import file_records
from neuroimagen.data_shards.sources.readers.images import ImageFiles, listed
from neuroimagen.data_shards.sources.readers.npy import load_npy

_TRAIN_REPETITIONS = 4
"""As published; used for the progress bar only."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ThingsEeg2Options:
    """What to take from the files."""

    eeg: Path
    images: Path
    subjects: tuple[int, ...] | None = None
    """None takes every sub-NN folder."""
    repetitions: str = "keep"
    """keep: one segment per presentation; average: one per image and subject."""
    val_concepts: int = 100
    """Training concepts held out for validation."""
    split_seed: int = 0
    sfreq: float | None = None
    """Sampling rate in Hz; None derives it from the file's times."""

    def __post_init__(self) -> None:
        if self.repetitions not in ("keep", "average"):
            raise UserError(f"--repetitions {self.repetitions!r} is neither keep nor average.")


class ThingsEeg2Source(Source):
    """The files of one or more subjects."""

    HELP = "THINGS-EEG2, the authors' preprocessed files or the 63-channel form"
    DESCRIPTION = (
        "Read THINGS-EEG2 into a data set. The pickles in its .npy files are read without running anything in them. "
        "The published zero-shot test stays the test split; val holds out whole training concepts."
    )
    EXAMPLES = """
    neuroimagen data ingest things-eeg2 --eeg Preprocessed_data_250Hz --images image_set --subjects 1 \\
      --out data/things
    """

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        default = ThingsEeg2Options
        parser.add_argument(
            "--eeg", type=Path, required=True, metavar="DIR", help="folder of sub-01/preprocessed_eeg_*.npy …"
        )
        add_images(parser, "folder of image_metadata.npy and images")
        add_subjects(parser)
        parser.add_argument(
            "--repetitions",
            choices=("keep", "average"),
            default=default.repetitions,
            help="one segment per presentation, or their mean per image and subject (default: keep)",
        )
        parser.add_argument(
            "--val-concepts",
            type=int,
            default=default.val_concepts,
            metavar="N",
            help="training concepts for val (default: 100)",
        )
        add_split_seed(parser, "which concepts those are (default: 0)")
        add_sfreq(parser, "from the file's times")

    @classmethod
    def from_arguments(cls, args: argparse.Namespace) -> "ThingsEeg2Source":
        return cls(options_from(args, ThingsEeg2Options))

    def __init__(self, options: ThingsEeg2Options) -> None:
        self.options = options
        self._halves = [_ImageSet.read(options.images, name) for name in ("train", "test")]
        train, test = self._halves
        concepts = sorted(set(train.concepts)) + sorted(set(test.concepts))
        if shared := set(train.concepts) & set(test.concepts):
            raise UserError(f"concept {sorted(shared)[0]} is both in training and test; the split is not zero-shot.")
        self._label = {concept: label for label, concept in enumerate(concepts)}
        train_concepts = sorted(set(train.concepts))
        if not 0 <= options.val_concepts < len(train_concepts):
            raise UserError(f"--val-concepts {options.val_concepts} of {len(train_concepts)} leaves none to train on.")
        chosen = np.random.default_rng(options.split_seed).permutation(len(train_concepts))[: options.val_concepts]
        self._val = {train_concepts[place] for place in chosen}
        self._subjects = self._find_subjects()
        files = [self._file(subject, half) for subject in self._subjects for half in self._halves]
        if absent := [path for path in files if not path.is_file()]:
            raise UserError(
                f"{len(absent)} of {len(files)} EEG files are missing, the first is {absent[0]}. Get them, or take "
                "only the subjects that are complete, with --subjects."
            )
        self._channel_names: tuple[str, ...] | None = None
        first = self._load(self._subjects[0], test)
        self._test_repetitions, self._n_channels, self._n_samples = first["preprocessed_eeg_data"].shape[1:]
        self._channel_names = tuple(map(str, first["ch_names"]))
        self._sfreq = _sfreq(first) if options.sfreq is None else options.sfreq
        self._check_images()

    def metadata(self) -> DatasetMetadata:
        options = self.options
        files = [self._file(subject, half) for subject in self._subjects for half in self._halves]
        return DatasetMetadata(
            name="things-eeg2",
            n_channels=self._n_channels,
            n_samples=self._n_samples,
            sfreq=self._sfreq,
            channel_names=self._channel_names,
            classes=tuple(ClassInfo(name=_name(concept)) for concept in self._label),
            split_rule=f"published zero-shot test; {options.val_concepts} training concepts are val, seed "
            f"{options.split_seed}",
            preprocessing={"repetitions": options.repetitions},
            provenance={
                "source": "things-eeg2",
                "files": file_records({str(file.relative_to(options.eeg)): file for file in files}),
            },
        )

    def stimuli(self) -> Iterator[StimulusRecord]:
        for half in self._halves:
            for concept, path in zip(half.concepts, half.paths, strict=True):
                content, extension = self._images.read(self._name_of(path))
                yield StimulusRecord(
                    key=path.stem,
                    image=content,
                    extension=extension,
                    label=self._label[concept],
                    caption=class_caption(_name(concept)),
                )

    def segments(self, split: str | None = None) -> Iterator[SegmentRecord]:
        for subject in self._subjects:
            for half in self._halves:
                if (split == "test") != (half.name == "test") and split is not None:
                    continue
                data = self._load(subject, half)["preprocessed_eeg_data"]
                for image, (concept, path) in enumerate(zip(half.concepts, half.paths, strict=True)):
                    of_image = "test" if half.name == "test" else "val" if concept in self._val else "train"
                    if split is not None and of_image != split:
                        continue
                    repeats = data[image]
                    if self.options.repetitions == "average":
                        repeats = repeats.mean(axis=0, keepdims=True)
                    for order, eeg in enumerate(repeats):
                        yield SegmentRecord(
                            eeg=eeg.astype(np.float32),
                            stimulus=path.stem,
                            label=self._label[concept],
                            subject=subject,
                            split=of_image,
                            order=order,
                        )

    def num_segments(self) -> int:
        repeats = {"train": _TRAIN_REPETITIONS, "test": self._test_repetitions}
        kept = {name: 1 if self.options.repetitions == "average" else count for name, count in repeats.items()}
        return len(self._subjects) * sum(len(half.paths) * kept[half.name] for half in self._halves)

    def _find_subjects(self) -> list[int]:
        found = sorted(
            int(match[1]) for path in self.options.eeg.glob("sub-*") if (match := re.fullmatch(r"sub-(\d+)", path.name))
        )
        if not found:
            raise UserError(f"{self.options.eeg} holds no sub-01, sub-02 … folders.")
        wanted = list(self.options.subjects or found)
        if unknown := [subject for subject in wanted if subject not in found]:
            raise UserError(f"subject {unknown[0]} is not under {self.options.eeg}; there are {found}.")
        return wanted

    def _file(self, subject: int, half: "_ImageSet") -> Path:
        word = {"train": "training", "test": "test"}[half.name]
        return self.options.eeg / f"sub-{subject:02d}" / f"preprocessed_eeg_{word}.npy"

    def _load(self, subject: int, half: "_ImageSet") -> dict[str, Any]:
        path = self._file(subject, half)
        content = load_npy(path)
        if not isinstance(content, dict) or not {"preprocessed_eeg_data", "ch_names", "times"} <= set(content):
            raise UserError(f"{path} must hold 'preprocessed_eeg_data', 'ch_names' and 'times'.")
        data = content["preprocessed_eeg_data"]
        if not isinstance(data, np.ndarray) or data.ndim != 4 or data.dtype.kind != "f":
            raise UserError(
                f"{path}: 'preprocessed_eeg_data' must be numbers [images, repetitions, channels, samples]."
            )
        if data.shape[0] != len(half.paths):
            raise UserError(
                f"{path} has {data.shape[0]} images; image_metadata.npy lists {len(half.paths)} ({half.name})."
            )
        if len(content["ch_names"]) != data.shape[2]:
            raise UserError(f"{path}: {len(content['ch_names'])} channel names for {data.shape[2]} channels.")
        names = tuple(map(str, content["ch_names"]))
        if self._channel_names is not None and (names, data.shape[3]) != (self._channel_names, self._n_samples):
            places = [place for place, (a, b) in enumerate(zip(names, self._channel_names, strict=False)) if a != b]
            differs = f", which differ from channel {places[0]} on" if places else ""
            raise UserError(
                f"{path} has {len(names)} channels × {data.shape[3]} samples; the first subject's test file has "
                f"{len(self._channel_names)} × {self._n_samples}{differs}. All files must have the same channels in "
                "the same order: take only the subjects whose files do, with --subjects."
            )
        return content

    def _name_of(self, path: Path) -> str:
        return str(path.relative_to(self.options.images))

    def _check_images(self) -> None:
        paths = [path for half in self._halves for path in half.paths]
        self._images = ImageFiles({self._name_of(path): path for path in paths})
        self.notes = self._images.notes
        if problems := self._images.problems:
            raise UserError(f"{len(problems)} of {len(paths)} images are missing or unreadable: {listed(problems)}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _ImageSet:
    """The images of the training or the test half, in the order of the EEG's first axis."""

    name: str
    """train or test."""
    concepts: tuple[str, ...]
    paths: tuple[Path, ...]

    @classmethod
    def read(cls, images: Path, name: str) -> "_ImageSet":
        path = images / "image_metadata.npy"
        content = load_npy(path)
        keys = (f"{name}_img_concepts", f"{name}_img_files")
        if not isinstance(content, dict) or not set(keys) <= set(content):
            raise UserError(f"{path} must hold {keys[0]!r} and {keys[1]!r}.")
        concepts, files = (tuple(map(str, content[key])) for key in keys)
        if len(concepts) != len(files) or not files:
            raise UserError(f"{path}: {len(concepts)} concepts for {len(files)} files ({name}).")
        if bad := [text for text in concepts + files if "/" in text or text.startswith(".")]:
            raise UserError(f"{path}: name {bad[0]!r} is not allowed.")
        folder = images / {"train": "training_images", "test": "test_images"}[name]
        return cls(
            name=name, concepts=concepts, paths=tuple(folder / c / f for c, f in zip(concepts, files, strict=True))
        )


def _name(concept: str) -> str:
    """00001_aardvark → aardvark; ice_cream → ice cream."""
    return re.sub(r"^\d+_", "", concept).replace("_", " ")


def _sfreq(content: dict[str, Any]) -> float:
    times = np.asarray(content["times"], dtype=np.float64).reshape(-1)
    if len(times) < 2 or not times[1] > times[0]:
        raise UserError("the file's 'times' do not give a sampling rate; give --sfreq.")
    return float(round((len(times) - 1) / (times[-1] - times[0]), 3))
