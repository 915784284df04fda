"""A run on disk: one folder, a sub-folder for each stage.

<run>/config.yaml                    the recipe: shared sections, and each stage's as it was trained
<run>/input.json                     the EEG that the run takes: channels, rate, window, unit, steps
<run>/<stage>/config.yaml            the complete recipe of this stage
<run>/<stage>/environment.json       versions, machine, ranks: one entry for each start
<run>/<stage>/metrics.jsonl          one line for each logged step; tensorboard/ has the same
<run>/<stage>/validation.parquet     the exported weights' figures of every validation segment, where a stage has them
<run>/<stage>/samples/               images drawn while it trained: step-<steps done>.png
<run>/<stage>/checkpoints/, export/, logs/
"""

import dataclasses
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.files import atomic_path, held_folder
from neuroimagen.data_shards.common.reading import read_json, reason
from neuroimagen.trainer.recipe.recipe import SHARED_SECTIONS, Recipe, difference, dump_recipe, load_recipe, recipe_tree
from neuroimagen.trainer.runs.metrics_lines import read_metrics_lines
from neuroimagen.trainer.runs.rank_lock import wait_for_earlier_ranks
from neuroimagen.trainer.runs.wandb_log import WandbLog

PACKAGES = ("neuroimagen", "torch", "deepspeed", "numpy", "safetensors", "diffusers", "transformers", "triton")
SEGMENT_FIGURES = "validation.parquet"
"""Name of the file of figures by segment, with the exported weights and with the best ones so far."""


class StageFolder:
    """Names of a stage's files."""

    def __init__(self, run: Path | str, stage: str) -> None:
        self.run = Path(run)
        self.stage = stage
        self.path = self.run / stage
        self.config = self.path / "config.yaml"
        self.environment = self.path / "environment.json"
        self.metrics = self.path / "metrics.jsonl"
        self.segment_figures = self.path / SEGMENT_FIGURES
        self.bad_batches = self.path / "bad-batches.jsonl"
        self.tensorboard = self.path / "tensorboard"
        self.checkpoints = self.path / "checkpoints"
        self.export = self.path / "export"
        self.samples = self.path / "samples"
        self.logs = self.path / "logs"

    @property
    def is_begun(self) -> bool:
        """Whether there is anything that a new start would lose."""
        return self.is_finished or self.metrics.is_file() or any(self.checkpoints.glob("*"))

    @property
    def is_finished(self) -> bool:
        return self.export.is_dir()


@contextmanager
def locked(folder: StageFolder) -> Iterator[None]:
    """Hold a stage's folder for one job; raises UserError if another job has it. The lock ends with the process.

    Where a job was killed, its ranks may still be saving a checkpoint: waits for them.
    """
    with held_folder(folder.path, doing="training", option="--run"):
        wait_for_earlier_ranks(folder.path, logs=folder.logs)
        yield


def open_stage_folder(folder: StageFolder, recipe: Recipe, *, num_ranks: int, resume: bool) -> None:
    """Make a stage's folder ready for a start or a resume; one with work in it is resumed or refused, never
    overwritten.

    Raises UserError if the stage was begun and `resume` is not set, or if the recipe is not the one it was begun with.
    """
    if folder.is_begun:
        begun = load_recipe(folder.config)
        if not resume:
            raise UserError(
                f"{folder.path} holds a {folder.stage} stage {'finished' if folder.is_finished else 'begun'} already. "
                "Go on with --resume, choose another --run, or remove it."
            )
        changed = _changed(begun, recipe, folder.stage)
        if changed:
            raise UserError(
                f"{folder.path} was begun with another recipe: {'; '.join(changed[:5])}. Resume with the one in "
                f"{folder.config}."
            )
        # What a resume may change: nothing that is computed depends on it.
        data = dataclasses.replace(begun.data, resident_gib=recipe.data.resident_gib)
        resumed = dataclasses.replace(begun, log=recipe.log, data=data)
        if resumed != begun:
            with atomic_path(folder.config) as path:
                path.write_text(dump_recipe(resumed), encoding="utf-8")
    else:
        _merge_run_recipe(folder.run / "config.yaml", folder.stage, recipe)
        with atomic_path(folder.config) as path:
            path.write_text(dump_recipe(recipe), encoding="utf-8")
    folder.logs.mkdir(exist_ok=True)
    _add_environment(folder.environment, num_ranks)


