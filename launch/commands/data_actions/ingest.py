"""`neuroimagen data ingest`: the recordings of any registered source → a data set."""

import argparse
import inspect
import shlex
import textwrap
from functools import partial
from pathlib import Path

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.sources.registry import SOURCES, source_class
from neuroimagen.launch.commands.options import mebibytes
from neuroimagen.launch.lazy_parser import add_subcommands

DESCRIPTION = "Turn recordings into a data set of shards."
EPILOG = """examples:
  neuroimagen data ingest eegcvpr40 --eeg eeg_5_95_std.pth --splits block_splits_by_image_all.pth \\
    --images ILSVRC/ --out data/cvpr40
  neuroimagen data ingest things-eeg2 --eeg Preprocessed_data_250Hz --images image_set --out data/things
  neuroimagen data ingest bids my-study/ --class-column category --out data/study
  neuroimagen data ingest things-meg --eeg derivatives/preprocessed --images object_images/ --out data/things-meg
  neuroimagen data ingest mne --recordings my-bids/ --events events.csv --images images/ --out data/mine
  neuroimagen data ingest arrays --eeg segments.npy --table labels.csv --images images/ --sfreq 250 --out data/mine

`neuroimagen data ingest SOURCE --help` shows a source's options. docs/how-to/extending.md shows how to add a source."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    lines = {name: partial(_help_line, name) for name in SOURCES}
    add_subcommands(parser, lines, dest="source", metavar="SOURCE", fill=_fill)


def run(args: argparse.Namespace) -> None:
    from neuroimagen.data_shards.common.files import refuse_existing
    from neuroimagen.data_shards.dataset.audit import notes_at_ingest
    from neuroimagen.data_shards.format.schema import SPLITS
    from neuroimagen.data_shards.sources.ingest import ingest, recordings_of
    from neuroimagen.data_shards.writing.preprocessing import Preprocessing
    from neuroimagen.launch.commands.data_actions.describe import describe

    refuse_existing(args.out)  # before reading, which may take minutes
    preprocessing = Preprocessing(detrend=args.detrend, standardise=args.standardise, clamp=args.clamp)
    with recordings_of(args.source):
        source = source_class(args.source).from_arguments(args)
    said = list(source.notes)
    for note in said:
        print(f"note: {note}")
    dataset = ingest(source, args.out, preprocessing=preprocessing, shard_bytes=int(args.shard_mib * (1 << 20)))
    for note in source.notes[len(said) :]:  # what was found while the segments were read
        print(f"note: {note}")
    print("\n".join(describe(dataset)))
    for note in notes_at_ingest(dataset):
        print(f"note: {note}")
    empty = [split for split in SPLITS if not dataset.metadata.split_counts.get(split)]
    if empty:
        print(f"note: no {' and no '.join(empty)} split: training needs train and val, evaluation train and test")
    print(f"data set: {args.out}")
    print(f"next: neuroimagen recipe --data {shlex.quote(str(args.out))} --model bundled")


def _help_line(name: str) -> str:
    try:
        line = source_class(name).HELP
    except UserError as error:
        line = f"not available: {error}"
    return line.replace("%", "%%")  # argparse formats help lines with %


def _fill(name: str, parser: argparse.ArgumentParser) -> None:
    source = source_class(name)
    parser.description = source.DESCRIPTION
    parser.epilog = f"examples:\n{textwrap.indent(inspect.cleandoc(source.EXAMPLES), '  ')}"
    source.add_arguments(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the data set; must not exist")
    group = parser.add_argument_group("preprocessing and storage")
    group.add_argument(
        "--detrend", action="store_true", help="subtract the least-squares line from each channel of each segment"
    )
    group.add_argument(
        "--standardise", action="store_true", help="per channel: mean 0, standard deviation 1 over the training split"
    )
    group.add_argument("--clamp", type=float, metavar="X", help="limit values to ±X after that")
    group.add_argument(
        "--shard-mib", type=mebibytes, default=64, metavar="N", help="largest size of a shard in MiB (default: 64)"
    )
