"""What every stage's section of the recipe accepts, and what it says of the rest."""

from typing import Any

import pytest

from neuroimagen.trainer.stages.config import SampledStageConfig, StageConfig
from neuroimagen.trainer.stages.registry import STAGES


@pytest.mark.parametrize("name", STAGES.names())
def test_every_stage_s_section_is_made_of_these_and_valid_as_it_is(name: str) -> None:
    assert isinstance(STAGES[name].Config(), StageConfig)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        *(({name: 0}, f"{name} must be at least 1, got 0") for name in ("steps", "log_every", "validate_every")),
        *(({name: 0}, f"{name} must be at least 1") for name in ("checkpoint_every", "keep_checkpoints")),
        ({"gradient_accumulation": 0}, "gradient_accumulation must be at least 1"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"weight_decay": -0.1}, "weight_decay and warmup_steps at least 0"),
        ({"offload_optimizer": True}, "needs zero_stage 1 or more"),
        ({"compile": True, "zero_stage": 3}, "compile needs zero_stage 2 or less"),
        ({"on_bad_loss": "skip", "gradient_accumulation": 2}, "skip needs gradient_accumulation 1"),
        ({"divergence_factor": 1.0}, "divergence_factor must be above 1, or null for none; got 1.0"),
        ({"ema_decay": 1.0}, "ema_decay must lie between 0 and 1, or be null for none; got 1.0"),
        ({"gradient_clip": 0.0}, "gradient_clip must be positive, or null for none; got 0.0"),
    ],
)
def test_a_value_that_cannot_be_is_refused_with_what_can(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StageConfig(**settings)


def test_null_turns_off_what_may_be_turned_off() -> None:
    StageConfig(divergence_factor=None, ema_decay=None, gradient_clip=None)
    assert SampledStageConfig().sample_every is None
    for wrong in ({"num_samples": 0}, {"sample_every": 0}):
        with pytest.raises(ValueError, match="num_samples and sample_every must be at least 1"):
            SampledStageConfig(**wrong)
