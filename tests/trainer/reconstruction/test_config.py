"""The recipe's `reconstruct` section."""

import pytest

from neuroimagen.trainer.reconstruction.config import ReconstructConfig


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strength": 0.0}, "strength must lie in"),
        ({"strength": 1.2}, "strength must lie in"),
        ({"strength": 0.1, "steps": 5}, "leaves no denoising step"),
        ({"guidance": 0.5}, "guidance must be a finite number, at least 1"),
        ({"guidance": float("nan")}, "guidance must be a finite number"),
        ({"guidance": float("inf")}, "guidance must be a finite number"),
        ({"samples": 0}, "samples must be at least 1"),
        ({"batch_size": 0}, "batch_size must be at least 1, or null"),
        ({"scheduler": "dim"}, "reconstruct.scheduler: there is no noise scheduler 'dim'. Did you mean 'ddim'"),
        ({"conditions": ("ful",)}, "reconstruct.conditions: there is no condition 'ful'. Did you mean 'full'"),
    ],
)
def test_configuration_says_what_is_wrong(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ReconstructConfig(**changes)  # type: ignore[arg-type]
