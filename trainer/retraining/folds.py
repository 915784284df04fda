"""Trainings without a fold of the training stimuli, which come before a stage that needs them (the prior).

RUN/STAGE/folds/K is a run like any other: the source stage and the stages that it starts from, trained with their own
sections but without fold K (data.leave_out). Each is a job of its own, which goes on where it stopped.
"""

import dataclasses
from pathlib import Path

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.remote.files import as_url
from neuroimagen.trainer.recipe.recipe import Recipe, load_recipe
from neuroimagen.trainer.retraining.stages_behind import stages_behind
from neuroimagen.trainer.runs.run_folder import StageFolder
from neuroimagen.trainer.stages.base import CrossFit
from neuroimagen.trainer.stages.registry import STAGES
from neuroimagen.trainer.training.build import initial_source


@dataclasses.dataclass(frozen=True, kw_only=True)
class FoldTraining:
    """One stage to be trained without one fold."""

    fold: int
    run: Path
    stage: str
    recipe: Recipe


def fold_trainings(recipe: Recipe, name: str, run: Path) -> list[FoldTraining]:
    """The trainings that stage `name` needs before its own, in their order; none if it needs none.

    Raises UserError where what they start from was trained outside the run, on stimuli that are not known.
    """
    wanted = STAGES[name].cross_fit(recipe.stages[name])
    if wanted is None:
        return []
    if recipe.data.validation_fold is not None:
        raise UserError(
            f"{name} trains without folds of the data set's own training split, which data.validation_fold changes. "
            f"Set {name}.embeddings=naive, or leave data.validation_fold at null."
        )
    source = Path(wanted.source)
    home = source.parent if "/" in wanted.source else run
    begun = load_recipe(StageFolder(home, source.name).config)
    trainings = []
    for fold in range(wanted.num_folds):
        data = dataclasses.replace(recipe.data, path=_absolute(recipe.data.path), leave_out=(fold, wanted.num_folds))
        for stage in stages_behind(begun, [source.name]):
            trained = load_recipe(StageFolder(home, stage).config)
            origin = initial_source(trained, stage)
            if origin is not None and "/" in origin:
                raise UserError(
                    f"{stage}.initialise_from is {origin}, which may have seen every stimulus, so {name} cannot be "
                    f"trained on out-of-fold embeddings. Set {name}.embeddings=naive, or train {Path(origin).name} in "
                    "this run."
                )
            section = trained.stages[stage]
            if stage == source.name and wanted.steps is not None:
                section = dataclasses.replace(section, steps=wanted.steps)
            trainings.append(
                FoldTraining(
                    fold=fold,
                    run=CrossFit.folder(run, name, fold),
                    stage=stage,
                    recipe=dataclasses.replace(trained.with_stage(stage, section), data=data),
                )
            )
    return trainings


def _absolute(path: str | None) -> str | None:
    """A folder's absolute path, so that a job that goes on from another working folder finds the same; URLs as is."""
    return path if path is None or as_url(path) is not None else str(Path(path).absolute())
