"""A trial of a search over a stage: an actor that runs the training command and reports its validations."""

import os
import shutil
import time
from collections import deque
from pathlib import Path
from typing import Any

from ray import tune

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.files import atomic_path
from neuroimagen.data_shards.dataset.sealed import seal
from neuroimagen.trainer.recipe.recipe import Recipe, dump_recipe, load_recipe
from neuroimagen.trainer.runs.rank_status import read_statuses
from neuroimagen.trainer.runs.run_folder import StageFolder, locked
from neuroimagen.trainer.stages.registry import STAGES
from neuroimagen.tune.config import StageSearch
from neuroimagen.tune.records import SearchFolder, add_line, read_lines, read_search
from neuroimagen.tune.registry import SCHEDULERS
from neuroimagen.tune.space import Values, overrides
from neuroimagen.tune.trials.objective import Validation, selected, validation_of
from neuroimagen.tune.trials.process import (
    STOP_GRACE_SECONDS,
    MetricsTail,
    TrialProcess,
    trial_command,
    trial_environment,
)

POLL_SECONDS = 0.1
KEPT_FOR_COPIES = 8
"""Checkpoints that a run of population-based training keeps: another trial may need one that is not the newest."""


class WorkerLostError(Exception):
    """The trial's process or one of its ranks was killed, which is not an effect of its setting."""


def trial_recipe(
    default: Path, values: Values, *, stage: str, seed: int, keep_checkpoints: int | None = None
) -> Recipe:
    """The recipe of a trial: the default with its values, and with a checkpoint at every validation to resume from."""
    changes = [*overrides(values), f"seed={seed}"]
    config = load_recipe(default, changes).stages[stage]
    changes.append(f"{stage}.checkpoint_every={min(config.validate_every, config.checkpoint_every)}")
    if keep_checkpoints is not None:
        changes.append(f"{stage}.keep_checkpoints={max(keep_checkpoints, config.keep_checkpoints)}")
    return load_recipe(default, changes)


