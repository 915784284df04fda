"""What a model folder is, what it serves, and why not the rest: read from its configurations, before any work.

Nothing is loaded and nothing raises: a folder that is damaged or unknown is said to be so.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from neuroimagen.data_shards.common.reading import content_of, read_json_object

Use = Literal["vae", "text", "image", "diffusion", "captions"]
"""What a folder may serve: VAE latents, text states, image embeddings, reconstruction, captions of images."""

USES: Mapping[Use, str] = {
    "vae": "VAE latents",
    "text": "text states",
    "image": "image embeddings",
    "diffusion": "training and sampling its U-Net",
    "captions": "captions of images",
}

CLIP_FOLDERS = ("", "clip", "image_encoder")
"""Where in a folder a CLIP image tower may be: the folder itself, or beside the components of a diffusion model."""

_FAMILIES = (
    ("StableUnCLIP", "Stable Diffusion 2.1-unCLIP"),
    ("StableDiffusionXL", "SDXL"),
    ("StableDiffusion3", "Stable Diffusion 3"),
    ("StableDiffusion", "Stable Diffusion"),
    ("Flux", "FLUX"),
    ("Kandinsky", "Kandinsky"),
)
"""Beginning of model_index.json's `_class_name` → family; the first that fits."""

_REFUSED: Mapping[str, Mapping[Use, str]] = {
    "SDXL refiner": {
        "text": "it refines images that SDXL's base model has drawn, with the second of its two text encoders alone; "
        "give the base model's folder",
        "diffusion": "it refines images that SDXL's base model has drawn, with an aesthetic score beside the text; "
        "give the base model's folder",
    },
    "Stable Diffusion 3": {
        "vae": "it has a transformer in place of a U-Net, so no stage uses latents of this kind; as a flat vector, "
        "--towers NAME=FOLDER:tower=vae-vector,size_px=… caches them",
        "text": "its transformer takes the states of two CLIP text encoders and T5, which no kind of latent holds",
        "diffusion": "it has a transformer in place of a U-Net",
    },
    "FLUX": {
        "vae": "it has a transformer in place of a U-Net, so no stage uses latents of this kind; as a flat vector, "
        "--towers NAME=FOLDER:tower=vae-vector,size_px=… caches them",
        "text": "its transformer takes T5's states, which no kind of latent holds",
        "diffusion": "it has a transformer in place of a U-Net",
    },
    "Kandinsky": {
        "vae": "it has a VQ autoencoder (movq/) in place of a VAE",
        "text": "its decoder takes image embeddings, not text states",
        "diffusion": "its decoder takes image embeddings and a VQ autoencoder's latents",
    },
}
"""Family → use → why a complete folder does not serve it."""

_COMPONENTS: Mapping[Use, tuple[str, ...]] = {
    "vae": ("vae", "unet"),
    "text": ("text_encoder", "tokenizer"),
    "diffusion": ("vae", "unet", "text_encoder", "tokenizer", "scheduler"),
}
"""Use → the components of a diffusion model that it needs."""

_MORE_COMPONENTS: Mapping[str, Mapping[Use, tuple[str, ...]]] = {
    "Stable Diffusion 2.1-unCLIP": {"diffusion": ("image_normalizer", "image_noising_scheduler")},
    "SDXL": {"text": ("text_encoder_2", "tokenizer_2"), "diffusion": ("text_encoder_2", "tokenizer_2")},
}
"""Family → use → the components that it needs beside those of every family."""

_ADDED_NETWORKS: Mapping[str, str] = {
    "controlnet": "a ControlNet, which takes another picture",
    "adapter": "a T2I-Adapter, which takes another picture",
    "motion_adapter": "a motion adapter, which makes films",
}
"""Component → what it adds to the U-Net, which no condition of neuroimagen gives."""

_BARE: Mapping[str, tuple[str, str | None]] = {
    "clip": ("a CLIP model", "image"),
    "clip_vision_model": ("a CLIP image tower", "image"),
    "dinov2": ("a DINOv2 model", "dinov2"),
    "dinov2_with_registers": ("a DINOv2 model with registers", "dinov2"),
    "siglip": ("a SigLIP model", "siglip"),
    "siglip_vision_model": ("a SigLIP image tower", "siglip"),
    "blip": ("a BLIP captioner", None),
}
"""`model_type` of a config.json → what it is, and the image tower that reads it."""


