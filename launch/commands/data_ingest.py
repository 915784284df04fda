"""`neuroimagen data ingest`: recordings of every known kind → a data set."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from neuroimagen.launch.commands.data_describe import describe
from neuroimagen.launch.commands.lazy_parser import LazyParser
from neuroimagen.launch.commands.options import mebibytes

HELP = "recordings → a data set of shards"
EPILOG = """examples:
  neuroimagen data ingest eegcvpr40 --eeg eeg_5_95_std.pth --splits block_splits_by_image_all.pth \\
    --images ILSVRC/ --out data/cvpr40
  neuroimagen data ingest things-eeg2 --eeg Preprocessed_data_250Hz --images image_set --out data/things
  neuroimagen data ingest mne --recordings my-bids/ --events events.csv --images pictures/ --out data/mine
  neuroimagen data ingest arrays --eeg segments.npy --table labels.csv --images pictures/ --sfreq 250 --out data/mine

`neuroimagen data ingest SOURCE --help` shows a source's options."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    sources = parser.add_subparsers(dest="source", metavar="SOURCE", required=True, parser_class=LazyParser)
    sources.add_parser("eegcvpr40", help="the files of EEGCVPR40, or a study in their layout", fill=_fill_eegcvpr40)
    sources.add_parser(
        "things-eeg2",
        help="THINGS-EEG2, the authors' preprocessed files or the 63-channel form",
        fill=_fill_things_eeg2,
    )
    sources.add_parser("mne", help="recordings that MNE reads, with a table of events", fill=_fill_mne)
    sources.add_parser("arrays", help=".npy or .npz of segments, with a table of labels", fill=_fill_arrays)


_EEGCVPR40_EXAMPLES = """examples:
  the published setting, fold 0:
    neuroimagen data ingest eegcvpr40 --eeg eeg_5_95_std.pth --splits block_splits_by_image_all.pth \\
      --images ILSVRC/ --out data/cvpr40
  the raw recording, subject 4 only, standardised on its training part:
    neuroimagen data ingest eegcvpr40 --eeg eeg_signals_raw_with_mean_std.pth --split by-image --subjects 4 \\
      --standardise --images ILSVRC/ --out data/cvpr40-s4
  train on five people, test on the sixth:
    neuroimagen data ingest eegcvpr40 --eeg eeg_5_95_std.pth --split leave-subject-out:6 \\
      --images ILSVRC/ --out data/loso6
"""


