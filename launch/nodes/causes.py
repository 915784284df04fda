"""Why a job failed: the cause among the reports of its nodes, and whether a restart can help."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.trainer.runs.rank_status import RankStatus

_CAUSES = ("lost", "died", "refused", "failed", "launcher")
"""Kinds of failure, in the order in which one causes another."""


class JobFailedError(UserError):
    """Ranks failed.

    Args:
        message: What happened, where the logs are, and what to do.
        kind: The cause: a rank `died` or `failed`, one `refused` (a user's mistake), a node was `lost`, or the
            `launcher` ended early.
        time: When it failed, in seconds since the epoch.
    """

    def __init__(self, message: str, *, kind: str, time: float = 0.0) -> None:
        super().__init__(message)
        self.kind = kind
        self.time = time

    @property
    def can_restart(self) -> bool:
        """Whether the same start may succeed when it is repeated."""
        return self.kind != "refused"

    @property
    def report(self) -> dict[str, Any]:
        """What a node tells the launcher."""
        return {"kind": self.kind, "message": str(self), "time": self.time}


def causes_by_attempt(reports: Sequence[Mapping[str, Any]]) -> list[JobFailedError]:
    """Of each attempt that failed, the failure that caused the others: by kind, then by time.

    A lost node is the cause of all of them.
    """
    if any(report["kind"] == "lost" for report in reports):
        return [_first(reports)]
    attempts = sorted({report["attempt"] for report in reports})
    return [_first([report for report in reports if report["attempt"] == attempt]) for attempt in attempts]


def _first(reports: Sequence[Mapping[str, Any]]) -> JobFailedError:
    cause = min(reports, key=lambda report: (_CAUSES.index(report["kind"]), report["time"]))
    return JobFailedError(cause["message"], kind=cause["kind"], time=cause["time"])


def node_failure(
    statuses: Sequence[RankStatus], exit_codes: Mapping[int, int], *, logs: object, where: str = ""
) -> JobFailedError:
    """The error of a node whose ranks ended with `exit_codes` (rank → code, in the order in which they were noticed).

    Ranks often fail as a consequence of another's failure: one that died is named before a user's mistake, which is
    named before the earliest other failure.
    """
    states = {status.rank: status for status in statuses}
    dead = next((rank for rank in exit_codes if rank not in states or states[rank].state == "running"), None)
    if dead is not None:
        process = f"process {states[dead].pid}: " if dead in states else ""
        ended = "killed, or out of memory" if exit_codes[dead] < 0 else f"exit code {exit_codes[dead]}"
        return JobFailedError(
            f"rank {dead}{where} exited without an error message ({process}{ended}). The other ranks were stopped. The "
            f"logs are in {logs}. Go on from the last checkpoint with --resume.",
            kind="died",
            time=time.time(),
        )
    for state in ("refused", "failed"):
        first = min((s for s in statuses if s.state == state), key=lambda s: s.time, default=None)
        if first is not None:
            message = (
                first.message if state == "refused" else f"rank {first.rank} failed: {first.message} (log: {logs})"
            )
            return JobFailedError(message, kind=state, time=first.time)
    return JobFailedError(
        f"the ranks{where} ended before they were done. The logs are in {logs}.", kind="launcher", time=time.time()
    )
