"""What both branches of guidance share is computed once, and stays diffusers' to the last digits."""

from pathlib import Path

import pytest
import torch

from neuroimagen.trainer.reconstruction.latent_diffusion import LatentDiffusion, load_latent_diffusion
from neuroimagen.trainer.reconstruction.shared_stem import SharedStem, text_free_modules


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(99))


def test_both_halves_together_are_the_branches_apart(diffusion: LatentDiffusion, tiny_diffusion_folder: Path) -> None:
    from diffusers import UNet2DConditionModel

    apart = UNet2DConditionModel.from_pretrained(tiny_diffusion_folder / "unet")
    latents, hidden = normal(3, 4, 8, 8), normal(6, 24, 32)
    assert diffusion._stem is not None
    with torch.inference_mode():
        expected = torch.cat([apart(latents, 500, hidden[:3]).sample, apart(latents, 500, hidden[3:]).sample])
        with diffusion._stem.sharing():
            shared = diffusion.unet(torch.cat([latents, latents]), 500, hidden).sample
        # Outside, the halves may differ, and are not mixed.
        plain = diffusion.unet(torch.cat([latents, -latents]), 500, hidden).sample
        other = apart(-latents, 500, hidden[3:]).sample
    torch.testing.assert_close(shared, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(plain, torch.cat([expected[:3], other]), rtol=1e-5, atol=1e-5)


def test_the_stem_ends_where_the_text_begins(tiny_diffusion_folder: Path) -> None:
    """No module of it depends on the caption, and the next cross-attention is not."""
    unet = load_latent_diffusion(tiny_diffusion_folder).unet
    first, second = unet.down_blocks  # without attention; with cross-attention
    transformer = second.attentions[0].transformer_blocks[0]
    stem = text_free_modules(unet)
    assert stem == [*first.resnets, second.resnets[0], transformer.attn1]
    outputs: dict[torch.nn.Module, list[torch.Tensor]] = {module: [] for module in [*stem, transformer.attn2]}
    for module in outputs:
        module.register_forward_hook(lambda module, args, output: outputs[module].append(output))
    with torch.inference_mode():
        for hidden in normal(2, 24, 32):
            unet(normal(1, 4, 8, 8), 500, hidden[None])
    assert all(torch.equal(*outputs[module]) for module in stem)
    assert not torch.equal(*outputs[transformer.attn2])


def test_what_it_saves_of_stable_diffusion() -> None:
    """2.5 % of the arithmetic of a guided step at 512 px; keys and values of the text would be 0.4 % more."""
    from diffusers import UNet2DConditionModel
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        unet = UNet2DConditionModel(  # what is not said are diffusers' defaults: Stable Diffusion 1's
            sample_size=64, cross_attention_dim=768, attention_head_dim=8
        )
        stem, counts = SharedStem(unet), []
        inputs = torch.zeros(2, 4, 64, 64), torch.tensor(1), torch.zeros(2, 77, 768)
        for active in (False, True):
            with FlopCounterMode(display=False) as counter, stem.sharing(active):
                unet(*inputs)
            counts.append(counter)
    total = counts[0].get_total_flops()
    assert total == pytest.approx(1.607e12, rel=0.001)
    assert 1 - counts[1].get_total_flops() / total == pytest.approx(0.0249, abs=0.0002)
    text = [sum(by.values()) for name, by in counts[0].get_flop_counts().items() if name.endswith(("2.to_k", "2.to_v"))]
    assert (len(text), sum(text) / total) == (32, pytest.approx(0.0037, abs=0.0001))


def test_a_unet_with_other_inputs_has_none(tiny_diffusion_folder: Path) -> None:
    unet = load_latent_diffusion(tiny_diffusion_folder).unet
    unet.register_to_config(class_embed_type="timestep")
    assert text_free_modules(unet) == []
