"""DeepSpeed's own launcher, as it is."""

import os
import sys
from pathlib import Path

import pytest

from neuroimagen.launch.nodes.causes import JobFailedError
from neuroimagen.launch.nodes.deepspeed_launcher import deepspeed_command, run_deepspeed
from neuroimagen.launch.nodes.hosts import Node
from neuroimagen.launch.nodes.job import Job

RANK = """
import os, sys
from pathlib import Path
from neuroimagen.trainer.runs.rank_status import write_status
write_status(Path(sys.argv[1]), int(os.environ["RANK"]), sys.argv[2], "by its word")
"""


def job(folder: Path, *words: str) -> Job:
    nodes = (Node(host="localhost", num_ranks=2),)
    return Job(module="a_rank", arguments=(str(folder), *words), nodes=nodes, log_folder=folder)


def test_the_command_is_deepspeed_s() -> None:
    command = deepspeed_command(job(Path("/l"), "x"))
    assert command[:3] == [sys.executable, "-m", "deepspeed.launcher.runner"]
    assert "--num_gpus=2" in command
    assert "--master_addr=127.0.0.1" in command
    assert "--enable_each_rank_log=/l" in command
    assert command[-5:] == ["--no_local_rank", "--module", "a_rank", "/l", "x"]
    command = deepspeed_command(job(Path("/l")), ["--hostfile=/h", "--include=a@b"])
    assert command[3:5] == ["--hostfile=/h", "--include=a@b"]
    assert not any(word.startswith("--num_gpus") for word in command)


def test_its_ranks_are_done_when_they_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a_rank.py").write_text(RANK)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    logs = tmp_path / "logs"

    assert run(deepspeed_command(job(logs, "done")), logs) is None
    (tmp_path / "a_rank.py").write_text("")
    with pytest.raises(JobFailedError, match="DeepSpeed's launcher ended with code 0 before every rank was done"):
        run(deepspeed_command(job(logs, "done")), logs)


def test_what_the_ranks_say_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the launcher's exit code is; a small program stands in for it, and runs one rank after the other."""
    (tmp_path / "a_rank.py").write_text(RANK)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    logs = tmp_path / "logs"

    def launcher(word: str) -> list[str]:
        ranks = "import os, runpy\nfor rank in '01':\n    os.environ['RANK'] = rank\n    runpy.run_module('a_rank')"
        return [sys.executable, "-c", ranks, str(logs), word]

    assert run(launcher("done"), logs) is None
    assert run(launcher("stopped"), logs) == 15
    with pytest.raises(JobFailedError, match="by its word"):
        run(launcher("refused"), logs)


def run(command: list[str], logs: Path) -> int | None:
    return run_deepspeed(command, logs, 2, is_local=True, watch=lambda: None)
