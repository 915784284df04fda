"""The diffusion stage moves the weights of the U-Net that it says it trains."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from neuroimagen.trainer.networks.eeg_unet import EEGDiffusion
from neuroimagen.trainer.networks.semantic import SemanticModel
from neuroimagen.trainer.recipe.recipe import load_recipe

Train = Callable[..., Path]


@pytest.fixture(scope="module")
def run_with_semantic(train_here: Train, recipe_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("diffusion") / "run"
    train_here(recipe_path, "semantic", run, "semantic.initialise_from=null", "semantic.steps=4")
    return run


@pytest.mark.parametrize("trained", ["cross-attention", "lora"])
def test_diffusion_fine_tunes_what_it_says(
    trained: str, train_here: Train, recipe_path: Path, run_with_semantic: Path, tiny_diffusion_folder: Path
) -> None:
    from diffusers import UNet2DConditionModel

    overrides = (f"diffusion.trained={trained}", "diffusion.alignment_weight=0.1", f"diffusion.zero_stage={1}")
    recipe = load_recipe(recipe_path, overrides)
    folder = run_with_semantic.parent / trained
    folder.mkdir()
    (folder / "semantic").symlink_to(run_with_semantic / "semantic")
    (folder / "config.yaml").write_bytes((run_with_semantic / "config.yaml").read_bytes())
    stage = train_here(recipe_path, "diffusion", folder, *overrides)
    model = EEGDiffusion.from_pretrained(stage / "export")
    SemanticModel.from_pretrained(stage / "export")
    before = UNet2DConditionModel.from_pretrained(tiny_diffusion_folder / "unet").state_dict()
    after = model.unet.state_dict()
    assert before.keys() == after.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved
    assert all(".attn2." in name for name in moved)
    lines = (stage / "metrics.jsonl").read_text()
    assert '"alignment"' in lines
    assert '"val_condition_gain"' in lines
    assert recipe.stages["diffusion"].trained == trained