class TrainingTrial(tune.Trainable):  # type: ignore[misc]
    """Ray's actor for a trial. Its configuration: folder, trial, seed, cwd, and the values of the space's keys."""

    def setup(self, config: dict[str, Any]) -> None:
        seal("test")
        os.chdir(config["cwd"])  # where the user started the search: relative paths mean the same
        self._folder = SearchFolder(config["folder"])
        search, _ = read_search(self._folder)
        assert isinstance(search, StageSearch)
        self._search, self._stage = search, search.stage
        self._process: TrialProcess | None = None
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begin the next trial on this worker, where everything is imported already."""
        self.cleanup()
        self._begin(new_config)
        return True

    def _begin(self, config: dict[str, Any]) -> None:
        self._name = own_name(self._folder, self.trial_id, config["trial"])
        self._trial = self._folder.trial(self._name)
        self._values = {key: config[key] for key in self._search.space}
        self._seed = int(config["seed"])
        self._after = 0
        self._problem: UserError | None = None
        self._trial.add_start()

    def step(self) -> dict[str, Any]:
        """The next validation of the run; the last one when the command has ended."""
        try:
            if self._problem is not None:
                raise self._problem
            if self._process is None:
                self._start()
        except UserError as error:
            return {"failed": str(error), "done": True}
        assert self._process is not None
        while True:
            for line in self._tail.read():
                validation = validation_of(line)
                assert validation is not None
                self._waiting.append(validation)
            # The last validation comes before the export: the trial has ended when the command has.
            if self._waiting and self._waiting[0].step < self._total:
                return self._result(self._waiting.popleft())
            code = self._process.poll()
            if code is not None:
                return self._ended(code)
            time.sleep(POLL_SECONDS)

    def _start(self) -> None:
        recipe = self._recipe()
        self._total = recipe.stages[self._stage].steps
        path = self._trial.path / "recipe.yaml"
        with atomic_path(path) as temporary:
            temporary.write_text(dump_recipe(recipe), encoding="utf-8")
        self._run = self._trial.newest_run
        if self._trial.num_starts > 1:
            wait_until_free(StageFolder(self._run, self._stage))
        metrics = StageFolder(self._run, self._stage).metrics
        self._seen = [v for line in read_lines(metrics) if (v := validation_of(line)) and v.step <= self._after]
        self._tail = MetricsTail(metrics, after=self._after)
        self._waiting: deque[Validation] = deque()
        self._process = TrialProcess(
            trial_command(
                stage=self._stage,
                recipe=path,
                run=self._run,
                num_ranks=self._search.num_ranks,
                launcher=self._search.launcher,
            ),
            log=self._trial.log,
            environment=trial_environment(os.environ, cpus_per_rank=self._search.cpus_per_rank),
        )

    def _recipe(self) -> Recipe:
        keep = KEPT_FOR_COPIES if SCHEDULERS[self._search.scheduler].copies_checkpoints else None
        return trial_recipe(
            self._folder.recipe, self._values, stage=self._stage, seed=self._seed, keep_checkpoints=keep
        )

    def _result(self, validation: Validation, **more: Any) -> dict[str, Any]:
        self._seen.append(validation)
        self._after = validation.step
        chosen = selected(self._seen, STAGES[self._stage].selection)
        figures = {name: chosen.figures[name] for name in sorted(chosen.figures)}
        return {"step": validation.step, "value": figures[self._search.objective], "figures": figures, **more}

    def _ended(self, code: int) -> dict[str, Any]:
        """The result of a command that has ended. Raises WorkerLostError where it or a rank was killed."""
        assert self._process is not None
        last_line = self._process.last_line()
        if code == 0 and (self._waiting or self._seen):
            # Without a validation that waits, the trial had finished when its search was interrupted.
            last = self._waiting.popleft() if self._waiting else self._seen.pop()
            self._keep_segment_figures()
            return self._result(last, finished=True, done=True)
        if code == 0:
            return {"failed": f"the command ended without a validation. Its last line: {last_line}", "done": True}
        statuses = read_statuses(StageFolder(self._run, self._stage).logs)
        if code < 0 or code > 128 or any(status.has_died for status in statuses):
            raise WorkerLostError(last_line or f"exit code {code}")
        return {"failed": last_line.removeprefix("neuroimagen train: ") or f"exit code {code}", "done": True}

    def _keep_segment_figures(self) -> None:
        """Copy the figures by segment of the run's export, if its stage has left them, to the trial's folder."""
        made = StageFolder(self._run, self._stage).segment_figures
        if made.is_file():
            with atomic_path(self._trial.segment_figures) as temporary:
                shutil.copyfile(made, temporary)

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        """The position of the trial; its weights are in its run."""
        return {"trial": self._name, "run": self._trial.num_copies, "step": self._after}

    def load_checkpoint(self, checkpoint: dict[str, Any] | None) -> None:
        """Continue from a position of this trial, or in population-based training of another one."""
        from neuroimagen.tune.trials.copied_run import copy_run  # imports DeepSpeed, which only this needs

        assert checkpoint is not None
        self._after = int(checkpoint["step"])
        if checkpoint["trial"] == self._name:
            return
        copy = {"from": checkpoint["trial"], "run": checkpoint["run"], "step": self._after, "values": self._values}
        done = read_lines(self._trial.copies)
        if done and done[-1] == copy:
            return  # this copy was made before the worker process was lost
        target = self._trial.run(len(done) + 1)
        shutil.rmtree(target, ignore_errors=True)
        source = self._folder.trial(checkpoint["trial"]).run(checkpoint["run"])
        try:
            copy_run(source, target, self._recipe(), stage=self._stage, step=self._after)
        except UserError as error:  # it ends the trial with this message; the worker is not lost
            self._problem = error
            return
        add_line(self._trial.copies, copy)

    def cleanup(self) -> None:
        """End the command of a trial that was stopped, was paused or has ended; it saves a checkpoint first."""
        if self._process is not None:
            self._process.stop()
            self._process = None


def wait_until_free(folder: StageFolder) -> None:
    """Wait until an earlier command of the run has ended: it may still be saving its checkpoint, on another node.

    Raises UserError if it is still running after the time that it has for stopping.
    """
    deadline = time.monotonic() + STOP_GRACE_SECONDS + 10.0
    while True:
        try:
            with locked(folder):
                return
        except UserError:
            if time.monotonic() > deadline:
                raise
            time.sleep(POLL_SECONDS)


def own_name(folder: SearchFolder, trial_id: str, configured: str) -> str:
    """The name of Ray's trial `trial_id`: the one that was configured when it first started.

    Population-based training copies configurations, and with them names, between trials.
    """
    path = folder.ray / "names" / trial_id
    if not path.is_file():
        with atomic_path(path) as temporary:
            temporary.write_text(configured, encoding="utf-8")
    return path.read_text(encoding="utf-8")
