"""Runs the two groups of trials of a search inside a Ray session: the search itself, then best and default anew."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray

from neuroimagen.trainer.recipe.recipe import Recipe
from neuroimagen.tune.config import GuidanceSearch, MarginSearch, Search
from neuroimagen.tune.confirm import fresh_trials
from neuroimagen.tune.driver import Recorder, TrialSource, resources_of, run_population, run_trials
from neuroimagen.tune.records import SearchFolder, TrialRecord
from neuroimagen.tune.registry import SAMPLERS, SCHEDULERS
from neuroimagen.tune.samplers.proposals import proposals_for
from neuroimagen.tune.schedulers import make_scheduler
from neuroimagen.tune.space import Value
from neuroimagen.tune.trials.guidance import GuidanceTrial
from neuroimagen.tune.trials.margin import MarginTrial

_WITHOUT_LIMIT = 1_000_000
"""Ray wants a number of trials; what ends the search is that there is none left to hand out."""


class Runner:
    """Runs the two groups of trials: those of the search, and those with fresh seeds."""

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
        self._trainable = MarginTrial if isinstance(search, MarginSearch) else GuidanceTrial

    def search(self) -> None:
        """The trials of the search."""
        records = self._folder.records()
        over = [record for record in records if record.is_over]
        pending = [record for record in records if not record.is_over]
        if over or pending:
            print(f"going on: {len(over)} trials are over, {len(pending)} were interrupted", flush=True)
        if SCHEDULERS[self._config.scheduler].copies_checkpoints:
            self._population(over, pending)
            return
        proposals = proposals_for(self._config, self._config.objectives, over)
        names = _Names(len(records))
        limit = None if self._num_settings is not None else self._config.num_trials

        def fresh() -> TrialRecord | None:
            if limit is not None and names.next_number >= limit:
                return None
            name = names.peek()
            values = proposals.next(name)
            if values is None:
                return None
            names.take()
            return TrialRecord(name=name, values=values, seed=self._seed)

        # Those that were interrupted are known to the proposals too, so that none is proposed again.
        for record in pending:
            proposals.tell(record)
        remaining = _WITHOUT_LIMIT if limit is None else max(0, limit - len(records))
        self._run(pending, fresh, proposals.tell, num_fresh=remaining, over=over)

    def _population(self, over: Sequence[TrialRecord], pending: Sequence[TrialRecord]) -> None:
        members = list(pending)
        if not over and not pending:
            proposals = proposals_for(self._config, self._config.objectives, [])
            for number in range(self._config.num_trials):
                name = f"trials/{number:04d}"
                values = proposals.next(name)
                if values is not None:
                    members.append(TrialRecord(name=name, values=values, seed=self._seed))
        if members:
            run_population(
                self._trainable,
                members,
                self._constants,
                Recorder(self._folder, _tell_nobody, len(members)),
                search=self._config,
                folder=self._folder,
                scheduler=self._scheduler(over),
                resources=self._resources,
            )
            self._require_done("trials")

    def confirm(self, best: dict[str, Value]) -> None:
        """The best setting and the default with fresh seeds, every one to its end."""
        default = {key: value_of(self._recipe, key) for key in self._config.space}
        wanted = fresh_trials(best, default, base_seed=self._seed, num_seeds=self._config.confirm_seeds)
        made = {record.name: record for record in self._folder.records("confirm")}
        pending = []
        for record in wanted:
            before = made.get(record.name)
            if before is None or before.values != record.values:  # a longer search has found another best
                self._forget(record.name)
                pending.append(record)
            elif not before.is_over:
                pending.append(before)
        if pending:
            print(f"fresh seeds: {len(pending)} runs of the best setting and the default", flush=True)
            self._run(pending, _nothing, _tell_nobody, num_fresh=0, over=[], confirming=True)

    def _forget(self, name: str) -> None:
        shutil.rmtree(self._folder.trial(name).path, ignore_errors=True)

    def _run(
        self,
        pending: Sequence[TrialRecord],
        fresh: Callable[[], TrialRecord | None],
        tell: Callable[[TrialRecord], None],
        *,
        num_fresh: int,
        over: Sequence[TrialRecord],
        confirming: bool = False,
    ) -> None:
        scheduler = None if confirming else self._scheduler([*over, *pending])
        rungs: Any = getattr(scheduler, "rungs", None)
        num = len(pending) + num_fresh
        if num == 0 and rungs is None:
            return
        constants = dict(self._constants)
        if isinstance(self._config, GuidanceSearch):
            constants["num_segments"] = self._config.confirm_segments if confirming else self._config.num_segments
            constants["num_reports"] = 1 if confirming else self._config.num_reports
        if self._num_settings is not None and not confirming:
            num = max(1, self._num_settings - len(over))

        def promoted(nothing_else: bool) -> TrialRecord | None:
            made = self._folder.records()
            resting = {record.name: record for record in made if record.state == "stopped"}
            name = rungs.next_promotion(resting)
            if name is None and nothing_else and not any(record.state == "finished" for record in made):
                name = rungs.furthest(resting)  # too few trials for the last rung: a search is to find something
            return None if name is None else replace(resting[name], state="running")

        run_trials(
            self._trainable,
            TrialSource(self._folder, pending, fresh, constants, None if rungs is None else promoted),
            Recorder(self._folder, tell, num),
            search=self._config,
            folder=self._folder,
            num_trials=num if rungs is None else _WITHOUT_LIMIT,
            scheduler=scheduler,
            resources=self._resources,
        )
        self._require_done("confirm" if confirming else "trials")

    def _require_done(self, group: Any) -> None:
        """Raise KeyboardInterrupt when Ray returned because a person stopped it."""
        if any(not record.is_over for record in self._folder.records(group)):
            raise KeyboardInterrupt

    def _scheduler(self, over: Sequence[TrialRecord]) -> Any:
        if isinstance(self._config, MarginSearch):
            stage = self._recipe.contrastive
            first, last = self._config.grace_steps or stage.validate_every, stage.steps
        else:
            last = self._config.num_segments
            first = -(-last // self._config.num_reports)
        return make_scheduler(self._config, first=first, last=last, records=over)

    @property
    def _seed(self) -> int:
        """The seed that all trials of the search share."""
        return self._recipe.seed if isinstance(self._config, MarginSearch) else self._recipe.reconstruct.seed


class _Names:
    """Numbers the trials."""

    def __init__(self, first: int) -> None:
        self.next_number = first

    def peek(self) -> str:
        return f"trials/{self.next_number:04d}"

    def take(self) -> None:
        self.next_number += 1


def _nothing() -> None:
    return None


def _tell_nobody(record: TrialRecord) -> None:
    pass


def value_of(recipe: Recipe, key: str) -> Value:
    """The value of a dotted key of a recipe."""
    value: Any = recipe
    for part in key.split("."):
        value = getattr(value, part)
    return value
