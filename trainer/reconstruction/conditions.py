"""The conditions that images are drawn under: the model, its ablations, and the oracles and floors beside them."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Prompt = Literal["semantic", "semantic_detailed", "fine_tuned", "true class", "random class"]
Start = Literal["saliency map", "stimulus at saliency map size", "stimulus", "mean stimulus"]


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


IMAGE_CONDITIONS: Mapping[str, ImageCondition] = {
    "full": ImageCondition(
        title="class caption + saliency",
        text="the model: semantic embedding and saliency map",
        group="model",
        prompt="semantic",
        start="saliency map",
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
    "full_detailed": ImageCondition(
        title="detailed caption + saliency",
        text="as the model, with the embedding trained on captions of the single image (as BLIP writes them)",
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
