"""Reading .pth files: nothing in them runs; whatever is wrong is one line."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from source_files import Bomb

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.sources.readers.pth import load_pth


@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_and_containers_load(tmp_path: Path, zipped: bool) -> None:
    content = {"dataset": [{"eeg": torch.arange(6).reshape(2, 3), "label": 3}], "labels": ["n1"]}
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    loaded = load_pth(tmp_path / "a.pth")
    assert torch.equal(loaded["dataset"][0]["eeg"], content["dataset"][0]["eeg"])
    assert loaded["labels"] == ["n1"]


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_would_run_code_is_refused_by_name(tmp_path: Path, zipped: bool) -> None:
    path, witness = tmp_path / "bomb.pth", tmp_path / "witness"
    torch.save({"dataset": [Bomb(witness)]}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=r"bomb\.pth is refused: its pickle asks for posix\.system"):
        load_pth(path)
    path.write_bytes(pickle.dumps(Bomb(witness)))
    with pytest.raises(UserError, match="not a complete file"):
        load_pth(path)
    assert not witness.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_truncated_files_are_named_wherever_they_end(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "cut.pth"
    torch.save({"dataset": [torch.ones(4, 50)]}, path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    for length in [0, 1, 3, 4, 10, *range(20, len(whole), 97), len(whole) - 1]:
        path.write_bytes(whole[:length])
        # Cut within a name, the file asks for a class that does not exist, and that is refused.
        with pytest.raises(
            UserError, match=r"cut\.pth (.*not a complete file of torch\.save|is refused: .*OrderedDi?c? ?)"
        ):
            load_pth(path)


def test_missing_files_folders_and_text_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.pth: No such file"):
        load_pth(tmp_path / "none.pth")
    with pytest.raises(UserError, match="it is a folder, not a file"):
        load_pth(tmp_path)
    (tmp_path / "text.pth").write_text("<html>404 not found</html>")
    with pytest.raises(UserError, match="not a complete file"):
        load_pth(tmp_path / "text.pth")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_builtin_that_would_run_code_is_refused_by_name(tmp_path: Path, zipped: bool) -> None:
    class Eval:
        def __reduce__(self) -> tuple:
            return eval, ("1 + 1",)

    torch.save({"dataset": [Eval()]}, tmp_path / "bomb.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=r"bomb\.pth is refused: its pickle asks for (builtins\.)?eval, and loading"):
        load_pth(tmp_path / "bomb.pth")


def test_what_is_no_pth_at_all_is_said_in_words(tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_text("hello")
    with pytest.raises(UserError, match=r"not a complete file of torch\.save: it does not begin like one\. "):
        load_pth(tmp_path / "a.pth")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_numpy_arrays_are_read_whatever_the_protocol(tmp_path: Path, protocol: int) -> None:
    """PyTorch's own restricted unpickler knows no arrays without help, and no instruction of protocols 4 and 5."""
    content = {
        "eeg": np.random.default_rng(0).standard_normal((30, 4, 20, 250)).astype(np.float16),
        "img": np.array(["train_images/00001_aardvark/aardvark_01b.jpg"]),
        "label": np.arange(3),
        "ch_names": ["Pz"],
    }
    torch.save(content, tmp_path / "train.pt", pickle_protocol=protocol)
    loaded = load_pth(tmp_path / "train.pt")
    assert loaded["ch_names"] == ["Pz"]
    assert isinstance(loaded["eeg"], np.memmap) == (protocol > 2)
    for name in ("eeg", "img", "label"):
        assert loaded[name].dtype == content[name].dtype
        np.testing.assert_array_equal(loaded[name], content[name])


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_bomb_among_arrays_does_not_go_off(tmp_path: Path, protocol: int) -> None:
    witness = tmp_path / "witness"
    torch.save({"eeg": np.zeros(3), "more": Bomb(witness)}, tmp_path / "train.pt", pickle_protocol=protocol)
    with pytest.raises(UserError, match=r"asks for posix\.system, and loading it would run code"):
        load_pth(tmp_path / "train.pt")
    assert not witness.exists()


def test_tensors_of_a_later_protocol_are_refused_with_the_remedy(tmp_path: Path) -> None:
    torch.save({"eeg": torch.zeros(3)}, tmp_path / "train.pt", pickle_protocol=5)
    with pytest.raises(UserError, match=r"holds tensors in pickle protocol 5.*save it again"):
        load_pth(tmp_path / "train.pt")
