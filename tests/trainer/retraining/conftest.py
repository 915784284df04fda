"""A run whose controls can be trained."""

from pathlib import Path

import pytest
import simulated_run
from control_steps import finish_stage

from neuroimagen.trainer.retraining.drift_surrogate import STAGES


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with every stage, on a data set whose order of recording is known."""
    simulated_run.write_dataset(tmp_path / "data", block_design=True)
    for stage in STAGES:
        finish_stage(tmp_path / "run", stage)
    (tmp_path / "run" / "config.yaml").write_text(
        f"data:\n  path: {tmp_path / 'data'}\ncontrastive:\n  num_classes: 6\n  num_samples: 2\n"
    )
    return tmp_path / "run"
