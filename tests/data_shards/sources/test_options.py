"""Options that sources share, and how a dataclass of options is filled."""

import argparse
import dataclasses
from pathlib import Path

import pytest

from neuroimagen.data_shards.sources.options import (
    add_class_names,
    add_images,
    add_on_missing,
    add_sfreq,
    add_split_seed,
    add_subjects,
    add_window,
    interval,
    options_from,
    pair,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    images: Path
    subjects: tuple[int, ...] | None
    split_seed: int
    sfreq: float | None


def parsed(*words: str) -> Options:
    parser = argparse.ArgumentParser()
    parser.add_argument("--other", default="not an option of the dataclass")
    add_images(parser)
    add_subjects(parser)
    add_split_seed(parser)
    add_sfreq(parser, "the file's")
    return options_from(parser.parse_args(words), Options)


def test_arguments_become_fields_of_the_same_name() -> None:
    assert parsed("--images", "a") == Options(images=Path("a"), subjects=None, split_seed=0, sfreq=None)
    words = ["--images", "a", "--subjects", "3", "1", "--split-seed", "7", "--sfreq", "250"]
    assert parsed(*words) == Options(images=Path("a"), subjects=(3, 1), split_seed=7, sfreq=250.0)


def test_a_sampling_rate_without_a_default_is_required() -> None:
    parser = argparse.ArgumentParser()
    add_sfreq(parser)
    with pytest.raises(SystemExit):
        parser.parse_args([])


def test_options_with_a_default_say_it() -> None:
    parser = argparse.ArgumentParser()
    add_class_names(parser)
    add_on_missing(parser)
    add_window(parser, (20, 460))
    args = parser.parse_args([])
    assert (args.class_names, args.on_missing, args.window) == (None, "skip", (20, 460))
    args = parser.parse_args(["--class-names", "a.json", "--on-missing", "stop", "--window", "3:5"])
    assert (args.class_names, args.on_missing, args.window) == (Path("a.json"), "stop", (3, 5))
    assert "samples to keep (default: 20:460)" in parser.format_help()
    whole = argparse.ArgumentParser()
    add_window(whole, None)
    assert whole.parse_args([]).window is None
    assert "(default: all)" in whole.format_help()


def test_pairs_and_intervals() -> None:
    assert pair("20:460") == (20, 460)
    assert interval("-0.2:0") == (-0.2, 0.0)
    for read, text in ((pair, "20-460"), (pair, "1:2:3"), (pair, "0.5:1"), (interval, "a:b"), (interval, "1")):
        with pytest.raises(argparse.ArgumentTypeError, match="is not of the form A:B"):
            read(text)


@pytest.mark.parametrize("text", ["nan:1", "0:inf", "1e999:2", "1", "a:b", "1:2:3"])
def test_an_interval_is_two_finite_numbers(text: str) -> None:
    assert interval("-0.2:0") == (-0.2, 0.0)
    with pytest.raises(argparse.ArgumentTypeError, match="is not of the form A:B, two finite numbers"):
        interval(text)
