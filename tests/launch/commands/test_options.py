"""Options that several commands share."""

import argparse
from pathlib import Path

import numpy as np
import pytest

from neuroimagen.launch.commands.options import (
    NEW_EEG_OPTIONS,
    add_cpu,
    add_new_eeg,
    add_set,
    given_of,
    mebibytes,
    preprocessed_of,
)


def test_set_takes_several_values_and_may_be_repeated() -> None:
    parser = argparse.ArgumentParser()
    add_set(parser, example="seed=1")
    add_cpu(parser)
    args = parser.parse_args(["--set", "a=1", "b=2", "--cpu", "--set", "c=3"])
    assert args.set == ["a=1", "b=2", "c=3"]
    assert args.cpu
    assert parser.parse_args([]).set == []  # and no value is left over from the first call


@pytest.mark.parametrize(("text", "value"), [("64", 64.0), ("0.5", 0.5)])
def test_sizes_are_positive_numbers(text: str, value: float) -> None:
    assert mebibytes(text) == value


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "big", ""])
def test_other_sizes_are_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="must be a positive number"):
        mebibytes(text)


def _parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--eeg", type=Path)
    add_new_eeg(parser)
    return parser.parse_args(words)


def test_options_reach_the_eeg(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((1, 2, 3)))
    path = str(tmp_path / "a.npy")
    args = _parsed("--eeg", path, "--sfreq", "250", "--channel-names", "a", "b", "--unit", "mV", "--tmin=-0.1")
    given = given_of(args)
    assert (given.sfreq, given.channel_names, given.unit, given.tmin) == (250.0, ("a", "b"), "mV", -0.1)
    assert all(getattr(_parsed(), name) is None for name in NEW_EEG_OPTIONS)


@pytest.mark.parametrize(
    ("words", "expected"),
    [((), False), (("all",), True), (("filter", "reference"), ("filter", "reference"))],
)
def test_steps_that_are_done(words: tuple[str, ...], expected: object) -> None:
    assert preprocessed_of(_parsed(*(("--preprocessed", *words) if words else ()))) == expected