@dataclass(frozen=True, kw_only=True)
class FolderContent:
    """What a folder is. `serves` and `refuses` together have every use."""

    folder: Path
    what: str
    """With its article or name: "Stable Diffusion 1.x (StableDiffusionPipeline)", "a DINOv2 model"."""
    family: str | None = None
    """Of a diffusion model."""
    tower: str | None = None
    """The image tower that reads this folder; None for a folder that several could read, or none."""
    refuses: Mapping[Use, str] = field(default_factory=dict)
    """Use → why not, as a clause of a message."""
    problems: tuple[str, ...] = ()
    """What is missing from the download, as clauses."""

    @property
    def serves(self) -> tuple[Use, ...]:
        return tuple(use for use in USES if use not in self.refuses)

    def why_not(self, use: Use) -> str | None:
        """Why the folder does not serve a use, as a clause that names the folder; None if it does."""
        reason = self.refuses.get(use)
        return None if reason is None else f"{self.folder} is {self.what}: {reason}"


def recognise(folder: Path) -> FolderContent:
    """Say what `folder` is by its configurations and file names. Raises UserError where these are damaged."""
    with content_of(f"recognise the model in {folder}", remedy="Fetch the folder again."):
        return _recognise(folder)


def _recognise(folder: Path) -> FolderContent:
    if folder.is_file():
        return _unusable(folder, "a single file", _SINGLE_FILE)
    if not folder.is_dir():
        return _unusable(folder, "no folder", "it does not exist")
    if (folder / "model_index.json").is_file():
        return _diffusion_model(folder)
    config = read_json(folder / "config.json")
    model_type, class_name = str(config.get("model_type")), str(config.get("_class_name"))
    if model_type in _BARE and (model_type != "clip" or has_weights(folder) or not _is_open_clip(folder)):
        return _bare(folder, *_BARE[model_type])
    if _is_open_clip(folder):
        return _bare(folder, "an OpenCLIP model in open_clip's own layout", "open-clip")
    if class_name == "AutoencoderKL":
        return _bare(folder, "a VAE (AutoencoderKL)", "vae-vector")
    if (folder / "adapter_config.json").is_file() or any(folder.glob("pytorch_lora_weights.*")):
        return _unusable(
            folder, "a LoRA", "it only changes the weights of another model; give the folder of a whole model"
        )
    if adapters := [path for place in (".", "models", "sdxl_models") for path in folder.glob(f"{place}/ip-adapter*.*")]:
        encoders = sorted(
            {path.parent / "image_encoder" for path in adapters if (path.parent / "image_encoder").is_dir()}
        )
        said = f"; its image tower is in {', '.join(map(str, encoders))}" if encoders else ""
        content = _unusable(
            folder,
            "an IP-Adapter",
            f"it belongs to a diffusion model, whose folder is to be given; model.ip_adapters names the adapter{said}",
        )
        return _serving_clip(content)
    if config:
        kind = model_type if model_type != "None" else class_name
        return _unusable(folder, f"a model of type {kind!r}", "no part of neuroimagen reads that type")
    if any(path.suffix in (".safetensors", ".ckpt") for path in folder.iterdir()):
        return _unusable(folder, "a single-file checkpoint", _SINGLE_FILE)
    return _unusable(folder, "no model folder", "it has neither model_index.json nor config.json")


