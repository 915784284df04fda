"""Training a stage as a job: the checks before ranks start, and the messages about where the results are."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.launch.jobs.progress import Progress
from neuroimagen.launch.jobs.work import Watcher, run_here
from neuroimagen.launch.nodes.job import Launcher, default_num_ranks
from neuroimagen.trainer.recipe.recipe import Recipe
from neuroimagen.trainer.retraining.folds import fold_trainings
from neuroimagen.trainer.runs.run_folder import StageFolder, locked, open_stage_folder
from neuroimagen.trainer.runs.wandb_log import require_wandb
from neuroimagen.trainer.training.build import build_stage, load_initial, sized_recipe
from neuroimagen.trainer.training.checkpoint_folder import unusable_checkpoints
from neuroimagen.trainer.training.ensemble import Member, cross_validation_text, ensemble_members
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
    launcher: Launcher = "torchrun",
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
    """The default number of ranks on this machine; with `cpu`, its accelerators are not counted."""
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
        self._members = len(ensemble_members(recipe, name))
        self._steps = recipe.stages[name].steps * max(1, self._members)
        self._folder = StageFolder(run, name)
        self.arguments: tuple[str, ...] = (name, "--run", str(run.absolute()), *(["--cpu"] if cpu else []))
        self.log_folder = self._folder.logs.absolute()

    @contextmanager
    def prepared(self, num_ranks: int) -> Iterator[bool]:
        folder = self._folder
        with locked(folder):
            if not folder.is_begun:
                # Mistakes that the user can correct are found before ranks start and anything is written.
                check_inputs(self._recipe, self.title, folder.run, num_ranks)
            open_stage_folder(folder, self._recipe, num_ranks=num_ranks, resume=self._resume)
            if not folder.is_begun:
                self._train_folds(num_ranks)
            if not folder.is_finished:
                for sentence in unusable_checkpoints(folder.checkpoints):
                    print(f"{self.title}: {sentence}", file=sys.stderr, flush=True)
            if folder.is_finished:
                print(f"{self.title}: already finished, {self._steps} steps; export in {folder.export}")
            yield not folder.is_finished

    def _train_folds(self, num_ranks: int) -> None:
        """Train, on this machine, what the stage needs without each fold of the stimuli.

        Raises SystemExit with the code of a training that was stopped.
        """
        trainings = fold_trainings(self._recipe, self.title, self._folder.run)
        num_ranks = min(num_ranks, default_ranks(cpu=self.cpu))  # ranks on other nodes are started afterwards
        for training in trainings:
            if StageFolder(training.run, training.stage).is_finished:
                continue
            print(f"{self.title}: {training.stage} without fold {training.fold} of the training stimuli", flush=True)
            code = train_stage(
                training.recipe, training.stage, run=training.run, num_ranks=num_ranks, resume=True, cpu=self.cpu
            )
            if code:
                raise SystemExit(code)

    def watcher(self) -> Watcher:
        return Progress(self._folder, self._steps)

    def describe(self, num_ranks: int) -> str:
        ranks = f"{num_ranks} rank{'s' if num_ranks > 1 else ''}"
        several = f" of {self._members} networks" if self._members else ""
        return f"{self.title}: {self._steps} steps{several} on {ranks}, logs in {self._folder.logs}"

    def conclude(self, signum: int | None) -> int:
        if signum is not None:
            print(
                f"{self.title}: stopped on request; the newest checkpoint is in {self._folder.checkpoints}. Go on "
                "with --resume."
            )
            return 128 + signum
        if self._members:
            print(cross_validation_text(self._folder.path))
        print(f"{self.title}: done; export in {self._folder.export}")
        return 0


def check_inputs(recipe: Recipe, name: str, run: Path, num_ranks: int) -> None:
    """Raise UserError if data, latents, earlier stages, plan, ranks or scoring networks do not fit the recipe.

    Prints a warning where batches have to repeat segments.
    """
    import torch

    from neuroimagen.trainer.batches.stage_data import StageData
    from neuroimagen.trainer.evaluation.scoring.scoring import check_networks
    from neuroimagen.trainer.training.engines.engine import engine_config

    if recipe.log.wandb is not None:
        require_wandb()
    if members := ensemble_members(recipe, name):
        _check_members(members, name, run, num_ranks)
        return
    dataset, shapes, latents = open_inputs(recipe, name)
    assert recipe.data.path is not None  # open_inputs has opened it
    check_networks(recipe.evaluate, Dataset.open(recipe.data.path))
    initial = load_initial(recipe, name, run)
    fold_trainings(recipe, name, run)
    with torch.device("meta"):  # networks without weights: only the stage's needs are read
        stage = build_stage(recipe, name, shapes, initial=initial and initial.to("meta"), run=run)
    for sentence in sized_recipe(recipe, name, shapes)[1]:
        print(f"{name}: {sentence}", file=sys.stderr, flush=True)
    engine_config(stage.config, global_batch_size=stage.global_batch_size, world_size=num_ranks)
    if recipe.encoder.reads_subjects:
        print(untrained_text(dataset, recipe, shapes.subjects or ()), end="", file=sys.stderr, flush=True)
    data = StageData(
        dataset,
        needs=stage.needs,
        latents=latents,
        subjects=recipe.data.subjects,
        device=torch.device("cpu"),
        order=recipe.data.order,
        leave_out=recipe.data.leave_out,
        validation_fold=recipe.data.validation_fold,
    )
    stage.check(data)
    plan = stage.plan(data, recipe.seed)
    if (warning := stage.plan_warning(plan, data)) is not None:
        print(f"{name}: {warning}", file=sys.stderr, flush=True)


def _check_members(members: Sequence[Member], name: str, run: Path, num_ranks: int) -> None:
    """Check one training of each encoder: folds and seeds differ in nothing that could be refused for one alone."""
    first = {member.encoder: member for member in reversed(members)}
    for kind, member in reversed(first.items()):
        try:
            check_inputs(member.recipe, name, run, num_ranks)
        except (UserError, ValueError) as error:
            raise UserError(f"{name}.ensemble, encoder {kind}: {error}") from None


def untrained_text(dataset: Dataset, recipe: Recipe, trained: Sequence[int]) -> str:
    """The line that names the recipe's subjects without training segments and says what becomes of them, or nothing."""
    others = [str(one) for one in recipe.data.subjects or dataset.metadata.subjects if one not in trained]
    if not others:
        return ""
    becomes = "refused" if recipe.encoder.unknown_subject == "error" else "given the mean of the other subjects' maps"
    return (
        f"{len(others)} subject{'s have' if len(others) > 1 else ' has'} no training segments ({', '.join(others)}): "
        f"as any new subject's, their EEG is {becomes} (encoder.unknown_subject).\n"
    )
