"""The options that say what EEG a file holds."""

import argparse
from pathlib import Path

import numpy as np
import pytest

from neuroimagen.launch.commands.new_eeg import NEW_EEG_OPTIONS, add_new_eeg, given_of, preprocessed_of


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
