"""Controls that are trained: the whole pipeline on a phantom, and the encoder without one subject after the other.

RUN/controls/phantom/ is a run like any other: data/ (drift without a stimulus), the stages, reconstructions/full.
RUN/controls/without-subject-N/ holds the contrastive stage alone, trained on all other subjects of the run's own data.
What is there already is not made again, so an interrupted control goes on where it stopped.
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
from neuroimagen.trainer.evaluation.controls import PHANTOM_ROW, UNSEEN_SUBJECT_ROW, ControlRuns, sessions_of
from neuroimagen.trainer.evaluation.drift_surrogate import fit_drift, write_phantom
from neuroimagen.trainer.evaluation.segment_features import remove_trend, slow_features
from neuroimagen.trainer.recipe.recipe import Recipe, load_recipe
from neuroimagen.trainer.stages.registry import stage_order
from neuroimagen.trainer.training.build import initial_source

STAGES = ("contrastive", "saliency", "semantic")
"""The stages behind the row `full`, in the order in which they need each other."""


def make_control_runs(
    run: Path, dataset: Dataset, *, subjects: Sequence[int] | None = None, cpu: bool = False
) -> ControlRuns:
    """Every control of `run` that these data allow; `subjects` are those that the run was trained for (None: all).

    `cpu`: leave accelerators alone, here and in what follows.

    Raises UserError when a stage of the run is missing, or a step fails.
    """
    absent = {}
    phantom = make_phantom_run(run, dataset, cpu=cpu)
    if phantom is None:
        absent[PHANTOM_ROW] = "the order of recording is unknown, or blocks are too short to see drift in"
    reason = why_none_without_subject(run, dataset, subjects=subjects)
    if reason is not None:
        absent[UNSEEN_SUBJECT_ROW] = reason
    others = {} if reason is not None else make_runs_without_subject(run, dataset, subjects=subjects, cpu=cpu)
    return ControlRuns(phantom=phantom, without_subject=others, absent=absent)


# -------------------------------------------------------------------------------------------------------------- phantom


def phantom_steps(run: Path, phantom: Path, *, cpu: bool = False) -> list[tuple[str, ...]]:
    """The commands that make the phantom's run, in order. Starts nothing; reads the run's folders.

    Raises UserError naming the stages that the run lacks.
    """
    recipe = load_recipe(run / "config.yaml")
    stages = stages_behind(recipe, STAGES)
    missing = [stage for stage in stages if not (run / stage / "export").is_dir()]
    if missing:
        raise UserError(
            f"{run} has no trained {', '.join(missing)}: the whole pipeline cannot be trained on a phantom. Train "
            "them, or give `--controls quick`."
        )
    steps = [_train_step(run, stage, phantom, data=str((phantom / "data").absolute()), cpu=cpu) for stage in stages]
    return [*steps, ("reconstruct", "--run", str(phantom), "--rows", "full", *_cpu(cpu))]


def make_phantom_run(run: Path, dataset: Dataset, *, cpu: bool = False) -> Path | None:
    """RUN/controls/phantom, trained and drawn; None where the order of recording is unknown, so none can be made.

    Raises UserError when a stage is missing, a step fails, or the phantom that is there was made from other data.
    """
    rows = np.arange(len(dataset))
    sessions = sessions_of(dataset, rows)
    if not sessions.is_known:
        return None
    phantom = run / "controls" / "phantom"
    steps = phantom_steps(run, phantom, cpu=cpu)
    if (phantom / "data" / "dataset.json").is_file():
        if Dataset.open(phantom / "data").metadata.provenance.get("phantom_of") != dataset.digest:
            raise UserError(f"{phantom} was made from another data set than {dataset.folder}. Remove it.")
    else:
        slow = _slow_features(dataset)
        seed = load_recipe(run / "config.yaml").seed
        model = fit_drift(slow, sessions, seed=seed)
        write_phantom(dataset, rows, slow, model, sessions, phantom / "data", seed=seed)
    _run_steps(steps, what="phantom")
    return phantom


def _slow_features(dataset: Dataset) -> np.ndarray:
    """Slow features of every segment, [N, 3 C]."""
    parts = [
        slow_features(*remove_trend(dataset.eeg(row)[None]))[0]
        for row in track(range(len(dataset)), total=len(dataset), desc="slow features", unit="segment")
    ]
    return np.stack(parts)


# ------------------------------------------------------------------------------------------------------ unseen subjects


def why_none_without_subject(run: Path, dataset: Dataset, *, subjects: Sequence[int] | None = None) -> str | None:
    """Why no encoder can be trained without a subject, in words; None where it can."""
    if not (run / "contrastive" / "export").is_dir():
        return "the run has no trained contrastive stage"
    recipe = load_recipe(run / "config.yaml")
    stages = stages_behind(recipe, ["contrastive"])
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
        try:
            config = recipe.stages["contrastive"]
            BalancedPlan(train, dataset.index.label[train], config.num_classes, config.num_samples, recipe.seed)
        except UserError as error:
            return f"without subject {subject} there are no batches to train on: {str(error).rstrip('.')}"
    return None


def steps_without_subject(
    run: Path, dataset: Dataset, subject: int, *, subjects: Sequence[int] | None = None, cpu: bool = False
) -> list[tuple[str, ...]]:
    """The commands that train the encoder without `subject`, in order. Starts nothing; reads the run's folders."""
    settings = (f"data.subjects={_others(dataset, subject, subjects)}",)
    # Absolute, as the phantom's: the control is known again from another working folder.
    data = dataset.location if dataset.remote is not None else str(dataset.folder.absolute())
    return [
        _train_step(run, stage, folder_without_subject(run, subject), data=data, settings=settings, cpu=cpu)
        for stage in stages_behind(load_recipe(run / "config.yaml"), ["contrastive"])
    ]


