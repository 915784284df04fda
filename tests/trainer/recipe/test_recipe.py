"""Recipes: what is read, what is refused, and how the refusal reads."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.trainer.networks.encoders.registry import encoder_config
from neuroimagen.trainer.recipe import recipe as config
from neuroimagen.trainer.recipe.recipe import Recipe, all_recipe_keys, difference, dump_recipe, load_recipe

RECIPES = Path(config.__file__).resolve().parents[2] / "launch" / "recipes"


def _section(recipe: Recipe, dotted: str) -> Any:
    """The section of a recipe by its dotted name; None where the recipe's encoder has no such key."""
    found: Any = recipe
    for name in filter(None, dotted.split(".")):
        found = recipe.stages[name] if found is recipe and name in recipe.stages else getattr(found, name, None)
    return found


def _value(recipe: Recipe, section: str, name: str) -> Any:
    return getattr(_section(recipe, section), name, None)


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    path = tmp_path / "r.yaml"
    path.write_text("seed: 3\ncontrastive:\n  learning_rate: 1e-3\n  margin: 0.5\nsemantic:\n", encoding="utf-8")
    return path


def test_values_come_from_file_then_overrides(recipe_file: Path) -> None:
    recipe = load_recipe(recipe_file, ["contrastive.margin=0.25", "data.subjects=[1, 2]", "semantic.ema_decay=0.9"])
    assert recipe.seed == 3
    assert recipe.stages["contrastive"].learning_rate == 1e-3  # YAML 1.1 reads 1e-3 as text
    assert recipe.stages["contrastive"].margin == 0.25
    assert recipe.data.subjects == (1, 2)
    assert recipe.stages["semantic"].ema_decay == 0.9
    assert recipe.stages["semantic_detailed"].target == "text-detailed"


def test_a_dumped_recipe_is_read_back_equal(recipe_file: Path, tmp_path: Path) -> None:
    recipe = load_recipe(recipe_file)
    copy = tmp_path / "copy.yaml"
    copy.write_text(dump_recipe(recipe), encoding="utf-8")
    assert load_recipe(copy) == recipe
    assert difference(recipe, load_recipe(copy, ["contrastive.margin=1"])) == ["contrastive.margin (0.5 → 1.0)"]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("contrastive.margn=1", ["unknown key 'contrastive.margn'", "did you mean 'contrastive.margin'?"]),
        ("margin=1", ["unknown key 'margin'", "did you mean 'contrastive.margin'?"]),
        ("wholly.unknown=1", ["unknown key 'wholly'", "the keys there are seed, data, model, encoder"]),
        ("saliency.augment.shift=3", ["did you mean 'saliency.augment.shift_ms'?"]),
        ("contrastive.margin=abc", ["contrastive.margin is 'abc'", "expected a number"]),
        ("contrastive.steps=1.5", ["contrastive.steps is 1.5", "expected a whole number"]),
        ("contrastive.zero_stage=7", ["contrastive.zero_stage is 7", "one of 0, 1, 2"]),
        ("data.subjects=[a]", ["data.subjects is 'a'", "a list, each a whole number or null"]),
        ("model.text_shape=[77]", ["a list of 2, each a whole number or null"]),
        ("contrastive=3", ["contrastive is a section"]),
        ("contrastive.margin=-1", ["margin must not be negative, got -1"]),
        ("encoder.dropout=1.5", ["encoder.dropout must lie in [0, 1), got 1.5"]),
        ("saliency.image_size_px=48", ["power of two"]),
        ("contrastive.margin", ["expected key=value"]),
        ("contrastive.margin.deep=1", ["contrastive.margin is a value, not a section"]),
    ],
)
def test_a_wrong_override_is_named(recipe_file: Path, override: str, words: list[str]) -> None:
    with pytest.raises(UserError) as refused:
        load_recipe(recipe_file, [override])
    message = str(refused.value)
    assert f"--set {override}" in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("contrastive:\n  margn: 1\n", ["r.yaml", "unknown key 'contrastive.margn'", "'contrastive.margin'"]),
        ("seed: x\n", ["r.yaml", "seed is 'x'", "a whole number"]),
        ("- 1\n", ["r.yaml", "list"]),
        ("a: [\n", ["r.yaml", "not YAML"]),
        ("seed: 1\ndata: {path: a}\nseed: 2\n", ["r.yaml", "'seed' is given twice", "line 3"]),
        ("semantic: {steps: 1, steps: 2}\n", ["r.yaml", "'steps' is given twice"]),
        ("space: {contrastive.margin: [1]}\n", ["r.yaml", "is a search", "neuroimagen tune"]),
        ("semantic: 4\n", ["r.yaml", "semantic is a section"]),
    ],
)
def test_a_wrong_file_is_named(recipe_file: Path, text: str, words: list[str]) -> None:
    recipe_file.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as refused:
        load_recipe(recipe_file)
    for word in words:
        assert word in str(refused.value)


