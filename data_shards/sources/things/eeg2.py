"""Reads THINGS-EEG2 (Gifford et al. 2022) in every form that circulates; the form is found from the files.

    <eeg>/sub-01/preprocessed_eeg_{training,test}.npy   {'preprocessed_eeg_data': [images, repetitions, C, T],
                                                        'ch_names', 'times'}: np.save (the authors' 17 channels), or
                                                        a plain pickle (63 channels: NICE, ATM and after)
    <eeg>/sub-01/{train,test}.pt                        torch.save of {'eeg': float16, 'img', 'session', …} (UBP)
    <eeg>/sub-01/{train,test}.npy, <eeg>/info.json      [concepts, images, repetitions, C, T] (NeuroBridge)
    <eeg>/sub-01/ses-01/raw_eeg_{training,test}.npy     the raw recordings: cut and whitened as the forms above are

    <images>/image_metadata.npy                         np.save of {'train_img_concepts', 'train_img_files', …}
    <images>/training_images/<concept>/<file>, <images>/test_images/<concept>/<file>

The test concepts are not among the training concepts (zero-shot); validation holds out whole training concepts in the
same way. Nothing in the pickles is run, and their arrays are mapped, not read (readers/pickles.py).
"""

import argparse
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.format.schema import ClassInfo, DatasetMetadata, SegmentRecord, StimulusRecord
from neuroimagen.data_shards.sources.base import Source
from neuroimagen.data_shards.sources.class_names import class_caption
from neuroimagen.data_shards.sources.options import options_from
from neuroimagen.data_shards.sources.readers.hashes import file_records
from neuroimagen.data_shards.sources.readers.images import ImageFiles, listed
from neuroimagen.data_shards.sources.splits import DROPPED, divide_zero_shot
from neuroimagen.data_shards.sources.things.channels import choose_channels
from neuroimagen.data_shards.sources.things.eeg2_options import ThingsEeg2Options, add_eeg2_options
from neuroimagen.data_shards.sources.things.forms import find_form, find_subjects
from neuroimagen.data_shards.sources.things.image_set import ImageSet, concept_name, notes_on_names
from neuroimagen.data_shards.sources.things.repetitions import AVERAGE, in_words, parse_repetitions
from neuroimagen.data_shards.sources.things.trials import HALVES, SubjectHalf, Trial, rate_of


