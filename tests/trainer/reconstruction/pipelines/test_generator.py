"""Generator against diffusers' own pipelines: Stable Diffusion from noise and from a start, and what holds for all."""

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from drawn_images import grey_levels, normal, seeded
from tiny_models import build_tiny_diffusion_folder

from neuroimagen.benchmarks.cache import load_vae
from neuroimagen.benchmarks.reconstruct import load_pipeline
from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.frozen_models.loading import load_transformer
from neuroimagen.trainer.reconstruction.pipelines.conditioning import Conditioning
from neuroimagen.trainer.reconstruction.pipelines.generator import Generator, model_digest

STEPS = 4


def hidden_states(count: int) -> torch.Tensor:
    return normal(count, 24, 32)


def text(count: int) -> Conditioning:
    return Conditioning(text=hidden_states(count))


def dtypes(network: torch.nn.Module) -> set[torch.dtype]:
    return {parameter.dtype for parameter in network.parameters()}


def own_scheduler(folder: Path, name: str | None) -> Any:
    """The scheduler as a user of diffusers makes it."""
    from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerAncestralDiscreteScheduler

    if name == "dpm-solver++":
        return DPMSolverMultistepScheduler.from_pretrained(folder, subfolder="scheduler", algorithm_type="dpmsolver++")
    made = EulerAncestralDiscreteScheduler if name == "EulerAncestralDiscreteScheduler" else DDIMScheduler
    return made.from_pretrained(folder, subfolder="scheduler")


@pytest.mark.parametrize("scheduler", [None, "ddim", "dpm-solver++", "EulerAncestralDiscreteScheduler"])
@pytest.mark.parametrize(("strength", "guidance"), [(0.75, 5.0), (0.3, 2.5), (1.0, 5.0), (0.75, 1.0), (0.5, 0.0)])
def test_a_start_is_diffusers_img2img(
    generator: Generator, tiny_diffusion_folder: Path, scheduler: str | None, strength: float, guidance: float
) -> None:
    from diffusers import StableDiffusionImg2ImgPipeline

    pipeline = StableDiffusionImg2ImgPipeline.from_pretrained(
        tiny_diffusion_folder, scheduler=own_scheduler(tiny_diffusion_folder, scheduler)
    )
    pipeline.set_progress_bar_config(disable=True)
    start, hidden = generator.noise(seeded(3)) * 0.7, hidden_states(3)
    expected = pipeline(
        prompt_embeds=hidden,
        negative_prompt_embeds=pipeline.encode_prompt("", "cpu", 1, False)[0].expand(3, -1, -1),
        image=start,
        strength=strength,
        guidance_scale=guidance,
        num_inference_steps=STEPS,
        generator=seeded(3),
        output_type="pt",
    ).images
    latents = generator.denoise(
        seeded(3),
        Conditioning(text=hidden),
        start=start,
        strength=strength,
        guidance=guidance,
        steps=STEPS,
        scheduler=scheduler,
    )
    assert grey_levels(generator.decode(latents), expected) <= 1


@pytest.mark.parametrize("scheduler", [None, "dpm-solver++", "EulerAncestralDiscreteScheduler"])
def test_no_start_is_diffusers_text_to_image(
    generator: Generator, tiny_diffusion_folder: Path, scheduler: str | None
) -> None:
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(
        tiny_diffusion_folder, scheduler=own_scheduler(tiny_diffusion_folder, scheduler)
    )
    pipeline.set_progress_bar_config(disable=True)
    captions = ["an image of a red pizza", "an image of a canoe", "a banana"]
    expected = pipeline(
        captions, generator=seeded(3), guidance_scale=4.0, num_inference_steps=STEPS, output_type="pt"
    ).images
    latents = generator.denoise(seeded(3), generator.prompt(captions), guidance=4.0, steps=STEPS, scheduler=scheduler)
    assert grey_levels(generator.decode(latents), expected) <= 1


def test_without_a_condition_the_caption_is_empty(generator: Generator) -> None:
    settings: dict[str, Any] = {"steps": 2, "guidance": 3.0}
    nothing = generator.denoise(seeded(2), Conditioning(), **settings)
    empty = generator.prompt(["", ""])
    assert empty.text is not None
    assert empty.text.abs().max() > 0.1
    assert torch.equal(nothing, generator.denoise(seeded(2), empty, **settings))
    assert generator.takes == {"text"}


def test_no_guidance_is_one_pass_with_the_condition(generator: Generator) -> None:
    """0 and 1 are the same, and the batch is not doubled."""
    sizes: list[int] = []
    handle = generator.unet.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    try:
        drawn = [generator.denoise(seeded(2), text(2), steps=1, guidance=guidance) for guidance in (0.0, 1.0, 2.0)]
    finally:
        handle.remove()
    assert torch.equal(drawn[0], drawn[1])
    assert sizes == [2, 2, 4]


