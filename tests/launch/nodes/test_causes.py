"""Which of several failures is named."""

import pytest

from neuroimagen.launch.nodes.causes import JobFailedError, first_cause, node_failure
from neuroimagen.trainer.runs.rank_status import RankStatus


def status(rank: int, state: str, message: str = "", time: float = 0.0) -> RankStatus:
    return RankStatus(rank=rank, pid=4711, state=state, message=message, time=time)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("statuses", "codes", "words"),
    [
        # The others' broken connections are consequences, whatever the clock says.
        (
            [status(0, "failed", "connection closed"), status(1, "running")],
            {0: 1, 1: -9},
            "rank 1 on b exited without an error message (process 4711: killed, or out of memory)",
        ),
        ([], {1: 1, 0: 1}, "rank 1 on b exited without an error message (exit code 1)"),
        (
            [status(0, "failed", "lost a peer", 1.0), status(1, "refused", "the disk is full", 2.0)],
            {0: 1, 1: 1},
            "the disk is full",
        ),
        ([status(0, "failed", "later", 2.0), status(1, "failed", "first", 1.0)], {0: 1, 1: 1}, "rank 1 failed: first"),
        ([status(0, "done")], {}, "the ranks on b ended before they were done"),
    ],
)
def test_the_cause_comes_before_its_consequences(statuses: list[RankStatus], codes: dict[int, int], words: str) -> None:
    error = node_failure(statuses, codes, logs="/l", where=" on b")
    assert str(error).startswith(words)
    assert error.can_restart == (words != "the disk is full")


def test_of_several_nodes_the_first_cause_is_named() -> None:
    lost = JobFailedError("node 1 is lost", kind="lost", time=9.0)
    died = JobFailedError("rank 3 died", kind="died", time=2.0)
    failed = JobFailedError("connection reset", kind="failed", time=1.0)
    earlier = JobFailedError("connection refused", kind="failed", time=0.5)
    assert str(first_cause([failed.report, died.report, lost.report])) == "node 1 is lost"
    assert str(first_cause([failed.report, died.report])) == "rank 3 died"
    assert str(first_cause([failed.report, earlier.report])) == "connection refused"
