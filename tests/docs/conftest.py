"""What pages are run with: tiny networks, and training in this process."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tutorial_pages import Inputs

STAGE_STEPS = "{stage}.steps=4 {stage}.warmup_steps=1 {stage}.validate_every=2 {stage}.checkpoint_every=4"


@pytest.fixture(scope="session")
def inputs(tiny_diffusion_folder: Path, tiny_blip_folder: Path, tiny_dataset_folder: Path) -> Inputs:
    return Inputs(tiny_diffusion_folder, tiny_blip_folder, tiny_dataset_folder)


@pytest.fixture
def quick_command(one_rank: None, monkeypatch: pytest.MonkeyPatch) -> Callable[[list[str]], int]:
    """Run a command of neuroimagen in this process: a stage takes four steps and one rank, an image two."""
    import torch

    from neuroimagen.launch import cli
    from neuroimagen.launch.jobs import train as train_job
    from neuroimagen.trainer.training.loop import StopRequest, train

    def here(work: train_job.TrainWork, **_: object) -> int:
        with work.prepared(1) as needed:
            if needed:
                train(work._recipe, work.title, work._folder, device=torch.device("cpu"), stop=StopRequest())
        return work.conclude(None)

    monkeypatch.setattr(train_job, "run_here", here)

    def run(words: list[str]) -> int:
        if words[0] == "printf":
            text, arrow, file = words[1:]
            assert arrow == ">"
            Path(file).write_text(text.encode().decode("unicode_escape"))
            return 0
        assert words[0] == "neuroimagen", words
        words = words[1:]
        if words[0] == "train" and "--dry-run" not in words:
            words = [*words, "--set", *STAGE_STEPS.format(stage=words[1]).split()]
        if words[0] == "reconstruct":
            words = [*words, "--set", "reconstruct.steps=2"]
        return cli.main(words)

    return run
