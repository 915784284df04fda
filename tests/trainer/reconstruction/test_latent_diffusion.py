"""The sampling loop against diffusers' own pipelines: same noise, same latents, same image."""

import json
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from tiny_models import build_tiny_diffusion_folder

from neuroimagen.benchmarks.cache import load_vae
from neuroimagen.benchmarks.reconstruct import load_pipeline
from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.frozen_models.loading import load_transformer
from neuroimagen.trainer.reconstruction.latent_diffusion import (
    LatentDiffusion,
    load_latent_diffusion,
    model_digest,
)

STEPS = 7


def seeded_noise(count: int, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in range(count)])


def hidden_states(count: int) -> torch.Tensor:
    return torch.randn(count, 24, 32, generator=torch.Generator().manual_seed(99))


def dtypes(network: torch.nn.Module) -> set[torch.dtype]:
    return {parameter.dtype for parameter in network.parameters()}


def pipeline_scheduler(folder: Path, name: str) -> object:
    from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

    if name == "ddim":
        return DDIMScheduler.from_pretrained(folder, subfolder="scheduler")
    return DPMSolverMultistepScheduler.from_pretrained(folder, subfolder="scheduler", algorithm_type="dpmsolver++")


@pytest.mark.parametrize("scheduler", ["ddim", "dpm-solver++"])
@pytest.mark.parametrize(("strength", "guidance"), [(0.75, 5.0), (0.3, 2.5), (1.0, 5.0), (0.75, 1.0)])
def test_img2img_is_diffusers_img2img(
    diffusion: LatentDiffusion, tiny_diffusion_folder: Path, scheduler: str, strength: float, guidance: float
) -> None:
    from diffusers import StableDiffusionImg2ImgPipeline

    pipeline = StableDiffusionImg2ImgPipeline.from_pretrained(
        tiny_diffusion_folder, scheduler=pipeline_scheduler(tiny_diffusion_folder, scheduler)
    )
    pipeline.set_progress_bar_config(disable=True)
    start, hidden = seeded_noise(3, (4, 8, 8)) * 0.7, hidden_states(3)
    expected = pipeline(
        prompt_embeds=hidden,
        negative_prompt_embeds=pipeline.encode_prompt("", "cpu", 1, False)[0].expand(3, -1, -1),
        image=start,
        strength=strength,
        guidance_scale=guidance,
        num_inference_steps=STEPS,
        generator=[torch.Generator().manual_seed(seed) for seed in range(3)],
        output_type="pt",
    ).images
    latents = diffusion.denoise(
        seeded_noise(3, (4, 8, 8)),
        hidden,
        start=start,
        strength=strength,
        guidance=guidance,
        steps=STEPS,
        scheduler=scheduler,
    )
    torch.testing.assert_close(diffusion.decode(latents) / 2 + 0.5, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("scheduler", ["ddim", "dpm-solver++"])
def test_text_to_image_is_diffusers_text_to_image(
    diffusion: LatentDiffusion, tiny_diffusion_folder: Path, scheduler: str
) -> None:
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(
        tiny_diffusion_folder, scheduler=pipeline_scheduler(tiny_diffusion_folder, scheduler)
    )
    pipeline.set_progress_bar_config(disable=True)
    captions = ["an image of a red pizza", "an image of a canoe", "a banana"]
    noise = seeded_noise(3, (4, 8, 8))
    expected = pipeline(captions, latents=noise, guidance_scale=4.0, num_inference_steps=STEPS, output_type="pt").images
    latents = diffusion.denoise(
        noise,
        diffusion.prompt(captions),
        guidance=4.0,
        steps=STEPS,
        scheduler=scheduler,
    )
    torch.testing.assert_close(diffusion.decode(latents) / 2 + 0.5, expected, rtol=1e-4, atol=1e-4)


def test_libraries_load_in_the_dtype_asked_for(
    tiny_diffusion_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from transformers import CLIPTextModel

    CLIPTextModel.from_pretrained(tiny_diffusion_folder / "text_encoder", dtype=torch.bfloat16).save_pretrained(
        tmp_path
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        warnings.simplefilter("error", DeprecationWarning)
        diffusion = load_latent_diffusion(tiny_diffusion_folder, dtype=torch.bfloat16)
        pipeline = load_pipeline(tiny_diffusion_folder, "ddim", torch.device("cpu"), torch.bfloat16)
        vae = load_vae(tiny_diffusion_folder, torch.device("cpu"))
        text_encoder = load_transformer(CLIPTextModel, tmp_path)
    low = (diffusion.unet, pipeline.unet, pipeline.text_encoder)
    full = (diffusion.vae.vae, diffusion.text_encoder.text_models[0], pipeline.vae, vae, text_encoder)
    assert dtypes(CLIPTextModel.from_pretrained(tmp_path)) == {torch.bfloat16}
    assert [dtypes(network) for network in low] == [{torch.bfloat16}] * 3
    assert [dtypes(network) for network in full] == [{torch.float32}] * 5
    assert "deprecated" not in capfd.readouterr().err  # transformers says it in its log


def test_vae_is_the_pipeline_s_up_to_the_mode(diffusion: LatentDiffusion, tiny_diffusion_folder: Path) -> None:
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(tiny_diffusion_folder, subfolder="vae")
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        expected = vae.encode(images).latent_dist.mode() * 0.7
    torch.testing.assert_close(diffusion.encode(images), expected, rtol=1e-5, atol=1e-5)


def test_unconditional_is_the_empty_caption_not_zeros(diffusion: LatentDiffusion) -> None:
    assert torch.equal(diffusion.unconditional, diffusion.prompt([""]))
    assert diffusion.unconditional.abs().max() > 0.1


def test_the_batch_does_not_matter(diffusion: LatentDiffusion) -> None:
    noise, hidden = seeded_noise(5, (4, 8, 8)), hidden_states(5)

    def denoise(chosen: slice) -> torch.Tensor:
        return diffusion.denoise(
            noise[chosen], hidden[chosen], start=noise[chosen] / 3, strength=0.8, guidance=6.0, steps=STEPS
        )

    together = denoise(slice(0, 5))
    one_by_one = torch.cat([denoise(slice(number, number + 1)) for number in range(5)])
    torch.testing.assert_close(one_by_one, together, rtol=1e-4, atol=1e-4)


def test_strength_moves_from_the_start_to_the_prompt(diffusion: LatentDiffusion) -> None:
    noise, hidden = seeded_noise(4, (4, 8, 8)), hidden_states(4)
    start = torch.zeros_like(noise)
    distances = [
        (diffusion.denoise(noise, hidden, start=start, strength=strength, guidance=1.0, steps=10) - start).norm()
        for strength in (0.1, 0.4, 0.7, 1.0)
    ]
    assert distances == sorted(distances)


def test_a_compiled_model_follows_guidance(tiny_diffusion_folder: Path, diffusion: LatentDiffusion) -> None:
    """Batches of one shape, with shared halves and without: the compiled pass must know them apart."""
    torch._dynamo.reset()
    compiled = load_latent_diffusion(tiny_diffusion_folder, compile_backend="eager")
    for guidance, count in ((4.0, 2), (1.0, 4), (4.0, 2), (1.0, 4)):
        noise, hidden = seeded_noise(count, (4, 8, 8)), hidden_states(count)
        expected = diffusion.denoise(noise, hidden, guidance=guidance, steps=2)
        torch.testing.assert_close(
            compiled.denoise(noise, hidden, guidance=guidance, steps=2), expected, rtol=1e-5, atol=1e-5
        )
    assert set(compiled.unet.state_dict()) == set(diffusion.unet.state_dict())


def test_low_precision_is_close(tiny_diffusion_folder: Path, diffusion: LatentDiffusion) -> None:
    low = load_latent_diffusion(tiny_diffusion_folder, dtype=torch.bfloat16)
    noise, hidden = seeded_noise(2, (4, 8, 8)), hidden_states(2)
    settings = {"guidance": 2.0, "steps": STEPS}
    exact = diffusion.denoise(noise, hidden, **settings)  # type: ignore[arg-type]
    rounded = low.denoise(noise, hidden, **settings)  # type: ignore[arg-type]
    assert rounded.dtype == torch.float32
    assert (rounded - exact).abs().mean() < 0.05 * exact.abs().mean()


def test_other_sizes_and_prediction_types(tmp_path: Path) -> None:
    """Eight latent channels, v-prediction: nothing is assumed."""
    folder = build_tiny_diffusion_folder(
        tmp_path / "model", class_names=["a", "b"], latent_channels=8, prediction_type="v_prediction"
    )
    diffusion = load_latent_diffusion(folder)
    assert (diffusion.latent_shape, diffusion.text_shape, diffusion.image_size_px) == ((8, 8, 8), (24, 32), 32)
    latents = diffusion.denoise(seeded_noise(2, (8, 8, 8)), diffusion.prompt(["a", "b"]), guidance=3.0, steps=4)
    assert diffusion.decode(latents).shape == (2, 3, 32, 32)
    assert torch.isfinite(latents).all()


def test_digest_follows_the_weights_not_the_place(tiny_diffusion_folder: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(tiny_diffusion_folder, tmp_path / "moved")
    assert model_digest(moved) == model_digest(tiny_diffusion_folder)
    weights = moved / "unet" / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert model_digest(moved) != model_digest(tiny_diffusion_folder)


class TestBadFolders:
    @pytest.fixture
    def model(self, tiny_diffusion_folder: Path, tmp_path: Path) -> Path:
        return shutil.copytree(tiny_diffusion_folder, tmp_path / "model")

    def change(self, path: Path, **values: object) -> None:
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    def test_without_model_index(self, model: Path) -> None:
        (model / "model_index.json").unlink()
        with pytest.raises(UserError, match=r"no model_index\.json"):
            load_latent_diffusion(model)

    def test_text_encoder_of_another_model(self, model: Path) -> None:
        self.change(model / "unet" / "config.json", cross_attention_dim=48)
        with pytest.raises(UserError, match="attends to width 48, the text encoder gives 32"):
            load_latent_diffusion(model)

    def test_inpainting_model(self, model: Path) -> None:
        self.change(model / "unet" / "config.json", in_channels=9)
        with pytest.raises(UserError, match="more input than latents and text"):
            load_latent_diffusion(model)

    def test_truncated_unet(self, model: Path) -> None:
        weights = model / "unet" / "diffusion_pytorch_model.safetensors"
        weights.write_bytes(weights.read_bytes()[:1000])
        with pytest.raises(UserError, match=r"cannot load the model in .*unet"):
            load_latent_diffusion(model)

    def test_too_many_steps(self, diffusion: LatentDiffusion) -> None:
        with pytest.raises(UserError, match=r"1001 sampling steps .* the model has 1000"):
            diffusion.make_scheduler("ddim", 1001)


@pytest.mark.slow
def test_inductor_draws_the_same_images(tiny_diffusion_folder: Path) -> None:
    """U-Net, its shared stem and the VAE's decoder, compiled for good and not only traced."""
    drawn = []
    for backend in (None, "inductor"):
        model = load_latent_diffusion(tiny_diffusion_folder, compile_backend=backend)
        noise = torch.randn(2, *model.latent_shape, generator=torch.Generator().manual_seed(0))
        hidden = model.prompt(["a red circle", "a blue square"])
        drawn.append(model.decode(model.denoise(noise, hidden, steps=3, guidance=3.0)))
    assert torch.allclose(*drawn, atol=1e-3)
    assert drawn[0].std() > 0.01
