"""Commands that one command starts: in order, each printed, and the first that fails ends them."""

import subprocess
import sys

import pytest

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.launch.jobs import commands as module
from neuroimagen.launch.jobs.commands import run_commands

STEPS = [("train", stage, "--run", "a run") for stage in ("contrastive", "saliency", "semantic")]


def test_the_first_that_fails_is_one_error_and_the_last_that_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started: list[list[str]] = []

    def run(command: list[str], *, check: bool) -> subprocess.CompletedProcess[bytes]:
        assert command[:3] == [sys.executable, "-m", "neuroimagen.launch.cli"]
        assert not check
        started.append(command[3:])
        return subprocess.CompletedProcess(command, 3 if "saliency" in command else 0)

    monkeypatch.setattr(module.subprocess, "run", run)
    with pytest.raises(UserError) as failure:
        run_commands(STEPS, what="drift surrogate")
    assert "drift surrogate: train saliency failed (exit code 3)" in str(failure.value)
    assert "\n" not in str(failure.value)
    assert started == [list(step) for step in STEPS[:2]]
    assert "drift surrogate [2/3] neuroimagen train saliency --run 'a run'" in capsys.readouterr().out


def test_a_command_runs_in_a_process_of_its_own(capfd: pytest.CaptureFixture[str]) -> None:
    run_commands([("train", "--help")], what="help")
    assert "usage: neuroimagen train" in capfd.readouterr().out
