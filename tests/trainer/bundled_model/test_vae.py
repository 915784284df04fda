"""The VAE of the bundled model, which gets more latent channels between its two phases of training."""

import torch

from neuroimagen.trainer.bundled_model.vae import build_vae, grow_latents


@torch.inference_mode()
def test_more_latent_channels_change_nothing_at_first() -> None:
    torch.manual_seed(0)
    vae = build_vae(4).eval()
    grown = grow_latents(vae, 6).eval()
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    before, after = vae.encode(images).latent_dist, grown.encode(images).latent_dist
    assert after.mean.shape == (2, 6, 8, 8)
    torch.testing.assert_close(after.mean[:, :4], before.mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(after.logvar[:, :4], before.logvar, rtol=1e-4, atol=1e-5)
    latents = after.mean.clone()
    latents[:, 4:] = 7.0  # the decoder does not use the new channels yet
    torch.testing.assert_close(grown.decode(latents).sample, vae.decode(before.mean).sample, rtol=1e-4, atol=1e-4)
