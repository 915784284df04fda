"""The state that a rank writes beside its log for its launcher: running, done, stopped, refused or failed."""

import dataclasses
import json
import os
import time
from pathlib import Path
from typing import Literal

from neuroimagen.data_shards.common.reading import read_json

State = Literal["running", "done", "stopped", "refused", "failed"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RankStatus:
    """One rank's state; `refused` is an error that the user can correct, `failed` is any other."""

    rank: int
    pid: int
    state: State
    message: str = ""
    time: float = 0.0

    @property
    def has_died(self) -> bool:
        """Whether the process is gone without having said so."""
        if self.state != "running":
            return False
        import psutil

        try:
            return bool(psutil.Process(self.pid).status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD))
        except psutil.NoSuchProcess:
            return True


def write_status(folder: Path, rank: int, state: State, message: str = "") -> None:
    """Replace the status of `rank` in the log folder."""
    status = RankStatus(rank=rank, pid=os.getpid(), state=state, message=message, time=time.time())
    path = folder / f"rank-{rank}.status"
    part = path.with_suffix(".part")
    try:
        part.write_text(json.dumps(dataclasses.asdict(status)), encoding="utf-8")
        part.replace(path)
    except OSError:
        # A full disk is often the very thing to report: the old, longer content goes, and its room with it.
        part.unlink(missing_ok=True)
        with path.open("r+" if path.exists() else "w", encoding="utf-8") as file:
            file.write(json.dumps(dataclasses.asdict(status)))
            file.truncate()


def read_statuses(folder: Path, ranks: range | None = None) -> list[RankStatus]:
    """The statuses of all ranks (or of `ranks`, one node's) that have written one, by rank."""
    statuses = []
    for path in _status_files(folder, ranks):
        try:
            statuses.append(RankStatus(**read_json(path)))
        except (OSError, ValueError, TypeError):
            continue  # being written on a full disk; the launcher's exit code still reports the failure
    return sorted(statuses, key=lambda status: status.rank)


def clear_statuses(folder: Path, ranks: range | None = None) -> None:
    for path in _status_files(folder, ranks):
        path.unlink()


def _status_files(folder: Path, ranks: range | None) -> list[Path]:
    if ranks is None:
        return list(folder.glob("rank-*.status"))
    return [path for rank in ranks if (path := folder / f"rank-{rank}.status").exists()]
