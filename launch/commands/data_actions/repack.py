"""`neuroimagen data repack`: the same data set in shards of another size or in another order."""

import argparse
from pathlib import Path

from neuroimagen.launch.commands.options import mebibytes

DESCRIPTION = "Write a data set anew, in shards of another size or in another order."
EPILOG = """examples:
  neuroimagen data repack data/cvpr40 --out data/cvpr40-large --shard-mib 256
  neuroimagen data repack data/cvpr40 --out data/cvpr40-mixed --order shuffled --seed 1

The EEG is copied bit for bit and checked while it is copied; cached latents are copied too. Shuffle a data set that
will be streamed from a URL: a reader that holds a few shards at a time then sees every subject and class. A repack that
was interrupted continues where it stopped when the same command is run again."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", metavar="DIR", help="folder or URL of the data set")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write; must not exist")
    parser.add_argument(
        "--shard-mib", type=mebibytes, default=64, metavar="N", help="largest size of a shard in MiB (default: 64)"
    )
    parser.add_argument(
        "--order", choices=("kept", "shuffled"), default="kept", help="order of the segments (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="for --order shuffled (default: 0)")
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="threads; the result does not depend on them (default: one per core, at most 8)",
    )


def run(args: argparse.Namespace) -> None:
    from neuroimagen.data_shards.common.errors import UsageError
    from neuroimagen.data_shards.dataset.dataset import Dataset
    from neuroimagen.data_shards.writing.repack import repack
    from neuroimagen.launch.commands.data_actions.describe import describe

    if args.workers is not None and args.workers < 1:
        raise UsageError(f"--workers {args.workers}: choose 1 or more.")
    made = repack(
        Dataset.open(args.data),
        args.out,
        order=args.order,
        seed=args.seed,
        shard_bytes=int(args.shard_mib * (1 << 20)),
        workers=args.workers,
    )
    print("\n".join(describe(made)))
    print(f"data set: {args.out}")
