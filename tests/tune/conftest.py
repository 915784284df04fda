"""A search that takes seconds: a stand-in for the training command, and a study that is too small to train on."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

FAKE_TRAIN = Path(__file__).with_name("fake_train.py")
RECIPE = """
seed: 3
data: {{path: "{data}"}}
contrastive:
  {{num_classes: 12, num_samples: 4, steps: 27, validate_every: 3, checkpoint_every: 9, weight_decay: {wait}}}
"""


@pytest.fixture
def margin_search(tmp_path: Path, tiny_dataset_folder: Path) -> Callable[..., Path]:
    """margin_search(space, wait=0.0, **keys) → the file of a search whose trials run tests/tune/fake_train.py."""

    def make(space: str, *, wait: float = 0.0, **keys: object) -> Path:
        (tmp_path / "recipe.yaml").write_text(RECIPE.format(data=tiny_dataset_folder, wait=wait))
        launcher = f'launcher: ["{sys.executable}", "{FAKE_TRAIN}"]'
        lines = ["recipe: recipe.yaml", launcher, *(f"{key}: {value}" for key, value in keys.items()), "space:", space]
        path = tmp_path / "search.yaml"
        path.write_text("\n".join(lines))
        return path

    return make
