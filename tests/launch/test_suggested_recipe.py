"""The suggested recipe: what it trains for which data, and that it is a recipe."""

import dataclasses
from pathlib import Path

import pytest
import yaml

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.launch.suggested_recipe import Facts, suggest
from neuroimagen.trainer.recipe.recipe import load_recipe

FACTS = Facts(
    n_channels=63,
    n_samples=250,
    sfreq=250.0,
    num_classes=40,
    num_train=8000,
    num_train_stimuli=1600,
    train_class_sizes=(200,) * 40,
    tests_seen_classes=True,
    kinds=("vae", "text-class", "text-detailed", "image"),
    embedding_sizes={"image": 768},
    sizes={"latent_shape": [4, 64, 64], "text_shape": [77, 768]},
)
NAMES = {"data": "data/own set", "model": "models/sd15", "recipe": "own.yaml", "run": "runs/own"}


def stages(facts: Facts, like: str | None = None) -> list[str]:
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


@pytest.mark.parametrize("num_train", [20, 300, 8000, 1_000_000])
@pytest.mark.parametrize("sfreq", [50.0, 250.0, 2048.0])
def test_numbers_fit_the_data(num_train: int, sfreq: float, tmp_path: Path) -> None:
    facts = dataclasses.replace(
        FACTS, num_train=num_train, sfreq=sfreq, train_class_sizes=(max(2, num_train // 10),) * 10
    )
    (tmp_path / "own.yaml").write_text(suggest(facts, **NAMES).text)
    recipe = load_recipe(tmp_path / "own.yaml")  # every value is one that the recipe accepts
    contrastive = recipe.stages["contrastive"]
    assert contrastive.num_classes <= 10
    for name in ("saliency", "semantic", "alignment"):
        stage = recipe.stages[name]
        assert stage.batch_size <= max(8, num_train // 4)
        augment, _ = stage.augment.sized(sfreq=sfreq, n_samples=facts.n_samples)
        assert augment.shift_samples <= min(facts.n_samples // 50, 12 * sfreq / 1000 + 1)
        assert stage.steps % stage.validate_every == 0
        assert 200 <= stage.steps <= 20_000


def test_few_segments_get_a_linear_encoder_and_a_cross_validation(tmp_path: Path) -> None:
    facts = dataclasses.replace(FACTS, num_classes=2, num_train=300, train_class_sizes=(200, 100), n_samples=50)
    (tmp_path / "own.yaml").write_text(suggest(facts, **NAMES).text)
    recipe = load_recipe(tmp_path / "own.yaml")
    assert recipe.encoder.kind == "linear"
    classifier, contrastive = recipe.stages["classifier"], recipe.stages["contrastive"]
    assert classifier.ensemble.folds == 5
    assert set(classifier.ensemble.encoders) == {"linear", "tangent", "eegnet"}
    assert classifier.batch_size <= 300 * 4 // 5  # a fold's training segments fill a batch
    assert (contrastive.num_classes, contrastive.num_samples, contrastive.select) == (2, 32, "last")
    tiny = dataclasses.replace(facts, num_train=6, train_class_sizes=(3, 3))
    (tmp_path / "tiny.yaml").write_text(suggest(tiny, **NAMES).text)
    assert load_recipe(tmp_path / "tiny.yaml").stages["classifier"].ensemble.folds == 3


def test_filters_are_given_in_ms_at_low_rates_alone(tmp_path: Path) -> None:
    for sfreq, kernel_ms in ((100.0, 68.0), (1000.0, None)):
        (tmp_path / f"{sfreq}.yaml").write_text(suggest(dataclasses.replace(FACTS, sfreq=sfreq), **NAMES).text)
        encoder = load_recipe(tmp_path / f"{sfreq}.yaml").encoder
        assert (encoder.kind, encoder.kernel_ms) == ("temporal_spatial", kernel_ms)


def test_a_command_quotes_its_paths() -> None:
    assert suggest(FACTS, **NAMES).commands[0] == "neuroimagen cache --data 'data/own set' --model models/sd15"


def test_like_keeps_a_recipes_encoder_and_stages_with_other_sizes(tmp_path: Path) -> None:
    facts = dataclasses.replace(FACTS, embedding_sizes={"image": 64}, num_train=600)
    for like, stage in (("things-eeg2-nice", "alignment"), ("THINGS", "alignment"), ("eegcvpr40-sd15", "contrastive")):
        (tmp_path / "own.yaml").write_text(suggest(facts, **NAMES, like=like).text)
        recipe = load_recipe(tmp_path / "own.yaml")
        assert recipe.data.n_channels == 63
        assert recipe.data.path == "data/own set"
        assert recipe.data.subjects is None
        assert stage in stages(facts, like)
    nice = yaml.safe_load(suggest(facts, **NAMES, like="things-eeg2-nice").text)
    assert nice["encoder"]["kind"] == "nice"
    assert nice["encoder"]["feature_size"] == 64  # without a head the features are the embedding
    assert nice["alignment"]["batch_size"] <= 600
    with pytest.raises(UserError, match="Did you mean things-eeg2-nice"):
        suggest(FACTS, **NAMES, like="thing-eeg2-nise")
