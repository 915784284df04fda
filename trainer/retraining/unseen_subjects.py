"""Runs without one subject each, trained on all others: RUN/controls/without-subject-N."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.loading.plan import BalancedPlan
from neuroimagen.trainer.evaluation.controls import UNSEEN_SUBJECT_ALIGNMENT, UNSEEN_SUBJECT_CONDITION
from neuroimagen.trainer.recipe.recipe import load_recipe
from neuroimagen.trainer.retraining.commands import RunCommands, train_command
from neuroimagen.trainer.retraining.stages_behind import stages_behind
from neuroimagen.trainer.training.build import initial_source

WITHOUT_SUBJECT = {"contrastive": UNSEEN_SUBJECT_CONDITION, "alignment": UNSEEN_SUBJECT_ALIGNMENT}
"""The stages that are trained again without each subject (none of them draws an image) → what is measured of them."""


def why_none_without_subject(run: Path, dataset: Dataset, *, subjects: Sequence[int] | None = None) -> str | None:
    """In words, why no encoder can be trained without a subject; None if it can."""
    trained = trained_without_subject(run)
    if not trained:
        return "the run has neither a trained contrastive stage nor an alignment stage"
    recipe = load_recipe(run / "config.yaml")
    stages = stages_behind(recipe, trained)
    foreign = [source for stage in stages if (source := initial_source(recipe, stage)) is not None and "/" in source]
    if foreign:
        return f"the encoder starts from {foreign[0]}, which may have seen every subject"
    if lacking := [stage for stage in stages if not (run / stage / "export").is_dir()]:
        return f"the run has no trained {', '.join(lacking)} stage"
    left_out = _tested_subjects(dataset, subjects)
    for subject in left_out:
        others = _others(dataset, subject, subjects)
        if not others:
            return "there is one subject only"
        train = dataset.rows("train", others)
        if not len(dataset.rows("val", others)):
            return f"without subject {subject} no validation segments are left to choose a checkpoint by"
        if "contrastive" not in stages:
            continue
        try:
            config = recipe.stages["contrastive"]
            BalancedPlan(train, dataset.index.label[train], config.num_classes, config.num_samples, recipe.seed)
        except UserError as error:
            return f"without subject {subject} there are no batches to train on: {str(error).rstrip('.')}"
    return None


def steps_without_subject(
    run: Path, dataset: Dataset, subject: int, *, subjects: Sequence[int] | None = None, cpu: bool = False
) -> list[tuple[str, ...]]:
    """The commands that train the encoder without `subject`, in order. They are not started."""
    settings = (f"data.subjects={_others(dataset, subject, subjects)}",)
    # Absolute, as the drift surrogate's: a resumed control must find the same path from another working folder.
    data = dataset.location if dataset.remote is not None else str(dataset.folder.absolute())
    return [
        train_command(run, stage, folder_without_subject(run, subject), data=data, settings=settings, cpu=cpu)
        for stage in stages_behind(load_recipe(run / "config.yaml"), trained_without_subject(run))
    ]


def make_runs_without_subject(
    run: Path,
    dataset: Dataset,
    *,
    run_commands: RunCommands,
    subjects: Sequence[int] | None = None,
    cpu: bool = False,
) -> dict[int, Path]:
    """Train a run without each subject that has test segments; returns subject → RUN/controls/without-subject-N.

    Raises UserError when a step fails. Call it only if `why_none_without_subject` returns None.
    """
    runs = {}
    for subject in _tested_subjects(dataset, subjects):
        steps = steps_without_subject(run, dataset, subject, subjects=subjects, cpu=cpu)
        run_commands(steps, what=f"without subject {subject}")
        runs[subject] = folder_without_subject(run, subject)
    return runs


def folder_without_subject(run: Path, subject: int) -> Path:
    return run / "controls" / f"without-subject-{subject}"


def trained_without_subject(run: Path) -> list[str]:
    """The stages of `run` that are trained again without each subject."""
    return [stage for stage in WITHOUT_SUBJECT if (run / stage / "export").is_dir()]


def _tested_subjects(dataset: Dataset, subjects: Sequence[int] | None) -> list[int]:
    return np.unique(dataset.index.subject[dataset.rows("test", subjects)]).tolist()


def _others(dataset: Dataset, subject: int, subjects: Sequence[int] | None) -> list[int]:
    return [other for other in sorted(subjects or dataset.metadata.subjects) if other != subject]
