"""Runs a search from its configuration to its result: read `run_search` from top to bottom."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.dataset.sealed import sealed
from neuroimagen.trainer.recipe.recipe import Recipe, load_recipe
from neuroimagen.trainer.training.inputs import open_inputs
from neuroimagen.tune.config import GuidanceSearch, Search, StageSearch
from neuroimagen.tune.confirm import best_trial
from neuroimagen.tune.ray_session import ray_session
from neuroimagen.tune.records import SearchFolder, TrialRecord, locked, open_search
from neuroimagen.tune.report.result import final_values
from neuroimagen.tune.report.write import write_result
from neuroimagen.tune.space import overrides
from neuroimagen.tune.trials.objective import spread


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where trials run, and how many of them."""

    concurrent: int | None = None
    """Trials that run at the same time; None: as many as fit."""
    address: str | None = None
    """Address of a Ray cluster; None: this machine only."""


def run_search(
    search: Search, recipe: Recipe, folder: SearchFolder, *, run: Path | None, resume: bool, place: Place
) -> TrialRecord:
    """Run the trials, compare the best setting with the default, write the result. Returns the best trial.

    run: the trained run of a guidance search. No process of the search can read the test split. A search that was
    interrupted is resumed from its records: trials that have ended are not run again.

    Raises UserError if no trial ran to its end, KeyboardInterrupt if the user stopped the search.
    """
    with locked(folder), sealed("test"):
        open_search(folder, search, recipe, resume=resume)
        num_stimuli = check_inputs(search, recipe, folder)
        with ray_session(num_cpus=len(os.sched_getaffinity(0)), address=place.address), interruptible():
            from neuroimagen.tune.runner import Runner  # imports Ray, which reads its environment when it is imported

            runner = Runner(search, recipe, folder, run=run, concurrent=place.concurrent)
            runner.search()
            best = best_trial(folder.records(), search)
            if best is None:
                raise UserError(_nothing_found(folder))
            runner.confirm(final_values(folder, best))
        write_result(folder, search, recipe, num_stimuli=num_stimuli)
    return best


def check_inputs(search: Search, recipe: Recipe, folder: SearchFolder) -> int:
    """Open what trials read, because data that cannot be read are one error here, instead of one per trial.

    Returns the number of stimuli of the validation segments on which settings are confirmed. Raises UserError also
    where the space has targets of which the validation split has different numbers: retrieval among fewer is easier.
    """
    stage = search.stage if isinstance(search, StageSearch) else "contrastive"
    dataset, _, _ = open_inputs(recipe, stage)
    rows = dataset.rows("val", recipe.data.subjects)
    if isinstance(search, GuidanceSearch):
        rows = spread(rows, search.confirm_segments)
    stimuli = np.unique(dataset.index.stimulus[rows])
    if (targets := search.space.get("alignment.targets")) is not None:
        sizes = {}
        for choice in targets.choices or ():
            kind, *_ = choice if isinstance(choice, dict) and choice else [""]
            varied = load_recipe(folder.recipe, overrides({"alignment.targets": choice}))
            _, _, latents = open_inputs(varied, stage)
            sizes[kind] = len(latents[kind].distinct(stimuli)[0])
        if len(set(sizes.values())) > 1:
            numbers = ", ".join(f"{kind} {number}" for kind, number in sizes.items())
            raise UserError(
                f"space.alignment.targets: the validation split has different numbers of distinct targets ({numbers}), "
                "so that the figures cannot be compared. Search them one by one."
            )
    return len(stimuli)


def _nothing_found(folder: SearchFolder) -> str:
    records = folder.records()
    failed = [record for record in records if record.state == "failed"]
    first = f" The first failure is that of {failed[0].name}: {failed[0].message}" if failed else ""
    return f"no trial ran to its end; {len(failed)} of {len(records)} failed.{first}"


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGTERM stop the search as Ctrl-C does: trials save checkpoints, and no process keeps running."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def as_interrupt(signum: int, frame: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGTERM, as_interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