def _changed(before: Recipe, recipe: Recipe, stage: str) -> list[str]:
    """The differences that touch what `stage` computes; "": what the stages of a run share.

    An image tower that only one recipe names is none: a later stage may need one that an earlier one did not. The same
    holds for an IP-Adapter, but for the stage itself, which may train all that there are.
    """
    first, second = before.with_towers(recipe.model.towers), recipe.with_towers(before.model.towers)
    if not stage:
        first = first.with_ip_adapters(recipe.model.ip_adapters)
        second = second.with_ip_adapters(before.model.ip_adapters)
    return [key for key in difference(first, second) if _concerns(key, stage)]


def _concerns(change: str, stage: str) -> bool:
    """Whether a difference of recipes touches what `stage` computes."""
    if change.startswith("data.resident_gib "):
        return False
    return change.split(".")[0].split(" ")[0] in (*SHARED_SECTIONS, stage)


def _merge_run_recipe(path: Path, stage: str, recipe: Recipe) -> None:
    """Write the run's recipe, or put this stage's section into it. The sections that stages share must agree."""
    if path.is_file():
        before = load_recipe(path)
        changed = _changed(before, recipe, "")
        if changed:
            raise UserError(
                f"{path} is another recipe's run: {'; '.join(changed[:5])}. Choose another --run, or leave these keys "
                "alone."
            )
        merged = before.with_towers(recipe.model.towers).with_ip_adapters(recipe.model.ip_adapters)
        recipe = merged.with_stage(stage, recipe.stages[stage])
    with atomic_path(path) as temporary:
        temporary.write_text(dump_recipe(recipe), encoding="utf-8")


def _add_environment(path: Path, num_ranks: int) -> None:
    starts = read_environments(path) if path.is_file() else []
    starts.append(environment(num_ranks))
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(starts, indent=1) + "\n", encoding="utf-8")


def read_environments(path: Path) -> list[dict[str, Any]]:
    """The starts of a stage, from its environment.json. Raises UserError where it is damaged."""
    try:
        starts = read_json(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged: {reason(error)}. Remove it: it tells how the stage was trained.") from None
    if not isinstance(starts, list) or not all(isinstance(start, dict) for start in starts):
        raise UserError(f"{path} is damaged: it is no list of objects. Remove it: it tells how the stage was trained.")
    return starts


def environment(num_ranks: int) -> dict[str, Any]:
    """Versions and machine, as far as they can matter to a result."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    commit = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "num_ranks": num_ranks,
        "selection_split": "val",  # the part whose figure chose the export (StageData never reads "test")
        "packages": versions,
        "commit": commit.stdout.strip() if commit.returncode == 0 else None,
    }


class MetricsLog:
    """metrics.jsonl, TensorBoard and, if the recipe says so, Weights & Biases, kept in step. Only rank 0 makes one."""

    def __init__(self, folder: StageFolder, recipe: Recipe, *, resume_step: int) -> None:
        self._wandb: WandbLog | None = None
        if recipe.log.wandb is not None:
            name = f"{folder.run.name}/{folder.stage}"
            settings = recipe_tree(recipe)
            self._wandb = WandbLog(folder.path, project=recipe.log.wandb, name=name, recipe=settings)
        _drop_lines_after(folder.metrics, resume_step)
        from torch.utils.tensorboard import SummaryWriter

        self._samples = folder.samples
        self._file = folder.metrics.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(folder.tensorboard), purge_step=resume_step + 1)

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """Add one line; `step` counts steps done."""
        self._file.write(json.dumps({"step": step, **figures}) + "\n")
        self._file.flush()
        for name, value in figures.items():
            self._board.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.write(step, figures)

    def write_image(self, step: int, image: np.ndarray) -> None:
        """Add what was drawn after `step` steps, uint8 [H, W, 3]: a file in samples/, and in TensorBoard."""
        with atomic_path(self._samples / f"step-{step:08d}.png") as path:
            Image.fromarray(image).save(path, format="PNG")
        self._board.add_image("samples", image, step, dataformats="HWC")
        if self._wandb is not None:
            self._wandb.write_image(step, image)

    def close(self) -> None:
        self._file.close()
        self._board.close()
        if self._wandb is not None:
            self._wandb.close()


def _drop_lines_after(path: Path, step: int) -> None:
    """Remove what a killed run logged beyond the checkpoint it is resumed from."""
    if not path.is_file():
        return
    lines = [text for text, figures in read_metrics_lines(path) if figures["step"] <= step]
    with atomic_path(path) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
