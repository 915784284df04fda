"""Reads the files of EEGCVPR40 (Spampinato et al., CVPR 2017), or any study in their layout.

    <eeg>.pth     {'dataset': [{'eeg': Tensor [C, L], 'image': int, 'label': int, 'subject': int}, …],
                   'labels': [WordNet id, …], 'images': [name, …]}, and 'means', 'stddevs' beside raw int16 EEG
    <splits>.pth  {'splits': [{'train': [int], 'val': [int], 'test': [int]}, …]}, positions in 'dataset'
    <images>/<wnid>/<name>.JPEG

Beside the EEG file a study may have three files that the published data set lacks; `data simulate` writes them:

    captions.json      {image name: detailed caption}
    presentation.json  {'block': [int], 'order': [int]}, one number per segment of 'dataset'; it may also have
                       'session': [text], 'recording': [text] and 'onset_s': [seconds from the recording's start]
    study.json         whatever describes the study; 'sfreq' (Hz), 'channel_names' and 'band_hz' are used

Without presentation.json block and order are derived: a subject saw each class as one run of images, so `block` counts
a subject's classes in the order in which they first appear in the file, and `order` counts the segments within subject
and class.
"""

import argparse
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.format.schema import ClassInfo, DatasetMetadata, SegmentRecord, StimulusRecord
from neuroimagen.data_shards.sources.base import Source
from neuroimagen.data_shards.sources.class_names import EEGCVPR40_CLASS_NAMES, class_caption
from neuroimagen.data_shards.sources.eegcvpr40_file import EegCvpr40File, read_json_object
from neuroimagen.data_shards.sources.eegcvpr40_selection import EegCvpr40Options, EegCvpr40Selection
from neuroimagen.data_shards.sources.options import (
    add_class_names,
    add_images,
    add_on_missing,
    add_sfreq,
    add_split_seed,
    add_subjects,
    add_window,
    options_from,
    pair,
)
from neuroimagen.data_shards.sources.readers.hashes import file_records

PUBLISHED_COUNTS = {"segments": 11_965, "classes": 40, "images": 1_996, "subjects": 6}
"""Of the published files; other figures in files that carry its 40 classes are reported, not refused."""


