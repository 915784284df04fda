"""One node's ranks: how a failure is reported, and which ranks are signalled."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from neuroimagen.launch.jobs import local_ranks
from neuroimagen.launch.jobs.local_ranks import failure
from neuroimagen.launch.jobs.rank_command import Job
from neuroimagen.trainer.runs.rank_status import RankStatus, write_status

JOB = Job(module="a.b", arguments=(), num_ranks=3, log_folder=Path("/l"), master_port=4242)


def status(rank: int, state: str, message: str = "", time: float = 0.0) -> RankStatus:
    return RankStatus(rank=rank, pid=os.getpid(), state=state, message=message, time=time)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("statuses", "dead", "words"),
    [
        # The others' broken connections are consequences, whatever the clock says.
        ([status(0, "failed", "connection closed"), status(1, "running")], 1, "rank 1 exited without an error message"),
        (
            [status(0, "failed", "lost a peer", 1.0), status(1, "refused", "the disk is full", 2.0)],
            None,
            "the disk is full",
        ),
        ([status(0, "failed", "later", 2.0), status(1, "failed", "first", 1.0)], None, "rank 1 failed: first"),
        ([status(0, "done")], None, "the launcher ended with code 9"),
    ],
)
def test_the_cause_comes_before_its_consequences(statuses: list[RankStatus], dead: int | None, words: str) -> None:
    gone = None if dead is None else statuses[dead]
    error = failure(statuses, gone, JOB, 9)
    assert str(error).startswith(words)
    assert error.can_restart == (words != "the disk is full")


def test_ranks_that_still_start_are_not_signalled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(local_ranks, "os", SimpleNamespace(kill=lambda pid, signum: sent.append((pid, signum))))
    job = Job(module="m", arguments=(), num_ranks=2, log_folder=tmp_path, master_port=1)
    write_status(tmp_path, 0, "running")
    assert not local_ranks._signal_ranks(job)
    write_status(tmp_path, 1, "done")
    assert local_ranks._signal_ranks(job)
    assert sent == [(os.getpid(), 15)]