def test_the_override_at_fault_is_named_not_another_of_its_section(recipe_file: Path) -> None:
    overrides = ["reconstruct.strength=1.6", "reconstruct.conditions=[full]"]
    with pytest.raises(UserError, match=r"^--set reconstruct\.strength=1\.6: reconstruct\.strength must lie in"):
        load_recipe(recipe_file, overrides)
    recipe_file.write_text("reconstruct: {strength: 1.6}\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"r\.yaml: reconstruct\.strength must lie in"):
        load_recipe(recipe_file, overrides[1:])
    with pytest.raises(UserError, match=r"^--set contrastive\.num_samples=1: .*num_classes and num_samples"):
        load_recipe(recipe_file, ["reconstruct.strength=1", "contrastive.num_samples=1", "contrastive.steps=9"])


def test_keys_of_earlier_versions_load_under_the_names_they_have_now(recipe_file: Path) -> None:
    recipe_file.write_text("reconstruct: {rows: [full]}\n", encoding="utf-8")
    assert load_recipe(recipe_file).reconstruct.conditions == ("full",)
    assert load_recipe(recipe_file, ["reconstruct.rows=[mean_image]"]).reconstruct.conditions == ("mean_image",)
    recipe_file.write_text("reconstruct: {conditions: null}\n", encoding="utf-8")
    assert load_recipe(recipe_file, ["reconstruct.rows=[mean_image]"]).reconstruct.conditions == ("mean_image",)
    with pytest.raises(UserError, match=r"--set reconstruct\.rows=\[mean\]: reconstruct\.conditions: there is no"):
        load_recipe(recipe_file, ["reconstruct.rows=[mean]"])
    recipe_file.write_text("reconstruct: {rows: [full], conditions: [full]}\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"reconstruct\.rows is the earlier name of reconstruct\.conditions"):
        load_recipe(recipe_file)
    assert "reconstruct.conditions" in all_recipe_keys()
    assert not any("RENAMED" in key for key in all_recipe_keys())


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no recipe .*absent\.yaml"):
        load_recipe(tmp_path / "absent.yaml")


@pytest.mark.parametrize(
    "path", sorted(set(RECIPES.glob("*.yaml")) - set(RECIPES.glob("tune-*.yaml"))), ids=lambda path: path.stem
)
def test_shipped_recipes_are_valid(path: Path) -> None:
    load_recipe(path)


def test_runs_of_earlier_versions_load(tmp_path: Path) -> None:
    """They name the bundled model `embedded`, and hold the settings of every kind of encoder."""
    flat = {
        **{"kind": "nice", "feature_size": 64, "spatial_filters": 40, "temporal_filters": 40, "kernel_samples": 25},
        **{"stride_samples": 5, "pool_samples": 51, "rectified": False, "token_samples": 4, "width": 128, "depth": 4},
        **{"heads": 4, "block_dropout": 0.1, "dropout": 0.5, "whiten": True, "subject_layers": False},
        "unknown_subject": "mean",
    }
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"model": {"path": "embedded"}, "encoder": flat}))
    before = load_recipe(path)
    assert before.encoder == encoder_config(
        "nice",
        **{"feature_size": 64, "spatial_filters": 40, "temporal_filters": 40, "kernel_samples": 25},
        **{"stride_samples": 5, "pool_samples": 51, "dropout": 0.5},
    )
    assert before.model.path == "bundled"
    path.write_text(dump_recipe(before))
    assert load_recipe(path) == before


