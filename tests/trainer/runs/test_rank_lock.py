"""A job does not start in a stage's folder while ranks of an earlier one hold it."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.trainer.runs.rank_lock import wait_for_earlier_ranks
from neuroimagen.trainer.runs.rank_status import write_status
from neuroimagen.trainer.runs.run_folder import StageFolder, locked

RANK = """
import sys
from pathlib import Path
from neuroimagen.trainer.runs.rank_lock import hold_as_rank
hold_as_rank(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def ranks(folder: Path, number: int) -> Iterator[list["subprocess.Popen[str]"]]:
    """Processes that hold a folder until their standard input is closed."""
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", RANK, str(folder)]
    started = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(number)]
    try:
        for process in started:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
        yield started
    finally:
        for process in started:
            process.kill()
            process.communicate()


def test_a_job_waits_until_the_last_rank_of_an_earlier_one_has_ended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = StageFolder(tmp_path, "contrastive")
    folder.logs.mkdir(parents=True)
    write_status(folder.logs, 0, "running")
    order: list[str] = []

    def start() -> None:
        with locked(folder):
            order.append("job")

    with ranks(folder.path, 2) as (first, second):
        job = threading.Thread(target=start)
        job.start()
        first.communicate("")
        job.join(0.5)
        assert job.is_alive()
        order.append("last rank")
        second.communicate("")
        job.join(60)
    assert order == ["last rank", "job"]
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("contrastive: waiting for the ranks of an earlier job")


def test_ranks_that_do_not_end_are_named(tmp_path: Path) -> None:
    folder = StageFolder(tmp_path, "contrastive")
    folder.logs.mkdir(parents=True)
    write_status(folder.logs, 0, "running")
    with ranks(folder.path, 1) as (rank,):
        with pytest.raises(UserError, match=r"ranks of an earlier job still work in .*contrastive \(processes \d+\)"):
            wait_for_earlier_ranks(folder.path, logs=folder.logs, seconds=0.2)
        rank.kill()
        rank.wait()
        wait_for_earlier_ranks(folder.path, logs=folder.logs, seconds=0.2)


def test_a_folder_without_ranks_is_left_as_it_was(tmp_path: Path) -> None:
    wait_for_earlier_ranks(tmp_path, logs=tmp_path, seconds=0.2)
    assert list(tmp_path.iterdir()) == []
