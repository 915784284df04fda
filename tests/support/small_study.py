"""A small study whose EEG tells class and layout, its cached latents, and a recipe of a few steps for every stage."""

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image

NUM_CLASSES = 4
N_CHANNELS, N_SAMPLES = 8, 40
TEXT_KINDS = ("text-class", "text-detailed")
PICTURE_KINDS = ("vae", "image")


def write_study(out: Path, *, num_stimuli: int = 64, block_size: int | None = None) -> Path:
    """Two subjects see every stimulus; class and layout are written into the EEG as ramps on their own channels.

    `block_size`: stimuli a block, in the order of the stimuli; None: the order of recording is not known.
    """
    from neuroimagen.data_shards.format.schema import ClassInfo, DatasetMetadata, SegmentRecord, StimulusRecord
    from neuroimagen.data_shards.simulator import drawn_stimuli as stimuli
    from neuroimagen.data_shards.writing.writer import DatasetWriter

    rng = np.random.default_rng(0)
    classes = stimuli.CLASSES[:NUM_CLASSES]
    mixing = rng.standard_normal((N_CHANNELS, NUM_CLASSES + 9))
    courses = rng.standard_normal((NUM_CLASSES + 9, N_SAMPLES))
    metadata = DatasetMetadata(
        name="small",
        n_channels=N_CHANNELS,
        n_samples=N_SAMPLES,
        sfreq=100.0,
        classes=tuple(ClassInfo(name=item.name, wnid=item.wnid) for item in classes),
    )
    with DatasetWriter(out, metadata) as writer:
        for number in range(num_stimuli):
            label = number % NUM_CLASSES
            scene = stimuli.sample_scene(rng, label)
            buffer = io.BytesIO()
            Image.fromarray(stimuli.draw_scene(scene, 32)).save(buffer, format="PNG")
            key = f"{classes[label].wnid}_{number}"
            writer.add_stimulus(
                StimulusRecord(
                    key=key,
                    image=buffer.getvalue(),
                    extension="png",
                    label=label,
                    caption=stimuli.class_caption(scene),
                    detailed_caption=stimuli.detailed_caption(scene),
                )
            )
            amplitudes = np.concatenate([2.0 * np.eye(NUM_CLASSES)[label], 0.5 * stimuli.layout_features(scene)])
            block, order = (-1, -1) if block_size is None else divmod(number, block_size)
            for subject in (1, 2):
                eeg = (mixing * amplitudes) @ courses + rng.standard_normal((N_CHANNELS, N_SAMPLES)) + 3.0
                split = ("train", "train", "train", "val", "test")[number // NUM_CLASSES % 5]
                writer.add_segment(
                    SegmentRecord(
                        eeg=eeg.astype(np.float32),
                        stimulus=key,
                        label=label,
                        subject=subject,
                        split=split,
                        block=block,
                        order=order,
                    )
                )
    return out


def write_latents(folder: Path, model: Path, *, kinds: tuple[str, ...] = (*TEXT_KINDS, *PICTURE_KINDS)) -> None:
    """Random latents in place of encoders', one a distinct caption or picture; hidden states' first position is
    constant.
    """
    from neuroimagen.data_shards.dataset.dataset import Dataset
    from neuroimagen.data_shards.dataset.latent_format import SHARD_ITEMS, LatentMetadata
    from neuroimagen.data_shards.dataset.latent_items import LatentItems
    from neuroimagen.data_shards.frozen_models.latent_kinds import latent_kind
    from neuroimagen.data_shards.frozen_models.model_folder import ModelFolders
    from neuroimagen.data_shards.latent_cache.write import LatentWriter

    dataset = Dataset.open(folder)
    for kind in kinds:
        identity = latent_kind(kind).identity(ModelFolders(model=model))
        items = LatentItems.of(dataset.stimuli, kind)
        metadata = LatentMetadata(
            kind=kind,
            model_id=identity.model_id,
            revision=identity.revision,
            preprocessing=identity.preprocessing,
            shape=identity.shape,
            dtype="float32",
            inputs=items.digest,
            shard_items=SHARD_ITEMS,
            scaling_factor=identity.scaling_factor,
        )
        writer = LatentWriter(folder / "latents", metadata, items)
        generator = torch.Generator().manual_seed(1)
        states = 5.0 + torch.randn(len(items.keys), *identity.shape, generator=generator)
        if kind in TEXT_KINDS:
            states[:, 0] = 7.0
        for shard in writer.pending():
            rows = writer.rows(shard)
            writer.write(shard, states[rows.start : rows.stop])
        writer.finish()


RECIPE = """
seed: 1
data: {{path: "{data}"}}
model: {{path: "{model}"}}
encoder:
  {{feature_size: 16, spatial_filters: 8, temporal_filters: 8, kernel_samples: 5, stride_samples: 2, dropout: 0.1}}
contrastive:
  {{num_classes: 4, num_samples: 4, steps: 20, warmup_steps: 2, log_every: 5, validate_every: 10, checkpoint_every: 10,
  ema_decay: 0.9, augment: {{shift_samples: 2, scale_std: 0.1, drop_channels: 0.1}}}}
saliency:
  {{batch_size: 8, steps: 4, warmup_steps: 1, log_every: 2, validate_every: 2, checkpoint_every: 2, image_size_px: 16,
  noise_size: 8, generator_width: 32, generator_hidden_size: 32, discriminator_width: 16, pixel_weight: 1.0}}
semantic:
  {{batch_size: 16, hidden_size: 64, steps: 40, learning_rate: 5e-3, warmup_steps: 2, log_every: 5, validate_every: 10,
  checkpoint_every: 10}}
semantic_detailed: {{batch_size: 8, hidden_size: 32, steps: 4, validate_every: 4, checkpoint_every: 4}}
masked: {{batch_size: 16, decoder_width: 32, steps: 30, learning_rate: 3e-3, warmup_steps: 2, validate_every: 10,
  checkpoint_every: 10}}
classifier: {{batch_size: 16, steps: 40, warmup_steps: 2, validate_every: 10, checkpoint_every: 10}}
alignment: {{batch_size: 16, steps: 20, warmup_steps: 2, log_every: 5, validate_every: 10, checkpoint_every: 10}}
prior: {{batch_size: 16, sizes: [32, 16], time_size: 16, num_layers: 1, num_heads: 2, head_width: 8, steps: 20,
  warmup_steps: 2, log_every: 5, validate_every: 10, checkpoint_every: 10, sampling_steps: 5}}
vae_latent: {{batch_size: 16, grid_size: 4, head_width: 16, steps: 20, learning_rate: 3e-3, warmup_steps: 2,
  log_every: 5, validate_every: 10, checkpoint_every: 10}}
diffusion: {{batch_size: 8, steps: 6, warmup_steps: 1, validate_every: 3, checkpoint_every: 3, ema_decay: 0.9}}
"""

TRANSFORMER = ("encoder.kind=transformer", "encoder.width=32", "encoder.heads=2", "encoder.depth=2")
"""What to change in it for the masked stage, which trains this kind alone."""
