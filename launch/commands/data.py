"""`neuroimagen data`: simulate, ingest, verify, audit, show, info, repack. The actions are modules of data_actions/."""

import argparse
import importlib
from collections.abc import Callable

from neuroimagen.launch.lazy_parser import add_subcommands

HELP = "Make a data set of shards from recordings, check it, describe it."
EPILOG = """examples:
  neuroimagen data simulate --out runs/raw
  neuroimagen data ingest eegcvpr40 --eeg eeg_5_95_std.pth --splits block_splits_by_image_all.pth \\
    --images ILSVRC/ --out data/cvpr40
  neuroimagen data verify data/cvpr40
  neuroimagen data info data/cvpr40
  neuroimagen data repack data/cvpr40 --out data/mixed --order shuffled
  neuroimagen data audit data/cvpr40
  neuroimagen data show data/cvpr40 --out views.html

`neuroimagen data ACTION --help` shows an action's options.
"""
ACTIONS = {
    "simulate": "a simulated study in EEGCVPR40's files",
    "ingest": "recordings → a data set of shards",
    "verify": "check every byte against the index; exit code 1 if anything is wrong",
    "audit": "can a split be believed: duplicates, leaks, drift",
    "show": "averages, scalp maps, spectra, segments: PNG or HTML",
    "info": "what a data set holds and where it comes from",
    "repack": "the same data set in other shards or another order",
}
"""Action → its help line. Its module in data_actions/ has DESCRIPTION, EPILOG, add_arguments(parser) and run(args)."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_subcommands(parser, ACTIONS, dest="action", metavar="ACTION", fill=_fill)


def run(args: argparse.Namespace) -> int | None:
    handler: Callable[[argparse.Namespace], int | None] = args.handler
    return handler(args)


def _fill(action: str, parser: argparse.ArgumentParser) -> None:
    module = importlib.import_module(f"neuroimagen.launch.commands.data_actions.{action}")
    parser.description, parser.epilog = module.DESCRIPTION, module.EPILOG
    parser.set_defaults(handler=module.run)
    module.add_arguments(parser)
