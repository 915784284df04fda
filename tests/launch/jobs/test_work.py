"""The work that ranks are started for, and its restarts."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from neuroimagen.data_shards.common.errors import UsageError, UserError
from neuroimagen.launch.cli import parse
from neuroimagen.launch.jobs import work as module
from neuroimagen.launch.nodes.causes import JobFailedError
from neuroimagen.launch.jobs.train import TrainWork, default_ranks
from neuroimagen.launch.jobs.work import SharedCommand, local_job, run_here
from neuroimagen.trainer.recipe.recipe import Recipe


def test_ranks_that_leave_accelerators_alone_need_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    words = ["cache", "--data", "d", "--model", "m"]
    with pytest.raises(UserError, match="2 ranks need a GPU each"):
        local_job(SharedCommand(words, parse(words)), 2, "deepspeed")
    words.append("--cpu")
    assert local_job(SharedCommand(words, parse(words)), 2, "deepspeed").devices == ()
    assert default_ranks(cpu=False) == 8
    assert default_ranks(cpu=True) <= 2
    assert TrainWork(Recipe(), "saliency", run=Path("r"), resume=False, cpu=True).arguments[-1] == "--cpu"


def test_a_shared_command_logs_beside_what_it_works_on() -> None:
    cache = ["cache", "--data", "d", "--model", "m"]
    reconstruct = ["reconstruct", "--run", "r"]
    for words, folder in ((cache, Path("d/logs/cache")), (reconstruct, Path("r/logs/reconstruct"))):
        work = SharedCommand(words, parse(words))
        assert work.log_folder == folder.absolute()
        assert work.arguments == (str(folder.absolute()), *words)


class Watched:
    """Work of which a test says how each attempt ends."""

    title, module, arguments, log_folder, cpu = "w", "m", (), Path("/l"), True

    def __init__(self, *, is_needed: bool = True) -> None:
        self.is_needed = is_needed
        self.is_closed = False

    @contextmanager
    def prepared(self, num_ranks: int) -> Iterator[bool]:
        yield self.is_needed

    def watcher(self) -> "Watched":
        return self

    def update(self) -> None: ...

    def close(self) -> None:
        self.is_closed = True

    def describe(self, num_ranks: int) -> str:
        return f"{num_ranks} ranks"

    def conclude(self, signum: int | None) -> int:
        return 0 if signum is None else 128 + signum


def run(
    work: Watched,
    monkeypatch: pytest.MonkeyPatch,
    outcomes: Sequence[int | JobFailedError | None],
    *,
    num_ranks: int = 2,
    max_restarts: int = 0,
) -> tuple[int, list[str]]:
    """Run `work`, whose attempts end with `outcomes` in turn; returns the exit code and what was said."""
    rest = iter(outcomes)

    def run_job(job: object, *, watch: object) -> int | None:
        outcome = next(rest)
        if isinstance(outcome, JobFailedError):
            raise outcome
        return outcome

    monkeypatch.setattr(module, "run_job", run_job)
    said: list[str] = []
    code = run_here(work, num_ranks=num_ranks, max_restarts=max_restarts, launcher="deepspeed", say=said.append)
    assert work.is_closed == work.is_needed
    return code, said


DIED = JobFailedError("Rank 1 exited.", kind="died")


def test_a_dead_rank_is_a_restart_where_they_are_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    code, said = run(Watched(), monkeypatch, [DIED, DIED, None], max_restarts=2)
    assert code == 0
    assert said[0] == "2 ranks"
    assert [text.partition(" ")[2] for text in said[1:]] == [
        "w: Rank 1 exited. Restart 1 of 2.",
        "w: Rank 1 exited. Restart 2 of 2.",
    ]
    with pytest.raises(JobFailedError):
        run(Watched(), monkeypatch, [DIED, DIED], max_restarts=1)


def test_a_user_s_mistake_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(JobFailedError, match="the disk is full"):
        run(Watched(), monkeypatch, [JobFailedError("the disk is full", kind="refused"), None], max_restarts=5)


def test_a_stop_is_an_exit_code_and_finished_work_starts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(Watched(), monkeypatch, [15])[0] == 143
    assert run(Watched(is_needed=False), monkeypatch, []) == (0, [])


def test_no_ranks_are_wrong_usage(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="--num-ranks is 0; it must be at least 1"):
        run(Watched(), monkeypatch, [], num_ranks=0)
