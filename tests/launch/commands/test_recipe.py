"""`neuroimagen recipe`."""

import re
from pathlib import Path

import pytest
import simulated_run

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.launch.cli import main
from neuroimagen.launch.commands.recipe import recipe_named
from neuroimagen.trainer.recipe.recipe import load_recipe
from neuroimagen.trainer.recipe.suggestion.facts import model_argument, read_facts


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


def test_a_recipe_to_be_like_is_a_file_or_one_that_ships(tmp_path: Path) -> None:
    assert recipe_named("things-eeg2-nice").name == "things-eeg2-nice.yaml"
    assert recipe_named("eegcvpr40-sd15.yaml").is_file()
    assert recipe_named("THINGS").name == "things-eeg2-atm.yaml"  # the first that begins so
    own = tmp_path / "own.yaml"
    own.write_text("seed: 1\n")
    assert recipe_named(str(own)) == own
    with pytest.raises(UserError, match="Did you mean things-eeg2-nice"):
        recipe_named("thing-eeg2-nise")
    with pytest.raises(UserError) as refused:
        recipe_named("tune-margin")  # the file of a search, not a recipe
    assert "tune-" not in str(refused.value).partition("There are")[2]
