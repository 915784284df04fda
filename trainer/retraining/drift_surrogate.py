"""The run on a drift surrogate of a run's data (drift, no response to the stimulus): RUN/controls/drift_surrogate."""

from pathlib import Path

import numpy as np

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.progress import track
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.trainer.evaluation.controls import sessions_of
from neuroimagen.trainer.evaluation.drift_surrogate import fit_drift, original_of, write_drift_surrogate
from neuroimagen.trainer.evaluation.segment_features import remove_trend, slow_features
from neuroimagen.trainer.recipe.recipe import load_recipe
from neuroimagen.trainer.retraining.commands import RunCommands, cpu_option, train_command
from neuroimagen.trainer.retraining.stages_behind import stages_behind

STAGES = ("contrastive", "saliency", "semantic")
"""The stages that the condition `full` is drawn with, in the order in which they need each other."""


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
    steps = [train_command(run, stage, surrogate, data=data, cpu=cpu) for stage in stages]
    # Nothing is chosen for it, and it is compared with the recordings' own images on every segment.
    settings = ("--set", "reconstruct.choose.conditions=[]", "reconstruct.side_segments=null")
    return [*steps, ("reconstruct", "--run", str(surrogate), "--conditions", "full", *settings, *cpu_option(cpu))]


def make_surrogate_run(run: Path, dataset: Dataset, *, run_commands: RunCommands, cpu: bool = False) -> Path | None:
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
    run_commands(steps, what="drift surrogate")
    return surrogate


def _slow_features(dataset: Dataset) -> np.ndarray:
    """Slow features of every segment, [N, 3 C]."""
    features = [
        slow_features(*remove_trend(dataset.eeg(row)[None]))[0]
        for row in track(range(len(dataset)), total=len(dataset), desc="slow features", unit="segment")
    ]
    return np.stack(features)
