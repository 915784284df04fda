"""The work that ranks are started for: a stage, or a command that shares its work."""

from pathlib import Path

import pytest
import torch

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.launch.cli import parse
from neuroimagen.launch.jobs.train import TrainWork, default_ranks
from neuroimagen.launch.jobs.work import SharedCommand, local_job
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
