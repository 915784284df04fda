"""The preprocessed forms are read as their files say."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from source_files import Bomb
from things_files import USUAL_CHANNELS, write_dictionary, write_neurobridge, write_pt

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.sources.things.preprocessed import DictionaryForm, NeuroBridgeForm, WhitenedForm
from neuroimagen.data_shards.sources.things.trials import Form

EEG = np.random.default_rng(0).standard_normal((12, 4, 5, 250)).astype(np.float16).astype(np.float64)
SESSION = np.arange(48).reshape(12, 4) % 4


def written(root: Path, form: str, **changes: Any) -> Form:
    if form == "authors":
        write_dictionary(root, 1, "train", EEG, plain=False, **changes)
    elif form == "plain":
        write_dictionary(root, 1, "train", EEG, plain=True, **changes)
    elif form == "pt":
        write_pt(root, 1, "train", EEG, changes.pop("session", SESSION), **changes)
    else:
        write_neurobridge(root, 1, "train", EEG, pickled=form == "pickled neurobridge")
    kinds = {"authors": DictionaryForm, "plain": DictionaryForm, "pt": WhitenedForm}
    return kinds.get(form, NeuroBridgeForm)(root)


@pytest.mark.parametrize("form", ["authors", "plain", "pt", "neurobridge", "pickled neurobridge"])
def test_every_form_gives_the_same_trials(tmp_path: Path, form: str) -> None:
    opened = (kind := written(tmp_path, form)).open(1, "train")
    assert opened.channel_names == tuple(USUAL_CHANNELS)
    assert (opened.num_images, opened.num_samples, opened.repetitions.tolist()) == (12, 250, [4] * 12)
    np.testing.assert_array_equal(opened.times, np.arange(50, 300) / 250 - 0.2)
    assert "300 times for 250 samples: the last 250" in kind.notes[0]
    for image in range(12):
        trials = opened.trials(image)
        np.testing.assert_array_equal(np.stack([trial.eeg for trial in trials]).astype(np.float64), EEG[image])
        sessions = SESSION[image].astype(str).tolist() if form == "pt" else [""] * 4
        assert [trial.session for trial in trials] == sessions
    assert (opened.images is not None) == (form == "pt")
    if opened.images is not None:
        assert opened.images[0] == "train_images/00001_thing_0/thing_0_00s.jpg"
        assert opened.sessions.tolist() == SESSION.reshape(-1).astype(str).tolist()
    assert next(iter(kind.files(1).values())).is_file()


@pytest.mark.parametrize("form", ["authors", "plain", "neurobridge"])
def test_the_eeg_stays_in_the_file(tmp_path: Path, form: str) -> None:
    large = np.zeros((12, 40, 5, 250))
    if form == "neurobridge":
        write_neurobridge(tmp_path, 1, "train", large)
    else:
        write_dictionary(tmp_path, 1, "train", large, plain=form == "plain")
    opened = (NeuroBridgeForm if form == "neurobridge" else DictionaryForm)(tmp_path).open(1, "train")
    base = opened.trials(0)[0].eeg
    while isinstance(base.base, np.ndarray):
        base = base.base
    assert isinstance(base, np.memmap)


@pytest.mark.parametrize(
    ("form", "changes", "message"),
    [
        ("plain", {"ch_names": [*USUAL_CHANNELS, "stim"]}, "6 channel names for 5 channels"),
        ("plain", {"ch_names": [1, 2, 3, 4, 5]}, "'ch_names' must be a list of names"),
        ("plain", {"ch_names": "P7"}, "'ch_names' must be a list of names"),
        ("plain", {"times": np.arange(200) / 250}, "200 times for 250 samples"),
        ("plain", {"preprocessed_eeg_data": EEG[0]}, r"the EEG is float64 \[4, 5, 250\]"),
        ("plain", {"preprocessed_eeg_data": EEG.astype("U3")}, "expected numbers"),
        ("plain", {"preprocessed_eeg_data": EEG.tolist()}, "holds list where an array is expected"),
        ("pt", {"session": np.zeros((12, 3))}, "'session' must be a whole number for each"),
        ("pt", {"session": np.full((12, 4), 0.5)}, "'session' must be a whole number for each"),
        ("pt", {"img": np.arange(12)}, "'img' is int64"),
        ("pt", {"img": np.array([["a/b", "c/d", "a/b", "a/b"]] * 12)}, "the repetitions of image 0 have several names"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, form: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        written(tmp_path, form, **changes).open(1, "train")


@pytest.mark.parametrize("form", ["authors", "plain", "pt"])
def test_a_bomb_does_not_go_off(tmp_path: Path, form: str) -> None:
    witness = tmp_path / "witness"
    with pytest.raises(UserError, match=r"asks for posix\.system"):
        written(tmp_path, form, more=Bomb(witness)).open(1, "train")
    assert not witness.exists()


def test_neurobridge_without_names_is_refused(tmp_path: Path) -> None:
    form = written(tmp_path, "neurobridge")
    (tmp_path / "info.json").write_text("[]")
    with pytest.raises(UserError, match=r"info\.json holds list"):
        form.open(1, "train")
    (tmp_path / "info.json").write_text("{")
    with pytest.raises(UserError, match=r"info\.json is not JSON"):
        form.open(1, "train")
    (tmp_path / "info.json").write_text('{"times": []}')
    with pytest.raises(UserError, match="'ch_names' stands neither in it nor in"):
        form.open(1, "train")
    (tmp_path / "info.json").unlink()
    with pytest.raises(UserError, match=r"cannot read .*info\.json"):
        form.open(1, "train")
