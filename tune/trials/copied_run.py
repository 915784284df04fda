"""Population-based training: a run that continues from a copy of another run's checkpoint, with its own recipe."""

import shutil
from pathlib import Path

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.files import atomic_folder, atomic_path
from neuroimagen.trainer.recipe.recipe import Recipe, dump_recipe
from neuroimagen.trainer.runs.metrics_lines import read_metrics_lines
from neuroimagen.trainer.runs.run_folder import StageFolder
from neuroimagen.trainer.training.checkpoint_folder import copy_checkpoint, latest_checkpoint


def copy_run(source: Path, target: Path, recipe: Recipe, *, stage: str, step: int) -> int:
    """Make the run `target` from the newest checkpoint of `source` that is not beyond `step`; returns its step.

    If every checkpoint is beyond `step`, the newest one is taken. The lines of the log up to it are copied; the recipe
    is the given one. A target that exists is kept: it appears under its name when it is complete.

    Raises UserError if the source has no checkpoint.
    """
    old = StageFolder(source, stage)
    if target.exists():
        copied = latest_checkpoint(StageFolder(target, stage).checkpoints)
        assert copied is not None
        return int(copied.name.removeprefix("step-"))
    for _ in range(3):
        chosen = latest_checkpoint(old.checkpoints, not_beyond=step) or latest_checkpoint(old.checkpoints)
        if chosen is None:
            break
        try:
            with atomic_folder(target) as unfinished:
                new = StageFolder(unfinished, stage)
                copy_checkpoint(chosen, new.checkpoints)
                reached = int(chosen.name.removeprefix("step-"))
                kept = [text for text, figures in read_metrics_lines(old.metrics) if figures["step"] <= reached]
                new.metrics.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
                for path in (unfinished / "config.yaml", new.config):
                    with atomic_path(path) as temporary:
                        temporary.write_text(dump_recipe(recipe), encoding="utf-8")
            return reached
        except (FileNotFoundError, shutil.Error):
            continue  # the source is training, and has just deleted this checkpoint
    raise UserError(f"{old.checkpoints} has no checkpoint to continue from.")
