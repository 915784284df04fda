"""The options of THINGS-EEG2: defaults, names of fields, and what is refused before a file is opened."""

import argparse
from pathlib import Path

import pytest

from neuroimagen.data_shards.common.errors import UsageError
from neuroimagen.data_shards.sources.options import options_from
from neuroimagen.data_shards.sources.things.eeg2_options import ThingsEeg2Options, add_eeg2_options


def parsed(*words: str) -> ThingsEeg2Options:
    parser = argparse.ArgumentParser()
    add_eeg2_options(parser)
    return options_from(parser.parse_args(["--eeg", "e", "--images", "i", *words]), ThingsEeg2Options)


def test_defaults_of_the_command_line_are_those_of_the_options() -> None:
    assert parsed() == ThingsEeg2Options(eeg=Path("e"), images=Path("i"))


def test_lists_and_intervals_are_read() -> None:
    options = parsed(
        *("--channels", "O1", "Oz", "--window", "50:250", "--repetitions", "train=keep", "test=average"),
        *("--split", "leave-subject-out:3", "--val-concepts", "7", "--subjects", "1", "3"),
    )
    assert options.channels == ("O1", "Oz")
    assert options.window == (50, 250)
    assert options.repetitions == ("train=keep", "test=average")
    assert (options.split, options.val_concepts, options.subjects) == ("leave-subject-out:3", 7, (1, 3))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--window", "5:5"], "empty or negative"),
        (["--whitening", "epoch"], "neither session nor none"),
        (["--split", "by-magic"], "--split"),
        (["--repetitions", "train=twice"], "repetitions"),
    ],
)
def test_what_means_nothing_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parsed(*words)
