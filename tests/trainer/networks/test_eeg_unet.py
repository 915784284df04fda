"""The U-Net conditioned on EEG: LoRA and the noise schedule, against peft and diffusers."""

from pathlib import Path

import pytest
import torch
from torch import nn

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.trainer.networks.eeg_unet import NoiseSchedule, choose_trained, merged


def test_lora_merges_to_the_same_function(tiny_diffusion_folder: Path) -> None:
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(tiny_diffusion_folder / "unet")
    choose_trained(unet, "lora", lora_rank=4)
    trained = [name for name, p in unet.named_parameters() if p.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)
    for name, parameter in unet.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.3)
    inputs = (torch.randn(2, 4, 8, 8), torch.tensor([5, 900]), torch.randn(2, 24, 32))
    with torch.no_grad():
        assert torch.allclose(merged(unet)(*inputs).sample, unet(*inputs).sample, atol=1e-5)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_the_noise_schedule_is_that_of_diffusers(kind: str) -> None:
    from diffusers import DDPMScheduler
    from diffusers.training_utils import compute_snr

    config = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "prediction_type": kind}
    ours, theirs = NoiseSchedule(config), DDPMScheduler.from_config(config)
    latents, noise = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8)
    timesteps = torch.tensor([0, 421, 999])
    assert torch.allclose(ours.add_noise(latents, noise, timesteps), theirs.add_noise(latents, noise, timesteps))
    velocity = theirs.get_velocity(latents, noise, timesteps)
    target = {"epsilon": noise, "v_prediction": velocity, "sample": latents}[kind]
    assert torch.allclose(ours.target(latents, noise, timesteps), target)
    snr = compute_snr(theirs, timesteps)
    weight = snr.clamp(max=5.0) / {"epsilon": snr, "v_prediction": snr + 1, "sample": 1}[kind]
    assert torch.allclose(ours.min_snr_weight(timesteps, 5.0), weight)
    with pytest.raises(UserError, match="only epsilon, v_prediction, sample are trained"):
        NoiseSchedule({**config, "prediction_type": "flow"})
