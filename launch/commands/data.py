"""`neuroimagen data`: simulate, ingest, verify, info, audit, show, repack."""

import argparse
import importlib
from collections.abc import Callable

from neuroimagen.launch.commands.data_describe import describe
from neuroimagen.launch.commands.lazy_parser import LazyParser

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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True, parser_class=LazyParser)
    actions.add_parser("simulate", help="a simulated study in EEGCVPR40's files", fill=_fill_simulate)
    actions.add_parser("ingest", help="recordings → a data set of shards", fill=_fill_ingest)
    actions.add_parser(
        "verify", help="check every byte against the index; exit code 1 if anything is wrong", fill=_fill_verify
    )
    actions.add_parser("audit", help="can a split be believed: duplicates, leaks, drift", fill=_fill_audit)
    actions.add_parser("show", help="averages, scalp maps, spectra, segments: PNG or HTML", fill=_fill_show)
    actions.add_parser("info", help="what a data set holds and where it comes from", fill=_fill_info)
    actions.add_parser("repack", help="the same data set in other shards or another order", fill=_fill_repack)


def run(args: argparse.Namespace) -> int | None:
    handler: Callable[[argparse.Namespace], int | None] = args.handler
    return handler(args)


def _fill_simulate(parser: argparse.ArgumentParser) -> None:
    _fill_from("data_simulate", parser)


def _fill_repack(parser: argparse.ArgumentParser) -> None:
    _fill_from("data_repack", parser)


def _fill_from(name: str, parser: argparse.ArgumentParser) -> None:
    module = importlib.import_module(f"neuroimagen.launch.commands.{name}")
    parser.description, parser.epilog = module.HELP, module.EPILOG
    module.add_arguments(parser)
    parser.set_defaults(handler=module.run)


def _fill_ingest(parser: argparse.ArgumentParser) -> None:
    module = importlib.import_module("neuroimagen.launch.commands.data_ingest")
    parser.description, parser.epilog = module.HELP, module.EPILOG
    module.add_arguments(parser)


def _fill_verify(parser: argparse.ArgumentParser) -> None:
    parser.description = "Check every byte of a data set against its index: exit code 0 if all is well, 1 if not."
    parser.epilog = """examples:
  neuroimagen data verify data/cvpr40
  neuroimagen data verify http://host/cvpr40"""
    parser.add_argument("data", metavar="DIR", help="folder or URL of the data set")
    parser.set_defaults(handler=_verify)


def _verify(args: argparse.Namespace) -> int:
    from neuroimagen.data_shards.dataset.verify import verify

    count = 0
    for problem in verify(args.data):
        count += 1
        print(problem)
    if count:
        print(f"{args.data}: {count} problem{'s' if count > 1 else ''}")
        return 1
    print(f"{args.data}: every byte is as written")
    return 0


def _fill_audit(parser: argparse.ArgumentParser) -> None:
    importlib.import_module("neuroimagen.launch.commands.data_audit").fill(parser)


def _fill_show(parser: argparse.ArgumentParser) -> None:
    importlib.import_module("neuroimagen.launch.commands.data_show").fill(parser)


def _fill_info(parser: argparse.ArgumentParser) -> None:
    parser.description = "What a data set holds and where it comes from."
    parser.epilog = """examples:
  neuroimagen data info data/cvpr40
  neuroimagen data info http://host/cvpr40"""
    parser.add_argument("data", metavar="DIR", help="folder or URL of the data set")
    parser.set_defaults(handler=_info)


def _info(args: argparse.Namespace) -> None:
    from neuroimagen.data_shards.dataset.dataset import Dataset

    print("\n".join(describe(Dataset.open(args.data))))
