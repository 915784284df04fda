"""Command-line options that several sources share, each with one meaning, and how a source reads its options."""

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from neuroimagen.data_shards.common.numbers import finite_number

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")
Container = argparse._ActionsContainer
"""A parser, or a group of its options."""


def options_from(args: argparse.Namespace, kind: type[T]) -> T:
    """An instance of the dataclass `kind`, each field from the argument of the same name; lists become tuples.

    A source whose options are a dataclass gives every option the name (`dest`) of its field.
    """
    values = {field.name: getattr(args, field.name) for field in dataclasses.fields(kind)}
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def add_images(parser: Container, help_text: str = "folder that the table's images lie in") -> None:
    """--images DIR → args.images, a Path."""
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help=help_text)


def add_subjects(parser: Container, help_text: str = "these only (default: all)") -> None:
    """--subjects S … → args.subjects, a list of numbers or None."""
    parser.add_argument("--subjects", type=int, nargs="+", metavar="S", help=help_text)


def add_split(parser: Container, help_text: str | None = None) -> None:
    """--split RULE → args.split, text for `splits.SplitRule.parse`, or None.

    A source hands it to `splits.divide` as it is, with the columns of its segments.
    """
    text = help_text or (
        "by-image, 80/10/10 %% of the images; by-session, each subject's last session is the test split; "
        "leave-subject-out:S, subject S is the test split (default: the table's column split, or by-image)"
    )
    parser.add_argument("--split", metavar="RULE", help=text)


def add_split_seed(parser: Container, help_text: str = "for the split by image (default: 0)") -> None:
    """--split-seed N → args.split_seed."""
    parser.add_argument("--split-seed", type=int, default=0, metavar="N", help=help_text)


def add_sfreq(parser: Container, default: str | None = None) -> None:
    """--sfreq HZ → args.sfreq; required, unless `default` says what is taken without it (args.sfreq is then None)."""
    text = "sampling rate" if default is None else f"sampling rate (default: {default})"
    parser.add_argument("--sfreq", type=finite_number, required=default is None, metavar="HZ", help=text)


def add_class_names(parser: Container) -> None:
    """--class-names FILE → args.class_names, a Path or None."""
    parser.add_argument(
        "--class-names", type=Path, metavar="FILE", help="JSON {wnid: name} for classes beyond EEGCVPR40's 40"
    )


def add_window(parser: Container, default: tuple[int, int] | None, help_text: str = "samples to keep") -> None:
    """--window A:B → args.window, two numbers, or None where that is the default: all samples."""
    said = "all" if default is None else f"{default[0]}:{default[1]}"
    parser.add_argument("--window", type=pair, default=default, metavar="A:B", help=f"{help_text} (default: {said})")


def add_on_missing(
    parser: Container, help_text: str = "images that can't be stored: leave their segments out, or stop"
) -> None:
    """--on-missing stop|skip → args.on_missing."""
    parser.add_argument("--on-missing", choices=("stop", "skip"), default="skip", help=f"{help_text} (default: skip)")


def pair(text: str) -> tuple[int, int]:
    """The value of an option A:B, two whole numbers."""
    try:
        low, high = (int(edge) for edge in text.split(":"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form A:B, two whole numbers") from None
    return low, high


def interval(text: str) -> tuple[float, float]:
    """The value of an option A:B, two finite numbers."""
    try:
        low, high = (finite_number(number) for number in text.split(":"))
    except (ValueError, argparse.ArgumentTypeError):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form A:B, two finite numbers") from None
    return low, high