_SINGLE_FILE = (
    "a single-file checkpoint must be converted to a folder first (diffusers' "
    "scripts/convert_original_stable_diffusion_to_diffusers.py, or from_single_file and save_pretrained)"
)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; {} where there is none."""
    try:
        return read_json_object(path)
    except (OSError, ValueError):
        return {}


def has_weights(folder: Path) -> bool:
    """Whether there are safetensors that transformers or diffusers would read."""
    return any(folder.glob("model*.safetensors")) or any(folder.glob("diffusion_pytorch_model*.safetensors"))


def weights_problem(folder: Path) -> str | None:
    """What a folder's weights lack, as a clause that names the folder; None if they are there.

    One variant is enough: the index of another may be there without its weights.
    """
    files = {path.name for path in folder.glob("*.safetensors")}
    if any(not re.search(r"-\d{5}-of-\d{5}", name) for name in files):
        return None
    lacking = []
    for index in sorted(folder.glob("*.safetensors.index*.json")):
        shards = {str(name) for name in dict(read_json(index).get("weight_map") or {}).values()}
        if shards <= files:
            return None
        gone = sorted(shards - files)
        lacking.append((len(gone) / len(shards), f"lacks {len(gone)} of {len(shards)} files of weights ({gone[0]} …)"))
    if lacking:
        return f"{folder} {min(lacking)[1]}"
    if files:
        return f"{folder} lacks the index of its {len(files)} files of weights"
    if pickled := sorted(path.name for path in folder.iterdir() if path.suffix in (".bin", ".ckpt", ".pt")):
        return (
            f"{folder} has its weights as {pickled[0]} only, which is a pickle and can run code; fetch the "
            "safetensors, or convert them (transformers' and diffusers' save_pretrained write safetensors)"
        )
    return f"{folder} holds no weights"


def clip_image_folder(folder: Path) -> Path | None:
    """The folder of the CLIP image tower in `folder`, one of CLIP_FOLDERS; None if there is none."""
    for name in CLIP_FOLDERS:
        config = read_json(folder / name / "config.json")
        # Early folders of CLIPModel have no model_type.
        if config.get("model_type", "clip") in ("clip", "clip_vision_model") and (
            "vision_config" in config or config.get("model_type") == "clip_vision_model"
        ):
            return folder / name
    return None


def _is_open_clip(folder: Path) -> bool:
    return (folder / "open_clip_config.json").is_file()


def _unusable(folder: Path, what: str, reason: str) -> FolderContent:
    return FolderContent(folder=folder, what=what, refuses=dict.fromkeys(USES, reason))


def _serving_clip(content: FolderContent) -> FolderContent:
    """`content` with the use of the CLIP image tower that lies in a sub-folder, if one does."""
    if clip_image_folder(content.folder) is None:
        return content
    refuses: dict[Use, str] = {use: reason for use, reason in content.refuses.items() if use != "image"}
    return FolderContent(folder=content.folder, what=content.what, tower="image", refuses=refuses)


def _bare(folder: Path, what: str, tower: str | None) -> FolderContent:
    """One network in a folder of its own."""
    served: Use = "captions" if tower is None else "image"
    alone = "--blip FOLDER takes it" if tower is None else f"--towers NAME={folder} takes it"
    refuses: dict[Use, str] = {use: f"it is not a latent diffusion model; {alone}" for use in USES if use != served}
    problem = weights_problem(folder)
    if problem is not None:
        refuses[served] = problem
    problems = () if problem is None else (problem,)
    return FolderContent(folder=folder, what=what, tower=tower, refuses=refuses, problems=problems)


def _diffusion_model(folder: Path) -> FolderContent:
    index = read_json(folder / "model_index.json")
    class_name = str(index.get("_class_name", "unnamed pipeline"))
    family = next((name for begins, name in _FAMILIES if class_name.startswith(begins)), None)
    if family == "SDXL" and _is_component(index.get("text_encoder_2")) and not _is_component(index.get("text_encoder")):
        family = "SDXL refiner"
    refuses: dict[Use, str] = {"captions": "it is not a captioner"}
    lacking = {name: _component_problem(folder, name, entry) for name, entry in index.items()}
    listed = any(_is_component(entry) for entry in index.values())
    problems = [problem for problem in lacking.values() if problem is not None]
    problems += _unfinished_files(folder)
    for use, components in _COMPONENTS.items():
        more = _MORE_COMPONENTS.get(family or "", {}).get(use, ())
        for name in reversed((*components, *more)):  # what stands first is said
            problem = lacking.get(name)
            if problem is None and not (folder / name).is_dir():
                # An index that lists nothing was made by hand: the folders tell.
                problem = f"its pipeline has no {name}" if listed else f"it lacks its {name}/ folder"
            elif (use, name) == ("vae", "unet"):
                problem = None  # its configuration says the size of images; its weights are not read
            if problem is not None:
                refuses[use] = problem
    if clip_image_folder(folder) is None:
        refuses["image"] = (
            f"it holds no CLIP image tower (looked for in {', '.join(f'{n}/' for n in CLIP_FOLDERS[1:])})"
        )
    what = f"{_version(family, folder)} ({class_name})" if family else f"a model of diffusers' {class_name}"
    if family is None and "diffusion" not in refuses:
        refuses["diffusion"] = "no part of neuroimagen samples with this pipeline"
    if family is not None and "diffusion" not in refuses and (reason := _unserved_unet(folder, family, index)):
        refuses["diffusion"] = reason
    refuses |= _REFUSED.get(family or "", {})
    return FolderContent(folder=folder, what=what, family=family, refuses=refuses, problems=tuple(problems))


def _unserved_unet(folder: Path, family: str, index: Mapping[str, Any]) -> str | None:
    """What a U-Net or VAE takes that the family's own do not, as a clause; None if nothing."""
    for name, what in _ADDED_NETWORKS.items():
        if _is_component(index.get(name)):
            return f"its pipeline adds {what}"
    unet, vae = (read_json(folder / name / "config.json") for name in ("unet", "vae"))
    channels = vae.get("latent_channels")
    if channels is not None and unet.get("in_channels", channels) != channels:
        return (
            f"its U-Net takes {unet['in_channels']} channels where latents have {channels} (inpainting, depth or "
            "upscaling), so it needs more than latents and conditions"
        )
    if vae.get("in_channels", 3) != 3:
        return f"its VAE takes {vae['in_channels']} channels of a picture, not red, green and blue"
    if vae.get("latents_mean") is not None:
        return "its VAE's latents are standardised channel by channel, which the cached latents are not"
    if unet.get("attention_type", "default") != "default":
        return f"its U-Net takes places of objects beside the text (attention_type {unet['attention_type']!r})"
    if unet.get("encoder_hid_dim_type") is not None:
        return f"its U-Net projects other text states (encoder_hid_dim_type {unet['encoder_hid_dim_type']!r})"
    added, labels = unet.get("addition_embed_type"), unet.get("class_embed_type") or unet.get("num_class_embeds")
    if added is not None and (family, added) != ("SDXL", "text_time"):
        return f"its U-Net takes more than {family}'s (addition_embed_type {added!r})"
    if labels is not None and (family, labels) != ("Stable Diffusion 2.1-unCLIP", "projection"):
        return f"its U-Net takes class labels ({labels!r}), which no condition gives"
    return None


