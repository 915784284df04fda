"""EEG → images, and the images of the ablation, oracle and floor conditions that the figures are compared with.

    EEG → saliency map → image size → VAE encoder → noise at `strength` ┐
    EEG → semantic embedding (the U-Net's cross-attention input) ───────┴→ denoising → VAE decoder → image
    (Lan et al. 2023, §3.4)

Every random number is a function of (seed, segment, sample): a segment's image does not depend on the batch it is drawn
in, on the other segments, or on the number of devices. All conditions share their noise, so they compare in pairs.

Shapes: n images to draw, S side of the model's image in px, s side of a saliency map, C latent channels, h×w latent
size, L tokens, D width of the text encoder.
"""

import copy
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.frozen_models.model_folder import folders_digest, image_size_px
from neuroimagen.trainer.networks.eeg_unet import UNET_FOLDER
from neuroimagen.trainer.networks.pixels import from_uint8, to_uint8
from neuroimagen.trainer.reconstruction.batch_by_memory import MAX_IMAGES
from neuroimagen.trainer.reconstruction.conditions import IMAGE_CONDITIONS, Prompt, Start
from neuroimagen.trainer.reconstruction.config import ReconstructConfig
from neuroimagen.trainer.reconstruction.networks import Networks
from neuroimagen.trainer.reconstruction.noise import (
    SegmentSample,
    normal_noise,
    random_labels,
    segment_generators,
)
from neuroimagen.trainer.reconstruction.pipelines.conditioning import Conditioning
from neuroimagen.trainer.reconstruction.pipelines.generator import Generator, model_digest

Export = Literal["saliency", "semantic", "semantic_detailed", "fine_tuned"]
"""Keys of the recipe's `reconstruct` section that name a stage."""


