"""The numbers of the suggested sections: they fit the data, and the recipe accepts them."""

import dataclasses
from pathlib import Path

import pytest
import yaml
from recipe_facts import FACTS

from neuroimagen.trainer.recipe.recipe import Recipe, load_recipe
from neuroimagen.trainer.recipe.suggestion.facts import Facts
from neuroimagen.trainer.recipe.suggestion.sections import suggested_sections


def suggested(facts: Facts, folder: Path) -> Recipe:
    """The suggested sections as a recipe, whose every value is checked."""
    sections, _ = suggested_sections(facts)
    path = folder / "own.yaml"
    path.write_text(yaml.safe_dump({name: values for name, (_, values) in sections.items()}), encoding="utf-8")
    return load_recipe(path)


@pytest.mark.parametrize("num_train", [20, 300, 8000, 1_000_000])
@pytest.mark.parametrize("sfreq", [50.0, 250.0, 2048.0])
def test_numbers_fit_the_data(num_train: int, sfreq: float, tmp_path: Path) -> None:
    facts = dataclasses.replace(
        FACTS, num_train=num_train, sfreq=sfreq, train_class_sizes=(max(2, num_train // 10),) * 10
    )
    recipe = suggested(facts, tmp_path)
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
    recipe = suggested(facts, tmp_path)
    assert recipe.encoder.kind == "linear"
    classifier, contrastive = recipe.stages["classifier"], recipe.stages["contrastive"]
    assert classifier.ensemble.folds == 5
    assert set(classifier.ensemble.encoders) == {"linear", "tangent", "eegnet"}
    assert classifier.batch_size <= 300 * 4 // 5  # a fold's training segments fill a batch
    assert (contrastive.num_classes, contrastive.num_samples, contrastive.select) == (2, 32, "last")
    tiny = dataclasses.replace(facts, num_train=6, train_class_sizes=(3, 3))
    assert suggested(tiny, tmp_path).stages["classifier"].ensemble.folds == 3


def test_filters_are_given_in_ms_at_low_rates_alone(tmp_path: Path) -> None:
    for sfreq, kernel_ms in ((100.0, 68.0), (1000.0, None)):
        encoder = suggested(dataclasses.replace(FACTS, sfreq=sfreq), tmp_path).encoder
        assert (encoder.kind, encoder.kernel_ms) == ("temporal_spatial", kernel_ms)
