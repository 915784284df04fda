"""SDXL and unCLIP against diffusers' own pipelines: same noise, same conditions, same image."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from drawn_images import grey_levels, normal, seeded
from tiny_families import EMBEDDING_SIZE, build_tiny_unclip_folder
from tiny_sdxl import POOLED_SIZE, build_tiny_sdxl_folder

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.trainer.reconstruction.pipelines.conditioning import UNCLIP, Conditioning
from neuroimagen.trainer.reconstruction.pipelines.generator import Generator, model_digest

CAPTIONS = ["an image of a red pizza", "a canoe"]
STEPS = 3


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_sdxl_folder(tmp_path_factory.mktemp("sdxl") / "model")


@pytest.fixture(scope="module")
def unclip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_unclip_folder(tmp_path_factory.mktemp("unclip") / "model")


def pipeline_of(pipeline_class: Any, folder: Path) -> Any:
    pipeline = pipeline_class.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


class TestSDXL:
    @pytest.mark.parametrize("zeros", [True, False])
    @pytest.mark.parametrize("scheduler", [None, "EulerAncestralDiscreteScheduler"])
    def test_captions_and_guidance(self, sdxl: Path, tmp_path: Path, zeros: bool, scheduler: str | None) -> None:
        """Two text encoders, pooled states, sizes; away from zeros, or from the empty caption, as the folder says."""
        from diffusers import EulerAncestralDiscreteScheduler, StableDiffusionXLPipeline

        folder = shutil.copytree(sdxl, tmp_path / "model")
        index = json.loads((folder / "model_index.json").read_text())
        (folder / "model_index.json").write_text(json.dumps(index | {"force_zeros_for_empty_prompt": zeros}))
        pipeline = pipeline_of(StableDiffusionXLPipeline, folder)
        if scheduler is not None:
            pipeline.scheduler = EulerAncestralDiscreteScheduler.from_config(pipeline.scheduler.config)
        expected = pipeline(
            CAPTIONS, generator=seeded(2), num_inference_steps=STEPS, guidance_scale=4.0, output_type="pt"
        ).images
        generator = Generator(folder)
        drawn = generator.denoise(seeded(2), generator.prompt(CAPTIONS), steps=STEPS, guidance=4.0, scheduler=scheduler)
        assert grey_levels(generator.decode(drawn), expected) <= 1

    def test_one_step_from_a_start_without_guidance(self, sdxl: Path) -> None:
        """As SDXL-Turbo is used: two steps at strength 0.5 are one."""
        from diffusers import StableDiffusionXLImg2ImgPipeline

        generator = Generator(sdxl)
        prompt, start = generator.prompt(CAPTIONS), normal(2, 4, 8, 8) / 2
        expected = pipeline_of(StableDiffusionXLImg2ImgPipeline, sdxl)(
            prompt_embeds=prompt.text,
            pooled_prompt_embeds=prompt.pooled,
            image=start,
            strength=0.5,
            generator=seeded(2),
            num_inference_steps=2,
            guidance_scale=0.0,
            output_type="pt",
        ).images
        drawn = generator.denoise(seeded(2), prompt, steps=2, guidance=0.0, start=start, strength=0.5)
        assert grey_levels(generator.decode(drawn), expected) <= 1

    def test_sizes(self, sdxl: Path) -> None:
        generator = Generator(sdxl)
        assert (generator.text_shape, generator.pooled_size) == ((24, 40), POOLED_SIZE)
        assert generator.takes == {"text", "pooled"}
        with pytest.raises(UserError, match=r"the pooled text condition has the shape \(2, 5\), .* takes \(2, 12\)"):
            generator.denoise(seeded(2), Conditioning(pooled=torch.zeros(2, 5)), steps=1, guidance=0.0)

    def test_the_second_text_encoder_is_part_of_the_digest(self, sdxl: Path, tmp_path: Path) -> None:
        other = shutil.copytree(sdxl, tmp_path / "model")
        weights = other / "text_encoder_2" / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
        assert model_digest(other) != model_digest(sdxl)


class TestUnCLIP:
    @pytest.mark.parametrize(("guidance", "noise_level"), [(4.0, 0), (1.0, 300)])
    def test_an_image_embedding(self, unclip: Path, guidance: float, noise_level: int) -> None:
        from diffusers import StableUnCLIPImg2ImgPipeline

        generator = Generator(unclip)
        embeddings, noise = normal(2, EMBEDDING_SIZE), generator.noise(seeded(2))
        used = seeded(2)
        generator.noise(used)  # ours draws the noise of the latents before that of the embedding
        expected = pipeline_of(StableUnCLIPImg2ImgPipeline, unclip)(
            prompt=CAPTIONS,
            image_embeds=embeddings,
            latents=noise,
            generator=used,
            noise_level=noise_level,
            num_inference_steps=STEPS,
            guidance_scale=guidance,
            output_type="pt",
        ).images
        conditioning = Conditioning(text=generator.prompt(CAPTIONS).text, image={UNCLIP: embeddings})
        drawn = generator.denoise(seeded(2), conditioning, steps=STEPS, guidance=guidance, noise_level=noise_level)
        assert grey_levels(generator.decode(drawn), expected) <= 1

    def test_a_start_and_no_image(self, unclip: Path) -> None:
        """diffusers' pipeline has neither. Little strength stays at the start; no image is zeros to the U-Net."""
        generator = Generator(unclip)
        start = normal(2, 4, 8, 8)
        settings: dict[str, Any] = {"steps": 10, "guidance": 1.0, "start": start}
        near, far = (generator.denoise(seeded(2), Conditioning(), **settings, strength=s) for s in (0.1, 1.0))
        assert (near - start).norm() < 0.5 * (far - start).norm()

        labels: list[torch.Tensor] = []
        handle = generator.unet.class_embedding.register_forward_pre_hook(lambda _, inputs: labels.append(inputs[0]))
        try:
            generator.denoise(seeded(2), Conditioning(), steps=1, guidance=3.0)
            generator.denoise(seeded(2), Conditioning(image={UNCLIP: normal(2, 20)}), steps=1, guidance=3.0)
        finally:
            handle.remove()
        assert labels[0].shape == labels[1].shape == (4, 2 * EMBEDDING_SIZE)
        assert not labels[0].any()
        assert not labels[1][:2].any()
        assert labels[1][2:].any(1).all()

    def test_an_image_does_not_depend_on_its_batch(self, unclip: Path) -> None:
        """Neither does the noise on its embedding."""
        generator, embeddings = Generator(unclip), normal(3, EMBEDDING_SIZE)

        def denoise(*chosen: int) -> torch.Tensor:
            conditioning = Conditioning(image={UNCLIP: embeddings[list(chosen)]})
            return generator.denoise(
                [seeded(3)[number] for number in chosen],
                conditioning,
                steps=STEPS,
                guidance=2.0,
                noise_level=200,
                scheduler="euler-ancestral",
            )

        torch.testing.assert_close(denoise(2, 0), denoise(0, 1, 2)[[2, 0]], rtol=1e-4, atol=1e-4)

    def test_half_precision(self, unclip: Path) -> None:
        conditioning = Conditioning(image={UNCLIP: normal(2, EMBEDDING_SIZE)})
        exact, low = (
            Generator(unclip, dtype=dtype).denoise(seeded(2), conditioning, steps=STEPS, guidance=2.0)
            for dtype in (torch.float32, torch.bfloat16)
        )
        assert (low - exact).abs().mean() < 0.05 * exact.abs().mean()

    def test_sizes(self, unclip: Path) -> None:
        generator = Generator(unclip)
        assert generator.image_sizes == {UNCLIP: EMBEDDING_SIZE}
        assert generator.takes == {"text", "image"}
