"""`neuroimagen recipe`."""

import re
from pathlib import Path

import pytest
import simulated_run

from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.launch.cli import main
from neuroimagen.launch.suggested_recipe import model_argument, read_facts
from neuroimagen.trainer.recipe.recipe import load_recipe


def test_the_command_writes_a_recipe_and_says_what_to_run(
    tmp_path: Path, tiny_diffusion_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    simulated_run.write_dataset(tmp_path / "data")
    out = tmp_path / "own.yaml"
    words = ["recipe", "--data", str(tmp_path / "data"), "--model", str(tiny_diffusion_folder), "--out", str(out)]
    assert main(words) == 0
    printed = capsys.readouterr().out
    recipe = load_recipe(out)
    assert (recipe.data.n_channels, recipe.data.n_samples) == (8, 60)
    assert recipe.model.path == str(tiny_diffusion_folder)
    facts = read_facts(Dataset.open(tmp_path / "data"), model_argument(str(tiny_diffusion_folder))[1])
    assert recipe.model.text_shape == tuple(facts.sizes["text_shape"])
    assert facts.train_class_sizes == (6,) * 6
    (training,) = re.findall(r"^  neuroimagen train (.+)$", printed, re.MULTILINE)
    names, rest = training.split(" --config ")
    assert {"contrastive", "saliency", "semantic"} <= set(names.split()), printed
    assert rest == f"{out} --run runs/first"
    assert main(words) == 1  # never over a recipe that is there
    assert "exists" in capsys.readouterr().err