@pytest.mark.parametrize("scheduler", ["dpm-solver++", "euler-ancestral", "lcm", "DDPMScheduler", "SASolverScheduler"])
def test_an_image_does_not_depend_on_its_batch(generator: Generator, scheduler: str) -> None:
    """Also where the scheduler adds noise in every step."""
    start, hidden = generator.noise(seeded(3)) / 3, hidden_states(3)

    def denoise(chosen: list[int]) -> torch.Tensor:
        return generator.denoise(
            [seeded(3)[number] for number in chosen],
            Conditioning(text=hidden[chosen]),
            start=start[chosen],
            strength=0.8,
            guidance=6.0,
            steps=STEPS,
            scheduler=scheduler,
        )

    together, others = denoise([0, 1, 2]), denoise([2, 0])
    torch.testing.assert_close(others, together[[2, 0]], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(denoise([1]), together[[1]], rtol=1e-4, atol=1e-4)


def test_strength_moves_from_the_start_to_the_prompt(generator: Generator) -> None:
    start = torch.zeros(4, 4, 8, 8)
    distances = [
        generator.denoise(seeded(4), text(4), start=start, strength=strength, guidance=1.0, steps=10).norm()
        for strength in (0.1, 0.4, 0.7, 1.0)
    ]
    assert distances == sorted(distances)


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
        generator = Generator(tiny_diffusion_folder, dtype=torch.bfloat16)
        pipeline = load_pipeline(tiny_diffusion_folder, "ddim", torch.device("cpu"), torch.bfloat16)
        vae = load_vae(tiny_diffusion_folder, torch.device("cpu"))
        text_encoder = load_transformer(CLIPTextModel, tmp_path)
        hidden = generator.prompt(["a"]).text
    assert hidden is not None
    assert hidden.dtype == torch.float32
    assert dtypes(CLIPTextModel.from_pretrained(tmp_path)) == {torch.bfloat16}
    low, full = (generator.unet, pipeline.unet, pipeline.text_encoder), (generator.vae.vae, pipeline.vae, vae)
    assert [dtypes(network) for network in low] == [{torch.bfloat16}] * 3
    assert [dtypes(network) for network in (*full, text_encoder)] == [{torch.float32}] * 4
    assert "deprecated" not in capfd.readouterr().err  # transformers says it in its log


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_is_close(tiny_diffusion_folder: Path, generator: Generator, dtype: torch.dtype) -> None:
    """Noise, guidance and steps are those of float32; only the U-Net's numbers are rounded."""
    low = Generator(tiny_diffusion_folder, dtype=dtype)
    settings: dict[str, Any] = {"guidance": 2.0, "steps": STEPS, "scheduler": "euler-ancestral"}
    exact, rounded = (model.denoise(seeded(2), text(2), **settings) for model in (generator, low))
    assert rounded.dtype == torch.float32
    assert (rounded - exact).abs().mean() < 0.05 * exact.abs().mean()


def test_vae_is_the_pipeline_s_up_to_the_mode(generator: Generator, tiny_diffusion_folder: Path) -> None:
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(tiny_diffusion_folder, subfolder="vae")
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        expected = vae.encode(images).latent_dist.mode() * 0.7
    torch.testing.assert_close(generator.encode(images), expected, rtol=1e-5, atol=1e-5)


def test_a_compiled_model_draws_the_same(tiny_diffusion_folder: Path, generator: Generator) -> None:
    torch._dynamo.reset()
    compiled = Generator(tiny_diffusion_folder, compile_backend="eager")
    for guidance, count in ((4.0, 2), (1.0, 4), (4.0, 2)):
        expected, traced = (
            model.denoise(seeded(count), text(count), guidance=guidance, steps=2) for model in (generator, compiled)
        )
        torch.testing.assert_close(traced, expected, rtol=1e-5, atol=1e-5)
    assert set(compiled.unet.state_dict()) == set(generator.unet.state_dict())


def test_other_sizes_and_prediction_types(tmp_path: Path) -> None:
    """Eight latent channels, v-prediction: nothing is assumed, also where diffusers' img2img would."""
    folder = build_tiny_diffusion_folder(
        tmp_path / "model", class_names=["a", "b"], latent_channels=8, prediction_type="v_prediction"
    )
    generator = Generator(folder)
    assert (generator.latent_shape, generator.text_shape, generator.image_size_px) == ((8, 8, 8), (24, 32), 32)
    for start in (None, torch.zeros(2, 8, 8, 8)):
        latents = generator.denoise(
            seeded(2), generator.prompt(["a", "b"]), guidance=3.0, steps=4, start=start, strength=0.5
        )
        assert generator.decode(latents).shape == (2, 3, 32, 32)


def test_digest_follows_the_weights_not_the_place(tiny_diffusion_folder: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(tiny_diffusion_folder, tmp_path / "moved")
    assert model_digest(moved) == model_digest(tiny_diffusion_folder)
    weights = moved / "unet" / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert model_digest(moved) != model_digest(tiny_diffusion_folder)


class TestNumbersThatAreNone:
    """NaN and infinities never become a picture: they are an error that says where they come from."""

    def test_conditions_and_latents(self, generator: Generator) -> None:
        hidden = hidden_states(2)
        hidden[1, 3, 4] = float("nan")
        with pytest.raises(UserError, match=r"the text condition holds NaN .* 1 of 2 images .* stage that predicts it"):
            generator.denoise(seeded(2), Conditioning(text=hidden), steps=2, guidance=2.0)
        start = torch.zeros(2, 4, 8, 8)
        start[0, 0, 0, 0] = float("inf")
        with pytest.raises(UserError, match=r"the start holds NaN or infinite"):
            generator.denoise(seeded(2), text(2), steps=2, guidance=2.0, start=start, strength=0.5)
        with pytest.raises(UserError, match=r"the latents to decode hold NaN"):
            generator.decode(start)

    def test_a_u_net_that_overflows(self, tiny_diffusion_folder: Path) -> None:
        low = Generator(tiny_diffusion_folder, dtype=torch.float16)
        low.unet.conv_out.weight.mul_(1e5)
        with pytest.raises(UserError, match=r"denoised latents hold NaN .* overflows in float16.*bfloat16 or float32"):
            low.denoise(seeded(1), text(1), steps=2, guidance=2.0)

    def test_a_vae_with_damaged_weights(self, tiny_diffusion_folder: Path) -> None:
        generator = Generator(tiny_diffusion_folder)
        generator.vae.vae.decoder.conv_out.bias[0] = float("nan")
        with pytest.raises(UserError, match=r"decoded images hold NaN .*vae are damaged, or .* float16"):
            generator.decode(torch.zeros(1, 4, 8, 8))


class TestRefusals:
    @pytest.fixture
    def model(self, tiny_diffusion_folder: Path, tmp_path: Path) -> Path:
        return shutil.copytree(tiny_diffusion_folder, tmp_path / "model")

    def test_truncated_unet(self, model: Path) -> None:
        weights = model / "unet" / "diffusion_pytorch_model.safetensors"
        weights.write_bytes(weights.read_bytes()[:1000])
        with pytest.raises(UserError, match=r"cannot load the model in .*unet"):
            Generator(model)

    def test_an_unknown_class_of_scheduler(self, model: Path) -> None:
        path = model / "scheduler" / "scheduler_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"_class_name": "FutureScheduler"}))
        with pytest.raises(UserError, match=r"scheduler 'FutureScheduler', which the installed diffusers does not"):
            Generator(model)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"steps": 1001}, r"1001 sampling steps .* the model has 1000"),
            ({"scheduler": "lcm", "steps": 100}, r"LCMScheduler cannot be used with this model and 100 steps"),
            ({"adapter_scale": {"face": 1.0}}, r"adapter_scale names face, but the model has no IP-Adapter"),
            ({"guidance": 0.5}, r"guidance must be 0 or 1 \(none\), or above 1, got 0\.5"),
            ({"start": torch.zeros(2, 4, 8, 8), "strength": 0.2}, r"strength 0\.2 × 4 steps leaves no denoising step"),
            ({"start": torch.zeros(1, 4, 8, 8)}, r"the start has the shape \(1, 4, 8, 8\), .* takes \(2, 4, 8, 8\)"),
        ],
    )
    def test_settings(self, generator: Generator, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(UserError, match=message):
            generator.denoise(seeded(2), text(2), **{"steps": STEPS, "guidance": 1.0, **changes})

    def test_conditions_that_the_model_does_not_take(self, generator: Generator) -> None:
        for conditioning, message in (
            (
                Conditioning(text=torch.zeros(2, 77, 32)),
                r"the text condition has the shape \(2, 77, 32\), .* takes",
            ),
            (Conditioning(text=hidden_states(3)), r"\(3, 24, 32\), .* takes \(2, 24, 32\)"),
            (Conditioning(pooled=torch.zeros(2, 8)), r"takes no pooled embedding"),
            (Conditioning(image={"face": torch.zeros(2, 8)}), r"takes no image embedding face; it takes none"),
        ):
            with pytest.raises(UserError, match=message):
                generator.denoise(seeded(2), conditioning, steps=2, guidance=1.0)


@pytest.mark.slow
def test_inductor_draws_the_same_images(tiny_diffusion_folder: Path) -> None:
    """U-Net and the VAE's decoder, compiled for good and not only traced."""
    drawn = []
    for backend in (None, "inductor"):
        model = Generator(tiny_diffusion_folder, compile_backend=backend)
        prompt = model.prompt(["a red circle", "a blue square"])
        drawn.append(model.decode(model.denoise(seeded(2), prompt, steps=3, guidance=3.0)))
    assert torch.allclose(*drawn, atol=1e-3)
    assert drawn[0].std() > 0.01
