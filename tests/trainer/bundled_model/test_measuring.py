"""The figures of the bundled model's card."""

from unittest.mock import patch

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionPipeline
from PIL import Image
from transformers import CLIPModel, ResNetForImageClassification

from neuroimagen.data_shards.simulator.drawn_stimuli import CLASSES
from neuroimagen.trainer.bundled_model.location import bundled_model_path
from neuroimagen.trainer.bundled_model.measuring import STRENGTH, draw, identify, load_bundled_adapter, sample_sheet
from neuroimagen.trainer.bundled_model.training_stimuli import draw_stimuli

FOLDER = bundled_model_path()


@pytest.fixture(scope="module")
def networks() -> tuple[CLIPModel, ResNetForImageClassification]:
    clip = CLIPModel.from_pretrained(FOLDER / "clip").eval()
    return clip, ResNetForImageClassification.from_pretrained(FOLDER / "classifier").eval()


def test_the_stimuli_themselves_are_identified(networks) -> None:
    stimuli = draw_stimuli(2 * len(CLASSES), seed=4)
    found = identify(*networks, stimuli.scaled(torch.arange(2 * len(CLASSES))), stimuli)
    assert (found.two_way, found.top1, found.class_accuracy) == (1, 1, 1)


def test_images_of_other_stimuli_are_told_by_an_independent_count(networks) -> None:
    """Every image is of the class's other stimulus: the class is right, the stimulus is not."""
    n = 2 * len(CLASSES)
    stimuli = draw_stimuli(n, seed=4)
    drawn = stimuli.scaled(torch.arange(n).roll(len(CLASSES)))
    found = identify(*networks, drawn, stimuli)
    with torch.inference_mode():
        seen, true = (
            networks[0].get_image_features(pixel_values=x).pooler_output.numpy()
            for x in (drawn, stimuli.scaled(torch.arange(n)))
        )
    similarity = np.corrcoef(seen, true)[:n, n:]
    below = [(np.delete(row, i) < row[i]).mean() for i, row in enumerate(similarity)]
    assert found.two_way == pytest.approx(np.mean(below), abs=1e-6)
    assert found.top1 == 0
    assert found.class_accuracy == 1


def test_the_sheet_has_a_row_for_every_class() -> None:
    samples = torch.rand(3, 12, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    sheet = np.asarray(sample_sheet(samples))
    assert isinstance(sample_sheet(samples), Image.Image)
    assert sheet.shape == (3 * 4, 10 * 4, 3)
    expected = (samples[2, 9] * 255).round().permute(1, 2, 0).numpy()
    assert np.array_equal(sheet[8:, 36:], expected)


def test_a_batch_is_drawn_as_the_pipeline_draws_each_of_its_images() -> None:
    """From noise and from a start image, with an image embedding and a caption."""
    pipeline = StableDiffusionPipeline.from_pretrained(FOLDER)
    pipeline.set_progress_bar_config(disable=True)
    load_bundled_adapter(pipeline, FOLDER)
    stimuli = draw_stimuli(3, seed=4)
    images = stimuli.scaled(torch.arange(3))
    with torch.inference_mode():
        embeddings = pipeline.image_encoder(pixel_values=images).image_embeds
    from_start = StableDiffusionImg2ImgPipeline(**pipeline.components, requires_safety_checker=False)
    from_start.set_progress_bar_config(disable=True)
    noise = torch.randn(3, 8, 8, 8, generator=torch.Generator().manual_seed(7))
    shared = {"num_inference_steps": 5, "guidance_scale": 2.0, "output_type": "pt"}
    for start in (None, images.flip(0)):
        drawn = draw(pipeline, stimuli.class_captions, embeddings, steps=5, guidance=2.0, seed=7, start=start)
        for i, caption in enumerate(stimuli.class_captions):
            one = torch.stack([torch.zeros(1, 64), embeddings[i : i + 1]])
            if start is None:
                expected = pipeline(
                    caption, ip_adapter_image_embeds=[one], latents=noise[i : i + 1], height=64, width=64, **shared
                ).images
            else:
                # The pipeline draws twice: the latent from the posterior, for which the mean is taken here, and noise.
                with (
                    patch("diffusers.models.autoencoders.vae.randn_tensor", return_value=torch.zeros(1, 8, 8, 8)),
                    patch(f"{from_start.__module__}.randn_tensor", return_value=noise[i : i + 1]),
                ):
                    expected = from_start(
                        caption,
                        image=(start[i : i + 1] + 1) / 2,
                        ip_adapter_image_embeds=[one],
                        strength=STRENGTH,
                        **shared,
                    ).images
            torch.testing.assert_close((drawn[i] + 1) / 2, expected[0].clamp(0, 1), rtol=0, atol=1 / 255)
