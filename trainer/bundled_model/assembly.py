"""Assembles the trained components of the bundled model, measures the model and writes its card."""

import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer, ResNetForImageClassification

from neuroimagen.data_shards.simulator.drawn_stimuli import CLASSES
from neuroimagen.trainer.bundled_model.training_stimuli import SIZE_PX, draw_stimuli, tokenize

SIZE_LIMIT_BYTES = 10_000_000


def assemble(work: Path, out: Path, *, scheduler: DDIMScheduler, trained: str, seed: int) -> dict[str, float]:
    """Write the components in `work` as one model to `out`, with its card. Returns the figures measured.

    Raises ValueError when the weights take more than may ship.
    """
    size_bytes = write_pipeline(work, out, scheduler)
    if size_bytes > SIZE_LIMIT_BYTES:
        raise ValueError(f"the model takes {size_bytes:,} bytes; at most {SIZE_LIMIT_BYTES:,} may ship")
    figures = measure(out, seed=seed)
    write_card(out, figures, trained=trained, size_bytes=size_bytes)
    return figures


def write_pipeline(work: Path, out: Path, scheduler: DDIMScheduler) -> int:
    """Write the components in Stable Diffusion's layout, weights as float16. Returns the bytes of all safetensors."""
    clip = CLIPModel.from_pretrained(work / "clip")
    tokenizer = CLIPTokenizer.from_pretrained(work / "clip")
    text_encoder = CLIPTextModel(clip.config.text_config)
    text_encoder.load_state_dict(clip.text_model.state_dict())
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(work / "vae"),
        unet=UNet2DConditionModel.from_pretrained(work / "unet"),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(out)
    for name in ("clip", "classifier"):
        shutil.copytree(work / name, out / name, dirs_exist_ok=True)
    for weights in sorted(out.rglob("*.safetensors")):
        state = {name: v.half() if v.is_floating_point() else v for name, v in load_file(weights).items()}
        save_file(state, weights, metadata={"format": "pt"})
    return sum(weights.stat().st_size for weights in out.rglob("*.safetensors"))


@torch.inference_mode()
def measure(out: Path, *, seed: int, samples_per_class: int = 24) -> dict[str, float]:
    """Figures of the assembled model on stimuli it never saw: what the model card states."""
    pipeline = StableDiffusionPipeline.from_pretrained(out, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    clip = CLIPModel.from_pretrained(out / "clip").eval()
    classifier = ResNetForImageClassification.from_pretrained(out / "classifier").eval()
    held_out = draw_stimuli(50 * len(CLASSES), seed=seed + 1)
    images = held_out.scaled(torch.arange(len(held_out.labels)))
    round_trip = pipeline.vae.decode(pipeline.vae.encode(images).latent_dist.mode()).sample
    tokens = tokenize(pipeline.tokenizer, held_out.detailed_captions)
    similarity = clip(input_ids=tokens, pixel_values=images).logits_per_image
    own = similarity.diagonal()[:, None]
    drawn = []
    for i in range(len(CLASSES)):
        result = pipeline(
            [held_out.class_captions[i]] * samples_per_class,  # the classes come in turn
            num_inference_steps=20,
            guidance_scale=4.0,
            height=SIZE_PX,
            width=SIZE_PX,
            generator=torch.Generator().manual_seed(seed + i),
            output_type="np",
        )
        drawn.append(torch.from_numpy(result.images).permute(0, 3, 1, 2))
    samples = torch.cat(drawn)
    sample_sheet(samples.view(len(CLASSES), samples_per_class, 3, SIZE_PX, SIZE_PX)).save(out / "samples.png")
    sample_labels = torch.arange(len(CLASSES)).repeat_interleave(samples_per_class)

    def accuracy(scored: Tensor, labels: Tensor) -> float:
        return (classifier(pixel_values=scored).logits.argmax(1) == labels).float().mean().item()

    return {
        "classifier accuracy on held-out stimuli": accuracy(images, held_out.labels),
        "classifier accuracy on their VAE round trip": accuracy(round_trip, held_out.labels),
        "VAE round trip, mean absolute error (0..1)": (round_trip.clamp(-1, 1) - images).abs().mean().item() / 2,
        "CLIP two-way identification, image from detailed caption": (
            ((similarity < own).float().sum(1) / (similarity.shape[1] - 1)).mean().item()
        ),
        "classifier accuracy on text-to-image samples, class captions": accuracy(samples * 2 - 1, sample_labels),
    }


def sample_sheet(samples: Tensor) -> Image.Image:
    """An image with one row per class, of ten samples each; `samples` float in [0, 1], [classes, n, 3, H, W]."""
    rows = samples[:, :10].mul(255).round().clamp(0, 255).byte()
    sheet = rows.permute(0, 3, 1, 4, 2).reshape(rows.shape[0] * rows.shape[3], -1, 3)
    return Image.fromarray(sheet.contiguous().numpy())


def write_card(out: Path, figures: dict[str, float], *, trained: str, size_bytes: int) -> None:
    """The model card, README.md of the folder, with the figures just measured."""
    rows = "\n".join(f"| {name} | {value:.3f} |" for name, value in figures.items())
    (out / "README.md").write_text(
        f"""# The bundled model

A model of {size_bytes / 1e6:.1f} MB (float16 safetensors) in Stable Diffusion's layout that draws the twelve
classes of `neuroimagen.data_shards.simulator.drawn_stimuli` at {SIZE_PX}×{SIZE_PX}. It stands in for Stable
Diffusion in `make demo` and in the tests, and has no other use. Licence: Apache-2.0, as the code.
No outside data or weights went into it.

    make bundled-model        # makes it again, on CPU

{trained}
The command is in `trainer/bundled_model/training.py`, each component in a file beside it. `classifier/` scores
reconstructions; it shares no weights with the rest.

| figure | value |
|---|---|
{rows}

Held-out stimuli: 600 drawn with another seed. Samples: 24 per class, DDIM, 20 steps, guidance 4. The first ten of each
class are in `samples.png`, one row per class.
""",
        encoding="utf-8",
    )
