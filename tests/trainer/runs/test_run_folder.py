"""A run is resumed or refused, never overwritten."""

import json
from pathlib import Path

import pytest

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.trainer.recipe.recipe import Recipe, load_recipe
from neuroimagen.trainer.runs.run_folder import MetricsLog, StageFolder, locked, open_stage_folder


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    path = tmp_path / "recipe.yaml"
    path.write_text("seed: 5\ncontrastive: {steps: 7}\n", encoding="utf-8")
    return load_recipe(path)


def changed(recipe: Recipe, tmp_path: Path, *overrides: str) -> Recipe:
    return load_recipe(tmp_path / "recipe.yaml", overrides)


def begin(run: Path, recipe: Recipe, stage: str = "contrastive", *, resume: bool = False) -> StageFolder:
    folder = StageFolder(run, stage)
    with locked(folder):
        open_stage_folder(folder, recipe, num_ranks=2, resume=resume)
    return folder


def test_a_new_stage_has_its_recipe_and_environment(tmp_path: Path, recipe: Recipe) -> None:
    folder = begin(tmp_path / "run", recipe)
    assert load_recipe(folder.config) == recipe
    assert load_recipe(tmp_path / "run" / "config.yaml") == recipe
    (start,) = json.loads(folder.environment.read_text())
    assert start["num_ranks"] == 2
    assert {"torch", "deepspeed", "neuroimagen"} <= set(start["packages"])
    assert folder.logs.is_dir()
    assert not folder.is_begun


def test_a_begun_stage_is_resumed_or_refused(tmp_path: Path, recipe: Recipe) -> None:
    run = tmp_path / "run"
    # Nothing was trained yet: a corrected recipe may start over.
    begin(run, changed(recipe, tmp_path, "contrastive.steps=3"))
    folder = begin(run, recipe)
    folder.metrics.write_text('{"step": 1}\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"begun already\. Go on with --resume"):
        begin(run, recipe)
    other = changed(recipe, tmp_path, "contrastive.margin=0.1", "saliency.steps=3")
    with pytest.raises(
        UserError, match=r"another recipe: contrastive\.margin \(1\.0 → 0\.1\)\. Resume with the one in"
    ):
        begin(run, other, resume=True)
    # Another stage's section does not matter to this one.
    begin(run, changed(recipe, tmp_path, "saliency.steps=3"), resume=True)
    assert len(json.loads(folder.environment.read_text())) == 3
    folder.export.mkdir()
    with pytest.raises(UserError, match="finished already"):
        begin(run, recipe)


def test_the_run_s_recipe_keeps_each_stage_as_it_was_trained(tmp_path: Path, recipe: Recipe) -> None:
    run = tmp_path / "run"
    begin(run, changed(recipe, tmp_path, "contrastive.margin=0.1"))
    begin(run, changed(recipe, tmp_path, "saliency.steps=3"), "saliency")
    joined = load_recipe(run / "config.yaml")
    assert (joined.stages["contrastive"].margin, joined.stages["saliency"].steps) == (0.1, 3)
    with pytest.raises(UserError, match=r"another recipe's run: seed \(5 → 6\)"):
        begin(run, changed(recipe, tmp_path, "seed=6"), "semantic")


def test_a_resume_may_keep_data_elsewhere(tmp_path: Path, recipe: Recipe) -> None:
    """Where the training data lie decides nothing that is computed, so another value is welcome, and is what counts."""
    folder = begin(tmp_path / "run", recipe)
    folder.metrics.write_text('{"step": 1}\n', encoding="utf-8")
    elsewhere = changed(recipe, tmp_path, "data.resident_gib=2.5")
    begin(folder.run, elsewhere, resume=True)
    assert load_recipe(folder.config) == elsewhere
    begin(folder.run, elsewhere, "semantic")


def test_two_jobs_do_not_share_a_folder(tmp_path: Path, recipe: Recipe) -> None:
    folder = StageFolder(tmp_path / "run", "contrastive")
    with locked(folder), pytest.raises(UserError, match=r"process \d+ is training in"), locked(folder):
        pass
    with locked(folder):
        pass


def test_an_unwritable_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"), locked(StageFolder(tmp_path / "file", "contrastive")):
        pass


def test_metrics_beyond_the_checkpoint_are_dropped_on_resume(tmp_path: Path) -> None:
    folder = StageFolder(tmp_path, "contrastive")
    folder.path.mkdir()
    log = MetricsLog(folder, Recipe(), resume_step=0)
    for step in (5, 10, 15):
        log.write(step, {"loss": 1.0 / step})
    log.close()
    with folder.metrics.open("a") as file:
        file.write('{"step": 20, "lo')  # killed while writing
    log = MetricsLog(folder, Recipe(), resume_step=10)
    log.write(15, {"loss": 2.0})
    log.close()
    lines = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    assert lines == [{"step": 5, "loss": 0.2}, {"step": 10, "loss": 0.1}, {"step": 15, "loss": 2.0}]
    assert any(folder.tensorboard.iterdir())


def test_a_later_stage_may_name_an_ip_adapter(tmp_path: Path, recipe: Recipe) -> None:
    run = tmp_path / "run"
    begin(run, recipe)
    adapter = "model.ip_adapters={mine: {path: new, target: image}}"
    begin(run, changed(recipe, tmp_path, adapter), "diffusion")
    assert load_recipe(run / "config.yaml").model.ip_adapters["mine"].is_new
    begin(run, recipe, "semantic")
    assert set(load_recipe(run / "config.yaml").model.ip_adapters) == {"mine"}
    other = "model.ip_adapters={mine: {path: a.safetensors, target: image}}"
    with pytest.raises(UserError, match=r"another recipe's run: model\.ip_adapters\.mine\.path \(new → a\."):
        begin(run, changed(recipe, tmp_path, other), "alignment")


def test_a_later_stage_may_name_another_image_tower(tmp_path: Path, recipe: Recipe) -> None:
    run = tmp_path / "run"
    contrastive = begin(run, recipe)
    contrastive.metrics.write_text('{"step": 1}\n', encoding="utf-8")
    dino = "model.towers={dino: {path: models/dino, layer: 0.67}}"
    begin(run, changed(recipe, tmp_path, dino), "alignment")
    assert load_recipe(run / "config.yaml").model.towers["dino"].layer == 0.67
    begin(run, changed(recipe, tmp_path, dino), resume=True)  # the stage that was begun without it
    begin(run, changed(recipe, tmp_path, "model.towers={siglip: {path: models/siglip}}"), "semantic")
    assert set(load_recipe(run / "config.yaml").model.towers) == {"dino", "siglip"}
    with pytest.raises(UserError, match=r"another recipe's run: model\.towers\.dino\.layer \(0\.67 → 0\.5\)"):
        begin(run, changed(recipe, tmp_path, "model.towers={dino: {path: models/dino, layer: 0.5}}"), "alignment")
