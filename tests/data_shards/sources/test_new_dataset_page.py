"""The worked example of docs/new-dataset.md does what the page says."""

import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.dataset.verify import verify

PAGE = Path(__file__).parents[3] / "docs" / "new-dataset.md"


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "lab" / "images").mkdir(parents=True)
    names = [f"{number:02d}.jpg" for number in range(20)]
    for name in names:
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(buffer, "JPEG")
        (tmp_path / "lab" / "images" / name).write_bytes(buffer.getvalue())
    for subject in (1, 2):
        np.savez(
            tmp_path / "lab" / f"subject-{subject}.npz",
            eeg=rng.standard_normal((20, 64, 250)) * 20,
            image=np.array(names),
            category=np.array(["cat", "dog"] * 10),
        )
    code = re.search(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert code is not None
    monkeypatch.chdir(tmp_path)
    exec(compile(code[1], str(PAGE), "exec"), {"__name__": "example"})
    dataset = Dataset.open(tmp_path / "data" / "lab")
    assert dataset.metadata.split_counts == {"train": 32, "val": 4, "test": 4}
    train = np.stack([dataset.eeg(row) for row in dataset.rows("train")])
    assert train.std() == pytest.approx(1, abs=1e-2)
    assert list(verify(tmp_path / "data" / "lab")) == []
