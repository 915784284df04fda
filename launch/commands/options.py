"""Options that several commands share, with the same meaning in each."""

import argparse

from neuroimagen.data_shards.common.numbers import finite_number


def add_set(parser: argparse.ArgumentParser, *, example: str, recipe: str = "the recipe") -> None:
    """Add --set KEY=VALUE …, which changes values of the recipe (for `load_recipe`)."""
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help=f"change values of {recipe}, for instance {example}",
    )


def mebibytes(text: str) -> float:
    """An option's value in MiB: a positive number."""
    try:
        value = finite_number(text)
    except argparse.ArgumentTypeError:
        value = 0.0
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size in MiB: it must be a positive number")
    return value


def add_cpu(parser: argparse.ArgumentParser) -> None:
    """Add --cpu, which leaves GPUs unused."""
    parser.add_argument("--cpu", action="store_true", help="use the CPU even where there is a GPU")
