"""The sampling loop against diffusers' own pipelines: same noise, same latents, same picture."""

import copy
import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_models import build_tiny_diffusion_folder

from neuroimagen.benchmarks.cache import load_vae
from neuroimagen.benchmarks.reconstruct import load_pipeline
from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.frozen_models.loading import load_transformer
from neuroimagen.trainer.reconstruction import latent_diffusion
from neuroimagen.trainer.reconstruction.batch_by_memory import fitting_batch_size
from neuroimagen.trainer.reconstruction.latent_diffusion import (
    LatentDiffusion,
    load_latent_diffusion,
    model_digest,
    num_denoising_steps,
)
from neuroimagen.trainer.reconstruction.shared_stem import SharedStem, text_free_modules

STEPS = 7


class PlayedGPU(str):
    """A device of the CPU that says it is a GPU."""

    type = "cuda"


@pytest.fixture(scope="module")
def diffusion(tiny_diffusion_folder: Path) -> LatentDiffusion:
    return load_latent_diffusion(tiny_diffusion_folder)


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
        scheduler=scheduler,  # type: ignore[arg-type]
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
        scheduler=scheduler,  # type: ignore[arg-type]
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
    full = (diffusion.vae.vae, diffusion.text_encoder.text_model, pipeline.vae, vae, text_encoder)
    assert dtypes(CLIPTextModel.from_pretrained(tmp_path)) == {torch.bfloat16}
    assert [dtypes(network) for network in low] == [{torch.bfloat16}] * 3
    assert [dtypes(network) for network in full] == [{torch.float32}] * 5
    assert "deprecated" not in capfd.readouterr().err  # transformers says it in its log


