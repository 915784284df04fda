"""The noise scheduler of docs/how-to/extending.md, installed: it draws, and recipes and searches know it."""

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from untrained_run import write_untrained_run

from neuroimagen.trainer.reconstruction.manifest import read_manifest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "extending.md"


def page_command(run: Path) -> list[str]:
    """The words of the section's command, without `neuroimagen`, for `run`."""
    block = re.search(r"^## A noise scheduler\n.*?^```shell\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    assert block
    return shlex.split(block[1].replace("runs/demo", str(run)))[1:]


@pytest.mark.slow
def test_a_noise_scheduler(
    outside_package: Callable[[str], Any], tiny_dataset_folder: Path, tiny_diffusion_folder: Path, tmp_path: Path
) -> None:
    package = outside_package("A noise scheduler")
    run = write_untrained_run(
        tmp_path / "run",
        data=tiny_dataset_folder,
        model=tiny_diffusion_folder,
        reconstruct={"steps": 8, "guidance": 2.0},
    )

    def drawn(name: str, scheduler: str) -> np.ndarray:
        made = read_manifest(run / "reconstructions" / name)
        assert made.settings["scheduler"] == scheduler
        return made.images()[0]

    words = ("reconstruct", "--run", run, "--conditions", "full", "semantic_only", "--overwrite", "--set")
    package.run(*page_command(run))
    package.run(*words, "reconstruct.scheduler=quadratic")
    own = {name: drawn(name, "quadratic") for name in ("full", "semantic_only")}
    package.run(*words, "reconstruct.scheduler=dpm-solver++")
    builtin = {name: drawn(name, "dpm-solver++") for name in own}
    for name, images in own.items():
        assert images.shape == builtin[name].shape == (6, 3, 32, 32)
        assert images.std() > 5
        difference = np.abs(images.astype(int) - builtin[name])
        assert difference.max() > 1  # other timesteps
        assert difference.mean() < 40  # of the same model

    code = """
from neuroimagen.benchmarks.reconstruct import add_arguments
from neuroimagen.trainer.reconstruction.schedulers import SCHEDULERS
from neuroimagen.tune.trials.guidance import guidance_recipe
import argparse, json
recipe = guidance_recipe(RUN + "/config.yaml", {"reconstruct.scheduler": "quadratic"}, "full", seed=0)
parser = argparse.ArgumentParser()
add_arguments(parser)
scheduler = SCHEDULERS["quadratic"].make({"num_train_timesteps": 1000, "clip_sample": False}, 5)
print(json.dumps([
    SCHEDULERS.names(), recipe.reconstruct.scheduler, parser.parse_args(["--scheduler", "quadratic"]).scheduler,
    scheduler.timesteps.tolist(),
]))
"""
    output = package.python(code.replace("RUN", repr(str(run)), 1)).stdout
    assert json.loads(output.splitlines()[-1]) == [
        ["ddim", "dpm-solver++", "euler", "euler-ancestral", "lcm", "unipc", "quadratic"],
        "quadratic",
        "quadratic",
        [999, 640, 360, 160, 40],
    ]

    failed = package.run(*words, "reconstruct.scheduler=quadratik", check=False)
    assert failed.returncode == 1
    assert (
        "Did you mean 'quadratic'? There are ddim, dpm-solver++, euler, euler-ancestral, lcm, unipc, quadratic; the"
        in failed.stderr
    )