class EegCvpr40Source(Source):
    """The files; opening them reads and checks everything.

    Memory: zip-format .pth files stay on disk, mapped; what is held is one segment at a time and the lists of labels.
    """

    HELP = "the files of EEGCVPR40, or a study in their layout"
    DESCRIPTION = (
        "Read EEGCVPR40's .pth files (nothing in them is executed) into a data set. The defaults are the published "
        "loader's: 450..600 samples long, samples 20:460, the split applied before any filter."
    )
    EXAMPLES = """
    the published setting, fold 0:
      neuroimagen data ingest eegcvpr40 --eeg eeg_5_95_std.pth --splits block_splits_by_image_all.pth \\
        --images ILSVRC/ --out data/cvpr40
    the raw recording, subject 4 only, standardised on its training split:
      neuroimagen data ingest eegcvpr40 --eeg eeg_signals_raw_with_mean_std.pth --split by-image --subjects 4 \\
        --standardise --images ILSVRC/ --out data/cvpr40-s4
    train on five people, test on the sixth:
      neuroimagen data ingest eegcvpr40 --eeg eeg_5_95_std.pth --split leave-subject-out:6 \\
        --images ILSVRC/ --out data/loso6
    """

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        default = EegCvpr40Options
        files = parser.add_argument_group("files")
        files.add_argument(
            "--eeg", type=Path, required=True, metavar="FILE", help="eeg_5_95_std.pth or another of the EEG files"
        )
        add_images(files, "folder of images, <wnid>/<name>.JPEG")
        files.add_argument(
            "--splits",
            type=Path,
            metavar="FILE",
            help="block_splits_by_image_all.pth or _single.pth; for fold:N, single",
        )
        files.add_argument(
            "--captions",
            type=Path,
            metavar="FILE",
            help="JSON {image name: detailed caption} (default: captions.json beside --eeg)",
        )
        add_class_names(files)
        choice = parser.add_argument_group("choice of segments")
        choice.add_argument(
            "--split",
            default=default.split,
            help="fold:N of the split file; single, the only fold of a one-fold file; by-image, 80/10/10 %% of the "
            "images; by-session, each subject's last session is the test split (presentation.json names the sessions); "
            "leave-subject-out:S, subject S is the test split (default: fold:0)",
        )
        add_split_seed(choice, "for by-image and leave-subject-out (default: 0)")
        add_subjects(choice, "keep these only; applied after the split (default: all)")
        choice.add_argument(
            "--length",
            type=pair,
            default=default.length,
            metavar="A:B",
            help="recorded lengths to keep, in samples (default: 450:600)",
        )
        add_window(choice, default.window)
        choice.add_argument(
            "--n-channels",
            type=int,
            default=default.n_channels,
            metavar="N",
            help="channels that every segment must have (default: 128)",
        )
        add_sfreq(choice, "the file's own, or 1000")
        problems = parser.add_argument_group("problems in the data")
        add_on_missing(problems, "missing or unreadable images: report them and leave their segments out, or stop")
        problems.add_argument(
            "--on-nan",
            choices=("stop", "skip"),
            default=default.on_nan,
            help="segments with NaN or infinity (default: stop)",
        )
        problems.add_argument(
            "--on-flat",
            choices=("stop", "skip", "keep"),
            default=default.on_flat,
            help="segments with a channel that never varies (default: stop)",
        )

    @classmethod
    def from_arguments(cls, args: argparse.Namespace) -> "EegCvpr40Source":
        return cls(options_from(args, EegCvpr40Options))

    def __init__(self, options: EegCvpr40Options) -> None:
        self.options = options
        self._recording = EegCvpr40File(options.eeg, options.n_channels)
        self._sfreq = self._recording.sfreq if options.sfreq is None else options.sfreq
        self._classes = _classes(self._recording.wnids, options.class_names)
        self._selection = EegCvpr40Selection(self._recording, options)
        self.notes = [*_differences_from_published(self._recording), *self._selection.notes]

    def metadata(self) -> DatasetMetadata:
        options, recording, selection = self.options, self._recording, self._selection
        sources = [options.eeg] + ([options.splits] if options.splits else [])
        parameters = {
            name: value
            for name, value in dataclasses.asdict(options).items()
            if name not in ("eeg", "images", "splits", "captions", "class_names")
        }
        return DatasetMetadata(
            name=options.eeg.stem,
            n_channels=options.n_channels,
            n_samples=options.window[1] - options.window[0],
            sfreq=self._sfreq,
            band_hz=recording.band_hz,
            channel_names=recording.channel_names,
            classes=self._classes,
            split_rule=selection.split_rule,
            preprocessing={"window": list(options.window), "file_standardised": recording.means is not None},
            provenance={
                "source": "eegcvpr40",
                "files": file_records({path.name: path for path in sources}),
                "parameters": parameters,
                "block_and_order": recording.block_origin,
                "missing_images": selection.missing_images,
                "notes": self.notes,
                **({"study": recording.study} if recording.study else {}),
            },
        )

    def stimuli(self) -> Iterator[StimulusRecord]:
        captions = self._detailed_captions()
        recording, selection, positions = self._recording, self._selection, self._selection.positions
        used, first = np.unique(recording.image[positions], return_index=True)
        for image, position in zip(used.tolist(), positions[first].tolist(), strict=True):
            name, label = recording.image_names[image], int(recording.label[position])
            content, extension = selection.images.read(name)
            yield StimulusRecord(
                key=name,
                image=content,
                extension=extension,
                label=label,
                caption=class_caption(self._classes[label].name),
                detailed_caption=captions.get(name),
            )

    def segments(self, split: str | None = None) -> Iterator[SegmentRecord]:
        recording, selection = self._recording, self._selection
        for position in selection.positions.tolist():
            own = str(selection.split[position])
            if split is not None and own != split:
                continue
            yield SegmentRecord(
                eeg=recording.window(position, *self.options.window),
                stimulus=recording.image_names[int(recording.image[position])],
                label=int(recording.label[position]),
                subject=int(recording.subject[position]),
                block=int(recording.block[position]),
                order=int(recording.order[position]),
                session=recording.session[position],
                recording=recording.recording[position],
                onset_s=float(recording.onset_s[position]) + self.options.window[0] / self._sfreq,
                split=own,
            )

    def num_segments(self) -> int:
        return len(self._selection.positions)

    def _detailed_captions(self) -> dict[str, str]:
        path = self.options.captions or self.options.eeg.with_name("captions.json")
        return _text_dictionary(path) if self.options.captions or path.exists() else {}


def _differences_from_published(recording: EegCvpr40File) -> list[str]:
    """In what the files differ from the published ones, if they have their 40 classes."""
    if set(recording.wnids) != set(EEGCVPR40_CLASS_NAMES):
        return []
    found = {
        "segments": len(recording.label),
        "classes": len(recording.wnids),
        "images": len(recording.image_names),
        "subjects": len(np.unique(recording.subject)),
    }
    notes = [
        f"the published files have {expected} {name}, these have {found[name]}"
        for name, expected in PUBLISHED_COUNTS.items()
        if found[name] != expected
    ]
    if recording.wnids != list(EEGCVPR40_CLASS_NAMES):
        notes.append("the classes come in another order than in the published files")
    return notes


def _classes(wnids: Sequence[str], names_file: Path | None) -> tuple[ClassInfo, ...]:
    names = dict(EEGCVPR40_CLASS_NAMES)
    if names_file is not None:
        names.update(_text_dictionary(names_file))
    if unknown := [wnid for wnid in wnids if wnid not in names]:
        raise UserError(
            f"class {unknown[0]} has no known name. Give --class-names FILE, JSON of the form {{wnid: name}}."
        )
    return tuple(ClassInfo(name=names[wnid], wnid=wnid) for wnid in wnids)


def _text_dictionary(path: Path) -> dict[str, str]:
    raw = read_json_object(path)
    if not all(isinstance(text, str) for text in raw.values()):
        raise UserError(f"{path} must be a JSON object whose values are texts.")
    return raw
