"""Drawn stimuli and their captions, as the bundled model's training takes them."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import CLIPTokenizer

from neuroimagen.data_shards.simulator.drawn_stimuli import (
    CLASSES,
    class_caption,
    detailed_caption,
    draw_scene,
    sample_scene,
)

SIZE_PX = 64
MAX_TOKENS = 32


@dataclass(frozen=True)
class TrainingStimuli:
    """Images of drawn stimuli with their captions."""

    images: Tensor
    """uint8 [n, 3, SIZE_PX, SIZE_PX]."""
    labels: Tensor
    """int64 [n]."""
    class_captions: list[str]
    detailed_captions: list[str]

    def scaled(self, index: Tensor) -> Tensor:
        """The images at an index, float32 in [-1, 1], [len(index), 3, SIZE_PX, SIZE_PX]."""
        return self.images[index].float().div_(127.5).sub_(1.0)


def draw_stimuli(count: int, *, seed: int) -> TrainingStimuli:
    """`count` random scenes, the classes in turn."""
    rng = np.random.default_rng(seed)
    scenes = [sample_scene(rng, i % len(CLASSES)) for i in range(count)]
    images = np.stack([draw_scene(scene, SIZE_PX) for scene in scenes])
    return TrainingStimuli(
        images=torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(),
        labels=torch.tensor([scene.class_index for scene in scenes]),
        class_captions=[class_caption(scene) for scene in scenes],
        detailed_captions=[detailed_caption(scene) for scene in scenes],
    )


def tokenize(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """Token ids int64 [n, MAX_TOKENS] of captions, padded as Stable Diffusion pads them."""
    encoded = tokenizer(captions, padding="max_length", truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
    return encoded.input_ids
