"""The folder of a search: which settings were tried and how each trial ended. A search is resumed from this alone.

search.json                  the complete search
recipe.yaml                  the default: the recipe that trials start from
trials/0000/trial.json       setting, seed, state and figures of a trial
trials/0000/starts.jsonl     one line for each time that a worker started the trial
trials/0000/copies.jsonl     population-based training: one line for each checkpoint copied from another trial
trials/0000/run/             margin, alignment: the run that was trained (curve, checkpoints, export)
trials/0000/trial.log        margin, alignment: output of the training command
trials/0000/segments.parquet figures of every validation segment, where the trial has them
confirm/best-1000/…          the same for the runs with new seeds
results.json, trials.csv, table.txt, report.html, best.yaml, found.yaml
"""

import dataclasses
import json
import os
import time
import typing
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.files import atomic_path, held_folder
from neuroimagen.data_shards.common.reading import parse_json, read_bytes, read_json_object, reason
from neuroimagen.trainer.recipe.recipe import Recipe, difference, dump_recipe, load_recipe
from neuroimagen.trainer.stages.validation.segment_figures import SegmentFigures
from neuroimagen.tune.config import KINDS, Search, dump_search, search_of
from neuroimagen.tune.space import Space, Value

State = Literal["running", "finished", "stopped", "failed"]
TRIAL_FILE = "trial.json"
VERSION = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """The content of a trial.json."""

    name: str
    """Its folder below the search's, for instance trials/0007."""
    values: dict[str, Value]
    """Key of the recipe → value: the setting of the trial; in population-based training, the one that it began with."""
    seed: int
    """Margin, alignment: the recipe's seed. Guidance: the seed of the noise."""
    state: State = "running"
    """stopped: ended early by the scheduler, or paused. running, while no search runs: interrupted."""
    figures: dict[str, float] = dataclasses.field(default_factory=dict)
    """Name → value of the objectives and of everything else that was measured."""
    curve: tuple[tuple[int, float], ...] = ()
    """(step, value) of the first objective, as it was reported to the scheduler."""
    steps: int = 0
    """Training steps, or reconstructed segments."""
    seconds: float = 0.0
    """From its first start in the last session to its end, without the time for which it was paused."""
    num_starts: int = 0
    """More than 1 if its worker process was lost, if the search was interrupted, or if the trial was paused."""
    retries: int = 0
    """Starts after the loss of a worker process."""
    message: str = ""
    """The reason of a failure."""

    @property
    def has_ended(self) -> bool:
        return self.state != "running"


class TrialFolder:
    """The files of a trial."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.record = self.path / TRIAL_FILE
        self.starts = self.path / "starts.jsonl"
        earlier = self.path / "forks.jsonl"  # the name in searches of earlier versions
        self.copies = earlier if earlier.is_file() else self.path / "copies.jsonl"
        self.log = self.path / "trial.log"
        self.segment_figures = self.path / "segments.parquet"

    def run(self, number: int = 0) -> Path:
        """The run that the trial trains; after the n-th copy of another trial's checkpoint, run-n."""
        return self.path / ("run" if number == 0 else f"run-{number}")

    @property
    def num_copies(self) -> int:
        return len(read_lines(self.copies))

    @property
    def newest_run(self) -> Path:
        return self.run(self.num_copies)

    def add_start(self) -> None:
        """Record that a worker has started the trial."""
        add_line(self.starts, {"time": time.time(), "pid": os.getpid(), "host": os.uname().nodename})

    @property
    def num_starts(self) -> int:
        return len(read_lines(self.starts))


def add_line(path: Path, content: dict[str, Any]) -> None:
    """Append a line of JSON; it is on the disk when this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(content) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a JSON lines file; a line that a killed process left unfinished is skipped."""
    if not path.is_file():
        return []
    lines = []
    for content in read_bytes(path).splitlines():
        try:
            line = parse_json(content)
        except ValueError:
            continue
        if isinstance(line, dict):
            lines.append(line)
    return lines


