"""Measures the assembled bundled model on stimuli that it never saw: the figures of its card."""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import StableDiffusionPipeline
from PIL import Image
from torch import Tensor
from transformers import CLIPModel, ResNetForImageClassification

from neuroimagen.data_shards.frozen_models.ip_adapter import OWN_FOLDER
from neuroimagen.data_shards.simulator.drawn_stimuli import CLASSES
from neuroimagen.trainer.bundled_model.image_condition import image_embeddings, spread_of
from neuroimagen.trainer.bundled_model.training_stimuli import SIZE_PX, TrainingStimuli, draw_stimuli, tokenize

SAMPLES_PER_CLASS = 24
IDENTIFIED_PER_CLASS = 10
SAMPLING = {"num_inference_steps": 20, "guidance_scale": 4.0}
"""How text-to-image samples are drawn."""
IDENTIFIED_STEPS = 16
IDENTIFIED_GUIDANCE = 3.0
"""How the images that are to be identified are drawn."""
START_PX = 32
"""Detail of the start image, as the saliency map of the demo has it."""
STRENGTH = 0.6
"""Share of the steps that are denoised from that start."""


@dataclass(frozen=True, kw_only=True)
class Identification:
    """How well images that were drawn of stimuli tell which stimulus, and which class."""

    two_way: float
    """Share of the other stimuli that are less similar to the image than its own, in CLIP image embeddings."""
    top1: float
    """Share of the images that are most similar to their own stimulus."""
    class_accuracy: float
    """By the classifier."""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What the model card states."""

    components: dict[str, float]
    """Name → figure of the components and of images drawn from captions alone."""
    identification: dict[str, Identification]
    """What the images were drawn from → whether they are recognised."""


def measure(folder: Path, *, seed: int, samples_per_class: int = SAMPLES_PER_CLASS) -> Figures:
    """Measure the model in a folder. The text-to-image samples are written to its samples.png."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    clip = CLIPModel.from_pretrained(folder / "clip").eval()
    classifier = ResNetForImageClassification.from_pretrained(folder / "classifier").eval()
    components = _measure_components(pipeline, clip, classifier, draw_stimuli(50 * len(CLASSES), seed=seed + 1))
    labels = torch.arange(len(CLASSES)).repeat_interleave(samples_per_class)
    samples = _class_samples(pipeline, samples_per_class, seed=seed)
    sample_sheet(((samples + 1) / 2).unflatten(0, (len(CLASSES), samples_per_class))).save(folder / "samples.png")
    components["classifier accuracy on text-to-image samples, class captions"] = accuracy(classifier, samples, labels)
    load_bundled_adapter(pipeline, folder)
    stimuli = draw_stimuli(IDENTIFIED_PER_CLASS * len(CLASSES), seed=seed + 2)
    return Figures(
        components=components,
        identification=_measure_identification(pipeline, clip, classifier, stimuli, seed=seed),
    )


def load_bundled_adapter(pipeline: StableDiffusionPipeline, folder: Path) -> None:
    """Load the adapter of the model in a folder by diffusers' own loader."""
    pipeline.load_ip_adapter(str(folder), subfolder=OWN_FOLDER, weight_name=f"{OWN_FOLDER}.safetensors")


@torch.inference_mode()
def draw(
    pipeline: StableDiffusionPipeline,
    captions: list[str],
    image: Tensor,
    *,
    steps: int,
    guidance: float,
    seed: int,
    start: Tensor | None = None,
) -> Tensor:
    """Images in [-1, 1], [n, 3, H, W], of captions ("": none) and image embeddings ([n, size]; zeros: none).

    start: images in [-1, 1] to denoise from; None: from noise alone. What the pipeline's own call would draw, which
    gives all images of a batch the same image embedding.
    """
    tokens = tokenize(pipeline.tokenizer, [""] * len(captions) + captions)
    text = pipeline.text_encoder(tokens).last_hidden_state
    added = {"image_embeds": [torch.cat([torch.zeros_like(image), image])[:, None]]}
    scheduler = pipeline.scheduler
    scheduler.set_timesteps(steps)
    timesteps = scheduler.timesteps
    latents = torch.randn((len(captions), *_latent_shape(pipeline)), generator=torch.Generator().manual_seed(seed))
    latents = latents * scheduler.init_noise_sigma
    if start is not None:
        timesteps = timesteps[steps - int(steps * STRENGTH) :]
        encoded = pipeline.vae.encode(start).latent_dist.mode() * pipeline.vae.config.scaling_factor
        latents = scheduler.add_noise(encoded, latents, timesteps[:1].expand(len(captions)))
    for timestep in timesteps:
        doubled = scheduler.scale_model_input(torch.cat([latents, latents]), timestep)
        predicted = pipeline.unet(doubled, timestep, encoder_hidden_states=text, added_cond_kwargs=added).sample
        without, given = predicted.chunk(2)
        latents = scheduler.step(without + guidance * (given - without), timestep, latents).prev_sample
    drawn = pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor).sample
    return drawn.clamp(-1, 1).add(1).mul(127.5).round().div(127.5).sub(1)


