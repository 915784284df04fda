"""The commands that train a run's stages again. What runs them is given by the caller."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from neuroimagen.trainer.runs.run_folder import read_environments


class RunCommands(Protocol):
    """Runs commands of `neuroimagen` (their words, without the program's name) one after the other.

    `what` they are for is named in messages. Raises UserError at the first that fails.
    """

    def __call__(self, commands: Sequence[tuple[str, ...]], *, what: str) -> None: ...


def train_command(
    run: Path, stage: str, control: Path, *, data: str, settings: Sequence[str] = (), cpu: bool
) -> tuple[str, ...]:
    """The command that trains a stage as in `run`, on other data, on as many ranks as the stage's last start."""
    starts = read_environments(run / stage / "environment.json")
    # JSON is YAML too; its quotes keep YAML from reading special characters of a path.
    values = ("--set", f"data.path={json.dumps(data)}", *settings)
    ranks = ("--num-ranks", str(starts[-1].get("num_ranks", 1)), *cpu_option(cpu))
    return ("train", stage, "--config", str(run / "config.yaml"), "--run", str(control), *values, *ranks, "--resume")


def cpu_option(cpu: bool) -> tuple[str, ...]:
    return ("--cpu",) if cpu else ()
