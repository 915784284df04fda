"""Training a stage in this process, as the only rank; for tests that must not wait for a launcher."""

from collections.abc import Sequence
from pathlib import Path


def train_in_process(
    recipe_path: Path, stage: str, run: Path, overrides: Sequence[str] = (), *, resume: bool = False
) -> Path:
    """The stage's folder, trained. Needs the fixture `one_rank`."""
    import torch

    from neuroimagen.trainer.recipe.recipe import load_recipe
    from neuroimagen.trainer.runs.run_folder import StageFolder, open_stage_folder
    from neuroimagen.trainer.training.loop import StopRequest, train

    recipe = load_recipe(recipe_path, overrides)
    folder = StageFolder(run, stage)
    folder.path.mkdir(parents=True, exist_ok=True)
    open_stage_folder(folder, recipe, num_ranks=1, resume=resume)
    train(recipe, stage, folder, device=torch.device("cpu"), stop=StopRequest())
    return folder.path
