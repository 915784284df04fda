"""A search from its file to its result. Read `run_search` from top to bottom."""

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
    """Where a search runs."""

    concurrent: int | None = None
    """Trials at once; None: as many as fit."""
    address: str | None = None
    """Of a Ray cluster; None: this machine alone."""


def run_search(
    search: Search, recipe: Recipe, folder: SearchFolder, *, run: Path | None, resume: bool, place: Place
) -> TrialRecord:
    """Search, try the best with fresh seeds, write the result; returns the best trial.

    `run`: the trained run of a guidance search. Everything happens with the test part sealed. A search that was
    interrupted goes on from its records: what is over is not done again.

    Raises UserError when nothing could be found, KeyboardInterrupt when a person stopped it.
    """
    with locked(folder), sealed("test"):
        open_search(folder, search, recipe, resume=resume)
        open_inputs(recipe, "contrastive")  # data that cannot be read are one error here, not one a trial
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
    first = f" The first failure, {failed[0].name}: {failed[0].message}" if failed else ""
    return f"no trial ran to its end: {len(failed)} of {len(records)} failed.{first}"


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM stops a search as Ctrl-C does: trials save themselves, and nothing stays behind."""
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
