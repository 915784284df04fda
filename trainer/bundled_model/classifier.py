"""The classifier of the bundled model, which scores reconstructions."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import ResNetConfig, ResNetForImageClassification

from neuroimagen.data_shards.simulator.drawn_stimuli import CLASSES
from neuroimagen.trainer.bundled_model.fitting import fast_matmul, fit
from neuroimagen.trainer.bundled_model.image_processor import write_image_processor
from neuroimagen.trainer.bundled_model.training_stimuli import TrainingStimuli


def train_classifier(stimuli: TrainingStimuli, folder: Path, *, steps: int, seed: int) -> None:
    """A small ResNet over the classes. It shares no weights with the components whose images it scores."""
    config = ResNetConfig(
        num_channels=3,
        embedding_size=24,
        hidden_sizes=[24, 48, 72, 96],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        id2label={i: c.wnid for i, c in enumerate(CLASSES)},
        label2id={c.wnid: i for i, c in enumerate(CLASSES)},
    )
    model = ResNetForImageClassification(config)
    generator = torch.Generator().manual_seed(seed)

    def loss_of(index: Tensor) -> Tensor:
        images = stimuli.scaled(index)
        # The images it will score come out of a VAE and a sampler: noise and blur keep it from relying on clean edges.
        noise = torch.randn(images.shape, generator=generator) * torch.rand(len(index), 1, 1, 1, generator=generator)
        blurred = F.interpolate(F.avg_pool2d(images, 4), scale_factor=4, mode="bilinear")
        share = torch.rand(len(index), 1, 1, 1, generator=generator) ** 2
        images = images * (1 - share) + blurred * share + 0.2 * noise
        with fast_matmul():
            logits = model(pixel_values=images).logits
        return F.cross_entropy(logits.float(), stimuli.labels[index], label_smoothing=0.05)

    fit(
        "classifier",
        list(model.parameters()),
        loss_of,
        count=len(stimuli.labels),
        batch_size=128,
        steps=steps,
        learning_rate=2e-3,
        seed=seed,
    )
    model.save_pretrained(folder)
    write_image_processor(folder)