def make_runs_without_subject(
    run: Path, dataset: Dataset, *, subjects: Sequence[int] | None = None, cpu: bool = False
) -> dict[int, Path]:
    """Subject → RUN/controls/without-subject-N, trained; of every subject with test segments.

    Raises UserError when a step fails. Ask `why_none_without_subject` first.
    """
    runs = {}
    for subject in _tested_subjects(dataset, subjects):
        steps = steps_without_subject(run, dataset, subject, subjects=subjects, cpu=cpu)
        _run_steps(steps, what=f"without subject {subject}")
        runs[subject] = folder_without_subject(run, subject)
    return runs


def folder_without_subject(run: Path, subject: int) -> Path:
    return run / "controls" / f"without-subject-{subject}"


def _tested_subjects(dataset: Dataset, subjects: Sequence[int] | None) -> list[int]:
    return np.unique(dataset.index.subject[dataset.rows("test", subjects)]).tolist()


def _others(dataset: Dataset, subject: int, subjects: Sequence[int] | None) -> list[int]:
    return [other for other in sorted(subjects or dataset.metadata.subjects) if other != subject]


# ---------------------------------------------------------------------------------------------------------------- steps


def stages_behind(recipe: Recipe, stages: Sequence[str]) -> list[str]:
    """`stages` and those of the same run that they start from, in the order in which they need each other."""
    needed, open_ends = set(stages), list(stages)
    while open_ends:
        source = initial_source(recipe, open_ends.pop())
        if source is not None and "/" not in source and source not in needed:
            needed.add(source)
            open_ends.append(source)
    return [stage for stage in stage_order() if stage in needed]


def _train_step(
    run: Path, stage: str, control: Path, *, data: str, settings: Sequence[str] = (), cpu: bool
) -> tuple[str, ...]:
    """The command that trains a stage as `run` did, on other data; on as many ranks as its newest start had."""
    starts = json.loads((run / stage / "environment.json").read_text(encoding="utf-8"))
    # As JSON, which is YAML too: a path may hold what YAML would read as more than text.
    values = ("--set", f"data.path={json.dumps(data)}", *settings)
    ranks = ("--num-ranks", str(starts[-1].get("num_ranks", 1)), *_cpu(cpu))
    return ("train", stage, "--config", str(run / "config.yaml"), "--run", str(control), *values, *ranks, "--resume")


def _cpu(cpu: bool) -> tuple[str, ...]:
    return ("--cpu",) if cpu else ()


def _run_steps(steps: Sequence[tuple[str, ...]], *, what: str) -> None:
    """Run the commands one after the other; UserError at the first that fails."""
    for number, arguments in enumerate(steps, start=1):
        print(f"{what} [{number}/{len(steps)}] neuroimagen {shlex.join(arguments)}", flush=True)
        done = subprocess.run([sys.executable, "-m", "neuroimagen.launch.cli", *arguments], check=False)
        if done.returncode:
            step = " ".join(word for word in arguments[:2] if not word.startswith("-"))
            raise UserError(
                f"{what}: {step} failed (exit code {done.returncode}); what it said is above. The same command "
                "goes on from here."
            )
