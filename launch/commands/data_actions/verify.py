"""`neuroimagen data verify`: compare every byte of a data set with its index."""

import argparse

DESCRIPTION = "Check every byte of a data set against its index: exit code 0 if all is well, 1 if not."
EPILOG = """examples:
  neuroimagen data verify data/cvpr40
  neuroimagen data verify http://host/cvpr40"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", metavar="DIR", help="folder or URL of the data set")


def run(args: argparse.Namespace) -> int:
    """Print every problem; returns 1 if there is one."""
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
