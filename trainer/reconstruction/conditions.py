"""The image conditions: what the images of each are drawn from. A condition is a line of the results table."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

ImageGroup = Literal["model", "ablation", "oracle", "floor"]


@dataclass(frozen=True, kw_only=True)
class ImageCondition:
    """A condition whose images `neuroimagen reconstruct` draws."""

    title: str
    text: str
    """What the condition is, in one clause."""
    group: ImageGroup
    prompt: Literal["semantic", "semantic_detailed", "fine_tuned", "true class", "random class"] | None = None
    """What the U-Net is conditioned on; None: no denoising. `fine_tuned`: as predicted by the diffusion stage, whose
    U-Net is used."""
    start: Literal["map", "stimulus at map size", "stimulus", "mean stimulus"] | None = None
    """The image that denoising starts from, or, without denoising, the image itself; None: pure noise."""


IMAGE_CONDITIONS: Mapping[str, ImageCondition] = {
    "full": ImageCondition(
        title="class caption + saliency",
        text="the model: semantic embedding and saliency map",
        group="model",
        prompt="semantic",
        start="map",
    ),
    "semantic_only": ImageCondition(
        title="class caption only",
        text="the semantic embedding alone, denoised from pure noise",
        group="ablation",
        prompt="semantic",
    ),
    "saliency_only": ImageCondition(
        title="saliency map only", text="the saliency map itself, no diffusion", group="ablation", start="map"
    ),
    "full_detailed": ImageCondition(
        title="detailed caption + saliency",
        text="as the model, with the embedding trained on captions of the single image (from BLIP, in the paper)",
        group="ablation",
        prompt="semantic_detailed",
        start="map",
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
        start="map",
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
        start="stimulus at map size",
    ),
    "vae_round_trip": ImageCondition(
        title="VAE round trip",
        text="the stimulus through the autoencoder: no generator can be closer",
        group="oracle",
        start="stimulus",
    ),
    "random_class": ImageCondition(
        title="random class as prompt",
        text="the generator prompted with a class drawn at random",
        group="floor",
        prompt="random class",
    ),
    "mean_image": ImageCondition(
        title="mean training image", text="the mean of all training stimuli", group="floor", start="mean stimulus"
    ),
}
"""Name → condition, in the table's order."""
