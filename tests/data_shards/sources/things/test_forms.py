"""The form of the files is found from them."""

from pathlib import Path

import numpy as np
import pytest
from things_files import write_dictionary, write_neurobridge, write_pt, write_raw

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.sources.things.forms import find_form, find_subjects
from neuroimagen.data_shards.sources.things.preprocessed import DictionaryForm, NeuroBridgeForm, WhitenedForm
from neuroimagen.data_shards.sources.things.raw import RawForm

EEG = np.random.default_rng(0).standard_normal((12, 4, 5, 250))


def test_each_form_is_known_by_its_files(tmp_path: Path) -> None:
    write_dictionary(tmp_path / "a", 1, "train", EEG, plain=True)
    write_pt(tmp_path / "b", 1, "train", EEG, np.zeros((12, 4)))
    write_neurobridge(tmp_path / "c", 1, "train", EEG)
    write_raw(tmp_path / "d", (1,))
    for name, kind in (("a", DictionaryForm), ("b", WhitenedForm), ("c", NeuroBridgeForm), ("d", RawForm)):
        assert find_subjects(tmp_path / name) == [1]
        assert type(find_form(tmp_path / name, [1], whitening=None)) is kind
    with pytest.raises(UserError, match="--whitening is for raw recordings"):
        find_form(tmp_path / "a", [1], whitening="none")


def test_no_form_and_several_forms_are_refused(tmp_path: Path) -> None:
    root = tmp_path / "eeg"
    with pytest.raises(UserError, match="holds no sub-01"):
        find_subjects(tmp_path)
    (root / "sub-01").mkdir(parents=True)
    with pytest.raises(UserError, match=f"Give the folder above it: {root}"):
        find_subjects(root / "sub-01")
    with pytest.raises(UserError, match=f"Did you mean {root}"):
        find_subjects(tmp_path)
    with pytest.raises(UserError, match="holds no files of a known form"):
        find_form(root, [1], whitening=None)
    write_dictionary(root, 1, "train", EEG, plain=False)
    write_pt(root, 2, "train", EEG, np.zeros((12, 4)))
    with pytest.raises(UserError, match=r"of several forms: .*train\.pt and test\.pt \(sub-02\)"):
        find_form(root, [1, 2], whitening=None)
    assert type(find_form(root, [1], whitening=None)) is DictionaryForm
