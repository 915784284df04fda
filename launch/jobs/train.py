"""Training a stage as a job: what is checked before ranks start, how far they are, where the results lie."""

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from neuroimagen.data_shards.loading.plan import BalancedPlan
from neuroimagen.launch.jobs.local_ranks import Launcher, default_num_ranks
from neuroimagen.launch.jobs.work import Watcher, run_here
from neuroimagen.trainer.recipe.recipe import Recipe
from neuroimagen.trainer.runs.run_folder import StageFolder, locked, open_stage_folder
from neuroimagen.trainer.runs.wandb_log import require_wandb
from neuroimagen.trainer.training.build import build_stage, load_initial
from neuroimagen.trainer.training.inputs import open_inputs

WORKER = "neuroimagen.trainer.training.worker"


def train_stage(
    recipe: Recipe,
    name: str,
    *,
    run: Path,
    num_ranks: int | None,
    resume: bool,
    max_restarts: int = 0,
    launcher: Launcher = "deepspeed",
    cpu: bool = False,
) -> int:
    """Train stage `name` of `recipe` in folder `run`; returns the exit code (128 + signal when asked to stop)."""
    work = TrainWork(recipe, name, run=run, resume=resume, cpu=cpu)
    return run_here(
        work,
        num_ranks=default_ranks(cpu=cpu) if num_ranks is None else num_ranks,
        max_restarts=max_restarts,
        launcher=launcher,
    )


def default_ranks(*, cpu: bool) -> int:
    """The number of ranks that suits this machine; `cpu`: whatever its accelerators."""
    import torch

    return default_num_ranks(len(os.sched_getaffinity(0)), 0 if cpu else torch.cuda.device_count())


class TrainWork:
    """Training one stage of a recipe."""

    module = WORKER

    def __init__(self, recipe: Recipe, name: str, *, run: Path, resume: bool, cpu: bool) -> None:
        self.title = name
        self.cpu = cpu
        self._recipe = recipe
        self._resume = resume
        self._steps = recipe.stages[name].steps
        self._folder = StageFolder(run, name)
        self.arguments: tuple[str, ...] = (name, "--run", str(run.absolute()), *(["--cpu"] if cpu else []))
        self.log_folder = self._folder.logs.absolute()

    @contextmanager
    def prepared(self, num_ranks: int) -> Iterator[bool]:
        folder = self._folder
        with locked(folder):
            if not folder.is_begun:
                # Whatever the user can mend is found before ranks start and anything is written.
                check_inputs(self._recipe, self.title, folder.run, num_ranks)
            open_stage_folder(folder, self._recipe, num_ranks=num_ranks, resume=self._resume)
            if folder.is_finished:
                print(f"{self.title}: already finished, {self._steps} steps; export in {folder.export}")
            yield not folder.is_finished

    def watcher(self) -> Watcher:
        return Progress(self._folder, self._steps)

    def describe(self, num_ranks: int) -> str:
        ranks = f"{num_ranks} rank{'s' if num_ranks > 1 else ''}"
        return f"{self.title}: {self._steps} steps on {ranks}, logs in {self._folder.logs}"

    def conclude(self, signum: int | None) -> int:
        if signum is not None:
            print(
                f"{self.title}: stopped on request; the newest checkpoint is in {self._folder.checkpoints}. Go on with "
                "--resume."
            )
            return 128 + signum
        print(f"{self.title}: done; export in {self._folder.export}")
        return 0


def check_inputs(recipe: Recipe, name: str, run: Path, num_ranks: int) -> None:
    """Raise UserError if data, latents, earlier stages, plan or ranks do not fit the recipe; say what fits badly."""
    import torch

    from neuroimagen.trainer.batches.stage_data import StageData
    from neuroimagen.trainer.training.engine import engine_config

    if recipe.log.wandb is not None:
        require_wandb()
    dataset, shapes, latents = open_inputs(recipe, name)
    initial = load_initial(recipe, name, run)
    with torch.device("meta"):  # networks without weights: only their needs are asked for
        stage = build_stage(recipe, name, shapes, initial=initial and initial.to("meta"))
    engine_config(stage.config, global_batch_size=stage.global_batch_size, world_size=num_ranks)
    data = StageData(
        dataset,
        needs=stage.needs,
        latents=latents,
        subjects=recipe.data.subjects,
        device=torch.device("cpu"),
        order=recipe.data.order,
    )
    stage.check(data)
    plan = stage.plan(data, recipe.seed)
    if isinstance(plan, BalancedPlan):
        repeats = repeats_text(plan, [item.name for item in dataset.metadata.classes])
        if repeats is not None:
            print(f"{name}: {repeats}", file=sys.stderr, flush=True)