class ThingsEeg2Source(Source):
    """The files of one or more subjects."""

    HELP = "THINGS-EEG2: raw, or preprocessed in any of its forms"
    DESCRIPTION = (
        "Read THINGS-EEG2 into a data set: the authors' files, 63 channels as a pickle, whitened train.pt and test.pt, "
        "NeuroBridge's arrays, or the raw recordings. The published zero-shot test stays the test split; val holds out "
        "whole training concepts. Nothing in the pickles is run."
    )
    EXAMPLES = """
    neuroimagen data ingest things-eeg2 --eeg Preprocessed_data_250Hz --images image_set --subjects 1 \\
      --out data/things
    as most papers report it, posterior channels, the test averaged:
      neuroimagen data ingest things-eeg2 --eeg Preprocessed_data_250Hz_whiten --images Image_set_Resize \\
        --channels occipito-parietal --repetitions train=keep test=average --out data/things-op
    train on nine people, test on the tenth:
      neuroimagen data ingest things-eeg2 --eeg Raw_data --images image_set --split leave-subject-out:8 \\
        --out data/things-loso8
    """

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        add_eeg2_options(parser)

    @classmethod
    def from_arguments(cls, args: argparse.Namespace) -> "ThingsEeg2Source":
        return cls(options_from(args, ThingsEeg2Options))

    def __init__(self, options: ThingsEeg2Options) -> None:
        self.options = options
        self._subjects = self._find_subjects()
        self._form = find_form(options.eeg, self._subjects, whitening=options.whitening)
        self._check_files()
        self._opened = {
            (subject, half): self._form.open(subject, half) for subject in self._subjects for half in HALVES
        }
        self._halves = {half: self._image_set(half) for half in HALVES}
        self._label = self._labels()
        self._check_shapes()
        first = self._opened[self._subjects[0], "test"]
        where = str(options.eeg)
        chosen = choose_channels(first.channel_names, options.channels, where=where)
        self._channels, self._channel_names = chosen.positions, chosen.names
        self._window = options.window or (0, first.num_samples)
        if self._window[1] > first.num_samples:
            raise UserError(f"--window ends at sample {self._window[1]}; the segments have {first.num_samples}.")
        self._sfreq = rate_of(first.times, where=where) if options.sfreq is None else options.sfreq
        self._first_s = float(first.times[self._window[0]]) if len(first.times) == first.num_samples else 0.0
        self._images = self._read_images()
        self._divide()
        self.notes = [
            f"{options.eeg} is read as {self._form.NAME}: {len(first.channel_names)} channels, {first.num_samples} "
            f"samples at {self._sfreq:g} Hz; {self._form.PREPROCESSING}",
            *(f"order of the {half.half} images: {half.origin}" for half in self._halves.values() if half.is_derived),
            *self._form.notes,
            *chosen.notes,
            *notes_on_names(list(self._label)),
            *self._images.notes,
            *self._notes_on_counts(),
        ]

    def metadata(self) -> DatasetMetadata:
        options = self.options
        files = {name: path for subject in self._subjects for name, path in self._form.files(subject).items()}
        return DatasetMetadata(
            name="things-eeg2",
            n_channels=len(self._channel_names),
            n_samples=self._window[1] - self._window[0],
            sfreq=self._sfreq,
            channel_names=self._channel_names,
            classes=tuple(ClassInfo(name=concept_name(concept)) for concept in self._label),
            split_rule=self._split_rule,
            preprocessing={
                "repetitions": in_words(parse_repetitions(options.repetitions)),
                "window": list(self._window),
                "first_sample_s": self._first_s,
                "steps": self._form.PREPROCESSING,
            },
            provenance={
                "source": "things-eeg2",
                "form": self._form.NAME,
                "files": file_records(files),
                "notes": list(self.notes),
            },
        )

    def stimuli(self) -> Iterator[StimulusRecord]:
        for half in self._halves.values():
            for concept, path in zip(half.concepts, half.paths, strict=True):
                content, extension = self._images.read(self._image_name(path))
                yield StimulusRecord(
                    key=path.stem,
                    image=content,
                    extension=extension,
                    label=self._label[concept],
                    caption=class_caption(concept_name(concept)),
                )

    def segments(self, split: str | None = None) -> Iterator[SegmentRecord]:
        how = parse_repetitions(self.options.repetitions)
        for (subject, half), opened in self._opened.items():
            splits = self._splits[subject, half]
            images, place = self._halves[half], 0
            for image, count in enumerate(opened.repetitions.tolist()):
                own = splits[place : place + count]
                place += count
                wanted = [name for name in dict.fromkeys(own.tolist()) if name != DROPPED and split in (None, name)]
                if not wanted:
                    continue
                trials = opened.trials(image)
                for name in wanted:
                    taken = [trial for trial, of_trial in zip(trials, own, strict=True) if of_trial == name]
                    for trial in [self._average(taken)] if how[name] == AVERAGE else map(self._cut, taken):
                        yield SegmentRecord(
                            eeg=trial.eeg,
                            stimulus=images.paths[image].stem,
                            label=self._label[images.concepts[image]],
                            subject=subject,
                            split=name,
                            block=trial.block,
                            order=trial.order,
                            session=trial.session,
                            recording=trial.recording,
                            onset_s=trial.onset_s,
                        )

    def num_segments(self) -> int:
        how = parse_repetitions(self.options.repetitions)
        total = 0
        for key, opened in self._opened.items():
            image = np.repeat(np.arange(opened.num_images), opened.repetitions)
            for name, treatment in how.items():
                own = self._splits[key] == name
                total += len(np.unique(image[own])) if treatment == AVERAGE else int(own.sum())
        return total

    # --- trials ----------------------------------------------------------------------------------------------------

    def _values(self, trial: Trial) -> np.ndarray:
        return np.asarray(trial.eeg[self._channels, self._window[0] : self._window[1]])

    def _cut(self, trial: Trial) -> Trial:
        return dataclasses.replace(
            trial, eeg=self._values(trial).astype(np.float32), onset_s=trial.onset_s + self._first_s
        )

    def _average(self, trials: Sequence[Trial]) -> Trial:
        """The mean of trials, in float64: a sum of eighty float16 values would lose digits."""
        total = np.zeros((len(self._channels), self._window[1] - self._window[0]))
        for trial in trials:
            total += self._values(trial)
        sessions = {trial.session for trial in trials}
        eeg = (total / len(trials)).astype(np.float32)
        return Trial(eeg=eeg, session=sessions.pop() if len(sessions) == 1 else "", order=0)

    # --- checks ----------------------------------------------------------------------------------------------------

    def _find_subjects(self) -> list[int]:
        found = find_subjects(self.options.eeg)
        wanted = list(dict.fromkeys(self.options.subjects or found))
        if unknown := [subject for subject in wanted if subject not in found]:
            raise UserError(f"subject {unknown[0]} is not under {self.options.eeg}; there are {found}.")
        return wanted

    def _check_files(self) -> None:
        files = [path for subject in self._subjects for path in self._form.files(subject).values()]
        absent = [path for path in files if not path.is_file()]
        absent += [
            self.options.eeg / f"sub-{subject:02d}" for subject in self._subjects if not self._form.files(subject)
        ]
        if absent:
            raise UserError(
                f"{len(absent)} of {len(files)} EEG files are missing, the first is {absent[0]}. Get them, or take "
                "only the subjects that are complete, with --subjects."
            )

    def _image_set(self, half: str) -> ImageSet:
        """The images of a half: as the files name them, else as the image folder has them."""
        named = {opened.images for (_, of), opened in self._opened.items() if of == half}
        if len(named) > 1:
            raise UserError(f"{self.options.eeg}: the {half} files of the subjects name different images.")
        names = named.pop()
        if names is None:
            return ImageSet.read(self.options.images, half)
        path = next(iter(self._form.files(self._subjects[0]).values()))
        return ImageSet.named(self.options.images, half, names, where=path)

    def _labels(self) -> dict[str, int]:
        train, test = (set(half.concepts) for half in self._halves.values())
        if shared := train & test:
            raise UserError(f"concept {sorted(shared)[0]} is both in training and test; the split is not zero-shot.")
        if not 0 <= self.options.val_concepts < len(train):
            raise UserError(f"--val-concepts {self.options.val_concepts} of {len(train)} leaves none to train on.")
        stems = [path.stem for half in self._halves.values() for path in half.paths]
        if len(set(stems)) != len(stems):
            twice = next(stem for stem in stems if stems.count(stem) > 1)
            raise UserError(f"image {twice} is listed twice; images are known by their names.")
        return {concept: label for label, concept in enumerate(sorted(train) + sorted(test))}

    def _check_shapes(self) -> None:
        """All files have the same channels in the same order, and the images that are listed."""
        first = self._opened[self._subjects[0], "test"]
        for (subject, half), opened in self._opened.items():
            where, images = self._where(subject, half), self._halves[half]
            if opened.num_images > len(images) or (self._form.SHOWS_ALL_IMAGES and opened.num_images < len(images)):
                raise UserError(
                    f"{where} has {opened.num_images} images; {images.origin} lists {len(images)} ({half})."
                )
            if (opened.channel_names, opened.num_samples) != (first.channel_names, first.num_samples):
                pairs = zip(opened.channel_names, first.channel_names, strict=False)
                places = [place for place, (a, b) in enumerate(pairs) if a != b]
                differs = f", which differ from channel {places[0]} on" if places else ""
                raise UserError(
                    f"{where} has {len(opened.channel_names)} channels × {opened.num_samples} samples; the first "
                    f"subject's test file has {len(first.channel_names)} × {first.num_samples}{differs}. All files "
                    "must have the same channels in the same order: take only the subjects whose files do, with "
                    "--subjects."
                )
            if not np.array_equal(opened.times, first.times):
                raise UserError(f"{where} has other times than the first subject's test file.")

    def _where(self, subject: int, half: str) -> str:
        paths = [path for path in self._form.files(subject).values() if half in path.stem]
        return str(paths[0]) if paths else f"{self.options.eeg}/sub-{subject:02d} ({half})"

    def _read_images(self) -> ImageFiles:
        paths = [path for half in self._halves.values() for path in half.paths]
        images = ImageFiles({self._image_name(path): path for path in paths})
        if images.problems:
            raise UserError(
                f"{len(images.problems)} of {len(paths)} images are missing or unreadable: {listed(images.problems)}."
            )
        return images

    def _image_name(self, path: Path) -> str:
        return str(path.relative_to(self.options.images))

    # --- splits ----------------------------------------------------------------------------------------------------

    def _divide(self) -> None:
        """Assign a split to every trial, by subject and half."""
        keys = list(self._opened)
        lengths = [int(self._opened[key].repetitions.sum()) for key in keys]
        labels = [self._labels_of_trials(key[1], self._opened[key]) for key in keys]
        division = divide_zero_shot(
            split=self.options.split,
            is_test_image=np.repeat([half == "test" for _, half in keys], lengths),
            label=np.concatenate(labels),
            subject=np.repeat([subject for subject, _ in keys], lengths),
            session=np.concatenate([self._opened[key].sessions for key in keys]),
            num_val_classes=self.options.val_concepts,
            seed=self.options.split_seed,
        )
        self._split_rule = division.rule
        ends = np.cumsum(lengths)[:-1]
        self._splits = dict(zip(keys, np.split(division.splits, ends), strict=True))
        self._division_notes = list(division.notes)

    def _labels_of_trials(self, half: str, opened: SubjectHalf) -> np.ndarray:
        labels = np.array([self._label[concept] for concept in self._halves[half].concepts[: opened.num_images]])
        return np.repeat(labels, opened.repetitions)

    def _notes_on_counts(self) -> list[str]:
        notes = list(self._division_notes)
        total = sum(len(splits) for splits in self._splits.values())
        if dropped := sum(int((splits == DROPPED).sum()) for splits in self._splits.values()):
            notes.append(f"{dropped} of {total} trials are in none of train, val and test: {self._split_rule}")
        for half in HALVES:
            counts: dict[int, int] = {}
            for subject in self._subjects:
                given = self._opened[subject, half].repetitions
                values, of = np.unique(np.pad(given, (0, len(self._halves[half]) - len(given))), return_counts=True)
                for value, count in zip(values.tolist(), of.tolist(), strict=True):
                    counts[value] = counts.get(value, 0) + count
            if len(counts) > 1:
                shown = ", ".join(f"{count} with {value}" for value, count in sorted(counts.items()))
                notes.append(f"{half} images differ in their number of trials: {shown} (counted over all subjects)")
        return notes
