"""The model that ships: small, loadable by the libraries unmodified, and recognisable in what it draws."""

import numpy as np
import pytest
import torch

from neuroimagen.data_shards.simulator.drawn_stimuli import (
    CLASSES,
    class_caption,
    detailed_caption,
    draw_scene,
    sample_scene,
)
from neuroimagen.trainer.bundled_model import location

FOLDER = location.bundled_model_path()


@pytest.fixture(scope="module")
def classifier():
    from transformers import AutoModelForImageClassification

    return AutoModelForImageClassification.from_pretrained(FOLDER / "classifier").eval()


@pytest.fixture(scope="module")
def pipeline():
    from diffusers import StableDiffusionImg2ImgPipeline

    pipeline = StableDiffusionImg2ImgPipeline.from_pretrained(FOLDER)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def scenes():
    rng = np.random.default_rng(987)
    return [sample_scene(rng, i % len(CLASSES)) for i in range(10 * len(CLASSES))]


def as_tensor(images: list[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


def test_it_is_at_most_ten_megabytes_of_safetensors_and_nothing_else() -> None:
    weights = list(FOLDER.rglob("*.safetensors"))
    assert sum(path.stat().st_size for path in weights) <= 10_000_000
    assert {path.suffix for path in FOLDER.rglob("*") if path.is_file()} <= {
        ".safetensors",
        ".json",
        ".txt",
        ".md",
        ".png",
    }


def test_the_classifier_recognises_stimuli_it_was_not_trained_on(classifier, scenes) -> None:
    with torch.inference_mode():
        predicted = classifier(pixel_values=as_tensor([draw_scene(scene) for scene in scenes])).logits.argmax(1)
    labels = torch.tensor([scene.class_index for scene in scenes])
    assert (predicted == labels).float().mean() > 0.97
    assert [classifier.config.id2label[i] for i in range(len(CLASSES))] == [c.wnid for c in CLASSES]


def test_clip_matches_images_and_captions(scenes) -> None:
    from transformers import CLIPModel, CLIPTokenizer

    model = CLIPModel.from_pretrained(FOLDER, subfolder="clip").eval()
    tokenizer = CLIPTokenizer.from_pretrained(FOLDER, subfolder="clip")
    tokens = tokenizer([detailed_caption(scene) for scene in scenes], padding="max_length", return_tensors="pt")
    with torch.inference_mode():
        output = model(**tokens, pixel_values=as_tensor([draw_scene(scene) for scene in scenes]))
    similarity = output.logits_per_image
    better = (similarity < similarity.diagonal()[:, None]).float().sum(1) / (len(scenes) - 1)
    assert better.mean() > 0.97


def test_the_pipeline_has_the_same_text_tower_as_clip(pipeline) -> None:
    from transformers import CLIPModel

    tokens = pipeline.tokenizer("an image of a daisy", padding="max_length", return_tensors="pt").input_ids
    clip = CLIPModel.from_pretrained(FOLDER, subfolder="clip").eval()
    with torch.inference_mode():
        expected = clip.text_model(input_ids=tokens).last_hidden_state
        assert torch.allclose(pipeline.text_encoder(tokens).last_hidden_state, expected, atol=1e-6)


def test_image_encoder_is_the_image_tower_of_clip(scenes) -> None:
    from safetensors.torch import load_file
    from transformers import CLIPModel, CLIPVisionModelWithProjection

    twin = load_file(FOLDER / "image_encoder" / "model.safetensors")
    clip = load_file(FOLDER / "clip" / "model.safetensors")
    assert twin.keys() == {name for name in clip if name.startswith(("vision_model.", "visual_projection."))}
    assert all(torch.equal(twin[name], clip[name]) for name in twin)
    encoder = CLIPVisionModelWithProjection.from_pretrained(FOLDER, subfolder="image_encoder").eval()
    model = CLIPModel.from_pretrained(FOLDER, subfolder="clip").eval()
    images = as_tensor([draw_scene(scene) for scene in scenes[:5]])
    with torch.inference_mode():
        found = encoder(pixel_values=images).image_embeds
        expected = model.get_image_features(pixel_values=images).pooler_output
    assert torch.equal(found, expected)


@pytest.fixture(scope="module")
def with_adapter():
    """The adapter loaded as anybody would load it."""
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(FOLDER)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.load_ip_adapter(FOLDER, subfolder="ip_adapter", weight_name="ip_adapter.safetensors")
    return pipeline


def test_diffusers_loads_the_adapter_with_its_image_encoder(with_adapter) -> None:
    from transformers import CLIPVisionModelWithProjection

    assert isinstance(with_adapter.image_encoder, CLIPVisionModelWithProjection)
    assert {type(processor).__name__ for processor in with_adapter.unet.attn_processors.values()} == {
        "AttnProcessor2_0",
        "IPAdapterAttnProcessor2_0",
    }


def test_images_drawn_from_image_embeddings_are_told_apart(with_adapter, classifier, scenes) -> None:
    """diffusers embeds the images itself, with the processor that is in the folder. Neither text nor start helps.

    One at a time: a pipeline gives all images of a batch the same embedding.
    """
    from PIL import Image

    scenes = scenes[:24]
    stimuli = [draw_scene(scene) for scene in scenes]
    settings = {"num_inference_steps": 8, "guidance_scale": 3.0, "height": 64, "width": 64, "output_type": "pt"}
    generator = torch.Generator().manual_seed(3)
    drawn = torch.cat(
        [
            with_adapter("", ip_adapter_image=Image.fromarray(stimulus), generator=generator, **settings).images
            for stimulus in stimuli
        ]
    )
    drawn = drawn * 2 - 1
    with torch.inference_mode():
        embeddings = [with_adapter.image_encoder(pixel_values=x).image_embeds for x in (drawn, as_tensor(stimuli))]
        predicted = classifier(pixel_values=drawn).logits.argmax(1)
    similarity = np.corrcoef(*(embedding.numpy() for embedding in embeddings))[: len(scenes), len(scenes) :]
    others = similarity < np.diag(similarity)[:, None]
    assert others.sum() / (len(scenes) * (len(scenes) - 1)) > 0.95
    assert (predicted == torch.tensor([scene.class_index for scene in scenes])).float().mean() > 0.75


@torch.inference_mode()
def test_a_zero_embedding_is_the_same_as_no_adapter_and_its_length_does_not_count(pipeline, with_adapter) -> None:
    generator = torch.Generator().manual_seed(0)
    latents, hidden = torch.randn(2, 8, 8, 8, generator=generator), torch.randn(2, 32, 64, generator=generator)
    embedding = torch.randn(2, 1, 64, generator=generator)
    inputs = {"sample": latents, "timestep": torch.tensor([900, 40]), "encoder_hidden_states": hidden}
    alone = pipeline.unet(**inputs).sample
    without = with_adapter.unet(**inputs, added_cond_kwargs={"image_embeds": [torch.zeros_like(embedding)]}).sample
    given = with_adapter.unet(**inputs, added_cond_kwargs={"image_embeds": [embedding]}).sample
    shorter = with_adapter.unet(**inputs, added_cond_kwargs={"image_embeds": [embedding / 2]}).sample
    torch.testing.assert_close(without, alone, rtol=0, atol=1e-5)
    torch.testing.assert_close(shorter, given, rtol=0, atol=1e-3)
    assert (given - alone).abs().max() > 0.01


def test_class_captions_draw_their_class(pipeline, classifier) -> None:
    """Full strength: the start image (grey) decides nothing, the caption all."""
    from PIL import Image

    rng = np.random.default_rng(5)
    captions = [class_caption(sample_scene(rng, i % len(CLASSES))) for i in range(4 * len(CLASSES))]
    drawn = pipeline(
        captions,
        image=[Image.new("RGB", (64, 64), (128, 128, 128))] * len(captions),
        strength=1.0,
        num_inference_steps=20,
        guidance_scale=4.0,
        generator=torch.Generator().manual_seed(1),
        output_type="np",
    ).images
    with torch.inference_mode():
        images = torch.from_numpy(drawn).permute(0, 3, 1, 2).float() * 2 - 1
        predicted = classifier(pixel_values=images).logits.argmax(1)
    labels = torch.arange(len(captions)) % len(CLASSES)
    assert (predicted == labels).float().mean() > 0.85


def test_the_vae_keeps_colours(pipeline, scenes) -> None:
    images = as_tensor([draw_scene(scene) for scene in scenes])
    with torch.inference_mode():
        back = pipeline.vae.decode(pipeline.vae.encode(images).latent_dist.mode()).sample.clamp(-1, 1)
    assert (back - images).abs().mean() / 2 < 0.05