def _fill_eegcvpr40(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EEGCVPR40_EXAMPLES
    parser.description = (
        "Read EEGCVPR40's .pth files (nothing in them is executed) into a data set. The defaults are the published "
        "loader's: 450..600 samples long, samples 20:460, the split applied before any filter."
    )
    files = parser.add_argument_group("files")
    files.add_argument(
        "--eeg", type=Path, required=True, metavar="FILE", help="eeg_5_95_std.pth or another of the EEG files"
    )
    files.add_argument(
        "--images", type=Path, required=True, metavar="DIR", help="folder of pictures, <wnid>/<name>.JPEG"
    )
    files.add_argument(
        "--splits", type=Path, metavar="FILE", help="block_splits_by_image_all.pth or _single.pth; for fold:N, single"
    )
    files.add_argument(
        "--captions",
        type=Path,
        metavar="FILE",
        help="JSON {picture name: detailed caption} (default: captions.json beside --eeg)",
    )
    files.add_argument(
        "--class-names", type=Path, metavar="FILE", help="JSON {wnid: name} for classes beyond EEGCVPR40's 40"
    )
    files.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the data set; must not exist")
    choice = parser.add_argument_group("choice of segments")
    choice.add_argument(
        "--split",
        default="fold:0",
        help="fold:N of the split file; single, the only fold of a one-fold file; by-image, 80/10/10 %% of the "
        "pictures; leave-subject-out:S, subject S is the test part (default: fold:0)",
    )
    choice.add_argument(
        "--split-seed", type=int, default=0, metavar="N", help="for by-image and leave-subject-out (default: 0)"
    )
    choice.add_argument(
        "--subjects", type=int, nargs="+", metavar="S", help="keep these only; applied after the split (default: all)"
    )
    choice.add_argument(
        "--length",
        type=_pair,
        default=(450, 600),
        metavar="A:B",
        help="recorded lengths to keep, in samples (default: 450:600)",
    )
    choice.add_argument(
        "--window", type=_pair, default=(20, 460), metavar="A:B", help="samples to keep (default: 20:460)"
    )
    choice.add_argument(
        "--n-channels", type=int, default=128, metavar="N", help="channels that every segment must have (default: 128)"
    )
    choice.add_argument("--sfreq", type=float, metavar="HZ", help="sampling rate (default: the file's own, or 1000)")
    trouble = parser.add_argument_group("trouble")
    trouble.add_argument(
        "--on-missing",
        choices=("stop", "skip"),
        default="skip",
        help="missing or unreadable pictures: report them and go on without their segments, or stop (default: skip)",
    )
    trouble.add_argument(
        "--on-nan", choices=("stop", "skip"), default="stop", help="segments with NaN or infinity (default: stop)"
    )
    trouble.add_argument(
        "--on-flat",
        choices=("stop", "skip", "keep"),
        default="stop",
        help="segments with a channel that never varies (default: stop)",
    )
    _add_common(parser)
    parser.set_defaults(handler=_ingest_eegcvpr40)


def _add_common(parser: argparse.ArgumentParser) -> None:
    """Options of every source."""
    group = parser.add_argument_group("preprocessing and storage")
    group.add_argument(
        "--detrend", action="store_true", help="take the straight line out of each channel of each segment"
    )
    group.add_argument(
        "--standardise", action="store_true", help="per channel: mean 0, standard deviation 1 over the training part"
    )
    group.add_argument("--clamp", type=float, metavar="X", help="limit values to ±X after that")
    group.add_argument(
        "--shard-mib", type=mebibytes, default=64, metavar="N", help="largest size of a shard in MiB (default: 64)"
    )


def _pair(text: str) -> tuple[int, int]:
    try:
        low, high = (int(part) for part in text.split(":"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form A:B, two whole numbers") from None
    return low, high


def _ingest_eegcvpr40(args: argparse.Namespace) -> None:
    from neuroimagen.data_shards.common.files import refuse_existing
    from neuroimagen.data_shards.sources.eegcvpr40 import EegCvpr40Options, EegCvpr40Source

    refuse_existing(args.out)  # before minutes of reading
    options = EegCvpr40Options(
        eeg=args.eeg,
        images=args.images,
        splits=args.splits,
        split=args.split,
        split_seed=args.split_seed,
        subjects=None if args.subjects is None else tuple(args.subjects),
        length=args.length,
        window=args.window,
        n_channels=args.n_channels,
        sfreq=args.sfreq,
        captions=args.captions,
        class_names=args.class_names,
        on_missing=args.on_missing,
        on_nan=args.on_nan,
        on_flat=args.on_flat,
    )
    source = EegCvpr40Source(options)
    _say(source.notes)
    _ingest(source, args)


def _say(notes: Sequence[str]) -> None:
    for note in notes:
        print(f"note: {note}")


def _ingest(source: Any, args: argparse.Namespace) -> None:
    from neuroimagen.data_shards.format.schema import SPLITS
    from neuroimagen.data_shards.sources.base import ingest
    from neuroimagen.data_shards.writing.preprocessing import Preprocessing

    preprocessing = Preprocessing(detrend=args.detrend, standardise=args.standardise, clamp=args.clamp)
    dataset = ingest(source, args.out, preprocessing=preprocessing, shard_bytes=int(args.shard_mib * (1 << 20)))
    print("\n".join(describe(dataset)))
    empty = [part for part in SPLITS if not dataset.metadata.split_counts.get(part)]
    if empty:
        print(f"note: no {' and no '.join(empty)} part: training needs train and val, evaluation train and test")
    print(f"data set: {args.out}")


def _fill_things_eeg2(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Read THINGS-EEG2 into a data set. The pickles in its .npy files are read without running anything in them. "
        "The published zero-shot test stays the test part; val holds out whole training concepts."
    )
    parser.epilog = """example:
  neuroimagen data ingest things-eeg2 --eeg Preprocessed_data_250Hz --images image_set --subjects 1 --out data/things
"""
    parser.add_argument(
        "--eeg", type=Path, required=True, metavar="DIR", help="folder of sub-01/preprocessed_eeg_*.npy …"
    )
    parser.add_argument(
        "--images", type=Path, required=True, metavar="DIR", help="folder of image_metadata.npy and pictures"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the data set; must not exist")
    parser.add_argument("--subjects", type=int, nargs="+", metavar="S", help="these only (default: all)")
    parser.add_argument(
        "--repetitions",
        choices=("keep", "average"),
        default="keep",
        help="a segment for every presentation, or their mean for every picture and subject (default: keep)",
    )
    parser.add_argument(
        "--val-concepts", type=int, default=100, metavar="N", help="training concepts for val (default: 100)"
    )
    parser.add_argument("--split-seed", type=int, default=0, metavar="N", help="which concepts those are (default: 0)")
    parser.add_argument("--sfreq", type=float, metavar="HZ", help="sampling rate (default: from the file's times)")
    _add_common(parser)
    parser.set_defaults(handler=_ingest_things_eeg2)


def _ingest_things_eeg2(args: argparse.Namespace) -> None:
    from neuroimagen.data_shards.common.files import refuse_existing
    from neuroimagen.data_shards.sources.things_eeg2 import ThingsEeg2Options, ThingsEeg2Source

    refuse_existing(args.out)
    options = ThingsEeg2Options(
        eeg=args.eeg,
        images=args.images,
        subjects=None if args.subjects is None else tuple(args.subjects),
        repetitions=args.repetitions,
        val_concepts=args.val_concepts,
        split_seed=args.split_seed,
        sfreq=args.sfreq,
    )
    _ingest(ThingsEeg2Source(options), args)


def _fill_mne(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Cut recordings into segments. The table has the columns event (an annotation's text or a trigger's number), "
        "image, class, and may have caption and split; without split the parts are 80/10/10 % by image."
    )
    parser.epilog = """example:
  neuroimagen data ingest mne --recordings my-bids/ --events events.csv --images pictures/ --band 1:40 --resample 250 \\
    --tmin 0 --tmax 0.8 --baseline=-0.2:0 --out data/mine
"""
    parser.add_argument(
        "--recordings",
        type=Path,
        nargs="+",
        required=True,
        metavar="PATH",
        help="files that MNE reads, or BIDS folders",
    )
    parser.add_argument("--events", type=Path, required=True, metavar="FILE", help="CSV or TSV: event, image, class …")
    parser.add_argument(
        "--images", type=Path, required=True, metavar="DIR", help="folder that the table's images lie in"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the data set; must not exist")
    parser.add_argument(
        "--tmin", type=float, default=0.0, metavar="S", help="start after the event, seconds (default: 0)"
    )
    parser.add_argument(
        "--tmax", type=float, default=1.0, metavar="S", help="end after the event, seconds (default: 1)"
    )
    parser.add_argument("--band", type=_interval, metavar="A:B", help="band-pass filter, Hz (default: none)")
    parser.add_argument("--resample", type=float, metavar="HZ", help="new sampling rate (default: as recorded)")
    parser.add_argument(
        "--baseline", type=_interval, metavar="A:B", help="subtract the mean of these seconds (default: none)"
    )
    parser.add_argument("--bad-channels", nargs="+", default=[], metavar="NAME", help="leave these out as well")
    parser.add_argument("--split-seed", type=int, default=0, metavar="N", help="for the split by image (default: 0)")
    _add_common(parser)
    parser.set_defaults(handler=_ingest_mne)


def _ingest_mne(args: argparse.Namespace) -> None:
    from neuroimagen.data_shards.common.files import refuse_existing
    from neuroimagen.data_shards.sources.mne import MneOptions, MneSource

    refuse_existing(args.out)
    options = MneOptions(
        recordings=tuple(args.recordings),
        events=args.events,
        images=args.images,
        tmin=args.tmin,
        tmax=args.tmax,
        band_hz=args.band,
        resample=args.resample,
        baseline=args.baseline,
        bad_channels=tuple(args.bad_channels),
        split_seed=args.split_seed,
    )
    source = MneSource(options)
    _say(source.notes)
    _ingest(source, args)


def _fill_arrays(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Read segments that are preprocessed already. The table has one row a segment: columns image and class, "
        "and may have subject, split, caption, block and order; without split the parts are 80/10/10 % by image."
    )
    parser.epilog = """example:
  neuroimagen data ingest arrays --eeg segments.npy --table labels.csv --images pictures/ --sfreq 250 --out data/mine
"""
    parser.add_argument(
        "--eeg", type=Path, required=True, metavar="FILE", help=".npy, or .npz with 'eeg': [segments, C, T]"
    )
    parser.add_argument("--table", type=Path, required=True, metavar="FILE", help="CSV or TSV, one row a segment")
    parser.add_argument(
        "--images", type=Path, required=True, metavar="DIR", help="folder that the table's images lie in"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the data set; must not exist")
    parser.add_argument("--sfreq", type=float, required=True, metavar="HZ", help="sampling rate")
    parser.add_argument("--channel-names", nargs="+", metavar="NAME", help="names of the channels, in order")
    parser.add_argument("--band", type=_interval, metavar="A:B", help="pass band of the recording, Hz, for the record")
    parser.add_argument("--split-seed", type=int, default=0, metavar="N", help="for the split by image (default: 0)")
    _add_common(parser)
    parser.set_defaults(handler=_ingest_arrays)


def _ingest_arrays(args: argparse.Namespace) -> None:
    from neuroimagen.data_shards.common.files import refuse_existing
    from neuroimagen.data_shards.sources.arrays import ArraySource, LabelTable, load_segments

    refuse_existing(args.out)
    source = ArraySource(
        load_segments(args.eeg),
        LabelTable.read(args.table),
        name=args.eeg.stem,
        images=args.images,
        sfreq=args.sfreq,
        channel_names=None if args.channel_names is None else tuple(args.channel_names),
        band_hz=args.band,
        split_seed=args.split_seed,
        files=(args.eeg, args.table),
    )
    _say(source.notes)
    _ingest(source, args)


def _interval(text: str) -> tuple[float, float]:
    try:
        low, high = (float(part) for part in text.split(":"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form A:B, two numbers") from None
    return low, high
