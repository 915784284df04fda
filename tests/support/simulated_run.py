"""A finished run without any training: a small data set, and reconstructions drawn from slightly wrong scenes.

`full` shows the true class four times of five, near the true place and in nearly the true colours; `semantic_only`
shows the same class anywhere; `saliency_only` is the true picture, blurred and noisy. Metrics have something to find.
"""

import dataclasses
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from neuroimagen.data_shards.format.schema import ClassInfo, DatasetMetadata, SegmentRecord, StimulusRecord
from neuroimagen.data_shards.simulator.drawn_stimuli import (
    CLASSES,
    Scene,
    class_caption,
    detailed_caption,
    draw_scene,
    layout_features,
    sample_scene,
)
from neuroimagen.data_shards.writing.writer import DatasetWriter
from neuroimagen.trainer.evaluation.results import Result


@dataclasses.dataclass(frozen=True)
class Finished:
    """A run that was evaluated, and its data set."""

    run: Path
    data: Path
    results: list[Result]


STUDY = {"ceiling": {"accuracy": 0.86, "achievable": 0.83, "num_draws": 1000}, "montage": "biosemi128"}
PARTS = ("train", "train", "train", "val", "test", "test")


def make_scenes(num_images: int, *, num_classes: int, seed: int) -> list[Scene]:
    """`num_images` scenes of each class, class after class."""
    rng = np.random.default_rng(seed)
    return [sample_scene(rng, label) for label in range(num_classes) for _ in range(num_images)]


def _encoded(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


def write_dataset(
    folder: Path,
    *,
    num_images: int = 6,
    num_classes: int = 6,
    num_subjects: int = 2,
    n_channels: int = 8,
    n_samples: int = 60,
    image_size_px: int = 32,
    signal: float = 1.0,
    drift: float = 0.0,
    block_design: bool = False,
    seed: int = 0,
    channel_names: tuple[str, ...] | None = tuple(f"A{n}" for n in range(1, 9)),
) -> list[Scene]:
    """Write a data set whose EEG carries class and layout (`signal`) and slow drift (`drift`); returns its scenes."""
    scenes = make_scenes(num_images, num_classes=num_classes, seed=seed)
    rng = np.random.default_rng(seed + 1)
    time = np.linspace(0, 1, n_samples)
    waves = np.sin(
        2 * np.pi * np.outer(rng.uniform(3, 9, size=num_classes + 9), time) + rng.uniform(0, 6, (num_classes + 9, 1))
    )
    trend = np.stack([np.ones(n_samples), time - time.mean()])
    waves -= waves @ np.linalg.pinv(trend) @ trend  # nothing for a decoder of mean and slope
    patterns = rng.normal(size=(num_classes + 9, n_channels, 1)) * waves[:, None]
    metadata = DatasetMetadata(
        name="fixture",
        n_channels=n_channels,
        n_samples=n_samples,
        sfreq=n_samples / 0.44,
        classes=tuple(ClassInfo(name=item.name, wnid=item.wnid) for item in CLASSES[:num_classes]),
        channel_names=channel_names,
        split_rule="by image, every sixth",
        provenance={"study": STUDY, "files": {"eeg.pth": {"bytes": 1, "sha256": "ab" * 32}}},
    )
    with DatasetWriter(folder, metadata) as writer:
        for index, scene in enumerate(scenes):
            writer.add_stimulus(
                StimulusRecord(
                    key=f"stimulus_{index:04d}",
                    image=_encoded(draw_scene(scene, image_size_px)),
                    extension="png",
                    label=scene.class_index,
                    caption=class_caption(scene),
                    detailed_caption=detailed_caption(scene),
                )
            )
        for subject in range(1, num_subjects + 1):
            places = np.arange(len(scenes)) if block_design else rng.permutation(len(scenes))
            wander = np.cumsum(rng.normal(size=(len(scenes), n_channels)), axis=0) / np.sqrt(num_images)
            for index, scene in enumerate(scenes):
                amplitudes = np.concatenate([np.eye(num_classes)[scene.class_index] * 2, 0.4 * layout_features(scene)])
                eeg = signal * np.tensordot(amplitudes, patterns, axes=1) + rng.normal(size=(n_channels, n_samples))
                block, order = divmod(int(places[index]), num_images)
                writer.add_segment(
                    SegmentRecord(
                        eeg=(eeg + drift * wander[places[index]][:, None]).astype(np.float32),
                        stimulus=f"stimulus_{index:04d}",
                        label=scene.class_index,
                        subject=subject,
                        block=block,
                        order=order,
                        split=PARTS[index % len(PARTS)],
                    )
                )
    return scenes


def _moved(scene: Scene, rng: np.random.Generator, *, right: float, num_classes: int) -> Scene:
    """The scene as a fair model would see it: the class `right` of the time, place and size a little off."""
    label = scene.class_index if rng.random() < right else int(rng.integers(num_classes))
    return dataclasses.replace(
        scene,
        class_index=label,
        x=float(np.clip(scene.x + rng.normal(scale=0.04), 0.3, 0.7)),
        y=float(np.clip(scene.y + rng.normal(scale=0.04), 0.3, 0.7)),
        size=scene.size * float(rng.uniform(0.85, 1.15)),
    )


def _blurred(picture: np.ndarray, radius: float, rng: np.random.Generator, noise: float) -> np.ndarray:
    blurred = np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(radius)), dtype=np.float64)
    return np.clip(blurred + noise * rng.normal(size=picture.shape), 0, 255).astype(np.uint8)


