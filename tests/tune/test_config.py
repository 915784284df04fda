"""The file of a search: what is refused, with which words, and that those in launch/recipes are valid."""

from pathlib import Path

import pytest

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.launch import cli
from neuroimagen.trainer.recipe.recipe import load_recipe
from neuroimagen.tune.config import (
    KINDS,
    GuidanceSearch,
    StageSearch,
    default_recipe,
    default_value,
    dump_search,
    load_search,
    search_of,
)
from neuroimagen.tune.space import overrides

RECIPES = Path(cli.__file__).resolve().parent / "recipes"
MARGIN = {"recipe": "r.yaml", "space": {"contrastive.margin": {"low": 0.1, "high": 1.0}}}
ALIGNMENT = {"recipe": "r.yaml", "space": {"alignment.logit_scale": {"low": 5.0, "high": 50.0}}}
GUIDANCE = {"space": {"reconstruct.guidance": {"low": 1.0, "high": 9.0}}}

TREES = {"margin": MARGIN, "alignment": ALIGNMENT, "guidance": GUIDANCE}


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        ("margin", {"num_trails": 3}, "did you mean 'num_trials'"),
        ("margin", {"space": {"contrastive.margn": [1]}}, "did you mean 'contrastive.margin'"),
        ("margin", {"space": {"saliency.steps": [1]}}, "not a key of the recipe's section contrastive or encoder"),
        ("margin", {"space": {"contrastive.margin": {"low": 1.0, "high": 0.1}}}, "must be below"),
        (
            "margin",
            {"space": {"contrastive.margin": {"low": 0.1, "hihg": 1.0}}},
            "did you mean 'space.contrastive.margin",
        ),
        ("margin", {"space": {"contrastive.margin": 0.5}}, "is 0.5; give a list of choices, or low and high"),
        ("margin", {"space": [1]}, "space is a section with keys of its own"),
        ("margin", {"num_trials": "many"}, "num_trials is 'many'; expected a whole number"),
        ("margin", {"kind": "guidance"}, "unknown key 'kind'"),
        ("margin", {"space": {}}, "space is empty"),
        ("margin", {"sampler": "grid"}, "give it `points`"),
        ("margin", {"scheduler": "asap"}, "scheduler"),
        ("margin", {"scheduler": "pbt", "space": {"encoder.feature_size": [8, 16]}}, "would not fit"),
        ("margin", {"num_trials": 0}, "at least 1"),
        ("margin", {"objective": "mrr"}, "objective is 'mrr'; expected one of knn_accuracy"),
        ("alignment", {"objective": "knn_accuracy"}, "expected one of mrr, top1, top5, two_way"),
        ("alignment", {"space": {"alignment.logit_scal": [1]}}, "did you mean 'alignment.logit_scale'"),
        ("alignment", {"space": {"contrastive.margin": [1]}}, "not a key of the recipe's section alignment or encoder"),
        (
            "alignment",
            {"space": {"alignment.targets": [{"image": "much"}]}},
            "space.alignment.targets.choices is {'image': 'much'}",
        ),
        (
            "alignment",
            {"space": {"alignment.targets": [{"image": 1}], "alignment.targets.image": [1.0, 2.0]}},
            "both alignment.targets and alignment.targets.image",
        ),
        ("alignment", {"scheduler": "pbt", "space": {"alignment.batch_size": [8, 16]}}, "would not fit"),
        ("alignment", {"scheduler": "pbt", "space": {"alignment.head": ["linear"]}}, "would not fit"),
        ("guidance", {"objective": {"fid": 1.0}}, "no metric 'fid'"),
        ("guidance", {"objective": {"ssim": -1.0}}, "weights above 0"),
        ("guidance", {"pareto": ["ssim", "ssim"]}, "two different metrics"),
        ("guidance", {"space": {"reconstruct.split": ["val", "test"]}}, "cannot be varied by a search"),
        ("guidance", {"space": {"reconstruct.choose.segments": [1, 2]}}, "cannot be varied by a search"),
        (
            "guidance",
            {"space": {"condition": ["full", "oracle_class"]}},
            "'oracle_class' is none that is drawn from the EEG",
        ),
        ("guidance", {"space": {"condition": {"low": 0, "high": 1}}}, "a list of conditions, not a range"),
        ("guidance", {"space": {"conditon": ["full"]}}, "did you mean 'condition'"),
        ("guidance", {"condition": "mean_image"}, "'mean_image' is none that is drawn from the EEG"),
        ("margin", {"space": {"condition": ["full"]}}, "not a key of the recipe's section contrastive or encoder"),
        ("guidance", {"num_reports": 1000}, "num_reports"),
    ],
)
def test_a_wrong_search_is_refused_in_one_line(kind: str, change: dict, words: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(UserError, match=words) as refused:
        search_of(TREES[kind] | change, kind, where="search.yaml")
    assert str(refused.value).startswith("search.yaml: ")


CHOICES = {
    "margin": {"contrastive.positives": [1, 2]},
    "alignment": {
        "alignment.targets": [{"image": 1.0}, {"image": 1.0, "pooled-detailed": 0.5}],
        "alignment.batch_size": [8],
    },
    "guidance": {
        "reconstruct.steps": [1, 2],
        "reconstruct.scheduler": [None, "ddim"],
        "reconstruct.adapter_scale": [0.5, {"ip_adapter": 1.0}],
        "condition": ["full", "image_only"],
    },
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_search_survives_its_record(kind: str) -> None:
    tree = TREES[kind] | {"space": TREES[kind]["space"] | CHOICES[kind]}  # type: ignore[operator]
    search = search_of(tree, kind, where="x")
    assert search_of(dump_search(search), kind, where="x") == search


@pytest.mark.parametrize("path", sorted(RECIPES.glob("tune-*.yaml")), ids=lambda path: path.stem)
def test_shipped_searches_are_valid(path: Path) -> None:
    search = load_search(path, path.stem.split("-")[1])
    assert isinstance(search, KINDS[path.stem.split("-")[1]])
    if isinstance(search, StageSearch):
        default_recipe(search, path.parent, ["data.path=data"])


def test_values_that_no_trial_could_take_are_refused_before_any_starts(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("data: {path: data}\n")
    search = search_of(MARGIN | {"space": {"contrastive.distance": ["manhattan"]}}, "margin", where="x")
    with pytest.raises(UserError, match=r"space\.contrastive\.distance: .*manhattan"):
        default_recipe(search, tmp_path, [])
    mixed = search_of(MARGIN | {"space": {"contrastive.distance": ["manhattan", "cosine"]}}, "margin", where="x")
    assert default_recipe(mixed, tmp_path, []).data.path == "data"  # that trial fails alone


def test_the_weight_of_one_kind_of_target_can_be_searched(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("data: {path: data}\nalignment: {targets: {image: 1.0, pooled-detailed: 0.2}}\n")
    weight = {"alignment.targets.pooled-detailed": {"low": 0.0, "high": 1.0}}
    search = search_of(ALIGNMENT | {"space": weight}, "alignment", where="x")
    recipe = default_recipe(search, tmp_path, [])
    assert default_value(search, recipe, "alignment.targets.pooled-detailed") == 0.2
    varied = load_recipe(tmp_path / "r.yaml", overrides({"alignment.targets.pooled-detailed": 0.75}))
    assert varied.stages["alignment"].targets == {"image": 1.0, "pooled-detailed": 0.75}
    other = search_of(ALIGNMENT | {"space": {"alignment.targets.dino": [0.0, 1.0]}}, "alignment", where="x")
    with pytest.raises(UserError, match=r"space\.alignment\.targets\.dino: .* names image, pooled-detailed, not dino"):
        default_recipe(other, tmp_path, [])
    # A weight alone changes no network, so a population may change it.
    search_of(ALIGNMENT | {"space": weight, "scheduler": "pbt", "sampler": "random"}, "alignment", where="x")


def test_the_condition_is_searched_beside_keys_of_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("data: {path: data}\n")
    space = {"condition": ["image_only", "full"], "reconstruct.adapter_scale": {"low": 0.2, "high": 1.0}}
    search = search_of({"space": space, "condition": "image_only"}, "guidance", where="x")
    recipe = default_recipe(search, tmp_path, [], run=tmp_path)
    assert default_value(search, recipe, "condition") == "image_only"
    assert default_value(search, recipe, "reconstruct.adapter_scale") == 1.0
    assert overrides({"condition": "full", "reconstruct.adapter_scale": 0.5}) == ["reconstruct.adapter_scale=0.5"]


def test_a_missing_run_or_data_set_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Give --run DIR"):
        default_recipe(search_of(dict(GUIDANCE), "guidance", where="x"), tmp_path, [])
    (tmp_path / "r.yaml").write_text("seed: 0\n")
    with pytest.raises(UserError, match="names no data set"):
        default_recipe(search_of(MARGIN, "margin", where="x"), tmp_path, [])


def test_a_key_that_stands_twice_is_named(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("num_trials: 3\nspace: {contrastive.margin: [1]}\nnum_trials: 30\n")
    with pytest.raises(UserError, match=r"s\.yaml is not YAML: the key 'num_trials' is given twice .* line 3"):
        load_search(tmp_path / "s.yaml", "margin")


def test_a_search_without_its_required_keys_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("space: {contrastive.margin: [0.1, 1.0]}\n")
    with pytest.raises(UserError, match=r"s\.yaml: the key recipe is missing; expected text"):
        load_search(tmp_path / "s.yaml", "margin")
    with pytest.raises(UserError, match=r"there is no search .*absent\.yaml"):
        load_search(tmp_path / "absent.yaml", "margin")


def test_a_search_of_an_earlier_version_is_read_under_its_present_names() -> None:
    search = search_of(GUIDANCE | {"row": "semantic_only"}, "guidance", where="x")
    assert isinstance(search, GuidanceSearch)
    assert search.condition == "semantic_only"
    assert "row" not in dump_search(search)
