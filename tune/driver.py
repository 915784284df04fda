"""Runs a group of trials with Ray Tune, and writes their records."""

import errno
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ray import tune
from ray.tune.search import Searcher
from ray.tune.search.basic_variant import BasicVariantGenerator

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.progress import bar
from neuroimagen.tune.config import Search, StageSearch
from neuroimagen.tune.records import SearchFolder, TrialRecord
from neuroimagen.tune.schedulers import mutations
from neuroimagen.tune.space import label

Tell = Callable[[TrialRecord], None]


@dataclass(frozen=True, kw_only=True)
class Resources:
    """CPUs and GPUs of one trial, and the number of trials that run at the same time."""

    cpus: int
    gpus: float
    concurrent: int


class TrialSource(Searcher):  # type: ignore[misc]
    """Gives trials to Ray: first those that were interrupted, then those that are promoted, then new ones."""

    def __init__(
        self,
        folder: SearchFolder,
        interrupted: Sequence[TrialRecord],
        new: Callable[[], TrialRecord | None],
        constants: dict[str, Any],
        promoted: Callable[[bool], TrialRecord | None] | None = None,
    ) -> None:
        """new: returns a new trial, or None if none is left. constants: the part of the configuration that all trials
        share. promoted: returns a paused trial that may continue, or None; its argument says whether no other trial is
        left. It is None itself where a stopped trial never continues.
        """
        super().__init__(metric="value", mode="max")
        self._folder = folder
        self._interrupted = list(interrupted)
        self._new = new
        self._promoted = promoted
        self._constants = constants
        self._running: set[str] = set()

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        record = self._interrupted.pop(0) if self._interrupted else None
        if record is None and self._promoted is not None:
            record = self._promoted(False)
        if record is None:
            record = self._new()
        if record is None and self._promoted is not None:
            if self._running:
                return None  # its result may promote another trial
            record = self._promoted(True)
        if record is None:
            return str(Searcher.FINISHED)
        self._folder.write(record)
        self._running.add(trial_id)
        return {**self._constants, **trial_config(record)}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Only takes note of it: the recorder tells the proposals, with the whole curve."""
        self._running.discard(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """Does nothing: a search is resumed from its records, never from a pickle."""

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError


def trial_config(record: TrialRecord) -> dict[str, Any]:
    """A trial's part of its configuration in Ray; the values are at the top level, where schedulers can change them."""
    return {"trial": record.name, "seed": record.seed, **record.values}


class Recorder(tune.Callback):  # type: ignore[misc]
    """Writes the records of trials while they run, and prints one line when a trial ends."""

    def __init__(self, folder: SearchFolder, tell: Tell, total: int) -> None:
        self._folder = folder
        self._tell = tell
        self._total = total
        self._names: dict[str, str] = {}
        """Ray's id → name. Population-based training copies configurations, and with them names, between trials."""
        self._curves: dict[str, dict[int, float]] = {}
        self._retries: dict[str, int] = {}
        self._begun: dict[str, float] = {}
        """Ray's id → time of its first start."""
        self._ended: set[str] = set()
        self._bar: Any = None
        self.problem: UserError | None = None
        """What ended the search: a record could not be written, or the disk is full."""

    def __getstate__(self) -> dict[str, Any]:
        """Ray stores its callbacks: a bar belongs to the terminal of this process."""
        return {**self.__dict__, "_bar": None}

    def _say(self, text: str) -> None:
        if self._bar is None or self._bar.disable:
            print(text, flush=True)
        else:
            self._bar.write(text, file=sys.stdout)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        name = self._names.setdefault(trial.trial_id, trial.config["trial"])
        if name not in self._curves:  # a trial that was promoted has a curve already
            self._curves[name] = dict(self._folder.read(name).curve)
        self._begun.setdefault(trial.trial_id, time.monotonic())
        if self._bar is None:
            self._bar = bar(self._total, desc="trials", unit="trial")

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        if self._bar is not None:
            self._bar.close()

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if "value" in result:
            self._curves[self._names[trial.trial_id]][int(result["step"])] = float(result["value"])

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        name = self._names[trial.trial_id]
        self._retries[name] = self._retries.get(name, 0) + 1
        self._say(f"{name}: its worker process was lost; the trial is started again")

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        result = trial.last_result or {}
        if "failed" in result:
            self._finish(trial, state="failed", message=str(result["failed"]))
        elif result.get("finished"):
            self._finish(trial, state="finished")
        else:
            self._finish(trial, state="stopped")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        lines = str(trial.get_error() or "").strip().splitlines()
        reason = next((line.strip() for line in reversed(lines) if line.strip()), "no error message")
        self._finish(trial, state="failed", message=f"its worker process was lost too often; the last error: {reason}")

    def _finish(self, trial: Any, *, message: str = "", **changes: Any) -> None:
        name = self._names[trial.trial_id]
        if os.strerror(errno.ENOSPC) in message:  # no fault of the setting: the trial is not over
            self.problem = UserError(f"{name}: {message}. Free space, and continue the search with --resume.")
            raise self.problem
        result = trial.last_result or {}
        curve = tuple(sorted(self._curves[name].items()))
        before = self._folder.read(name)
        record = replace(
            before,
            figures={key: float(value) for key, value in result.get("figures", {}).items()},
            curve=curve,
            steps=curve[-1][0] if curve else 0,
            seconds=round(before.seconds + time.monotonic() - self._begun[trial.trial_id], 2),
            num_starts=self._folder.trial(name).num_starts,
            retries=self._retries.get(name, 0),
            message=message,
            **changes,
        )
        try:
            self._folder.write(record)
        except UserError as error:
            self.problem = error
            raise
        self._tell(record)
        self._ended.add(name)
        self._say(f"[{len(self._ended)}/{self._total}] {describe(record)}")
        if self._bar is not None:
            self._bar.n = len(self._ended)
            self._bar.refresh()


