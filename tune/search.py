"""Runs a search from its configuration to its result: read `run_search` from top to bottom."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.dataset.sealed import sealed
from neuroimagen.trainer.recipe.recipe import Recipe
from neuroimagen.trainer.training.inputs import open_inputs
from neuroimagen.tune.config import Search
from neuroimagen.tune.confirm import best_trial
from neuroimagen.tune.ray_session import ray_session
from neuroimagen.tune.records import SearchFolder, TrialRecord, locked, open_search
from neuroimagen.tune.report.result import final_values
from neuroimagen.tune.report.write import write_result


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
        open_inputs(recipe, "contrastive")  # data that cannot be read are one error here, instead of one per trial
        with ray_session(num_cpus=len(os.sched_getaffinity(0)), address=place.address), interruptible():
            from neuroimagen.tune.runner import Runner  # imports Ray, which reads its environment when it is imported

            runner = Runner(search, recipe, folder, run=run, concurrent=place.concurrent)
            runner.search()
            best = best_trial(folder.records(), search)
            if best is None:
                raise UserError(_nothing_found(folder))
            runner.confirm(final_values(folder, best))
        write_result(folder, search, recipe)
    return best


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
