"""Assembles the trained components of the bundled model, measures the model and writes its card."""

import json
import shutil
from pathlib import Path

from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPImageProcessor,
    CLIPModel,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from neuroimagen.data_shards.frozen_models.ip_adapter import NUM_TOKENS, OWN_FOLDER
from neuroimagen.data_shards.simulator.drawn_stimuli import CLASSES
from neuroimagen.trainer.bundled_model.measuring import (
    IDENTIFIED_GUIDANCE,
    IDENTIFIED_PER_CLASS,
    IDENTIFIED_STEPS,
    SAMPLES_PER_CLASS,
    SAMPLING,
    START_PX,
    STRENGTH,
    Figures,
    measure,
)
from neuroimagen.trainer.bundled_model.training_stimuli import SIZE_PX

SIZE_LIMIT_BYTES = 10_000_000


def assemble(work: Path, out: Path, *, scheduler: DDIMScheduler, trained: str, seed: int) -> Figures:
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
    """Write the components in Stable Diffusion's layout, weights as float16. Returns the bytes of all safetensors.

    image_encoder/ is the image tower of clip/ once more, in the form in which diffusers' pipelines load it.
    """
    clip = CLIPModel.from_pretrained(work / "clip")
    tokenizer = CLIPTokenizer.from_pretrained(work / "clip")
    text_encoder = CLIPTextModel(clip.config.text_config)
    text_encoder.load_state_dict(clip.text_model.state_dict())
    image_encoder = CLIPVisionModelWithProjection(
        CLIPVisionConfig(**{**clip.config.vision_config.to_dict(), "projection_dim": clip.config.projection_dim})
    )
    image_encoder.vision_model.load_state_dict(clip.vision_model.state_dict())
    image_encoder.visual_projection.load_state_dict(clip.visual_projection.state_dict())
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(work / "vae"),
        unet=UNet2DConditionModel.from_pretrained(work / "image_condition" / "unet"),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=CLIPImageProcessor.from_pretrained(work / "clip"),
        image_encoder=image_encoder,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(out)
    _tidy_configurations(out)
    for name in ("clip", "classifier"):
        shutil.copytree(work / name, out / name, dirs_exist_ok=True)
    shutil.copytree(work / "image_condition" / OWN_FOLDER, out / OWN_FOLDER, dirs_exist_ok=True)
    for weights in sorted(out.rglob("*.safetensors")):
        state = {name: v.half() if v.is_floating_point() else v for name, v in load_file(weights).items()}
        save_file(state, weights, metadata={"format": "pt"})
    return sum(weights.stat().st_size for weights in out.rglob("*.safetensors"))


def _tidy_configurations(folder: Path) -> None:
    """Take out what tells of this machine: the folders that components were read from, and the backend of Pillow."""
    for file in sorted(folder.rglob("*.json")):
        content = json.loads(file.read_text(encoding="utf-8"))
        changed = isinstance(content, dict) and content.pop("_name_or_path", None) is not None
        if file.name == "model_index.json":
            content["feature_extractor"] = ["transformers", "CLIPImageProcessor"]
            changed = True
        if changed:
            file.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def write_card(out: Path, figures: Figures, *, trained: str, size_bytes: int) -> None:
    """The model card, README.md of the folder, with the figures just measured."""
    rows = "\n".join(f"| {name} | {value:.3f} |" for name, value in figures.components.items())
    identified = "\n".join(
        f"| {name} | {found.two_way:.3f} | {found.top1:.3f} | {found.class_accuracy:.3f} |"
        for name, found in figures.identification.items()
    )
    samples = f"DDIM, {SAMPLING['num_inference_steps']} steps, guidance {SAMPLING['guidance_scale']:g}"
    identified_images = f"DDIM, {IDENTIFIED_STEPS} steps, guidance {IDENTIFIED_GUIDANCE:g}"
    num_identified = IDENTIFIED_PER_CLASS * len(CLASSES)
    (out / "README.md").write_text(
        f"""# The bundled model

A model of {size_bytes / 1e6:.1f} MB (float16 safetensors) in Stable Diffusion's layout that draws the twelve
classes of `neuroimagen.data_shards.simulator.drawn_stimuli` at {SIZE_PX}×{SIZE_PX}, from captions, from image
embeddings, or from both. It stands in for Stable Diffusion with an IP-Adapter in `make demo` and in the
tests, and has no other use. Licence: Apache-2.0, as the code. No outside data or weights went into it.

    make bundled-model        # makes it again, on CPU

{trained}
The command is in `trainer/bundled_model/training.py`, each component in a file beside it. `classifier/` scores
reconstructions; it shares no weights with the rest.

| figure | value |
|---|---|
{rows}

Held-out stimuli: 600 drawn with another seed. Samples: {SAMPLES_PER_CLASS} per class, {samples}. The first ten
of each class are in `samples.png`, one row per class.

## Image embeddings

`ip_adapter/` is an IP-Adapter ({NUM_TOKENS} tokens) for the projected image embedding of `clip/`, and `image_encoder/`
is that image tower once more, in the form in which pipelines load it:

    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    pipeline.load_ip_adapter(folder, subfolder="ip_adapter", weight_name="ip_adapter.safetensors")
    pipeline("", ip_adapter_image=image, height={SIZE_PX}, width={SIZE_PX})

Only the direction of an embedding counts, not its length. A zero embedding stands for none, and is the same as
no adapter. A pipeline gives all prompts of a call the same embedding, so images that differ in it take a call each.

What the images that are drawn tell about the stimulus, among {num_identified} stimuli that were drawn with a third
seed ({IDENTIFIED_PER_CLASS} a class):

| drawn from | two-way | top-1 of {num_identified} | class accuracy |
|---|---|---|---|
{identified}

Two-way identification and top-1 are by the correlation of CLIP image embeddings, of the same image tower that the
condition comes from. Images: {identified_images}. Noise has the covariance of the embeddings and the given
share of their spread. The blurred start is the stimulus at {START_PX} pixels; {STRENGTH:.0%} of the steps are run.
""",
        encoding="utf-8",
    )
