"""IP-Adapters against diffusers' own pipelines: one and two of them, scales by block, and what no image means."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from drawn_images import grey_levels, normal, seeded
from tiny_families import write_tiny_ip_adapter
from tiny_sdxl import build_tiny_sdxl_folder

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.frozen_models.ip_adapter import IPAdapterConfig
from neuroimagen.trainer.reconstruction.pipelines.conditioning import Conditioning
from neuroimagen.trainer.reconstruction.pipelines.generator import Generator, model_digest

STEPS = 3
SIZES = {"image": 12, "depth": 7}
"""Name → width of the embeddings of two adapters."""


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_sdxl_folder(tmp_path_factory.mktemp("sdxl") / "model")


def adapters_for(model: Path, folder: Path, *names: str) -> dict[str, IPAdapterConfig]:
    return {
        name: IPAdapterConfig(
            path=str(
                write_tiny_ip_adapter(folder / f"{name}.safetensors", model, embedding_size=SIZES[name], seed=seed)
            ),
            target=name,
        )
        for seed, name in enumerate(names)
    }


def embeddings(count: int, *names: str) -> dict[str, torch.Tensor]:
    return {name: normal(count, SIZES[name], seed=seed) for seed, name in enumerate(names)}


def pipeline_with(pipeline_class: Any, model: Path, adapters: dict[str, IPAdapterConfig]) -> Any:
    """A pipeline of diffusers with the adapters loaded, as its documentation does it."""
    pipeline = pipeline_class.from_pretrained(model)
    pipeline.set_progress_bar_config(disable=True)
    paths = [Path(config.path) for config in adapters.values()]
    pipeline.load_ip_adapter(
        [str(path.parent) for path in paths],
        subfolder=[""] * len(paths),
        weight_name=[path.name for path in paths],
        image_encoder_folder=None,
    )
    return pipeline


def one_by_one(pipeline: Any, images: dict[str, torch.Tensor], count: int, guidance: float, **conditions: Any) -> Any:
    """What the pipeline draws for each image alone: for a batch it would take one image embedding for all."""
    drawn = []
    for row in range(count):
        given = [embedding[row : row + 1, None] for embedding in images.values()]
        if guidance > 1:
            given = [torch.cat([torch.zeros_like(embedding), embedding]) for embedding in given]
        drawn += pipeline(
            **{name: value if isinstance(value, float) else value[row : row + 1] for name, value in conditions.items()},
            ip_adapter_image_embeds=given,
            generator=seeded(count)[row],
            num_inference_steps=STEPS,
            guidance_scale=guidance,
            output_type="pt",
        ).images
    return torch.stack(drawn)


@pytest.mark.parametrize("guidance", [4.0, 1.0])
def test_stable_diffusion_with_an_adapter(tiny_diffusion_folder: Path, tmp_path: Path, guidance: float) -> None:
    from diffusers import StableDiffusionImg2ImgPipeline

    adapters = adapters_for(tiny_diffusion_folder, tmp_path, "image")
    generator = Generator(tiny_diffusion_folder, adapters=adapters)
    assert generator.image_sizes == {"image": 12}
    assert generator.takes == {"text", "image"}
    pipeline = pipeline_with(StableDiffusionImg2ImgPipeline, tiny_diffusion_folder, adapters)
    pipeline.set_ip_adapter_scale(0.7)
    image, start = embeddings(2, "image"), normal(2, 4, 8, 8)
    prompt = generator.prompt(["a canoe", "a banana"]).text
    assert prompt is not None
    empty = generator.prompt(["", ""]).text
    expected = one_by_one(
        pipeline,
        image,
        2,
        guidance,
        prompt_embeds=prompt,
        negative_prompt_embeds=empty,
        image=start,
        strength=0.7,
    )
    drawn = generator.denoise(
        seeded(2),
        Conditioning(text=prompt, image=image),
        steps=STEPS,
        guidance=guidance,
        start=start,
        strength=0.7,
        adapter_scale=0.7,
    )
    assert grey_levels(generator.decode(drawn), expected) <= 1


def test_sdxl_with_two_adapters_and_scales_by_block(sdxl: Path, tmp_path: Path) -> None:
    from diffusers import StableDiffusionXLPipeline

    adapters = adapters_for(sdxl, tmp_path, "image", "depth")
    generator = Generator(sdxl, adapters=adapters)
    pipeline = pipeline_with(StableDiffusionXLPipeline, sdxl, adapters)
    pipeline.set_ip_adapter_scale([{"up": {"block_0": [0.0, 1.5]}, "mid": 0.5}, 0.6])
    image = embeddings(2, "image", "depth")
    prompt = generator.prompt(["a canoe", "a banana"])
    assert prompt.text is not None
    assert prompt.pooled is not None
    expected = one_by_one(pipeline, image, 2, 0.0, prompt_embeds=prompt.text, pooled_prompt_embeds=prompt.pooled)
    conditioning = Conditioning(text=prompt.text, pooled=prompt.pooled, image=image)
    settings: dict[str, Any] = {"steps": STEPS, "guidance": 0.0}
    drawn = [
        generator.decode(generator.denoise(seeded(2), conditioning, **settings, adapter_scale=scale))
        for scale in (
            {"image": {"up.block_0": [0.0, 1.5], "mid": 0.5}, "depth": 0.6},
            {"image": {"up": {"block_0": [0.0, 1.5]}, "mid": 0.5}, "depth": 0.6},
            1.0,
        )
    ]
    assert grey_levels(drawn[0], expected) <= 1
    assert torch.equal(drawn[0], drawn[1])
    assert grey_levels(drawn[2], expected) > 1


def test_an_image_does_not_depend_on_its_batch(tiny_diffusion_folder: Path, tmp_path: Path) -> None:
    generator = Generator(tiny_diffusion_folder, adapters=adapters_for(tiny_diffusion_folder, tmp_path, "image"))
    image = embeddings(3, "image")["image"]

    def denoise(*chosen: int) -> torch.Tensor:
        conditioning = Conditioning(image={"image": image[list(chosen)]})
        generators = [seeded(3)[number] for number in chosen]
        return generator.denoise(generators, conditioning, steps=STEPS, guidance=3.0, scheduler="euler-ancestral")

    torch.testing.assert_close(denoise(2, 0), denoise(0, 1, 2)[[2, 0]], rtol=1e-4, atol=1e-4)


def test_without_an_image_an_adapter_from_outside_is_off(tiny_diffusion_folder: Path, tmp_path: Path) -> None:
    """The U-Net was frozen when it was trained, so text alone draws what it draws without the adapter."""
    plain = Generator(tiny_diffusion_folder)
    generator = Generator(
        tiny_diffusion_folder, adapters=adapters_for(tiny_diffusion_folder, tmp_path, "image", "depth")
    )
    prompt = generator.prompt(["a canoe"])
    settings: dict[str, Any] = {"steps": STEPS, "guidance": 3.0}
    expected = plain.denoise(seeded(1), prompt, **settings)
    torch.testing.assert_close(generator.denoise(seeded(1), prompt, **settings), expected, rtol=1e-5, atol=1e-5)
    one = Conditioning(text=prompt.text, image=embeddings(1, "image"))
    off = generator.denoise(seeded(1), one, **settings, adapter_scale={"depth": 5.0})
    torch.testing.assert_close(off, generator.denoise(seeded(1), one, **settings))
    assert (off - expected).abs().max() > 0.01


def test_without_an_image_the_model_s_own_adapter_sees_zeros(tiny_diffusion_folder: Path, tmp_path: Path) -> None:
    """The U-Net was trained with it, and saw zeros where the image was dropped."""
    model = shutil.copytree(tiny_diffusion_folder, tmp_path / "model")
    before = model_digest(model)
    write_tiny_ip_adapter(model / "ip_adapter" / "ip_adapter.safetensors", model, embedding_size=12)
    assert model_digest(model) != before
    generator = Generator(model)
    assert generator.image_sizes == {"ip_adapter": 12}
    settings: dict[str, Any] = {"steps": STEPS, "guidance": 3.0}
    nothing = generator.denoise(seeded(2), Conditioning(), **settings)
    zeros = generator.denoise(seeded(2), Conditioning(image={"ip_adapter": torch.zeros(2, 12)}), **settings)
    assert torch.equal(nothing, zeros)
    plain = Generator(tiny_diffusion_folder).denoise(seeded(2), Conditioning(), **settings)
    assert (nothing - plain).abs().max() > 0.01


def test_half_precision(tiny_diffusion_folder: Path, tmp_path: Path) -> None:
    adapters = adapters_for(tiny_diffusion_folder, tmp_path, "image")
    conditioning = Conditioning(image=embeddings(2, "image"))
    exact, low = (
        Generator(tiny_diffusion_folder, adapters=adapters, dtype=dtype).denoise(
            seeded(2), conditioning, steps=STEPS, guidance=2.0
        )
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert (low - exact).abs().mean() < 0.05 * exact.abs().mean()


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        ({"face": 1.0}, r"adapter_scale names face, the model has the IP-Adapters image\. Name those"),
        ({"up.block_7": 1.0}, r"up\.block_7: 1\.0 does not fit .* down\.block_1 \(1\), up\.block_0 \(2\)"),
        ({"up": {"block_0": [1.0, 1.0, 1.0]}}, r"up\.block_0: \[1\.0, 1\.0, 1\.0\] does not fit"),
        ({"image": {"middle": 1.0}}, r"middle: 1\.0 does not fit"),
        ({"up": 1.0, "up.block_0": 0.5}, r"up\.block_0: 0\.5 does not fit"),
    ],
)
def test_scales_that_diffusers_would_pass_over(
    tiny_diffusion_folder: Path, tmp_path: Path, scale: dict[str, Any], message: str
) -> None:
    generator = Generator(tiny_diffusion_folder, adapters=adapters_for(tiny_diffusion_folder, tmp_path, "image"))
    with pytest.raises(UserError, match=message):
        generator.denoise(
            seeded(1), Conditioning(image=embeddings(1, "image")), steps=1, guidance=1.0, adapter_scale=scale
        )