def test_vae_is_the_pipeline_s_up_to_the_mode(diffusion: LatentDiffusion, tiny_diffusion_folder: Path) -> None:
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(tiny_diffusion_folder, subfolder="vae")
    pictures = torch.rand(2, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        expected = vae.encode(pictures).latent_dist.mode() * 0.7
    torch.testing.assert_close(diffusion.encode(pictures), expected, rtol=1e-5, atol=1e-5)


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


def test_number_of_steps() -> None:
    assert [num_denoising_steps(20, strength) for strength in (0.75, 1.0, 0.04, 0.999)] == [15, 20, 0, 19]


class TestSharedStem:
    """What both branches of guidance share is computed once, and stays diffusers' to the last digits."""

    def test_both_halves_together_are_the_branches_apart(
        self, diffusion: LatentDiffusion, tiny_diffusion_folder: Path
    ) -> None:
        from diffusers import UNet2DConditionModel

        apart = UNet2DConditionModel.from_pretrained(tiny_diffusion_folder / "unet")
        latents, hidden = seeded_noise(3, (4, 8, 8)), hidden_states(6)
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

    def test_the_stem_ends_where_the_text_begins(self, tiny_diffusion_folder: Path) -> None:
        """Every module of it is deaf to the caption, and the next cross-attention is not."""
        unet = load_latent_diffusion(tiny_diffusion_folder).unet
        first, second = unet.down_blocks  # without attention; with cross-attention
        transformer = second.attentions[0].transformer_blocks[0]
        stem = text_free_modules(unet)
        assert stem == [*first.resnets, second.resnets[0], transformer.attn1]
        outputs: dict[torch.nn.Module, list[torch.Tensor]] = {module: [] for module in [*stem, transformer.attn2]}
        for module in outputs:
            module.register_forward_hook(lambda module, args, output: outputs[module].append(output))
        with torch.inference_mode():
            for hidden in hidden_states(2):
                unet(seeded_noise(1, (4, 8, 8)), 500, hidden[None])
        assert all(torch.equal(*outputs[module]) for module in stem)
        assert not torch.equal(*outputs[transformer.attn2])

    def test_what_it_saves_of_stable_diffusion(self) -> None:
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
        text = [
            sum(by.values()) for name, by in counts[0].get_flop_counts().items() if name.endswith(("2.to_k", "2.to_v"))
        ]
        assert (len(text), sum(text) / total) == (32, pytest.approx(0.0037, abs=0.0001))

    def test_a_unet_with_other_inputs_has_none(self, tiny_diffusion_folder: Path) -> None:
        unet = load_latent_diffusion(tiny_diffusion_folder).unet
        unet.register_to_config(class_embed_type="timestep")
        assert text_free_modules(unet) == []


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


class TestBatchByMemory:
    GIB = 2**30

    def fits(self, free: float, **changes: float) -> int:
        """On a GPU with `free` GiB: U-Net 1 GiB and 0.5 GiB a picture, VAE 1.25 GiB a picture in slices of 4."""
        needs = {"one": 1.5, "two": 2.0, "vae": 1.25, **changes}
        return fitting_batch_size(
            int(free * self.GIB),
            unet=(int(needs["one"] * self.GIB), int(needs["two"] * self.GIB)),
            vae=int(needs["vae"] * self.GIB),
            vae_slice=4,
        )

    def test_the_largest_power_of_two_that_fits(self) -> None:
        # 0.8 of the free memory against max(1 + n / 2, 1.25 · min(n, 4)).
        assert [self.fits(free) for free in (80, 22, 21, 12, 11, 7, 6.2, 6, 3.2, 3, 1)] == [
            32,
            32,
            16,
            16,
            8,
            8,
            2,
            2,
            2,
            1,
            1,
        ]

    def test_a_hungry_vae_decides(self) -> None:
        assert self.fits(20, vae=5.0) == 2

    def test_pictures_that_take_nothing_measurable(self) -> None:
        assert self.fits(8, one=1.5, two=1.5) == 32

    def test_what_is_measured_on_a_gpu(self, diffusion: LatentDiffusion, monkeypatch: pytest.MonkeyPatch) -> None:
        """The GPU's allocator played: denoising takes 1 GiB and half a one a picture, decoding a quarter."""
        sizes: list[int] = []
        denoise = LatentDiffusion.denoise

        def seen_denoise(self: LatentDiffusion, noise: torch.Tensor, *args: object, **options: object) -> torch.Tensor:
            sizes.append(len(noise))
            return denoise(self, noise, *args, **options)  # type: ignore[arg-type]

        def peak_bytes(work: Callable[[], object], device: torch.device) -> int:
            before = len(sizes)
            work()
            return int((1 + sizes[-1] / 2 if len(sizes) > before else 0.25) * self.GIB)

        monkeypatch.setattr(LatentDiffusion, "denoise", seen_denoise)
        monkeypatch.setattr(latent_diffusion, "peak_bytes", peak_bytes)
        monkeypatch.setattr(
            "neuroimagen.trainer.reconstruction.latent_diffusion.free_bytes", lambda device: 12 * self.GIB
        )
        assert diffusion.largest_batch_size(guidance=2.0, scheduler="ddim") == 32
        on_gpu = copy.copy(diffusion)
        on_gpu.device = PlayedGPU("cpu")  # type: ignore[assignment]
        assert on_gpu.largest_batch_size(guidance=2.0, scheduler="ddim") == 16
        assert sizes == [1, 1, 2]


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
        with pytest.raises(UserError, match="1001 sampling steps; the model knows 1000"):
            diffusion.make_scheduler("ddim", 1001)


@pytest.mark.slow
def test_inductor_draws_the_same_pictures(tiny_diffusion_folder: Path) -> None:
    """U-Net, its shared stem and the VAE's decoder, compiled for good and not only traced."""
    drawn = []
    for backend in (None, "inductor"):
        model = load_latent_diffusion(tiny_diffusion_folder, compile_backend=backend)
        noise = torch.randn(2, *model.latent_shape, generator=torch.Generator().manual_seed(0))
        hidden = model.prompt(["a red circle", "a blue square"])
        drawn.append(model.decode(model.denoise(noise, hidden, steps=3, guidance=3.0)))
    assert torch.allclose(*drawn, atol=1e-3)
    assert drawn[0].std() > 0.01
