"""The phantom through the whole pipeline: every stage that a run trained, trained anew on drift without a stimulus.

RUN/controls/phantom/ is a run like any other: data/ (the phantom), the stages, reconstructions/full. What is there
already is not made again, so an interrupted control goes on where it stopped.
"""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np

from neuroimagen.data_shards.dataset import Dataset
from neuroimagen.data_shards.errors import UserError
from neuroimagen.data_shards.progress import track
from neuroimagen.trainer.config import load_recipe
from neuroimagen.trainer.controls import sessions_of
from neuroimagen.trainer.phantom import fit_drift, write_phantom
from neuroimagen.trainer.segment_features import remove_trend, slow_features

STAGES = ("contrastive", "saliency", "semantic")
"""The stages behind the row `full`, in the order in which they need each other."""


def phantom_steps(run: Path, phantom: Path) -> list[tuple[str, ...]]:
    """The commands that make the phantom's run, in order. Starts nothing; reads the run's folders."""
    recipe = str(run / "config.yaml")
    missing = [stage for stage in STAGES if not (run / stage / "export").is_dir()]
    if missing:
        raise UserError(
            f"{run} has no trained {', '.join(missing)}: the whole pipeline cannot be trained on a phantom. Train "
            "them, or give `--controls quick`."
        )
    settings = ("--set", f"data.path={phantom / 'data'}")
    steps: list[tuple[str, ...]] = []
    for stage in STAGES:
        starts = json.loads((run / stage / "environment.json").read_text(encoding="utf-8"))
        ranks = ("--num-ranks", str(starts[-1].get("num_ranks", 1)))
        steps.append(("train", stage, "--config", recipe, "--run", str(phantom), *settings, *ranks, "--resume"))
    steps.append(("reconstruct", "--run", str(phantom), "--rows", "full"))
    return steps


def make_phantom_run(run: Path, dataset: Dataset) -> Path | None:
    """RUN/controls/phantom, trained and drawn; None where the order of recording is unknown, so none can be made.

    Raises UserError when a step fails.
    """
    rows = np.arange(len(dataset))
    sessions = sessions_of(dataset, rows)
    if not sessions.is_known:
        return None
    phantom = run / "controls" / "phantom"
    steps = phantom_steps(run, phantom)
    if not (phantom / "data" / "dataset.json").is_file():
        slow = _slow_features(dataset)
        seed = load_recipe(run / "config.yaml").seed
        model = fit_drift(slow, sessions, seed=seed)
        write_phantom(dataset, rows, slow, model, sessions, phantom / "data", seed=seed)
    for number, arguments in enumerate(steps, start=1):
        print(f"phantom [{number}/{len(steps)}] neuroimagen {shlex.join(arguments)}", flush=True)
        done = subprocess.run([sys.executable, "-m", "neuroimagen.launch.cli", *arguments], check=False)
        if done.returncode:
            raise UserError(
                f"the phantom's {arguments[0]} failed (exit code {done.returncode}); what it said is above. The same "
                "command goes on from here."
            )
    return phantom


def _slow_features(dataset: Dataset) -> np.ndarray:
    """Slow features of every segment, [N, 3 C]."""
    parts = [
        slow_features(*remove_trend(dataset.eeg(row)[None]))[0]
        for row in track(range(len(dataset)), total=len(dataset), desc="slow features", unit="segment")
    ]
    return np.stack(parts)
