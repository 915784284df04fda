"""A small study of three people. The EEG is a linear map of the stimulus's image embedding, and the third subject's
channels are a rotation of the others'.
"""

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image

NUM_CLASSES, N_CHANNELS, N_SAMPLES, SFREQ = 4, 12, 20, 100.0
NEW = 3
"""The subject whose channels are rotated."""
INTERVAL_S = 0.5
"""From one onset to the next."""
SPLITS = ("train", "train", "train", "val", "test")

RECIPE = """
seed: 1
data: {{path: "{data}", subjects: [1, 2]}}
model: {{path: "{model}"}}
encoder:
  {{feature_size: 16, spatial_filters: 12, temporal_filters: 8, kernel_samples: 5, stride_samples: 2, dropout: 0.0,
  whiten: false}}
contrastive:
  {{num_classes: 4, num_samples: 8, steps: 60, learning_rate: 5e-3, warmup_steps: 2, log_every: 30, validate_every: 30,
  checkpoint_every: 60}}
alignment:
  {{batch_size: 64, steps: 100, learning_rate: 5e-3, warmup_steps: 2, log_every: 50, validate_every: 50,
  checkpoint_every: 100, head: linear, head_dropout: 0.0}}
classifier:
  {{batch_size: 32, steps: 40, learning_rate: 5e-3, warmup_steps: 2, validate_every: 40, checkpoint_every: 40}}
"""


def rotation() -> np.ndarray:
    """Each second channel takes the place of the one before it, which takes its place with the sign changed."""
    matrix = np.zeros((N_CHANNELS, N_CHANNELS))
    for first in range(0, N_CHANNELS, 2):
        matrix[first, first + 1], matrix[first + 1, first] = -1.0, 1.0
    return matrix


