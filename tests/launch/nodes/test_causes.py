"""Which of several failures is named."""

import pytest

from neuroimagen.launch.nodes.causes import JobFailedError, causes_by_attempt, node_failure
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


def test_of_several_nodes_the_first_cause_of_each_attempt_is_named() -> None:
    def report(message: str, kind: str, time: float, attempt: int = 0) -> dict[str, object]:
        return {**JobFailedError(message, kind=kind, time=time).report, "attempt": attempt}

    lost = report("node 1 is lost", "lost", 9.0)
    died = report("rank 3 died", "died", 2.0)
    failed = report("connection reset", "failed", 1.0)
    earlier = report("connection refused", "failed", 0.5)
    again = report("rank 0 died", "died", 3.0, attempt=1)
    assert [str(error) for error in causes_by_attempt([again, failed, died])] == ["rank 3 died", "rank 0 died"]
    assert [str(error) for error in causes_by_attempt([failed, earlier])] == ["connection refused"]
    assert [str(error) for error in causes_by_attempt([failed, again, lost])] == ["node 1 is lost"]