class SearchFolder:
    """The files of a search and the records of its trials."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path).resolve()
        self.search = self.path / "search.json"
        self.recipe = self.path / "recipe.yaml"
        self.results = self.path / "results.json"
        self.best = self.path / "best.yaml"
        self.found = self.path / "found.yaml"
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

    def read(self, name: str, *, space: Space | None = None) -> TrialRecord:
        """A trial's record. Raises UserError if it is damaged, or its setting is none of `space`."""
        path = self.trial(name).record
        try:
            tree = read_json_object(path)
            tree["curve"] = tuple((_whole(step), _number(value)) for step, value in tree["curve"])
            tree["figures"] = {name: _number(value) for name, value in tree["figures"].items()}
            record = TrialRecord(**tree)
            _check_record(record, name)
            for key, parameter in (space or {}).items():
                if not parameter.holds(record.values[key]):
                    raise ValueError(f"{key} is {str(record.values[key])[:80]}, which the search does not try")
            return record
        except (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
            raise UserError(
                f"{path} is damaged ({reason(error)}). Remove {path.parent} to run the trial again."
            ) from None

    def segment_figures(self, name: str) -> SegmentFigures | None:
        """A trial's figures by segment; None if it has none."""
        path = self.trial(name).segment_figures
        return SegmentFigures.read(path) if path.is_file() else None

    def records(self, group: Literal["trials", "confirm"] = "trials") -> list[TrialRecord]:
        """All trials of a group, sorted by name. Raises UserError if one is damaged."""
        paths = sorted((self.path / group).glob(f"*/{TRIAL_FILE}"))
        # The default may be outside of the space, and stands among the runs with new seeds alone.
        space = _search_of_folder(self).space if group == "trials" and self.search.is_file() else None
        return [self.read(f"{group}/{path.parent.name}", space=space) for path in paths]


def _check_record(record: TrialRecord, name: str) -> None:
    """Raise ValueError naming the first field of a record that a search would not have written."""
    is_sound = {
        "name": record.name == name,
        "values": isinstance(record.values, dict)
        and all(value is None or type(value) in (bool, int, float, str, dict) for value in record.values.values()),
        "state": record.state in typing.get_args(State),
        "message": isinstance(record.message, str),
        "seconds": type(record.seconds) in (int, float),
        **{
            field: type(getattr(record, field)) is int and getattr(record, field) >= 0
            for field in ("seed", "steps", "num_starts", "retries")
        },
    }
    if wrong := [field for field, sound in is_sound.items() if not sound]:
        raise ValueError(f"{wrong[0]} is {str(getattr(record, wrong[0]))[:80]}")


def _whole(value: object) -> int:
    if type(value) is not int:
        raise ValueError(f"{str(value)[:80]} is no whole number")
    return value


def _number(value: object) -> float:
    if type(value) not in (int, float):
        raise ValueError(f"{str(value)[:80]} is no number")
    return float(value)  # type: ignore[arg-type]  # checked above


def locked(folder: SearchFolder) -> AbstractContextManager[None]:
    """Lock the folder of a search until the context or the process ends. Raises UserError if it is locked already."""
    return held_folder(folder.path, doing="searching", option="--out")


MAY_CHANGE = ("num_trials", "confirm_seeds", "max_retries", "cpus_per_rank", "gpus_per_rank", "launcher")
"""Keys that a resumed search may change: they decide how much is done and where, not what has been done."""


def open_search(folder: SearchFolder, search: Search, recipe: Recipe, *, resume: bool) -> None:
    """Prepare the folder for a new search, or for resuming the one that it holds.

    Raises UserError if it holds a search and `resume` is not set, if it holds another search, or something else.
    """
    tree = {"version": VERSION, "kind": search.kind, "search": dump_search(search)}
    if folder.search.is_file():
        if not resume:
            raise UserError(
                f"{folder.path} holds a search already. Continue it with --resume, or choose another --out."
            )
        before = _read_search_file(folder)
        if before.get("version") != VERSION or before["kind"] != search.kind:
            raise UserError(f"{folder.path} holds another kind of search ({before['kind']}). Choose another --out.")
        # Read and written again, keys of earlier versions have their present names.
        old = dump_search(search_of(before["search"], search.kind, where=str(folder.search)))
        new = tree["search"]
        assert isinstance(new, dict)
        changed = [key for key in {**old, **new} if key not in MAY_CHANGE and old.get(key) != new.get(key)]
        changed += difference(load_recipe(folder.recipe), recipe)
        if changed:
            raise UserError(
                f"{folder.path} was started with another search: {'; '.join(changed[:5])}. Resume with the same file, "
                "or choose another --out."
            )
    else:
        if any(folder.path.glob("[!.]*")):
            raise UserError(f"{folder.path} exists and holds something other than a search. Choose another --out.")
        with atomic_path(folder.recipe) as temporary:
            temporary.write_text(dump_recipe(recipe), encoding="utf-8")
    with atomic_path(folder.search) as temporary:
        temporary.write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")


def read_search(folder: SearchFolder) -> tuple[Search, Recipe]:
    """The search and the default recipe of a folder."""
    return _search_of_folder(folder), load_recipe(folder.recipe)


def _search_of_folder(folder: SearchFolder) -> Search:
    tree = _read_search_file(folder)
    return search_of(tree["search"], tree["kind"], where=str(folder.search))


def _read_search_file(folder: SearchFolder) -> dict[str, Any]:
    """The content of search.json, with a known kind. Raises UserError if it is damaged."""
    try:
        tree = read_json_object(folder.search)
        if tree["kind"] not in KINDS or not isinstance(tree["search"], dict):
            raise ValueError(f"it is of kind {str(tree['kind'])[:40]!r}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder.path} does not hold a search ({reason(error)}). Choose another --out.") from None
    return tree
