"""The state that each rank leaves beside its log."""

import os
from pathlib import Path

from neuroimagen.trainer.runs.rank_status import RankStatus, clear_statuses, read_statuses, write_status


def test_statuses_are_written_read_and_cleared(tmp_path: Path) -> None:
    write_status(tmp_path, 1, "running")
    write_status(tmp_path, 0, "refused", "no data")
    assert [(s.rank, s.state, s.message) for s in read_statuses(tmp_path)] == [
        (0, "refused", "no data"),
        (1, "running", ""),
    ]
    assert not any(s.has_died for s in read_statuses(tmp_path))
    write_status(tmp_path, 1, "done")
    assert read_statuses(tmp_path)[1].state == "done"
    clear_statuses(tmp_path)
    assert read_statuses(tmp_path) == []


def test_a_process_that_is_gone_has_died() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    running = RankStatus(rank=0, pid=pid, state="running")
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert running.has_died  # a zombie
    finally:
        os.waitpid(pid, 0)
    assert running.has_died  # gone
    assert not RankStatus(rank=0, pid=os.getpid(), state="running").has_died