@torch.inference_mode()
def identify(
    clip: CLIPModel, classifier: ResNetForImageClassification, drawn: Tensor, stimuli: TrainingStimuli
) -> Identification:
    """Compare drawn images with the stimuli they are of: correlation of CLIP image embeddings, and the classifier."""
    embeddings = [image_embeddings(clip, images) for images in (drawn, stimuli.scaled(torch.arange(len(drawn))))]
    drawn_unit, true_unit = (F.normalize(e - e.mean(1, keepdim=True), dim=1) for e in embeddings)
    similarity = drawn_unit @ true_unit.T
    own = similarity.diagonal()[:, None]
    return Identification(
        two_way=((similarity < own).sum(1) / (len(drawn) - 1)).mean().item(),
        top1=((similarity >= own).sum(1) == 1).float().mean().item(),
        class_accuracy=accuracy(classifier, drawn, stimuli.labels),
    )


@torch.inference_mode()
def accuracy(classifier: ResNetForImageClassification, images: Tensor, labels: Tensor) -> float:
    return (classifier(pixel_values=images).logits.argmax(1) == labels).float().mean().item()


@torch.inference_mode()
def _measure_components(
    pipeline: StableDiffusionPipeline,
    clip: CLIPModel,
    classifier: ResNetForImageClassification,
    held_out: TrainingStimuli,
) -> dict[str, float]:
    images = held_out.scaled(torch.arange(len(held_out.labels)))
    round_trip = pipeline.vae.decode(pipeline.vae.encode(images).latent_dist.mode()).sample
    tokens = tokenize(pipeline.tokenizer, held_out.detailed_captions)
    similarity = clip(input_ids=tokens, pixel_values=images).logits_per_image
    own = similarity.diagonal()[:, None]
    return {
        "classifier accuracy on held-out stimuli": accuracy(classifier, images, held_out.labels),
        "classifier accuracy on their VAE round trip": accuracy(classifier, round_trip, held_out.labels),
        "VAE round trip, mean absolute error (0..1)": (round_trip.clamp(-1, 1) - images).abs().mean().item() / 2,
        "CLIP two-way identification, image from detailed caption": (
            ((similarity < own).float().sum(1) / (similarity.shape[1] - 1)).mean().item()
        ),
    }


def _class_samples(pipeline: StableDiffusionPipeline, samples_per_class: int, *, seed: int) -> Tensor:
    """Images in [-1, 1] of each class caption in turn; the adapter isn't loaded."""
    drawn = []
    for i, caption in enumerate(draw_stimuli(len(CLASSES), seed=seed + 1).class_captions):
        generator = torch.Generator().manual_seed(seed + i)
        captions = [caption] * samples_per_class
        size = {"height": SIZE_PX, "width": SIZE_PX}
        drawn.append(pipeline(captions, **size, **SAMPLING, generator=generator, output_type="pt").images * 2 - 1)
    return torch.cat(drawn)


@torch.inference_mode()
def _measure_identification(
    pipeline: StableDiffusionPipeline,
    clip: CLIPModel,
    classifier: ResNetForImageClassification,
    stimuli: TrainingStimuli,
    *,
    seed: int,
) -> dict[str, Identification]:
    images = stimuli.scaled(torch.arange(len(stimuli.labels)))
    true = image_embeddings(clip, images)
    noise = torch.randn(true.shape, generator=torch.Generator().manual_seed(seed)) @ spread_of(true)
    blurred = F.interpolate(
        F.interpolate(images, size=START_PX, mode="bilinear", antialias=True), size=SIZE_PX, mode="bilinear"
    )
    no_image = torch.zeros_like(true)
    nothing, of_class, detailed = [""] * len(true), stimuli.class_captions, stimuli.detailed_captions
    round_trip = pipeline.vae.decode(pipeline.vae.encode(images).latent_dist.mode()).sample
    found = {"the stimulus through the VAE": identify(clip, classifier, round_trip.clamp(-1, 1), stimuli)}
    for name, captions, image, start in (
        ("image embedding", nothing, true, None),
        ("image embedding with noise, a quarter of the spread", nothing, true + noise / 4, None),
        ("image embedding with noise, half of the spread", nothing, true + noise / 2, None),
        ("image embedding and class caption", of_class, true, None),
        ("image embedding and detailed caption", detailed, true, None),
        ("class caption", of_class, no_image, None),
        ("detailed caption", detailed, no_image, None),
        ("class caption, blurred start", of_class, no_image, blurred),
        ("image embedding and class caption, blurred start", of_class, true, blurred),
        (
            "image embedding with noise, half of the spread, and class caption, blurred start",
            of_class,
            true + noise / 2,
            blurred,
        ),
    ):
        drawn = draw(
            pipeline, captions, image, seed=seed, start=start, steps=IDENTIFIED_STEPS, guidance=IDENTIFIED_GUIDANCE
        )
        found[name] = identify(clip, classifier, drawn, stimuli)
    return found


def _latent_shape(pipeline: StableDiffusionPipeline) -> tuple[int, int, int]:
    config = pipeline.unet.config
    return config.in_channels, config.sample_size, config.sample_size


def sample_sheet(samples: Tensor) -> Image.Image:
    """An image with one row per class, of ten samples each; `samples` float in [0, 1], [classes, n, 3, H, W]."""
    rows = samples[:, :10].mul(255).round().clamp(0, 255).byte()
    sheet = rows.permute(0, 3, 1, 4, 2).reshape(rows.shape[0] * rows.shape[3], -1, 3)
    return Image.fromarray(sheet.contiguous().numpy())
