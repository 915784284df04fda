"""Controls that are trained: the whole pipeline on a drift surrogate, and the encoder without each subject in turn.

RUN/controls/drift_surrogate/ is a run like any other: data/ (drift, no response to the stimulus), the stages,
reconstructions/full. RUN/controls/without-subject-N/ holds the contrastive and the alignment stage, trained on all
other subjects of the run's own data. Finished parts are not made again, so an interrupted control continues where it
stopped.
"""

import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.progress import track
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.loading.plan import BalancedPlan
from neuroimagen.launch.jobs.retraining import stages_behind
from neuroimagen.trainer.evaluation.controls import (
    SURROGATE_CONDITION,
    UNSEEN_SUBJECT_ALIGNMENT,
    UNSEEN_SUBJECT_CONDITION,
    ControlRuns,
    sessions_of,
)
from neuroimagen.trainer.evaluation.drift_surrogate import fit_drift, original_of, write_drift_surrogate
from neuroimagen.trainer.evaluation.segment_features import remove_trend, slow_features
from neuroimagen.trainer.recipe.recipe import load_recipe
from neuroimagen.trainer.runs.run_folder import read_environments
from neuroimagen.trainer.training.build import initial_source

STAGES = ("contrastive", "saliency", "semantic")
"""The stages that the condition `full` is drawn with, in the order in which they need each other."""

WITHOUT_SUBJECT = {"contrastive": UNSEEN_SUBJECT_CONDITION, "alignment": UNSEEN_SUBJECT_ALIGNMENT}
"""The stages that are trained again without each subject (none of them draws an image) → what is measured of them."""


def make_control_runs(
    run: Path, dataset: Dataset, *, subjects: Sequence[int] | None = None, cpu: bool = False
) -> ControlRuns:
    """Every control of `run` that these data allow; `subjects` are those that the run was trained for (None: all).

    `cpu`: train and draw on the CPU.

    Raises UserError when some stages of those that draw images are missing, or a step fails.
    """
    absent = {}
    surrogate = None
    if not any((run / stage / "export").is_dir() for stage in STAGES):
        absent[SURROGATE_CONDITION] = f"the run has no trained {', '.join(STAGES)}, so it draws no images of its own"
    else:
        surrogate = make_surrogate_run(run, dataset, cpu=cpu)
        if surrogate is None:
            absent[SURROGATE_CONDITION] = "the order of recording is unknown, or blocks are too short to estimate drift"
    reason = why_none_without_subject(run, dataset, subjects=subjects)
    if reason is not None:
        trained = _trained_without_subject(run) or ["contrastive"]
        absent |= {condition: reason for stage, condition in WITHOUT_SUBJECT.items() if stage in trained}
    others = {} if reason is not None else make_runs_without_subject(run, dataset, subjects=subjects, cpu=cpu)
    return ControlRuns(drift_surrogate=surrogate, without_subject=others, absent=absent)


# ------------------------------------------------------------------------------------------------------ drift surrogate


def surrogate_folder(run: Path) -> Path:
    """RUN/controls/drift_surrogate, or RUN/controls/phantom if an earlier version made the run there."""
    folder, former = run / "controls" / "drift_surrogate", run / "controls" / "phantom"
    return former if former.is_dir() and not folder.is_dir() else folder


def surrogate_steps(run: Path, surrogate: Path, *, cpu: bool = False) -> list[tuple[str, ...]]:
    """The commands that train and draw the drift surrogate's run, in order. They are not started.

    Raises UserError naming the stages that the run lacks.
    """
    recipe = load_recipe(run / "config.yaml")
    stages = stages_behind(recipe, STAGES)
    missing = [stage for stage in stages if not (run / stage / "export").is_dir()]
    if missing:
        raise UserError(
            f"{run} has no trained {', '.join(missing)}: the whole pipeline cannot be trained on a drift "
            "surrogate. Train them, or give `--controls quick`."
        )
    data = str((surrogate / "data").absolute())
    steps = [_train_step(run, stage, surrogate, data=data, cpu=cpu) for stage in stages]
    # Nothing is chosen for it, and it is compared with the recordings' own images on every segment.
    settings = ("--set", "reconstruct.choose.conditions=[]", "reconstruct.side_segments=null")
    return [*steps, ("reconstruct", "--run", str(surrogate), "--conditions", "full", *settings, *_cpu(cpu))]