class Reconstructor:
    """Draws the images of a run's conditions. Networks load when a condition first needs them."""

    def __init__(
        self,
        run: Path,
        dataset: Dataset,
        model: Path,
        config: ReconstructConfig,
        *,
        subjects: Sequence[int] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        """`run`: the folder with the stages' exports. `model`: a folder in diffusers' layout.

        subjects: those whose segments are drawn and whose training stimuli are averaged; None: all.
        """
        self.run = run
        self.dataset = dataset
        self.model = model
        self.config = config
        self.subjects = subjects
        self.device = torch.device(device)
        self.image_size_px = image_size_px(model)
        self.networks = Networks(
            model,
            dataset.metadata,
            device=self.device,
            dtype=getattr(torch, config.dtype),
            compile_unet=config.compile,
        )

    def with_config(self, config: ReconstructConfig) -> "Reconstructor":
        """The same under other settings. Both use the networks that either has loaded, so `dtype` and `compile` must be
        the same.
        """
        for setting in ("dtype", "compile"):
            if getattr(config, setting) != getattr(self.config, setting):
                raise UserError(f"reconstruct.{setting} cannot differ between reconstructors that share their models.")
        other = copy.copy(self)
        other.config = config
        return other

    # --- which conditions, and what decides their images -----------------------------------------------------------

    def export(self, key: Export) -> Path:
        """Folder of the exported networks of the stage that a key of the configuration names."""
        stage: str = getattr(self.config, key)
        return self.run / stage / "export"

    def needs(self, name: str) -> list[Path]:
        """The exports that a condition is drawn with."""
        condition = IMAGE_CONDITIONS[name]
        needed = []
        if condition.start in ("saliency map", "stimulus at saliency map size"):
            needed.append(self.export("saliency"))
        if condition.prompt in ("semantic", "semantic_detailed", "fine_tuned"):
            needed.append(self.export(condition.prompt))
        return needed

    def conditions(self) -> tuple[list[str], dict[str, str]]:
        """The conditions to draw, and for those left out of the default the reason.

        Raises UserError when the configuration names a condition whose stage has not been trained, or when the stages
        of `full` have not been.
        """
        missing = {
            name: f"{path} does not exist"
            for name in IMAGE_CONDITIONS
            for path in self.needs(name)
            if not path.is_dir()
        }
        if self.config.conditions is not None:
            for name in self.config.conditions:
                if name in missing:
                    raise UserError(
                        f"the condition {name} cannot be drawn: {missing[name]}. Train that stage, or leave the "
                        "condition out."
                    )
            return list(self.config.conditions), {}
        if "full" in missing:
            raise UserError(f"{self.run} cannot be reconstructed from: {missing['full']}. Train that stage first.")
        return [name for name in IMAGE_CONDITIONS if name not in missing], missing

    def settings(self, name: str) -> dict[str, object]:
        """Everything that decides a condition's images, as JSON values."""
        condition, config = IMAGE_CONDITIONS[name], self.config
        settings: dict[str, object] = {
            "seed": config.seed,
            "split": config.split,
            "subjects": None if self.subjects is None else list(self.subjects),
            "samples": self.num_samples(name),
            "image_size_px": self.image_size_px,
            "data": self.dataset.digest,
            "exports": {path.parent.name: folders_digest(path)[:16] for path in self.needs(name)},
        }
        if condition.prompt is not None:
            settings |= {"steps": config.steps, "scheduler": config.scheduler, "guidance": config.guidance}
            settings |= {"strength": config.strength if condition.start else 1.0, "dtype": config.dtype}
        if condition.prompt == "fine_tuned":
            settings["unet_digest"] = folders_digest(self.export("fine_tuned") / UNET_FOLDER)[:16]
        if condition.prompt is not None or name == "vae_round_trip":
            settings |= {"model": self.model.resolve().name, "model_digest": model_digest(self.model)}
        return settings

    def num_samples(self, name: str) -> int:
        """Images per segment: one where nothing is random."""
        random = IMAGE_CONDITIONS[name].prompt is not None or IMAGE_CONDITIONS[name].start == "saliency map"
        return self.config.samples if random else 1

    def segment_samples(self, name: str) -> list[SegmentSample]:
        """The images of a condition: segment after segment, sample after sample.

        Raises UserError when the split has no segments of the subjects.
        """
        rows = self.dataset.rows(self.config.split, self.subjects)
        if len(rows) == 0:
            raise UserError(
                f"the data set has no {self.config.split} segments of subjects {self.subjects or 'all'}. Choose "
                "another reconstruct.split, or other data.subjects."
            )
        return [SegmentSample(row=int(row), sample=sample) for row in rows for sample in range(self.num_samples(name))]

    def batch_size(self, name: str) -> int:
        """Images of a condition to draw at once: as configured, else by the memory that is free now."""
        if self.config.batch_size is not None:
            return self.config.batch_size
        if IMAGE_CONDITIONS[name].prompt is None:
            return MAX_IMAGES
        return self._diffusion_of(name).largest_batch_size(
            guidance=self.config.guidance, scheduler=self.config.scheduler
        )

    # --- drawing ---------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def draw(self, name: str, items: Sequence[SegmentSample]) -> np.ndarray:
        """Images of a condition, uint8 [n, 3, S, S]."""
        condition, config = IMAGE_CONDITIONS[name], self.config
        start = self._start(condition.start, items) if condition.start else None
        if condition.prompt is None:
            assert start is not None
            if condition.start == "stimulus":
                start = self.diffusion.decode(self.diffusion.encode(start))
            return to_uint8(start)
        latents = self._diffusion_of(name).denoise(
            segment_generators(config.seed, "diffusion", items),
            self._conditioning(condition.prompt, items),
            steps=config.steps,
            guidance=config.guidance,
            scheduler=config.scheduler,
            start=None if start is None else self.diffusion.encode(start),
            strength=config.strength,
        )
        return to_uint8(self.diffusion.decode(latents))

    def saliency_maps(self, items: Sequence[SegmentSample]) -> Tensor:
        """Saliency maps [n, 3, s, s] in [-1, 1]."""
        model = self.networks.saliency(self.export("saliency"))
        z = normal_noise(self.config.seed, "saliency", items, (model.noise_size,))
        return model(self._eeg(items), z.to(self.device), self._subjects(items))

    def _start(self, kind: Start, items: Sequence[SegmentSample]) -> Tensor:
        """The images that denoising starts from, [n, 3, S, S] in [-1, 1]."""
        if kind == "saliency map":
            return resize(self.saliency_maps(items), self.image_size_px)
        if kind == "mean stimulus":
            return self._mean_stimulus.expand(len(items), -1, -1, -1)
        size_px = self.image_size_px
        if kind == "stimulus at saliency map size":
            size_px = self.networks.saliency(self.export("saliency")).image_size_px
        images = self.dataset.stimuli.images(self.dataset.index.stimulus[_rows(items)], size_px)
        return resize(from_uint8(torch.from_numpy(images)).to(self.device), self.image_size_px)

    def _conditioning(self, prompt: Prompt, items: Sequence[SegmentSample]) -> Conditioning:
        """What conditions the U-Net."""
        if prompt in ("semantic", "semantic_detailed", "fine_tuned"):
            model = self.networks.semantic(self.export(prompt))
            text, pooled = model.condition(self._eeg(items), self._subjects(items))
            return Conditioning(text=text, pooled=pooled)
        if prompt == "true class":
            labels = self.dataset.index.label[_rows(items)].tolist()
        else:
            labels = random_labels(self.config.seed, items, sorted(self._class_captions))
        captions, places = np.unique([self._class_captions[label] for label in labels], return_inverse=True)
        said, rows = self.diffusion.prompt(captions.tolist()), torch.from_numpy(places).to(self.device)
        assert said.text is not None
        return Conditioning(text=said.text[rows], pooled=None if said.pooled is None else said.pooled[rows])

    @property
    def diffusion(self) -> Generator:
        """The frozen model with its own U-Net."""
        return self.networks.diffusion()

    def _diffusion_of(self, name: str) -> Generator:
        if IMAGE_CONDITIONS[name].prompt == "fine_tuned":
            return self.networks.diffusion(self.export("fine_tuned") / UNET_FOLDER)
        return self.diffusion

    def _eeg(self, items: Sequence[SegmentSample]) -> Tensor:
        """EEG float32 [n, channels, samples]."""
        return torch.from_numpy(np.stack([self.dataset.eeg(item.row) for item in items])).to(self.device)

    def _subjects(self, items: Sequence[SegmentSample]) -> Tensor:
        """int64 [n]."""
        return torch.from_numpy(self.dataset.index.subject[_rows(items)].astype(np.int64)).to(self.device)

    @cached_property
    def _mean_stimulus(self) -> Tensor:
        """The mean of the stimuli of the training split, each counted once: [1, 3, S, S] in [-1, 1]."""
        stimuli = np.unique(self.dataset.index.stimulus[self.dataset.rows("train", self.subjects)])
        total = torch.zeros(3, self.image_size_px, self.image_size_px, dtype=torch.float64)
        for start in range(0, len(stimuli), 64):
            images = self.dataset.stimuli.images(stimuli[start : start + 64], self.image_size_px)
            total += torch.from_numpy(images).double().sum(0)
        return from_uint8(total / len(stimuli)).to(self.device)[None]

    @cached_property
    def _class_captions(self) -> dict[int, str]:
        """Label → caption, of the classes that have a stimulus: that of the first stimulus of the class."""
        stimuli = self.dataset.stimuli
        return dict(zip(stimuli.labels.tolist()[::-1], stimuli.captions[::-1], strict=True))


def _rows(items: Sequence[SegmentSample]) -> np.ndarray:
    """Rows of the index, int64 [n]."""
    return np.array([item.row for item in items], dtype=np.int64)


def resize(images: Tensor, size_px: int) -> Tensor:
    """Images [n, 3, s, s] → [n, 3, size_px, size_px], bilinear with antialiasing."""
    if images.shape[-1] == size_px:
        return images
    return F.interpolate(images, size=(size_px, size_px), mode="bilinear", align_corners=False, antialias=True)