NUM_NAMED = 5
"""Classes that are named, at most."""


def repeats_text(plan: BalancedPlan, names: Sequence[str]) -> str | None:
    """Which classes repeat segments within a batch, in words; None where none does. `names`: of the labels."""
    short = plan.short_classes
    if not short:
        return None
    named = ", ".join(f"{names[label]} ({num})" for label, num in list(short.items())[:NUM_NAMED])
    more = f" and {len(short) - NUM_NAMED} more" if len(short) > NUM_NAMED else ""
    return (
        f"{len(short)} of {plan.num_of_classes} classes have fewer than the {plan.num_samples} segments that a batch "
        f"takes of each, so it repeats some, and equal segments are positives of each other at no distance: "
        f"{named}{more}. num_samples {min(short.values())} repeats none."
    )


LINE_SECONDS = 60.0
"""Off a terminal: time from one line of progress to the next."""


def summary(figures: dict[str, Any]) -> str:
    """Losses, speed, waiting and memory of one line of metrics.jsonl, in words."""
    parts = [f"{key.replace('_', ' ')} {value:.4g}" for key, value in figures.items() if key.endswith("loss")]
    if "segments_per_second" in figures:
        parts.append(f"{figures['segments_per_second']:.0f} segments/s")
        parts.append(f"{100 * figures['data_wait_share']:.1f} % waiting for data")
        parts.append(f"{figures['memory_gib']:.1f} GiB")
    return ", ".join(parts)


class Progress:
    """A progress bar on a terminal, a line a minute and a validation elsewhere, both read off metrics.jsonl."""

    def __init__(self, folder: StageFolder, steps: int) -> None:
        from tqdm import tqdm

        self._path = folder.metrics
        self._name = folder.stage
        self._file_id: int | None = None
        self._position = 0
        self._validated = 0
        """The last step whose validation was shown."""
        self._steps = steps
        self._began: tuple[float, int] | None = None
        """Time and step of the first line seen: what the time left is reckoned from."""
        self._said = time.monotonic()
        self._bar = tqdm(total=steps, desc=folder.stage, unit="step", disable=not sys.stderr.isatty(), leave=False)

    def update(self) -> None:
        """Show what the ranks have logged since the last call."""
        try:
            file = self._path.open(encoding="utf-8")
        except FileNotFoundError:
            return
        with file:
            status = os.fstat(file.fileno())
            if status.st_ino != self._file_id or status.st_size < self._position:
                self._file_id, self._position = status.st_ino, 0  # a resume puts another file in its place
            file.seek(self._position)
            while (line := file.readline()).endswith("\n"):
                self._show(json.loads(line))
                self._position = file.tell()

    def _show(self, figures: dict[str, Any]) -> None:
        step = figures.pop("step")
        self._bar.update(step - self._bar.n)
        validation = {key: value for key, value in figures.items() if key.startswith("val_")}
        if validation and step <= self._validated:
            return  # of before the resume
        if validation:
            self._validated = step
            text = ", ".join(f"{key.removeprefix('val_')} {value:.4g}" for key, value in validation.items())
            if self._bar.disable:
                print(f"{self._name}: step {step}, validation {text}", flush=True)
            else:
                self._bar.write(f"{self._name}: step {step}, validation {text}", file=sys.stderr)
            return
        now = time.monotonic()
        if self._began is None:
            self._began = (now, step)
        if not self._bar.disable:
            self._bar.set_postfix_str(summary(figures))
        elif now - self._said >= LINE_SECONDS:
            self._said = now
            done = step - self._began[1]
            left = (self._steps - step) * (now - self._began[0]) / done if done else 0.0
            time_left = f", about {left / 60:.0f} min left" if done else ""
            print(f"{self._name}: step {step} of {self._steps}, {summary(figures)}{time_left}", flush=True)

    def close(self) -> None:
        self._bar.close()
