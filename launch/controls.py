"""The phantom through the whole pipeline: every stage that a run trained, trained anew on drift without a stimulus.

RUN/controls/phantom/ is a run like any other: data/ (the phantom), the stages, reconstructions/full. What is there
already is not made again, so an interrupted control goes on where it stopped.
"""

import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from neuroimagen.data_shards.dataset import Dataset
from neuroimagen.data_shards.errors import UserError
from neuroimagen.data_shards.progress import track
from neuroimagen.trainer.config import Recipe, load_recipe
from neuroimagen.trainer.controls import sessions_of
from neuroimagen.trainer.phantom import fit_drift, write_phantom
from neuroimagen.trainer.segment_features import remove_trend, slow_features
from neuroimagen.trainer.stages.registry import STAGE_NAMES, initial_source

STAGES = ("contrastive", "saliency", "semantic")
"""The stages behind the row `full`, in the order in which they need each other."""


def phantom_steps(run: Path, phantom: Path) -> list[tuple[str, ...]]:
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
    steps = [_train_step(run, stage, phantom, data=phantom / "data") for stage in stages]
    return [*steps, ("reconstruct", "--run", str(phantom), "--rows", "full")]


def stages_behind(recipe: Recipe, stages: Sequence[str]) -> list[str]:
    """`stages` and those of the same run that they start from, in the order in which they need each other."""
    needed, open_ends = set(stages), list(stages)
    while open_ends:
        source = initial_source(recipe, open_ends.pop())
        if source is not None and "/" not in source and source not in needed:
            needed.add(source)
            open_ends.append(source)
    return [stage for stage in STAGE_NAMES if stage in needed]


def _train_step(run: Path, stage: str, control: Path, *, data: Path, settings: Sequence[str] = ()) -> tuple[str, ...]:
    """The command that trains a stage as `run` did, on other data; on as many ranks as its newest start had."""
    starts = json.loads((run / stage / "environment.json").read_text(encoding="utf-8"))
    # As JSON, which is YAML too: a path may hold what YAML would read as more than text.
    values = ("--set", f"data.path={json.dumps(str(data))}", *settings)
    ranks = ("--num-ranks", str(starts[-1].get("num_ranks", 1)))
    return ("train", stage, "--config", str(run / "config.yaml"), "--run", str(control), *values, *ranks, "--resume")


def make_phantom_run(run: Path, dataset: Dataset) -> Path | None:
    """RUN/controls/phantom, trained and drawn; None where the order of recording is unknown, so none can be made.

    Raises UserError when a stage is missing, a step fails, or the phantom that is there was made from other data.
    """
    rows = np.arange(len(dataset))
    sessions = sessions_of(dataset, rows)
    if not sessions.is_known:
        return None
    phantom = run / "controls" / "phantom"
    steps = phantom_steps(run, phantom)
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


def _run_steps(steps: Sequence[tuple[str, ...]], *, what: str) -> None:
    """Run the commands one after the other; UserError at the first that fails."""
    for number, arguments in enumerate(steps, start=1):
        print(f"{what} [{number}/{len(steps)}] neuroimagen {shlex.join(arguments)}", flush=True)
        done = subprocess.run([sys.executable, "-m", "neuroimagen.launch.cli", *arguments], check=False)
        if done.returncode:
            step = " ".join(word for word in arguments[:2] if not word.startswith("-"))
            raise UserError(
                f"the {what}'s {step} failed (exit code {done.returncode}); what it said is above. The same command "
                "goes on from here."
            )


def _slow_features(dataset: Dataset) -> np.ndarray:
    """Slow features of every segment, [N, 3 C]."""
    parts = [
        slow_features(*remove_trend(dataset.eeg(row)[None]))[0]
        for row in track(range(len(dataset)), total=len(dataset), desc="slow features", unit="segment")
    ]
    return np.stack(parts)
