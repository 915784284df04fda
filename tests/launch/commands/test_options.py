"""Options that several commands share."""

import argparse

import pytest

from neuroimagen.launch.commands.options import add_cpu, add_set, mebibytes


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
