"""Recipes with published encoders: real shapes, and the parameter counts that the docs state."""

import re
from pathlib import Path

import pytest

from neuroimagen.launch import commands
from neuroimagen.launch.cli import main
from neuroimagen.trainer.recipe.recipe import difference, load_recipe

ROOT = Path(commands.__file__).resolve().parents[2]
RECIPES = ROOT / "launch" / "recipes"

# LSTM: 4 gates of 128 units with weights for 128 inputs and 128 states and torch's two biases; a layer of 128 × 128.
LSTM_PARAMETERS = 4 * 128 * (128 + 128 + 2) + 128 * 129
# NICE: 40 filters of 25; two norms; 40 × 40 filters over 128 electrodes; their mix; 74 means to 768; residual; norm.
NICE_PARAMETERS = 40 * 26 + 4 * 40 + 40 * (40 * 128 + 1) + 40 * 41 + 768 * (40 * 74 + 1) + 768 * 769 + 2 * 768


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("encoder-lstm-brain2image", LSTM_PARAMETERS), ("encoder-nice-conv", NICE_PARAMETERS)],
)
def test_a_published_encoder_at_the_real_size(name: str, parameters: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "contrastive", "--config", str(RECIPES / f"{name}.yaml"), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "128 channels × 440 samples, 40 classes" in printed
    assert f"encoder: {parameters:,} parameters" in printed
    page = (ROOT / "docs" / "reference" / "evaluation.md").read_text(encoding="utf-8")
    line = next(line for line in page.splitlines() if f"`{name}.yaml`" in line and line.startswith("|"))
    assert f"{parameters:,}" in line


@pytest.mark.parametrize("name", ["encoder-lstm-brain2image", "encoder-nice-conv"])
def test_nothing_but_the_encoder_differs_from_the_eegcvpr40_recipe(name: str) -> None:
    changes = difference(load_recipe(RECIPES / "eegcvpr40-sd15.yaml"), load_recipe(RECIPES / f"{name}.yaml"))
    assert changes
    assert all(re.match(r"encoder\.", change) for change in changes), changes