def write_new_subject_study(
    out: Path,
    model: Path,
    *,
    num_stimuli: int = 120,
    onsets: bool = True,
    split_of_new: str | None = None,
    repeated: int = 0,
    shift: int = 0,
) -> Path:
    """The data set with latents of kind `image` in place of the tiny model's.

    onsets: whether the index says when segments were recorded. split_of_new: the split of all the new subject's
    segments; None: that of the stimulus. repeated: test stimuli that the new subject also saw in the training split.
    shift: another number divides the stimuli otherwise.
    """
    from neuroimagen.data_shards.dataset.dataset import Dataset
    from neuroimagen.data_shards.dataset.latent_format import SHARD_ITEMS, LatentMetadata
    from neuroimagen.data_shards.dataset.latent_items import LatentItems
    from neuroimagen.data_shards.format.schema import ClassInfo, DatasetMetadata, SegmentRecord, StimulusRecord
    from neuroimagen.data_shards.frozen_models.latent_kinds import latent_kind
    from neuroimagen.data_shards.frozen_models.model_folder import ModelFolders
    from neuroimagen.data_shards.latent_cache.write import LatentWriter
    from neuroimagen.data_shards.writing.writer import DatasetWriter

    rng = np.random.default_rng(0)
    identity = latent_kind("image").identity(ModelFolders(model=model))
    labels = np.arange(num_stimuli) % NUM_CLASSES
    splits = [SPLITS[(number // NUM_CLASSES + shift) % len(SPLITS)] for number in range(num_stimuli)]
    embeddings = 2 * rng.standard_normal((NUM_CLASSES, *identity.shape))[labels]
    embeddings += rng.standard_normal((num_stimuli, *identity.shape))
    topographies = rng.standard_normal((N_CHANNELS, 2, *identity.shape)) / 3
    courses = np.stack([np.linspace(-1, 1, N_SAMPLES), np.cos(np.linspace(0, 6, N_SAMPLES))])
    metadata = DatasetMetadata(
        name="new-subject",
        n_channels=N_CHANNELS,
        n_samples=N_SAMPLES,
        sfreq=SFREQ,
        classes=tuple(ClassInfo(name=f"class {label}") for label in range(NUM_CLASSES)),
    )
    keys = [f"stimulus_{number:03d}" for number in range(num_stimuli)]
    with DatasetWriter(out, metadata) as writer:
        for number, label in enumerate(labels.tolist()):
            buffer = io.BytesIO()
            pixels = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(buffer, format="PNG")
            writer.add_stimulus(
                StimulusRecord(key=keys[number], image=buffer.getvalue(), extension="png", label=label, caption="one")
            )
        for subject in (1, 2, NEW):
            shown = [(number, splits[number]) for number in rng.permutation(num_stimuli).tolist()]
            if subject == NEW:
                shown = [(number, split_of_new or split) for number, split in shown]
                tested = [number for number, split in shown if split == "test"][:repeated]
                shown += [(number, "train") for number in tested]
            for place, (number, split) in enumerate(shown):
                amplitudes = topographies @ embeddings[number]  # [C, 2]
                eeg = amplitudes @ courses + 0.5 * rng.standard_normal((N_CHANNELS, N_SAMPLES)) + 1.0
                writer.add_segment(
                    SegmentRecord(
                        eeg=(rotation() @ eeg if subject == NEW else eeg).astype(np.float32),
                        stimulus=keys[number],
                        label=int(labels[number]),
                        subject=subject,
                        split=split,
                        recording=f"recording-{subject}" if onsets else "",
                        onset_s=place * INTERVAL_S + 60 * (place // 50) if onsets else float("nan"),
                    )
                )
    dataset = Dataset.open(out)
    items = LatentItems.of(dataset.stimuli, "image")
    latents = LatentMetadata(
        kind="image",
        model_id=identity.model_id,
        revision=identity.revision,
        preprocessing=identity.preprocessing,
        shape=identity.shape,
        dtype="float32",
        inputs=items.digest,
        shard_items=SHARD_ITEMS,
        scaling_factor=identity.scaling_factor,
    )
    writer_of_latents = LatentWriter(out / "latents", latents, items)
    by_key = dict(zip(keys, torch.from_numpy(embeddings).float(), strict=True))
    stored = torch.stack([by_key[key] for key in dataset.stimuli.keys])
    for shard in writer_of_latents.pending():
        rows = writer_of_latents.rows(shard)
        writer_of_latents.write(shard, stored[rows.start : rows.stop])
    writer_of_latents.finish()
    return out


def train_run(folder: Path, data: Path, model: Path) -> Path:
    """A run of the contrastive, alignment and classifier stage, without the new subject. Needs `one_rank`."""
    from train_here import train_in_process

    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE.format(data=data, model=model), encoding="utf-8")
    for stage in ("contrastive", "alignment", "classifier"):
        train_in_process(recipe, stage, folder / "run")
    return folder / "run"


def write_untrained_run(run: Path, data: Path, model: Path, **encoder: object) -> Path:
    """The exports of the same stages with random weights, as of a run without the new subject."""
    import json

    from neuroimagen.data_shards.frozen_models.latent_kinds import latent_kind
    from neuroimagen.data_shards.frozen_models.model_folder import ModelFolders
    from neuroimagen.trainer.networks.alignment import AlignmentModel
    from neuroimagen.trainer.networks.classifier import ClassifierModel
    from neuroimagen.trainer.networks.encoders.eeg_encoder import build_encoder
    from neuroimagen.trainer.networks.encoders.registry import encoder_config

    torch.manual_seed(0)
    config = encoder_config(feature_size=16, spatial_filters=4, temporal_filters=8, kernel_samples=5, **encoder)
    made = build_encoder(config, n_channels=N_CHANNELS, n_samples=N_SAMPLES, subjects=(1, 2))
    (size,) = latent_kind("image").identity(ModelFolders(model=model)).shape
    networks = {
        "contrastive": made,
        "classifier": ClassifierModel(encoder=made.config, num_classes=NUM_CLASSES),
        "alignment": AlignmentModel(
            encoder=made.config,
            embedding_sizes={"image": size},
            head="linear",
            head_dropout=0.0,
            centre_targets=True,
            logit_scale=10.0,
            learn_logit_scale=True,
        ),
    }
    recipe = RECIPE.format(data=data, model=model)
    for stage, network in networks.items():
        network.save_pretrained(run / stage / "export")
        (run / stage / "environment.json").write_text(json.dumps([{"selection_split": "val", "num_ranks": 1}]))
        (run / stage / "config.yaml").write_text(recipe, encoding="utf-8")
    (run / "config.yaml").write_text(recipe, encoding="utf-8")
    return run
