"""The Python of docs/how-to/python.md and of README.md runs as it stands, on a small run."""

import re
import shutil
from pathlib import Path

import mne
import numpy as np
import pytest
import yaml
from PIL import Image

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def study(trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with runs/first, data/first and new-epo.fif: what the pages name."""
    shutil.copytree(trained.run, tmp_path / "runs" / "first")
    shutil.copytree(trained.data, tmp_path / "data" / "first")
    config = tmp_path / "runs" / "first" / "config.yaml"
    recipe = yaml.safe_load(config.read_text())
    recipe["data"]["path"] = "data/first"
    config.write_text(yaml.safe_dump(recipe))
    noise = np.random.default_rng(0).standard_normal((2, 6, 50)) * 1e-5
    info = mne.create_info(list(trained.dataset.metadata.channel_names or ()), 100.0, "eeg")
    epochs = mne.EpochsArray(noise, info, tmin=-0.1, baseline=None, verbose="ERROR")
    epochs.save(tmp_path / "new-epo.fif", verbose="ERROR")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", ["README.md", "docs/how-to/python.md"])
def test_the_examples_run(page: str, study: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert blocks
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, page, "exec"), names)
    assert Image.open(study / "seen.png").size == (32, 32)
    if page != "README.md":
        assert len(names["result"].images) == 4  # type: ignore[attr-defined]
        assert (study / "saved" / "first" / "README.md").is_file()