def write_run(
    run: Path,
    data: Path,
    scenes: list[Scene],
    *,
    image_size_px: int = 32,
    right: float = 0.8,
    selection: str = "val",
    seed: int = 0,
    stages: bool = True,
) -> Path:
    """Write the run's stages (metrics, environment, contrastive export) and reconstructions of the test part."""
    from neuroimagen.data_shards.dataset.dataset import Dataset

    dataset = Dataset.open(data)
    num_classes = dataset.metadata.num_classes
    rng = np.random.default_rng(seed)
    mean = np.mean([draw_scene(scene, image_size_px) for scene in scenes], axis=0).astype(np.uint8)

    def drawn(scene: Scene) -> np.ndarray:
        return draw_scene(scene, image_size_px)

    def anywhere(label: int) -> Scene:
        return sample_scene(rng, label)

    rows: dict[str, Callable[[Scene, Scene], np.ndarray]] = {  # (true scene, seen scene) → picture
        "full": lambda true, seen: _blurred(drawn(seen), 0.4, rng, 6),
        "semantic_only": lambda true, seen: drawn(anywhere(seen.class_index)),
        "saliency_only": lambda true, seen: _blurred(drawn(true), image_size_px / 10, rng, 8),
        "full_detailed": lambda true, seen: _blurred(
            drawn(dataclasses.replace(seen, seed=seen.seed + 1)), 0.6, rng, 10
        ),
        "semantic_only_detailed": lambda true, seen: _blurred(drawn(anywhere(seen.class_index)), 0.6, rng, 10),
        "oracle_class": lambda true, seen: drawn(anywhere(true.class_index)),
        "random_class": lambda true, seen: drawn(anywhere(int(rng.integers(num_classes)))),
        "vae_round_trip": lambda true, seen: _blurred(drawn(true), 0.5, rng, 2),
        "perfect_saliency": lambda true, seen: _blurred(drawn(true), 0.8, rng, 4),
        "mean_image": lambda true, seen: mean,
    }
    test = dataset.rows("test")
    seen = {
        int(row): _moved(scenes[dataset.index.stimulus[row]], rng, right=right, num_classes=num_classes) for row in test
    }
    for name, draw in rows.items():
        folder = run / "reconstructions" / name
        folder.mkdir(parents=True)
        items = []
        for row in test:
            stimulus = int(dataset.index.stimulus[row])
            key = str(dataset.index.key[row])
            Image.fromarray(draw(scenes[stimulus], seen[int(row)])).save(folder / f"{key}-0.png")
            items.append(
                {
                    "segment": key,
                    "index": int(row),
                    "stimulus": dataset.stimuli.keys[stimulus],
                    "label": int(dataset.index.label[row]),
                    "subject": int(dataset.index.subject[row]),
                    "sample": 0,
                    "file": f"{key}-0.png",
                }
            )
        manifest = {
            "row": name,
            "seed": seed,
            "settings": {"strength": 0.8, "guidance": 4.0},
            "model": "0" * 16,
            "items": items,
        }
        (folder / "manifest.json").write_text(json.dumps(manifest))
    (run / "config.yaml").write_text(f"seed: {seed}\ndata:\n  path: {data}\n")
    if stages:
        _write_stages(run, dataset, selection=selection, rng=rng)
    return run


def _write_stages(run: Path, dataset: object, *, selection: str, rng: np.random.Generator) -> None:
    from neuroimagen.data_shards.dataset.dataset import Dataset
    from neuroimagen.trainer.networks.encoders.eeg_encoder import build_encoder
    from neuroimagen.trainer.networks.encoders.registry import encoder_config

    assert isinstance(dataset, Dataset)
    for stage in ("contrastive", "saliency", "semantic"):
        folder = run / stage
        folder.mkdir()
        (folder / "config.yaml").write_text("seed: 0\n")
        (folder / "environment.json").write_text(json.dumps([{"selection_split": selection, "num_ranks": 2}]))
        lines = []
        for step in range(1, 41):
            loss = float(np.exp(-step / 15) + 0.05 * rng.random())
            lines.append({"step": step, "loss": loss, "learning_rate": 1e-3})
            if step % 10 == 0:
                lines.append({"step": step, "val_loss": loss + 0.1})
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    encoder = build_encoder(
        encoder_config(feature_size=16, spatial_filters=4, temporal_filters=8, kernel_samples=5),
        n_channels=dataset.metadata.n_channels,
        n_samples=dataset.metadata.n_samples,
    )
    encoder.save_pretrained(run / "contrastive" / "export")
