"""Runs a group of trials through Ray Tune and keeps their records."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ray import tune
from ray.tune.search import Searcher
from ray.tune.search.basic_variant import BasicVariantGenerator

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.tune.config import Search
from neuroimagen.tune.records import SearchFolder, TrialRecord
from neuroimagen.tune.schedulers import mutations
from neuroimagen.tune.space import label

Tell = Callable[[TrialRecord], None]


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What one trial takes, and how many run at once."""

    cpus: int
    gpus: float
    concurrent: int


class TrialSource(Searcher):  # type: ignore[misc]
    """Hands out trials: those that were interrupted first, then those that are promoted, then new ones."""

    def __init__(
        self,
        folder: SearchFolder,
        pending: Sequence[TrialRecord],
        fresh: Callable[[], TrialRecord | None],
        constants: dict[str, Any],
        promoted: Callable[[bool], TrialRecord | None] | None = None,
    ) -> None:
        """`promoted`: gives a trial that rests and may go on, its argument says whether nothing else is left to do;
        None where a trial that was stopped is over.
        """
        super().__init__(metric="value", mode="max")
        self._folder = folder
        self._pending = list(pending)
        self._fresh = fresh
        self._promoted = promoted
        self._constants = constants
        self._at_work: set[str] = set()

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        record = self._pending.pop(0) if self._pending else None
        if record is None and self._promoted is not None:
            record = self._promoted(False)
        if record is None:
            record = self._fresh()
        if record is None and self._promoted is not None:
            if self._at_work:
                return None  # it may yet let another trial go on
            record = self._promoted(True)
        if record is None:
            return str(Searcher.FINISHED)
        self._folder.write(record)
        self._at_work.add(trial_id)
        return {**self._constants, **trial_config(record)}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """The recorder tells the proposals, with the whole curve."""
        self._at_work.discard(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: a search goes on from its records, never from a pickle."""

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError


def trial_config(record: TrialRecord) -> dict[str, Any]:
    """What Ray's configuration has of a trial; the values stand at the top, where schedulers can change them."""
    return {"trial": record.name, "seed": record.seed, **record.values}


class Recorder(tune.Callback):  # type: ignore[misc]
    """Writes down how trials go, as they go, and says it in a line each."""

    def __init__(self, folder: SearchFolder, tell: Tell, total: int) -> None:
        self._folder = folder
        self._tell = tell
        self._total = total
        self._names: dict[str, str] = {}
        """Ray's id → name: population-based training changes the configuration, and so what it says of the name."""
        self._curves: dict[str, dict[int, float]] = {}
        self._retries: dict[str, int] = {}
        self._begun: dict[str, float] = {}
        """Ray's id → when it first started."""
        self._over: set[str] = set()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        name = self._names.setdefault(trial.trial_id, trial.config["trial"])
        if name not in self._curves:  # one that is promoted has a curve already
            self._curves[name] = dict(self._folder.read(name).curve)
        self._begun.setdefault(trial.trial_id, time.monotonic())

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if "value" in result:
            self._curves[self._names[trial.trial_id]][int(result["step"])] = float(result["value"])

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        name = self._names[trial.trial_id]
        self._retries[name] = self._retries.get(name, 0) + 1
        print(f"{name}: its worker died; started again", flush=True)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        result = trial.last_result or {}
        if "failed" in result:
            self._finish(trial, state="failed", message=str(result["failed"]))
        elif result.get("finished"):
            self._finish(trial, state="finished")
        else:
            self._finish(trial, state="stopped")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        said = str(trial.get_error() or "").strip().splitlines()
        reason = next((line for line in reversed(said) if line.strip()), "no reason given")
        self._finish(trial, state="failed", message=f"its worker died again and again; the last time: {reason.strip()}")

    def _finish(self, trial: Any, **changes: Any) -> None:
        name = self._names[trial.trial_id]
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
            **changes,
        )
        self._folder.write(record)
        self._tell(record)
        self._over.add(name)
        print(f"[{len(self._over)}/{self._total}] {describe(record)}", flush=True)


def describe(record: TrialRecord) -> str:
    """How a trial ended, in a line."""
    if record.state == "failed":
        return f"{record.name} failed: {record.message}"
    value = f"{record.curve[-1][1]:.4f}" if record.curve else "no figure"
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
    """Run trials to their end. Raises KeyboardInterrupt when a person stops it; the records stay."""
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
    """Run a population: all of its members are known before it starts, as Ray's scheduler wants it."""
    for record in records:
        folder.write(record)
    # The generator takes starting points only for keys that it could draw, so it is given something to draw from.
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
            reuse_actors=True,  # models are loaded, and modules imported, once a worker
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
    tuner.fit()


def _trial_dirname(trial: Any) -> str:
    return str(trial.trial_id)


def resources_of(search: Search, *, concurrent: int | None, num_cpus: int, num_gpus: float) -> Resources:
    """What a trial takes, and how many run at once: as many as fit, or `concurrent`."""
    ranks = (getattr(search, "num_ranks", 1) or 1) if search.kind == "margin" else 1
    gpus = search.gpus_per_rank if search.gpus_per_rank is not None else (1.0 if num_gpus else 0.0)
    cpus, gpus = ranks * search.cpus_per_rank, ranks * gpus
    fitting = int(min(num_cpus // cpus, num_gpus // gpus if gpus else num_cpus))
    if fitting < 1:
        raise UserError(
            f"a trial takes {cpus} CPUs and {gpus:g} GPUs, there are {num_cpus} and {num_gpus:g}. Lower num_ranks, "
            "cpus_per_rank or gpus_per_rank."
        )
    if concurrent is not None and not 1 <= concurrent <= fitting:
        raise UserError(f"--concurrent is {concurrent}; 1 to {fitting} trials of {cpus} CPUs fit at once.")
    return Resources(cpus=cpus, gpus=gpus, concurrent=concurrent or fitting)