def test_a_setting_belongs_to_its_kind_of_encoder(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("encoder: {feature_size: 64, temporal_filters: 32, kernel_samples: 9}\n")
    assert load_recipe(path).encoder == encoder_config(feature_size=64, temporal_filters=32, kernel_samples=9)
    # Another kind by an override takes what both have; what only the file's kind has is left out.
    assert load_recipe(path, ["encoder.kind=lstm"]).encoder == encoder_config("lstm", feature_size=64)
    assert load_recipe(path, ["encoder.kind=nice"]).encoder == encoder_config(
        "nice", feature_size=64, temporal_filters=32, kernel_samples=9
    )
    path.write_text("encoder: {kind: lstm, kernel_samples: 9}\n")
    with pytest.raises(
        UserError, match=r"'encoder\.kernel_samples'; it is a setting of encoder\.kind temporal_spatial"
    ):
        load_recipe(path)
    with pytest.raises(UserError, match=r"encoder\.kind: there is no encoder 'ltsm'\. Did you mean 'lstm'\?"):
        load_recipe(path, ["encoder.kind=ltsm"])


NUMBERS = sorted(
    key
    for key in all_recipe_keys()
    for section, name in [key.rpartition(".")[::2]]
    if isinstance(_value(Recipe(encoder=encoder_config("transformer")), section, name), float)
)
"""Dotted keys whose default is a number that may have a fraction."""


@pytest.mark.parametrize("key", NUMBERS)
def test_no_number_of_a_recipe_is_nan_infinite_or_true(key: str, recipe_file: Path) -> None:
    recipe_file.write_text("encoder: {kind: transformer}\n", encoding="utf-8")
    load_recipe(recipe_file)
    for text, words in ((".nan", "a finite number"), ("-.inf", "a finite number"), ("true", "a number")):
        with pytest.raises(UserError, match=rf"^--set {key}={text}: {key} is .*; expected {words}"):
            load_recipe(recipe_file, [f"{key}={text}"])


@pytest.mark.parametrize("key", NUMBERS)
def test_nor_of_a_section_that_is_made_in_python(key: str) -> None:
    section, name = key.rpartition(".")[::2]
    recipe = Recipe(encoder=encoder_config("transformer"))
    for number in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match=name):
            dataclasses.replace(_section(recipe, section), **{name: number})


def test_numbers_as_people_write_them(recipe_file: Path) -> None:
    recipe_file.write_text(
        "contrastive: {learning_rate: 1E-3, steps: 2e3, warmup_steps: 1_0, num_samples: 4.0, unit_norm: no}\n"
    )
    section = load_recipe(recipe_file).stages["contrastive"]
    assert (section.learning_rate, section.steps, section.warmup_steps) == (0.001, 2000, 10)
    assert (section.num_samples, section.unit_norm) == (4, False)
    assert {type(value) for value in (section.steps, section.num_samples)} == {int}


@pytest.mark.parametrize(
    "text",
    [
        *("steps: '5 '", "steps: true", "steps: 10.5", "steps: 1e-1", "steps: .inf", "num_samples: [4]"),
        *("unit_norm: 2", "unit_norm: 'yes'", "zero_stage: true", "margin: '0,5'", "margin: '1_0'"),
        *("adam_betas: [0.9]", "adam_betas: [1.5, 0.9]", "adam_betas: [true, 0.9]", "batch_size: 3"),
    ],
)
def test_what_is_no_such_value_is_refused(text: str, recipe_file: Path) -> None:
    recipe_file.write_text(f"contrastive: {{{text}}}\n", encoding="utf-8")
    with pytest.raises(UserError, match=rf"r\.yaml: .*contrastive.*{text.partition(':')[0]}"):
        load_recipe(recipe_file)
