"""A search on disk: what was tried, with which settings, how it ended. A search goes on from these records alone.

search.json                  the search, complete
recipe.yaml                  the default: the recipe that trials start from
trials/0000/trial.json       settings, seed, state, figures of one trial
trials/0000/starts.jsonl     a line each time a worker took it up
trials/0000/run/             margin: the run that was trained (curve, checkpoints, export), trial.log beside it
confirm/best-1000/…          the same for the runs with fresh seeds
results.json, trials.csv, table.txt, report.html, best.yaml
"""

import dataclasses
import json
import os
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.files import atomic_path, held_folder
from neuroimagen.trainer.recipe.recipe import Recipe, difference, dump_recipe, load_recipe
from neuroimagen.tune.config import Search, dump_search, search_of
from neuroimagen.tune.space import Value

State = Literal["running", "finished", "stopped", "failed"]
TRIAL_FILE = "trial.json"
VERSION = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """One trial, as trial.json has it."""

    name: str
    """Its folder below the search's: trials/0007."""
    values: dict[str, Value]
    """What it tries; of population-based training, what it began with."""
    seed: int
    """The recipe's seed that it runs with (guidance: of the noise)."""
    state: State = "running"
    """stopped: by the scheduler, before its end. running and no search at work: interrupted."""
    figures: dict[str, float] = dataclasses.field(default_factory=dict)
    """Objective → value, and what else was measured."""
    curve: tuple[tuple[int, float], ...] = ()
    """(step, value) of the first objective, as the scheduler saw it."""
    steps: int = 0
    """Training steps or pictures spent."""
    seconds: float = 0.0
    """Between its first start in the last session and its end, without the time it rested before a promotion."""
    num_starts: int = 0
    """More than 1: its worker died, or the search was interrupted, or the trial was paused or promoted."""
    retries: int = 0
    """Starts after the death of a worker."""
    message: str = ""
    """Why it failed."""

    @property
    def is_over(self) -> bool:
        return self.state != "running"


class TrialFolder:
    """Names of a trial's files."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.record = self.path / TRIAL_FILE
        self.starts = self.path / "starts.jsonl"
        self.forks = self.path / "forks.jsonl"
        self.log = self.path / "trial.log"

    def run(self, number: int = 0) -> Path:
        """The run that the trial trains; after the n-th exchange of population-based training, run-n."""
        return self.path / ("run" if number == 0 else f"run-{number}")

    @property
    def num_forks(self) -> int:
        return len(read_lines(self.forks))

    @property
    def newest_run(self) -> Path:
        return self.run(self.num_forks)

    def add_start(self) -> None:
        """Note that a worker took the trial up."""
        add_line(self.starts, {"time": time.time(), "pid": os.getpid(), "host": os.uname().nodename})

    @property
    def num_starts(self) -> int:
        return len(read_lines(self.starts))


def add_line(path: Path, content: dict[str, Any]) -> None:
    """Append a line of JSON, on the disk when this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(content) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Lines of JSON; one that a killed process left unfinished is passed over."""
    if not path.is_file():
        return []
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            continue
    return lines


class SearchFolder:
    """A search's folder: its files and its records."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path).resolve()
        self.search = self.path / "search.json"
        self.recipe = self.path / "recipe.yaml"
        self.results = self.path / "results.json"
        self.best = self.path / "best.yaml"
        self.page = self.path / "report.html"
        self.table = self.path / "table.txt"
        self.csv = self.path / "trials.csv"
        self.ray = self.path / ".ray"

    def trial(self, name: str) -> TrialFolder:
        return TrialFolder(self.path / name)

    def write(self, record: TrialRecord) -> None:
        """Write or replace a trial's record."""
        with atomic_path(self.trial(record.name).record) as temporary:
            temporary.write_text(json.dumps(dataclasses.asdict(record), indent=1) + "\n", encoding="utf-8")

    def read(self, name: str) -> TrialRecord:
        """A trial's record. Raises UserError if it is damaged."""
        path = self.trial(name).record
        try:
            tree = json.loads(path.read_text(encoding="utf-8"))
            tree["curve"] = tuple((int(step), float(value)) for step, value in tree["curve"])
            return TrialRecord(**tree)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UserError(f"{path} is damaged ({error}). Remove {path.parent}, and the trial is run anew.") from None

    def records(self, group: Literal["trials", "confirm"] = "trials") -> list[TrialRecord]:
        """Every trial of a group, by name."""
        paths = sorted((self.path / group).glob(f"*/{TRIAL_FILE}"))
        return [self.read(f"{group}/{path.parent.name}") for path in paths]


def locked(folder: SearchFolder) -> AbstractContextManager[None]:
    """Hold a search's folder; raises UserError if another search has it. The lock ends with the process."""
    return held_folder(folder.path, doing="searching", option="--out")


MAY_CHANGE = ("num_trials", "confirm_seeds", "max_retries", "cpus_per_rank", "gpus_per_rank", "launcher")
"""What a resumed search may say anew: it changes how much is done and where, not what was done."""


def open_search(folder: SearchFolder, search: Search, recipe: Recipe, *, resume: bool) -> None:
    """Make the folder ready for a start or a resume; one that holds a search is resumed or refused.

    Raises UserError when it holds one and `resume` is not set, or another one.
    """
    tree = {"version": VERSION, "kind": search.kind, "search": dump_search(search)}
    if folder.search.is_file():
        if not resume:
            raise UserError(f"{folder.path} holds a search already. Go on with --resume, or choose another --out.")
        before = json.loads(folder.search.read_text(encoding="utf-8"))
        if before.get("version") != VERSION or before.get("kind") != search.kind:
            raise UserError(f"{folder.path} holds another kind of search ({before.get('kind')}). Choose another --out.")
        old, new = before["search"], tree["search"]
        assert isinstance(new, dict)
        changed = [key for key in {**old, **new} if key not in MAY_CHANGE and old.get(key) != new.get(key)]
        changed += difference(load_recipe(folder.recipe), recipe)
        if changed:
            raise UserError(
                f"{folder.path} was begun with another search: {'; '.join(changed[:5])}. Resume with the same file, or "
                "choose another --out."
            )
    else:
        if any(folder.path.glob("[!.]*")):
            raise UserError(f"{folder.path} exists and holds something else than a search. Choose another --out.")
        with atomic_path(folder.recipe) as temporary:
            temporary.write_text(dump_recipe(recipe), encoding="utf-8")
    with atomic_path(folder.search) as temporary:
        temporary.write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")


def read_search(folder: SearchFolder) -> tuple[Search, Recipe]:
    """The search and the default recipe of a folder."""
    try:
        tree = json.loads(folder.search.read_text(encoding="utf-8"))
        kind, search = tree["kind"], tree["search"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder.path} holds no search ({error}).") from None
    return search_of(search, kind, where=str(folder.search)), load_recipe(folder.recipe)
