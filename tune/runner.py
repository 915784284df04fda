"""Runs the two groups of trials of a search in a Ray session: its own trials, then the runs with new seeds."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import ray

from neuroimagen.trainer.recipe.recipe import Recipe
from neuroimagen.tune.config import GuidanceSearch, Search, StageSearch, default_value
from neuroimagen.tune.confirm import confirmation_trials
from neuroimagen.tune.driver import Recorder, TrialSource, resources_of, run_population, run_trials
from neuroimagen.tune.records import SearchFolder, TrialRecord
from neuroimagen.tune.registry import SAMPLERS, SCHEDULERS
from neuroimagen.tune.samplers.proposals import proposals_for
from neuroimagen.tune.schedulers import make_scheduler
from neuroimagen.tune.space import Value
from neuroimagen.tune.trials.guidance import GuidanceTrial
from neuroimagen.tune.trials.training import TrainingTrial

_WITHOUT_LIMIT = 1_000_000
"""Ray needs a number of trials. The search ends when there is no trial left to give to Ray."""


class Runner:
    """Runs the trials of a search, and the runs of its best setting and of the default with new seeds."""

    def __init__(
        self, search: Search, recipe: Recipe, folder: SearchFolder, *, run: Path | None, concurrent: int | None
    ) -> None:
        self._config, self._recipe, self._folder = search, recipe, folder
        found = ray.cluster_resources()
        self._resources = resources_of(
            search,
            concurrent=concurrent,
            num_cpus=int(found.get("CPU", 0)),
            num_gpus=float(found.get("GPU", 0)),
        )
        self._constants: dict[str, Any] = {"folder": str(folder.path), "cwd": str(Path.cwd())}
        if isinstance(search, GuidanceSearch):
            self._constants["run"] = str(run)
        self._num_settings = SAMPLERS[search.sampler].num_settings(search)
        self._trainable = TrainingTrial if isinstance(search, StageSearch) else GuidanceTrial

    def search(self) -> None:
        """Run the trials of the search, or those that are left of an interrupted one."""
        records = self._folder.records()
        ended = [record for record in records if record.has_ended]
        interrupted = [record for record in records if not record.has_ended]
        if records:
            print(f"resuming: {len(ended)} trials have ended, {len(interrupted)} were interrupted", flush=True)
        if SCHEDULERS[self._config.scheduler].copies_checkpoints:
            self._population(ended, interrupted)
            return
        proposals = proposals_for(self._config, self._config.objectives, ended)
        next_number = len(records)
        limit = None if self._num_settings is not None else self._config.num_trials

        def new() -> TrialRecord | None:
            nonlocal next_number
            if limit is not None and next_number >= limit:
                return None
            name = _name(next_number)
            values = proposals.next(name)
            if values is None:
                return None
            next_number += 1
            return TrialRecord(name=name, values=values, seed=self._seed)

        # The proposals are told the interrupted trials too, so that none of their settings is proposed again.
        for record in interrupted:
            proposals.tell(record)
        remaining = _WITHOUT_LIMIT if limit is None else max(0, limit - len(records))
        self._run(interrupted, new, proposals.tell, num_new=remaining, ended=ended)

    def _population(self, ended: Sequence[TrialRecord], interrupted: Sequence[TrialRecord]) -> None:
        """Run a population, whose members start together; a resumed one consists of its interrupted members."""
        members = list(interrupted)
        if not ended and not interrupted:
            proposals = proposals_for(self._config, self._config.objectives, [])
            for number in range(self._config.num_trials):
                name = _name(number)
                values = proposals.next(name)
                if values is not None:
                    members.append(TrialRecord(name=name, values=values, seed=self._seed))
        if members:
            run_population(
                self._trainable,
                members,
                self._constants,
                Recorder(self._folder, _ignore, len(members)),
                search=self._config,
                folder=self._folder,
                scheduler=self._scheduler(ended),
                resources=self._resources,
            )
            self._require_ended("trials")

    def confirm(self, best: dict[str, Value]) -> None:
        """Run the best setting and the default with new seeds, every run to its end."""
        default = {key: default_value(self._config, self._recipe, key) for key in self._config.space}
        wanted = confirmation_trials(best, default, base_seed=self._seed, num_seeds=self._config.confirm_seeds)
        made = {record.name: record for record in self._folder.records("confirm")}
        missing = []
        for record in wanted:
            before = made.get(record.name)
            if before is None or before.values != record.values:  # a longer search has found another best setting
                shutil.rmtree(self._folder.trial(record.name).path, ignore_errors=True)
                missing.append(record)
            elif not before.has_ended:
                missing.append(before)
        if missing:
            print(f"confirmation: {len(missing)} runs of the best setting and the default, with new seeds", flush=True)
            self._run(missing, _none_left, _ignore, num_new=0, ended=[], confirming=True)

    def _run(
        self,
        interrupted: Sequence[TrialRecord],
        new: Callable[[], TrialRecord | None],
        tell: Callable[[TrialRecord], None],
        *,
        num_new: int,
        ended: Sequence[TrialRecord],
        confirming: bool = False,
    ) -> None:
        """Run the trials of `interrupted`, then those that `new` returns; `tell` is called when one has ended.

        num_new: how many `new` returns at most. ended: trials that the scheduler compares with. confirming: these are
        the runs with new seeds, which no scheduler stops.
        """
        scheduler = None if confirming else self._scheduler([*ended, *interrupted])
        rungs: Any = getattr(scheduler, "rungs", None)
        num = len(interrupted) + num_new
        if num == 0 and rungs is None:
            return
        constants = dict(self._constants)
        if isinstance(self._config, GuidanceSearch):
            constants["num_segments"] = self._config.confirm_segments if confirming else self._config.num_segments
            constants["num_reports"] = 1 if confirming else self._config.num_reports
        if self._num_settings is not None and not confirming:
            num = max(1, self._num_settings - len(ended))

        def promoted(nothing_else: bool) -> TrialRecord | None:
            made = self._folder.records()
            paused = {record.name: record for record in made if record.state == "stopped"}
            name = rungs.next_promotion(paused)
            if name is None and nothing_else and not any(record.state == "finished" for record in made):
                name = rungs.promote_furthest(paused)  # too few trials for the last rung; one of them has to finish
            return None if name is None else replace(paused[name], state="running")

        run_trials(
            self._trainable,
            TrialSource(self._folder, interrupted, new, constants, None if rungs is None else promoted),
            Recorder(self._folder, tell, num),
            search=self._config,
            folder=self._folder,
            num_trials=num if rungs is None else _WITHOUT_LIMIT,
            scheduler=scheduler,
            resources=self._resources,
        )
        self._require_ended("confirm" if confirming else "trials")

    def _require_ended(self, group: Literal["trials", "confirm"]) -> None:
        """Raise KeyboardInterrupt if Ray has returned because the user stopped the search."""
        if any(not record.has_ended for record in self._folder.records(group)):
            raise KeyboardInterrupt

    def _scheduler(self, records: Sequence[TrialRecord]) -> Any:
        """The scheduler of the search's trials, which compares them with `records` too."""
        if isinstance(self._config, StageSearch):
            stage = self._recipe.stages[self._config.stage]
            first, last = self._config.grace_steps or stage.validate_every, stage.steps
        else:
            last = self._config.num_segments
            first = -(-last // self._config.num_reports)
        return make_scheduler(self._config, first=first, last=last, records=records)

    @property
    def _seed(self) -> int:
        """The seed of all trials of the search."""
        return self._recipe.seed if isinstance(self._config, StageSearch) else self._recipe.reconstruct.seed


def _name(number: int) -> str:
    return f"trials/{number:04d}"


def _none_left() -> None:
    return None


def _ignore(record: TrialRecord) -> None:
    pass