def describe(record: TrialRecord) -> str:
    """One line about how a trial ended."""
    if record.state == "failed":
        return f"{record.name} failed: {record.message}"
    value = f"{record.curve[-1][1]:.4f}" if record.curve else "no value"
    ended = "" if record.state == "finished" else f", stopped at {record.steps}"
    return f"{record.name} {value}{ended}  {label(record.values)}"


def run_trials(
    trainable: type[Any],
    source: TrialSource,
    recorder: Recorder,
    *,
    search: Search,
    folder: SearchFolder,
    num_trials: int,
    scheduler: Any,
    resources: Resources,
) -> None:
    """Run trials until none is left. Raises KeyboardInterrupt if the user stops the search; the records stay."""
    _fit(
        trainable,
        recorder,
        tune_config={"search_alg": source, "num_samples": num_trials},
        search=search,
        folder=folder,
        scheduler=scheduler,
        resources=resources,
    )


def run_population(
    trainable: type[Any],
    records: Sequence[TrialRecord],
    constants: dict[str, Any],
    recorder: Recorder,
    *,
    search: Search,
    folder: SearchFolder,
    scheduler: Any,
    resources: Resources,
) -> None:
    """Run a population; Ray's scheduler needs all of its members from the start."""
    for record in records:
        folder.write(record)
    # The generator takes starting points only for keys that it could draw itself, so these get a range to draw from.
    drawn = {"trial": tune.choice([record.name for record in records]), "seed": tune.choice([0])}
    _fit(
        trainable,
        recorder,
        tune_config={
            "search_alg": BasicVariantGenerator(points_to_evaluate=[trial_config(record) for record in records]),
            "num_samples": len(records),
        },
        param_space={**constants, **_domains(mutations(search.space)), **drawn},
        search=search,
        folder=folder,
        scheduler=scheduler,
        resources=resources,
    )


def _domains(changes: dict[str, Any]) -> dict[str, Any]:
    return {key: tune.choice(value) if isinstance(value, list) else value for key, value in changes.items()}


def _fit(
    trainable: type[Any],
    recorder: Recorder,
    *,
    tune_config: dict[str, Any],
    param_space: dict[str, Any] | None = None,
    search: Search,
    folder: SearchFolder,
    scheduler: Any,
    resources: Resources,
) -> None:
    tuner = tune.Tuner(
        tune.with_resources(trainable, {"CPU": resources.cpus, "GPU": resources.gpus}),
        param_space=param_space,
        tune_config=tune.TuneConfig(
            **tune_config,
            scheduler=scheduler,
            max_concurrent_trials=resources.concurrent,
            reuse_actors=True,  # a worker loads models and imports modules once, for all of its trials
            trial_dirname_creator=_trial_dirname,
            **({} if scheduler is not None else {"metric": "value", "mode": "max"}),
        ),
        run_config=tune.RunConfig(
            name=f"ray-{os.getpid()}-{time.time_ns()}",
            storage_path=str(folder.ray),
            failure_config=tune.FailureConfig(max_failures=search.max_retries),
            callbacks=[recorder],
            verbose=0,
        ),
    )
    try:
        tuner.fit()
    except Exception:  # Ray's own, with the text of all tracebacks before it
        if recorder.problem is not None:
            raise recorder.problem from None
        raise


def _trial_dirname(trial: Any) -> str:
    return str(trial.trial_id)


def resources_of(search: Search, *, concurrent: int | None, num_cpus: int, num_gpus: float) -> Resources:
    """What a trial needs, and how many trials run at the same time: as many as fit, or `concurrent`.

    Raises UserError if not even one fits, or if `concurrent` of them do not.
    """
    ranks = (search.num_ranks or 1) if isinstance(search, StageSearch) else 1
    gpus = search.gpus_per_rank if search.gpus_per_rank is not None else (1.0 if num_gpus else 0.0)
    cpus, gpus = ranks * search.cpus_per_rank, ranks * gpus
    fitting = int(min(num_cpus // cpus, num_gpus // gpus if gpus else num_cpus))
    if fitting < 1:
        raise UserError(
            f"a trial needs {cpus} CPUs and {gpus:g} GPUs, but there are {num_cpus} and {num_gpus:g}. Lower num_ranks, "
            "cpus_per_rank or gpus_per_rank."
        )
    if concurrent is not None and not 1 <= concurrent <= fitting:
        raise UserError(f"--concurrent is {concurrent}, but 1 to {fitting} trials of {cpus} CPUs fit at the same time.")
    return Resources(cpus=cpus, gpus=gpus, concurrent=concurrent or fitting)
