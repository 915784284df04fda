"""`neuroimagen data info`: what a data set holds."""

import argparse

DESCRIPTION = "What a data set holds and where it comes from."
EPILOG = """examples:
  neuroimagen data info data/cvpr40
  neuroimagen data info http://host/cvpr40"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", metavar="DIR", help="folder or URL of the data set")


def run(args: argparse.Namespace) -> None:
    from neuroimagen.data_shards.dataset.dataset import Dataset
    from neuroimagen.launch.commands.data_actions.describe import describe

    print("\n".join(describe(Dataset.open(args.data))))