def make_surrogate_run(run: Path, dataset: Dataset, *, cpu: bool = False) -> Path | None:
    """Train and draw the drift surrogate's run; returns its folder, or None where the order of recording is unknown.

    Raises UserError when a stage is missing, a step fails, or the surrogate in the folder was made from other data.
    """
    rows = np.arange(len(dataset))
    sessions = sessions_of(dataset, rows)
    if not sessions.is_known:
        return None
    surrogate = surrogate_folder(run)
    steps = surrogate_steps(run, surrogate, cpu=cpu)
    if (surrogate / "data" / "dataset.json").is_file():
        if original_of(Dataset.open(surrogate / "data")) != dataset.digest:
            raise UserError(
                f"{surrogate} was made from another data set than {dataset.folder}. Remove it, and run the same "
                "command again."
            )
    else:
        slow = _slow_features(dataset)
        seed = load_recipe(run / "config.yaml").seed
        model = fit_drift(slow, sessions, seed=seed)
        write_drift_surrogate(dataset, rows, slow, model, sessions, surrogate / "data", seed=seed)
    _run_steps(steps, what="drift surrogate")
    return surrogate


def _slow_features(dataset: Dataset) -> np.ndarray:
    """Slow features of every segment, [N, 3 C]."""
    features = [
        slow_features(*remove_trend(dataset.eeg(row)[None]))[0]
        for row in track(range(len(dataset)), total=len(dataset), desc="slow features", unit="segment")
    ]
    return np.stack(features)


# ------------------------------------------------------------------------------------------------------ unseen subjects


def why_none_without_subject(run: Path, dataset: Dataset, *, subjects: Sequence[int] | None = None) -> str | None:
    """In words, why no encoder can be trained without a subject; None if it can."""
    trained = _trained_without_subject(run)
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
        _train_step(run, stage, folder_without_subject(run, subject), data=data, settings=settings, cpu=cpu)
        for stage in stages_behind(load_recipe(run / "config.yaml"), _trained_without_subject(run))
    ]


def make_runs_without_subject(
    run: Path, dataset: Dataset, *, subjects: Sequence[int] | None = None, cpu: bool = False
) -> dict[int, Path]:
    """Train a run without each subject that has test segments; returns subject → RUN/controls/without-subject-N.

    Raises UserError when a step fails. Call it only if `why_none_without_subject` returns None.
    """
    runs = {}
    for subject in _tested_subjects(dataset, subjects):
        steps = steps_without_subject(run, dataset, subject, subjects=subjects, cpu=cpu)
        _run_steps(steps, what=f"without subject {subject}")
        runs[subject] = folder_without_subject(run, subject)
    return runs


def folder_without_subject(run: Path, subject: int) -> Path:
    return run / "controls" / f"without-subject-{subject}"


def _trained_without_subject(run: Path) -> list[str]:
    """The stages of `run` that are trained again without each subject."""
    return [stage for stage in WITHOUT_SUBJECT if (run / stage / "export").is_dir()]


def _tested_subjects(dataset: Dataset, subjects: Sequence[int] | None) -> list[int]:
    return np.unique(dataset.index.subject[dataset.rows("test", subjects)]).tolist()


def _others(dataset: Dataset, subject: int, subjects: Sequence[int] | None) -> list[int]:
    return [other for other in sorted(subjects or dataset.metadata.subjects) if other != subject]


# ---------------------------------------------------------------------------------------------------------------- steps


def _train_step(
    run: Path, stage: str, control: Path, *, data: str, settings: Sequence[str] = (), cpu: bool
) -> tuple[str, ...]:
    """The command that trains a stage as in `run`, on other data, on as many ranks as the stage's last start."""
    starts = read_environments(run / stage / "environment.json")
    # JSON is YAML too; its quotes keep YAML from reading special characters of a path.
    values = ("--set", f"data.path={json.dumps(data)}", *settings)
    ranks = ("--num-ranks", str(starts[-1].get("num_ranks", 1)), *_cpu(cpu))
    return ("train", stage, "--config", str(run / "config.yaml"), "--run", str(control), *values, *ranks, "--resume")


def _cpu(cpu: bool) -> tuple[str, ...]:
    return ("--cpu",) if cpu else ()


def _run_steps(steps: Sequence[tuple[str, ...]], *, what: str) -> None:
    """Run the commands one after the other. Raises UserError at the first that fails."""
    for number, arguments in enumerate(steps, start=1):
        print(f"{what} [{number}/{len(steps)}] neuroimagen {shlex.join(arguments)}", flush=True)
        done = subprocess.run([sys.executable, "-m", "neuroimagen.launch.cli", *arguments], check=False)
        if done.returncode:
            step = " ".join(word for word in arguments[:2] if not word.startswith("-"))
            raise UserError(
                f"{what}: {step} failed (exit code {done.returncode}); its messages are above. Run the same "
                "command again to continue from here."
            )
