"""What every stage's section of the recipe accepts, and what it says of the rest."""

import dataclasses
from typing import Any

import pytest

from neuroimagen.trainer.stages.config import COUNTS, SampledStageConfig, StageConfig
from neuroimagen.trainer.stages.registry import STAGES

NOT_NEGATIVE = ("weight_decay", "warmup_steps", "max_skipped")


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
        *(({name: -1}, "weight_decay, warmup_steps and max_skipped must be at least 0") for name in NOT_NEGATIVE),
        *(({"adam_betas": betas}, r"adam_betas must lie in \[0, 1\), got") for betas in ((1.0, 0.9), (0.9, -0.1))),
        ({"final_learning_rate_fraction": 1.1}, r"final_learning_rate_fraction must lie in \[0, 1\], got 1.1"),
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


@pytest.mark.parametrize("name", STAGES.names())
def test_sizes_rates_and_dropouts_of_every_stage_are_checked(name: str) -> None:
    config = STAGES[name].Config
    fields = {field.name for field in dataclasses.fields(config)}
    wrong: dict[str, list[float]] = {key: [0, -1] for key in fields & COUNTS}
    wrong |= {key: [0.0, -1e-3] for key in fields if key.endswith("learning_rate")}
    wrong |= {key: [-0.1, 1.0] for key in fields if key.endswith("dropout")}
    assert "steps" in wrong
    assert "learning_rate" in wrong
    for key, values in wrong.items():
        for value in values:
            with pytest.raises(ValueError, match=f"{key} must .*{value}"):
                config(**{key: value})
    undeclared = {key for key in fields if key.endswith(("_size", "_width", "_depth", "_every", "_rank"))} - COUNTS
    assert undeclared <= {"sample_every"}  # may be null
