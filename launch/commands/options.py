"""Options that several commands share, with the same meaning in each."""

import argparse
from typing import TYPE_CHECKING

from neuroimagen.data_shards.common.numbers import finite_number

if TYPE_CHECKING:
    from neuroimagen.data_shards.new_eeg.given import GivenEEG

NEW_EEG_OPTIONS = ("sfreq", "channel_names", "unit", "tmin", "preprocessed")
"""Names of the options that say what EEG a file holds; MNE's epochs need none."""


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


def add_new_eeg(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what EEG a file holds, and whose it is."""
    parser.add_argument("--sfreq", type=finite_number, metavar="HZ", help="sampling rate of the EEG")
    parser.add_argument("--channel-names", nargs="+", metavar="NAME", help="its channels, in its order")
    parser.add_argument("--unit", metavar="UNIT", help="its unit: V, mV, uV or nV (T, fT for MEG)")
    parser.add_argument(
        "--tmin",
        type=finite_number,
        metavar="S",
        help="its first sample, in seconds after the onset (default: that of the window that the run takes)",
    )
    parser.add_argument(
        "--preprocessed",
        nargs="+",
        metavar="STEP",
        help="steps of the data set's preprocessing that are done already, or `all`: the EEG is as the data set's own "
        "segments",
    )
    parser.add_argument("--subject", metavar="S", help="whose EEG it is, by number or label (default: a new subject)")


def given_of(args: argparse.Namespace) -> "GivenEEG":
    """The EEG of the file --eeg, with what the options say of it."""
    from neuroimagen.data_shards.new_eeg.given import given_eeg, read_eeg

    return given_eeg(
        read_eeg(args.eeg), sfreq=args.sfreq, channel_names=args.channel_names, unit=args.unit, tmin=args.tmin
    )


def preprocessed_of(args: argparse.Namespace) -> bool | tuple[str, ...]:
    """What --preprocessed says, as `converted` takes it."""
    if args.preprocessed is None:
        return False
    return True if args.preprocessed == ["all"] else tuple(args.preprocessed)
