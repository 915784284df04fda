"""What keeps a job off a stage's folder while ranks of an earlier job, whose launcher was killed, still save in it."""

import fcntl
import os
import sys
import time
from pathlib import Path

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.trainer.runs.rank_status import read_statuses

NAME = ".ranks"
WAIT_SECONDS = 180.0
"""Longer than ranks may take to save after a stop signal (150 s), or after their launcher was lost."""
POLL_SECONDS = 0.1


def hold_as_rank(folder: Path) -> None:
    """Hold a stage's folder, together with the other ranks, until this process ends."""
    fcntl.flock(os.open(folder / NAME, os.O_RDWR | os.O_CREAT, 0o644), fcntl.LOCK_SH)


def wait_for_earlier_ranks(folder: Path, *, logs: Path, seconds: float = WAIT_SECONDS) -> None:
    """Wait until no rank holds a stage's folder. The caller holds its lock, so that no other job starts ranks.

    logs: the folder of the ranks' statuses, for the message. Raises UserError if one still does after `seconds`.
    """
    try:
        file = (folder / NAME).open("r+b")
    except FileNotFoundError:  # no rank has been here
        return
    deadline = time.monotonic() + seconds
    with file:
        said = False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                pids = ", ".join(str(status.pid) for status in read_statuses(logs))
                if time.monotonic() > deadline:
                    raise UserError(
                        f"ranks of an earlier job still work in {folder} (processes {pids}). End them first."
                    ) from None
            if not said:
                said = True
                print(
                    f"{folder.name}: waiting for the ranks of an earlier job, which save a checkpoint and exit "
                    f"(processes {pids})",
                    file=sys.stderr,
                    flush=True,
                )
            time.sleep(POLL_SECONDS)
