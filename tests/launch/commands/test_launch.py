"""`neuroimagen launch`: options that do not go together, and the command that is printed."""

import shlex
import sys
from pathlib import Path

import pytest

from neuroimagen.launch.cli import main

RECIPE = str(Path(__file__).resolve().parents[3] / "launch" / "recipes" / "demo.yaml")
TRAIN = ["--", "train", "contrastive", "--config", RECIPE, "--run", "r"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--hostfile h --slurm", "--hostfile and --slurm exclude each other"),
        ("--no-ssh --node-rank 0", "--no-ssh needs --hostfile"),
        ("--hostfile h --no-ssh", "--no-ssh and --node-rank go together"),
        ("--hostfile h --num-ranks 2", "Leave --num-ranks out"),
        ("--max-restarts -1", "--max-restarts is -1; it must be at least 0"),
        ("--slurm", "the number of ranks per node is not known"),
        ("--allocation", "SLURM_JOB_NODELIST is not set"),
        ("--allocation --launcher deepspeed", "DeepSpeed's launcher takes a hostfile"),
        ("--num-ranks 1 --launcher deepspeed --max-restarts 1", "DeepSpeed's launcher restarts nothing"),
        ("--num-ranks 0", "--num-ranks is 0; it must be at least 1"),
    ],
)
def test_options_that_do_not_go_together_are_wrong_usage(
    options: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("SLURM_JOB_NODELIST", raising=False)
    assert main(["launch", *options.split(), *TRAIN]) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1


def test_the_printed_command_is_one_for_a_shell(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["launch", "--num-ranks", "2", "--print", *TRAIN]) == 0
    words = shlex.split(capsys.readouterr().out)
    assert words[:4] == ["PYTHONSAFEPATH=1", sys.executable, "-m", "torch.distributed.run"]
    assert main(["launch", "--num-ranks", "2", "--launcher", "deepspeed", "--print", *TRAIN]) == 0
    words = shlex.split(capsys.readouterr().out)
    assert words[:4] == ["PYTHONSAFEPATH=1", sys.executable, "-m", "deepspeed.launcher.runner"]
    assert words[-5:] == [
        "--module",
        "neuroimagen.trainer.training.worker",
        "contrastive",
        "--run",
        str(Path("r").absolute()),
    ]


def test_the_printed_batch_script_launches_in_its_allocation(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--slurm", "--nodes", "2", "--gpus-per-node", "4", "--sbatch=--partition=gpu", "--print"]
    assert main(["launch", *words, *TRAIN]) == 0
    script = capsys.readouterr().out
    assert "#SBATCH --nodes=2\n" in script
    assert "#SBATCH --partition=gpu\n" in script
    (line,) = [line for line in script.splitlines() if "neuroimagen.launch.cli" in line]
    command = shlex.split(line)
    assert command[:6] == ["PYTHONSAFEPATH=1", sys.executable, "-m", "neuroimagen.launch.cli", "launch", "--allocation"]
    assert command[-9:] == [*TRAIN, "--resume", "&"]
