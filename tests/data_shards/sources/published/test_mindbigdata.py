"""MindBigData ImageNet: one file a trial."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from source_files import write_image

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.sources.ingest import ingest
from neuroimagen.data_shards.sources.published.mindbigdata import MindBigDataOptions, MindBigDataSource

CHANNELS = ["AF3", "AF4", "T7", "T8", "Pz"]
WNIDS = ["n02389026", "n00007846"]


def write_trial(folder: Path, name: str, eeg: np.ndarray, channels: list[str] = CHANNELS) -> None:
    lines = [f"{name_},{','.join(map(str, row))}" for name_, row in zip(channels, eeg.tolist(), strict=True)]
    (folder / "eeg" / f"MindBigData_Imagenet_Insight_{name}.csv").write_text("\n".join(lines) + "\n")


def written(folder: Path) -> Path:
    (folder / "eeg").mkdir()
    rng = np.random.default_rng(0)
    for number in range(24):
        wnid, image = WNIDS[number % 2], 100 + number // 2 // 2
        order = CHANNELS if number % 3 else CHANNELS[::-1]
        eeg = rng.standard_normal((5, 360 + number)).round(3)
        write_trial(folder, f"{wnid}_{image}_{1 + number // 8}_{number}", eeg, order)
        write_image(folder / "images" / wnid / f"{wnid}_{image}.JPEG", number)
    write_trial(folder, f"{WNIDS[0]}_100_1_90", rng.standard_normal((5, 200)))
    write_trial(folder, f"{WNIDS[0]}_100_1_91", rng.standard_normal((4, 400)), CHANNELS[:4])
    (folder / "names.json").write_text(json.dumps({"n00007846": "person"}))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return written(tmp_path)


def source(folder: Path, **changes: Any) -> MindBigDataSource:
    given = {"eeg": folder / "eeg", "images": folder / "images", "class_names": folder / "names.json", **changes}
    return MindBigDataSource(MindBigDataOptions(**given))


def test_the_files_become_a_data_set(folder: Path) -> None:
    made = source(folder)
    dataset = ingest(made, folder / "out")
    assert (len(dataset), dataset.metadata.n_samples, dataset.metadata.sfreq) == (24, 352, 128.0)
    # The first trial names the channels backwards; all others are put into its order.
    assert dataset.metadata.channel_names == tuple(CHANNELS[::-1])
    assert any("1 of 26 trials left out: they end before sample 352" in note for note in made.notes)
    assert any("1 of 26 trials left out: other channels" in note for note in made.notes)
    for record in made.segments():
        path = next((folder / "eeg").glob(f"*_{record.session}_{record.order}.csv"))
        lines = dict(line.split(",", 1) for line in path.read_text().splitlines())
        for channel, row in zip(CHANNELS[::-1], record.eeg, strict=True):
            np.testing.assert_allclose(row, np.array(lines[channel].split(","), dtype=float)[:352], rtol=1e-6)
        assert record.stimulus in path.name
    sessions = {(r.session, r.split) for r in source(folder, split="by-session").segments()}
    assert sessions == {("1", "train"), ("2", "val"), ("3", "test")}


def test_what_is_wrong_is_named(folder: Path) -> None:
    with pytest.raises(UserError, match="1 classes have no known name, the first is n00007846"):
        source(folder, class_names=None)
    with pytest.raises(UserError, match="no trial is left"):
        source(folder, window=(0, 900))
    with pytest.raises(UserError, match="holds no files MindBigData"):
        source(folder, eeg=folder / "images")
    (folder / "eeg" / f"MindBigData_Imagenet_Insight_{WNIDS[0]}_100_1_92.csv").write_text("AF3,1,two\n")
    with pytest.raises(UserError, match=r"1_92\.csv is not of the form"):
        source(folder)
