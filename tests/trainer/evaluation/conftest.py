"""An evaluated run, and what its images were scored with."""

import dataclasses
from pathlib import Path

import pytest
import simulated_run
from simulated_run import Finished

from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.trainer.evaluation.evaluate import evaluate_run
from neuroimagen.trainer.evaluation.scoring.scoring import EvaluateConfig, Scoring, load_scoring


@pytest.fixture(scope="session")
def config(tiny_diffusion_folder: Path) -> EvaluateConfig:
    return EvaluateConfig(
        classifier=str(tiny_diffusion_folder / "classifier"),
        clip=str(tiny_diffusion_folder / "clip"),
        num_resamples=300,
    )


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, config: EvaluateConfig) -> Finished:
    """An evaluated run. Read only."""
    folder = tmp_path_factory.mktemp("finished")
    scenes = simulated_run.write_dataset(folder / "data")
    run = simulated_run.write_run(folder / "run", folder / "data", scenes)
    return Finished(run, folder / "data", evaluate_run(run, Dataset.open(folder / "data"), config))


@pytest.fixture(scope="session")
def scoring(finished: Finished, config: EvaluateConfig) -> Scoring:
    """What the finished run's images are scored with, and a perceptual network."""
    config = dataclasses.replace(config, perceptual=config.classifier)
    return load_scoring(config, Dataset.open(finished.data), subjects=None, size_px=32, device="cpu")
