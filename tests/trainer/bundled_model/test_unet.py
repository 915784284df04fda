"""The U-Net of the bundled model and its noise schedule: as they ship, and as training builds them."""

import json

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from neuroimagen.trainer.bundled_model.location import bundled_model_path
from neuroimagen.trainer.bundled_model.unet import build_scheduler, build_unet

FOLDER = bundled_model_path()


def test_it_is_built_as_the_one_that_ships() -> None:
    unet = build_unet(AutoencoderKL.from_pretrained(FOLDER / "vae"))
    shipped = UNet2DConditionModel.from_pretrained(FOLDER / "unet")
    built = {name: tensor.shape for name, tensor in unet.state_dict().items()}
    assert built == {name: tensor.shape for name, tensor in shipped.state_dict().items()}
    latents = torch.randn(2, unet.config.in_channels, 8, 8)
    hidden = torch.randn(2, 5, unet.config.cross_attention_dim)
    assert unet(latents, torch.tensor([3, 900]), encoder_hidden_states=hidden).sample.shape == latents.shape


def test_the_last_step_keeps_little_of_the_signal() -> None:
    scheduler = build_scheduler()
    alphas = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    assert torch.allclose(scheduler.alphas_cumprod.double(), alphas, rtol=1e-3)
    assert 0.006 < float(alphas[-1].sqrt()) < 0.0064  # 0.6 % of the amplitude
    shipped = json.loads((FOLDER / "scheduler" / "scheduler_config.json").read_text())
    own = {name: value for name, value in scheduler.config.items() if not name.startswith("_")}
    assert {name: shipped[name] for name in own} == own
