"""The recipe's `reconstruct` section."""

import pytest

from neuroimagen.trainer.reconstruction.config import ChooseConfig, ReconstructConfig, plain_scale


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strength": 0.0}, "strength must lie in"),
        ({"strength": 1.2}, "strength must lie in"),
        ({"strength": 0.1, "steps": 5}, "leaves no denoising step"),
        ({"guidance": 0.5}, "guidance must be a finite number, 0 or 1 for no guidance"),
        ({"guidance": float("nan")}, "guidance must be a finite number"),
        ({"guidance": float("inf")}, "guidance must be a finite number"),
        ({"samples": 0}, "samples must be at least 1"),
        ({"batch_size": 0}, "batch_size must be at least 1, or null"),
        ({"scheduler": "dim"}, "reconstruct.scheduler: there is no noise scheduler 'dim'. Did you mean 'ddim'"),
        ({"side_segments": 0}, "side_segments must be at least 1, or null"),
        ({"adapter_scale": -0.5}, "adapter_scale must be a number from 0, got -0.5"),
        (
            {"adapter_scale": {"a": {"up": {"block_0": (0.0, -1.0)}}}},
            "adapter_scale.a.up.block_0 must be a number from 0",
        ),
        ({"noise_level": 1000}, "noise_level must be 0 to 999"),
        ({"prior_guidance": -1.0}, "prior_guidance must be a number from 0"),
        ({"prior_steps": 0}, "prior_steps must be at least 1"),
        ({"conditions": ("ful",)}, "reconstruct.conditions: there is no condition 'ful'. Did you mean 'full'"),
    ],
)
def test_configuration_says_what_is_wrong(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ReconstructConfig(**changes)  # type: ignore[arg-type]


def test_no_guidance_the_folder_s_own_scheduler_and_scales_by_block_are_allowed() -> None:
    for guidance in (0.0, 1.0, 7.5):
        assert ReconstructConfig(guidance=guidance, scheduler=None).guidance == guidance
    scale = {"a": 0.5, "b": {"up": {"block_0": (0.0, 1.0)}}}
    assert plain_scale(ReconstructConfig(adapter_scale=scale).adapter_scale) == {
        "a": 0.5,
        "b": {"up": {"block_0": [0.0, 1.0]}},
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"conditions": ("imag_only",)}, "there is no condition 'imag_only'. Did you mean 'image_only'"),
        ({"conditions": ("oracle_image",)}, "oracle_image is not drawn from the EEG alone"),
        ({"segments": 0}, "segments must be at least 1"),
        ({"by": {}}, "by needs at least one metric"),
        ({"by": {"ssim": 0.0}}, "by needs at least one metric"),
    ],
)
def test_a_choice_says_what_is_wrong(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ChooseConfig(**changes)  # type: ignore[arg-type]


def test_a_choice_is_made_where_there_are_candidates() -> None:
    assert not ChooseConfig().is_asked_for
    assert ChooseConfig(conditions=None).is_asked_for
    assert ChooseConfig(conditions=("full",)).is_asked_for
