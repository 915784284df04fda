"""The suggested recipe: what it trains for which data, and that it is a recipe."""

import dataclasses
from pathlib import Path

import pytest
import yaml
from recipe_facts import FACTS

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.launch.commands.recipe import RECIPES
from neuroimagen.trainer.recipe.recipe import load_recipe
from neuroimagen.trainer.recipe.suggestion.facts import Facts
from neuroimagen.trainer.recipe.suggestion.suggest import suggest

NAMES = {"data": "data/own set", "model": "models/sd15", "recipe": "own.yaml", "run": "runs/own"}


def stages(facts: Facts, like: Path | None = None) -> list[str]:
    """The stages that are suggested, in one command."""
    commands = suggest(facts, **NAMES, like=like).commands
    (training,) = (command for command in commands if command.startswith("neuroimagen train "))
    return training.removeprefix("neuroimagen train ").split(" --config ")[0].split()


def test_stages_are_those_that_the_data_and_the_model_allow() -> None:
    drawing = ["contrastive", "saliency", "semantic", "semantic_detailed"]
    assert stages(FACTS) == [*drawing, "alignment"]
    assert stages(dataclasses.replace(FACTS, num_train=300)) == ["classifier", *drawing, "alignment"]
    assert stages(dataclasses.replace(FACTS, takes_image=True)) == [*drawing, "alignment", "prior"]
    zero_shot = dataclasses.replace(FACTS, takes_image=True, tests_seen_classes=False)
    assert stages(zero_shot) == ["alignment", "prior"]
    assert any(command.startswith("neuroimagen reconstruct") for command in suggest(zero_shot, **NAMES).commands)
    assert stages(dataclasses.replace(FACTS, kinds=("vae", "text-class"))) == drawing[:3]
    assert stages(dataclasses.replace(FACTS, tests_seen_classes=False)) == ["alignment"]  # a zero-shot split
    assert stages(dataclasses.replace(FACTS, train_class_sizes=(1,) * 40)) == ["alignment"]
    assert stages(dataclasses.replace(FACTS, kinds=("image",))) == ["contrastive", "alignment"]
    notes = suggest(dataclasses.replace(FACTS, kinds=("vae", "text-class"), tests_seen_classes=True), **NAMES).notes
    assert any("--towers image=FOLDER" in note for note in notes)
    with pytest.raises(UserError, match="no stage can be trained"):
        suggest(dataclasses.replace(FACTS, kinds=(), train_class_sizes=(1,) * 40), **NAMES)


def test_a_command_quotes_its_paths() -> None:
    assert suggest(FACTS, **NAMES).commands[0] == "neuroimagen cache --data 'data/own set' --model models/sd15"


def test_like_keeps_a_recipes_encoder_and_stages_with_other_sizes(tmp_path: Path) -> None:
    facts = dataclasses.replace(FACTS, embedding_sizes={"image": 64}, num_train=600)
    for name, stage in (("things-eeg2-nice", "alignment"), ("eegcvpr40-sd15", "contrastive")):
        like = RECIPES / f"{name}.yaml"
        (tmp_path / "own.yaml").write_text(suggest(facts, **NAMES, like=like).text)
        recipe = load_recipe(tmp_path / "own.yaml")
        assert recipe.data.n_channels == 63
        assert recipe.data.path == "data/own set"
        assert recipe.data.subjects is None
        assert stage in stages(facts, like)
    nice = yaml.safe_load(suggest(facts, **NAMES, like=RECIPES / "things-eeg2-nice.yaml").text)
    assert nice["encoder"]["kind"] == "nice"
    assert nice["encoder"]["feature_size"] == 64  # without a head the features are the embedding
    assert nice["alignment"]["batch_size"] <= 600