def _version(family: str, folder: Path) -> str:
    """The family, for Stable Diffusion with the version that the text encoder's width tells."""
    if family != "Stable Diffusion":
        return family
    width = read_json(folder / "text_encoder" / "config.json").get("hidden_size")
    return {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x"}.get(width or 0, "of Stable Diffusion's layout")


def _is_component(entry: Any) -> bool:
    """Whether an entry of model_index.json names a library and a class; [null, null] stands for one left out."""
    return isinstance(entry, list) and len(entry) == 2 and entry[1] is not None


def _component_problem(folder: Path, name: str, entry: Any) -> str | None:
    """What the folder of a component lacks, as a clause; None for entries that are no component."""
    if not _is_component(entry):
        return None
    component = folder / name
    if not component.is_dir():
        return f"it lacks its {name}/ folder: the download is not complete"
    if not any(component.iterdir()):
        return f"its {name}/ folder is empty: the download is not complete"
    if any(word in str(entry[1]) for word in ("Tokenizer", "Scheduler", "Processor", "Extractor")):
        return None
    return weights_problem(component)


def _unfinished_files(folder: Path) -> list[str]:
    found = [*folder.glob(".cache/huggingface/download/**/*.incomplete"), *folder.glob("**/*.part")]
    return (
        [f"{len(found)} files are not fetched to the end ({found[0].name} …): run the download again"] if found else []
    )
