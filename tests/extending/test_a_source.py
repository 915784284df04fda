"""The source of docs/how-to/extending.md, installed from outside: listed, described, ingested, verified."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from source_files import write_image
from stored_eeg import assert_as_stored

from neuroimagen.data_shards.dataset.dataset import Dataset

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "extending.md"


def commands() -> list[list[str]]:
    """The words of each command in the section's shell block, without `neuroimagen`."""
    block = re.search(r"^## A source\n.*?^```shell\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    assert block
    return [shlex.split(line)[1:] for line in block[1].replace("\\\n", " ").splitlines()]


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[int, np.ndarray]:
    """Subjects 1 and 3 see 20 images of two classes; returns their EEG. The images alternate between the classes."""
    rng = np.random.default_rng(0)
    names = [f"{number:02d}.jpg" for number in range(20)]
    for number, name in enumerate(names):
        write_image(tmp_path / "lab" / "images" / name, number)
    eeg = {subject: rng.standard_normal((20, 4, 50)) * 20 + subject for subject in (1, 3)}
    for subject, recorded in eeg.items():
        categories = np.array(["dog", "cat"] * 10)
        path = tmp_path / "lab" / f"subject-{subject}.npz"
        np.savez(path, eeg=recorded, image=np.array(names), category=categories)
    monkeypatch.chdir(tmp_path)
    return eeg


def test_the_source_of_the_page_is_one_of_ours(
    outside_package: Callable[[str], Any], lab: dict[int, np.ndarray], tmp_path: Path
) -> None:
    installed = outside_package("A source")
    listing = installed.run("data", "ingest", "--help").stdout
    assert re.search(r"\n    arrays .*\n    lab +one \.npz file per subject, as our lab keeps them\n", listing)

    help_command, ingest_command, verify_command = commands()
    printed = installed.run(*help_command).stdout
    assert "--recordings DIR" in printed
    assert "--standardise" in printed
    assert "\n  neuroimagen data ingest lab --recordings lab" in printed

    assert "data set: data/lab" in installed.run(*ingest_command).stdout
    assert "every byte is as written" in installed.run(*verify_command).stdout
    dataset = Dataset.open(tmp_path / "data" / "lab")
    index, metadata = dataset.index, dataset.metadata
    assert [item.name for item in metadata.classes] == ["cat", "dog"]
    assert metadata.split_counts == {"train": 32, "val": 4, "test": 4}
    assert index.subject.tolist() == [1] * 20 + [3] * 20
    assert index.label.tolist() == [1, 0] * 20
    assert [dataset.stimuli.keys[stimulus] for stimulus in index.stimulus[:20]] == [f"{n:02d}" for n in range(20)]
    assert set(metadata.provenance["files"]) == {"subject-1.npz", "subject-3.npz"}

    recorded = np.concatenate([lab[1], lab[3]])
    train = recorded[dataset.rows("train")].astype(np.float32).transpose(1, 0, 2).reshape(4, -1)
    mean, std = train.mean(axis=1, dtype=np.float64), train.std(axis=1, dtype=np.float64)
    np.testing.assert_allclose(metadata.preprocessing["channel_mean"], mean, rtol=1e-5)
    for row in range(40):
        assert_as_stored(dataset.eeg(row), (recorded[row] - mean[:, None]) / std[:, None], roundings=2)


def test_its_mistakes_are_the_users_in_one_line(
    outside_package: Callable[[str], Any], lab: dict[int, np.ndarray], tmp_path: Path
) -> None:
    installed = outside_package("A source")
    (tmp_path / "lab" / "images" / "07.jpg").unlink()
    done = installed.run(*commands()[1], check=False)
    assert done.returncode == 1
    assert done.stderr == "neuroimagen data: 1 of 20 images can't be stored: 07.jpg (missing).\n"
    assert not (tmp_path / "data").exists()


def test_a_source_that_fails_to_import_harms_no_other(outside_package: Callable[[str], Any], tmp_path: Path) -> None:
    installed = outside_package("A source")
    (installed.site / "lab_tools" / "source.py").write_text("import no_such_module\n")
    listing = " ".join(installed.run("data", "ingest", "--help").stdout.split())
    assert "lab not available: the source 'lab' of the package lab-tools cannot be imported: ModuleNotFound" in listing
    assert "--table" in installed.run("data", "ingest", "arrays", "--help").stdout
    done = installed.run("data", "ingest", "lab", "--help", check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("neuroimagen data: the source 'lab' of the package lab-tools cannot be imported")
    assert done.stderr.count("\n") == 1
