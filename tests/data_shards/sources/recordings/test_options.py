"""Options that cannot be meant."""

import argparse
import math
from pathlib import Path
from typing import Any

import pytest

from neuroimagen.data_shards.common.errors import UsageError
from neuroimagen.data_shards.sources.recordings.options import CutOptions, add_cut_options


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tmin": 1.0, "tmax": 1.0}, "not before --tmax"),
        ({"tmin": math.nan}, "--tmin is nan; it must be a finite number"),
        ({"tmax": math.inf}, "--tmax is inf"),
        ({"band_hz": (1.0, math.nan)}, r"--band \(number 2\) is nan"),
        ({"baseline": (-math.inf, 0.0)}, r"--baseline \(number 1\) is -inf"),
        ({"notch": (50.0, -1.0)}, "--notch -1 is not a frequency"),
        ({"resample": math.nan}, "--resample nan is not a sampling rate"),
        ({"channel_types": ("Fz",)}, "--channel-types 'Fz' is not of the form NAME=TYPE"),
        ({"channel_types": ("Fz=brain",)}, "with one of the types eeg, eog"),
        ({"unit": "kV"}, "--unit 'kV' is not one of V, mV, uV, nV"),
        ({"channels": "all"}, "--channels 'all' is not one of same, by-name, common"),
    ],
)
def test_what_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        CutOptions(images=Path(), **changes)


def test_a_channels_name_may_hold_an_equals_sign() -> None:
    options = CutOptions(images=Path(), channel_types=("Fp1=A1=EOG", "Oz=eeg"))
    assert options.stated_types() == {"Fp1=A1": "eog", "Oz": "eeg"}


def test_each_option_of_the_command_line_is_a_field() -> None:
    parser = argparse.ArgumentParser()
    add_cut_options(parser)
    parsed = vars(parser.parse_args(["--notch", "50", "100", "--picks", "meg", "--band", "1:40"]))
    made = CutOptions(images=Path(), **{name: tuple(v) if isinstance(v, list) else v for name, v in parsed.items()})
    assert made.notch == (50.0, 100.0)
    assert made.picks == ("meg",)
    assert made.is_filtered
    plain = vars(parser.parse_args([]))
    assert CutOptions(
        images=Path(), **{name: tuple(v) if isinstance(v, list) else v for name, v in plain.items()}
    ) == CutOptions(images=Path())
