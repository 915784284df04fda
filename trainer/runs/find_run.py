"""Checks that a folder is a run; where it is not, the error names runs near it."""

import difflib
from pathlib import Path

from neuroimagen.data_shards.common.errors import UserError

NUM_NAMED = 5
"""Runs that are named, at most."""


def require_run(folder: Path, *, recipe: bool = True) -> None:
    """Raise UserError naming the runs near `folder` if it is not a run. `recipe`: whether it must have a config.yaml;
    else exported stages are enough.
    """
    if _is_run(folder) or (not recipe and any(folder.glob("*/export"))):
        return
    if _is_stage(folder):
        raise UserError(f"{folder} is a stage of a run. Give the run: {_up(folder)}.")
    if folder.is_dir():
        problem = f"{folder} is not a run: it holds no config.yaml."
    elif folder.exists():
        problem = f"{folder} is a file, not the folder of a run."
    else:
        problem = f"there is no run {folder}."
    near = ", ".join(str(run) for run in runs_near(folder)[:NUM_NAMED])
    raise UserError(f"{problem} {f'Runs near it: {near}.' if near else '`neuroimagen train` makes one.'}")


def runs_near(folder: Path) -> list[Path]:
    """The run that `folder` lies in; else the runs in it; else those beside it, the most similar name first."""
    around = next((parent for parent in folder.parents if _is_run(parent)), None)
    if around is not None:
        return [around]
    if inside := _runs_in(folder):
        return inside
    return sorted(_runs_in(_up(folder)), key=lambda run: -_similarity(run.name, folder.name))


def _is_run(folder: Path) -> bool:
    return (folder / "config.yaml").is_file() and not _is_stage(folder)


def _is_stage(folder: Path) -> bool:
    return (folder / "config.yaml").is_file() and (folder / "environment.json").is_file()


def _up(folder: Path) -> Path:
    return folder / ".." if folder.name in ("", "..") else folder.parent


def _runs_in(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.glob("*/config.yaml") if _is_run(path.parent))


def _similarity(first: str, second: str) -> float:
    return difflib.SequenceMatcher(None, first, second).ratio()
