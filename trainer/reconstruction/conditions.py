"""The conditions that images are drawn under: the model, its ablations, and the oracles and floors beside them."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Prompt = Literal["semantic", "semantic_detailed", "fine_tuned", "true class", "random class"]
Start = Literal["saliency map", "predicted latent", "stimulus at saliency map size", "stimulus", "mean stimulus"]
ImageSource = Literal["predicted", "predicted without prior", "true", "other", "mean"]


@dataclass(frozen=True, kw_only=True)
class ImageCondition:
    """A line of the results table whose figures are measured on images, and how these images are made."""

    title: str
    """What the table calls it."""
    text: str
    """What its images are made from, in the words of the report."""
    group: Literal["model", "ablation", "oracle", "floor"]
    prompt: Prompt | None = None
    """What conditions the U-Net; None: nothing is denoised. `semantic`, `semantic_detailed` and `fine_tuned` are the
    hidden states that a trained stage predicts from the EEG, the last through the U-Net that the stage fine-tuned; the
    others are captions of a class.
    """
    start: Start | None = None
    """The image that denoising starts from, or that is the result where nothing is denoised; None: pure noise."""
    image: ImageSource | None = None
    """Which image embedding conditions the U-Net, by the model's IP-Adapter or as unCLIP's; None: none. `predicted` is
    predicted from the EEG, and goes through the prior where the run has one; `true` is that of the stimulus, `other` of
    another stimulus of the split drawn at random, `mean` the mean of the training stimuli.
    """
    image_if_any: bool = False
    """Whether the condition is also drawn in a run, or with a model, that has no image embedding: without it."""

    @property
    def is_denoised(self) -> bool:
        """Whether the U-Net draws the images; else the start itself is the result."""
        return self.prompt is not None or self.image is not None

    @property
    def sees_eeg(self) -> bool:
        """Whether anything of the condition is predicted from the EEG."""
        return (
            self.prompt in PREDICTED_PROMPTS
            or self.start in ("saliency map", "predicted latent")
            or self.image in PREDICTED_IMAGES
        )

    @property
    def made_of(self) -> str:
        """In words, what the images are made from: "class caption, image embedding, saliency map"."""
        words = [_PROMPTS.get(self.prompt), _IMAGES.get(self.image), _STARTS.get(self.start)]
        return ", ".join(word for word in words if word is not None)


PREDICTED_PROMPTS = ("semantic", "semantic_detailed", "fine_tuned")
PREDICTED_IMAGES = ("predicted", "predicted without prior")
_PROMPTS: Mapping[str | None, str] = {
    "semantic": "class caption",
    "semantic_detailed": "detailed caption",
    "fine_tuned": "hidden states of the fine-tuned U-Net",
    "true class": "true class as caption",
    "random class": "random class as caption",
}
_IMAGES: Mapping[str | None, str] = {
    "predicted": "image embedding",
    "predicted without prior": "image embedding without the prior",
    "true": "the stimulus's image embedding",
    "other": "another stimulus's image embedding",
    "mean": "mean image embedding of the training stimuli",
}
_STARTS: Mapping[str | None, str] = {
    "saliency map": "saliency map",
    "predicted latent": "predicted latent",
    "stimulus at saliency map size": "the stimulus at the saliency map's size",
    "stimulus": "the stimulus",
    "mean stimulus": "the mean training stimulus",
}

IMAGE_CONDITIONS: Mapping[str, ImageCondition] = {
    "full": ImageCondition(
        title="full model",
        text="the model: all that the run has, which is class caption and saliency map and, where the run has an "
        "alignment stage and the model an IP-Adapter or unCLIP, the image embedding (through the prior if there is "
        "one)",
        group="model",
        prompt="semantic",
        start="saliency map",
        image="predicted",
        image_if_any=True,
    ),
    "neuroimagen": ImageCondition(
        title="NeuroImagen",
        text="the model of the NeuroImagen paper: as the full model, without the image embedding",
        group="ablation",
        prompt="semantic",
        start="saliency map",
    ),
    "image_and_text": ImageCondition(
        title="image embedding + caption",
        text="the predicted image embedding and the semantic embedding, denoised from pure noise",
        group="ablation",
        prompt="semantic",
        image="predicted",
    ),
    "image_only": ImageCondition(
        title="image embedding only",
        text="the predicted image embedding alone, denoised from pure noise",
        group="ablation",
        image="predicted",
    ),
    "full_vae_latent": ImageCondition(
        title="full, predicted latent",
        text="as the full model, denoised from the VAE latent that is predicted from the EEG, in place of the saliency "
        "map",
        group="ablation",
        prompt="semantic",
        start="predicted latent",
        image="predicted",
        image_if_any=True,
    ),
    "full_no_prior": ImageCondition(
        title="full, no prior",
        text="as the full model, with the predicted image embedding as it is, not through the prior",
        group="ablation",
        prompt="semantic",
        start="saliency map",
        image="predicted without prior",
    ),
    "image_and_text_no_prior": ImageCondition(
        title="embedding + caption, no prior",
        text="the image embedding without the prior, and the semantic embedding",
        group="ablation",
        prompt="semantic",
        image="predicted without prior",
    ),
    "image_only_no_prior": ImageCondition(
        title="image embedding, no prior",
        text="the predicted image embedding alone, as it is, not through the prior",
        group="ablation",
        image="predicted without prior",
    ),
    "semantic_only": ImageCondition(
        title="class caption only",
        text="the semantic embedding alone, denoised from pure noise",
        group="ablation",
        prompt="semantic",
    ),
    "saliency_only": ImageCondition(
        title="saliency map only",
        text="the saliency map itself, no diffusion",
        group="ablation",
        start="saliency map",
    ),
    "vae_latent_only": ImageCondition(
        title="predicted latent only",
        text="the predicted VAE latent decoded, no diffusion",
        group="ablation",
        start="predicted latent",
    ),
    "full_detailed": ImageCondition(
        title="detailed caption + saliency",
        text="as NeuroImagen, with the embedding trained on captions of the single image (from BLIP, in the paper)",
        group="ablation",
        prompt="semantic_detailed",
        start="saliency map",
    ),
    "semantic_only_detailed": ImageCondition(
        title="detailed caption only",
        text="the embedding trained on captions of the single image",
        group="ablation",
        prompt="semantic_detailed",
    ),
    "fine_tuned": ImageCondition(
        title="fine-tuned U-Net",
        text="the diffusion stage's embedding through the U-Net it fine-tuned on EEG, from pure noise",
        group="ablation",
        prompt="fine_tuned",
    ),
    "full_fine_tuned": ImageCondition(
        title="fine-tuned U-Net + saliency",
        text="the same, denoised from the saliency map",
        group="ablation",
        prompt="fine_tuned",
        start="saliency map",
    ),
    "oracle_image": ImageCondition(
        title="true image embedding",
        text="the stimulus's own image embedding alone, no EEG: what the generator makes of a perfect prediction",
        group="oracle",
        image="true",
    ),
    "oracle_image_and_text": ImageCondition(
        title="true embedding + caption",
        text="the stimulus's own image embedding, and the semantic embedding from the EEG",
        group="oracle",
        prompt="semantic",
        image="true",
    ),
    "oracle_image_full": ImageCondition(
        title="full, true embedding",
        text="as the full model, with the stimulus's own image embedding",
        group="oracle",
        prompt="semantic",
        start="saliency map",
        image="true",
    ),
    "oracle_class": ImageCondition(
        title="true class as prompt",
        text="the generator prompted with the true class, no EEG",
        group="oracle",
        prompt="true class",
    ),
    "perfect_saliency": ImageCondition(
        title="true layout and class",
        text="the stimulus blurred to the saliency map's detail, and the true class as prompt, no EEG",
        group="oracle",
        prompt="true class",
        start="stimulus at saliency map size",
    ),
    "vae_round_trip": ImageCondition(
        title="VAE round trip",
        text="the stimulus through the autoencoder: no generator can be closer",
        group="oracle",
        start="stimulus",
    ),
    "other_image": ImageCondition(
        title="another image's embedding",
        text="the image embedding of another stimulus of the split, drawn at random, alone",
        group="floor",
        image="other",
    ),
    "other_image_and_text": ImageCondition(
        title="other's embedding + caption",
        text="another stimulus's image embedding, and the semantic embedding from the EEG",
        group="floor",
        prompt="semantic",
        image="other",
    ),
    "other_image_full": ImageCondition(
        title="full, other's embedding",
        text="as the full model, with another stimulus's image embedding",
        group="floor",
        prompt="semantic",
        start="saliency map",
        image="other",
    ),
    "mean_image_embedding": ImageCondition(
        title="mean image embedding",
        text="the mean image embedding of the training stimuli, alone",
        group="floor",
        image="mean",
    ),
    "mean_image_embedding_and_text": ImageCondition(
        title="mean embedding + caption",
        text="the mean image embedding of the training stimuli, and the semantic embedding from the EEG",
        group="floor",
        prompt="semantic",
        image="mean",
    ),
    "mean_image_embedding_full": ImageCondition(
        title="full, mean embedding",
        text="as the full model, with the mean image embedding of the training stimuli",
        group="floor",
        prompt="semantic",
        start="saliency map",
        image="mean",
    ),
    "random_class": ImageCondition(
        title="random class as prompt",
        text="the generator prompted with a class drawn at random",
        group="floor",
        prompt="random class",
    ),
    "mean_image": ImageCondition(
        title="mean training image",
        text="the mean of all training stimuli",
        group="floor",
        start="mean stimulus",
    ),
}
"""Name → condition, in the order of the table, which is the order in which they are drawn."""


def unknown_condition(name: str) -> str:
    """The message about a name that is not in the table: it says the nearest one, and all of them."""
    close = difflib.get_close_matches(name, IMAGE_CONDITIONS, n=1)
    nearest = f"Did you mean {close[0]!r}? " if close else ""
    return f"there is no condition {name!r}. {nearest}There are {', '.join(IMAGE_CONDITIONS)}."


def headline_conditions() -> list[str]:
    """The conditions that can be the headline: what the run makes of the EEG alone."""
    return [name for name, condition in IMAGE_CONDITIONS.items() if condition.group in ("model", "ablation")]
