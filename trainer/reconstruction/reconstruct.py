"""EEG → pictures, with the ablation, oracle and floor rows that show where the figures come from.

    EEG → saliency map → image size → VAE encoder → noise at `strength` ┐
    EEG → semantic embedding (the U-Net's cross-attention input) ───────┴→ denoising → VAE decoder → picture
    (Lan et al. 2023, §3.4)

Every random number is a function of (seed, segment, sample): a segment's picture does not depend on the batch it is
drawn in, on the other segments, or on the number of devices. All rows share their noise, so they compare in pairs.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.format.schema import segment_key
from neuroimagen.data_shards.frozen_models.model_folder import folders_digest, image_size_px
from neuroimagen.trainer.networks.eeg_unet import UNET_FOLDER
from neuroimagen.trainer.networks.encoders.eeg_encoder import EEGEncoder
from neuroimagen.trainer.networks.gan import SaliencyModel
from neuroimagen.trainer.networks.pixels import from_uint8, to_uint8
from neuroimagen.trainer.networks.randomness import derive_seed
from neuroimagen.trainer.networks.semantic import SemanticModel
from neuroimagen.trainer.reconstruction.batch_by_memory import MAX_PICTURES
from neuroimagen.trainer.reconstruction.latent_diffusion import (
    LatentDiffusion,
    SchedulerName,
    load_latent_diffusion,
    model_digest,
    num_denoising_steps,
)


@dataclass(frozen=True, kw_only=True)
class RowSpec:
    """How a row's pictures come about."""

    prompt: Literal["semantic", "semantic_detailed", "fine_tuned", "true class", "random class"] | None = None
    """What conditions the U-Net; None: no denoising. `fine_tuned`: the diffusion stage's hidden states, its U-Net."""
    start: Literal["map", "stimulus at map size", "stimulus", "mean stimulus"] | None = None
    """The picture that denoising starts from, or that stands for itself; None: pure noise."""


ROWS: Mapping[str, RowSpec] = {
    "full": RowSpec(prompt="semantic", start="map"),
    "semantic_only": RowSpec(prompt="semantic"),
    "saliency_only": RowSpec(start="map"),
    "full_detailed": RowSpec(prompt="semantic_detailed", start="map"),
    "semantic_only_detailed": RowSpec(prompt="semantic_detailed"),
    "fine_tuned": RowSpec(prompt="fine_tuned"),
    "full_fine_tuned": RowSpec(prompt="fine_tuned", start="map"),
    "oracle_class": RowSpec(prompt="true class"),
    "random_class": RowSpec(prompt="random class"),
    "perfect_saliency": RowSpec(prompt="true class", start="stimulus at map size"),
    "vae_round_trip": RowSpec(start="stimulus"),
    "mean_image": RowSpec(start="mean stimulus"),
}
RowName = Literal[
    "full",
    "semantic_only",
    "saliency_only",
    "full_detailed",
    "semantic_only_detailed",
    "fine_tuned",
    "full_fine_tuned",
    "oracle_class",
    "random_class",
    "perfect_saliency",
    "vae_round_trip",
    "mean_image",
]


@dataclass(frozen=True, kw_only=True)
class ReconstructConfig:
    """The recipe's `reconstruct` section."""

    split: Literal["val", "test"] = "test"
    """The part whose segments are reconstructed. Choose settings on val; test is for the report."""
    rows: tuple[RowName, ...] | None = None
    """Which rows to make; null: all that the run's exports allow."""
    samples: int = 1
    """Pictures a segment, each from noise of its own."""
    strength: float = 0.75
    """Share of the noise schedule that the saliency map is pushed up before denoising: 1 forgets it, 0 keeps it."""
    guidance: float = 5.0
    """Scale of classifier-free guidance; 1: none."""
    steps: int = 20
    """Timesteps of the schedule; strength × steps of them are taken from a saliency map."""
    scheduler: SchedulerName = "dpm-solver++"
    seed: int = 0
    """Of the noise."""
    batch_size: int | None = None
    """Pictures drawn at once on a device; null: 32, or fewer where a GPU's free memory says so. Changes speed, and
    the pictures by rounding only.
    """
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the U-Net; VAE and text encoder stay in float32."""
    compile: bool = False
    """torch.compile the U-Net and the VAE's decoder: worth its minutes where a GPU draws many pictures. Needs a C++
    compiler or a GPU's Triton. Changes speed, and the pictures by rounding only.
    """
    saliency: str = "saliency"
    """The run's stage that makes saliency maps."""
    semantic: str = "semantic"
    """The run's stage that predicts hidden states of class captions."""
    semantic_detailed: str = "semantic_detailed"
    """The run's stage that predicts hidden states of detailed captions, if there is one."""
    fine_tuned: str = "diffusion"
    """The run's stage that fine-tuned the U-Net, if there is one."""

    def __post_init__(self) -> None:
        for name in ("samples", "steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"reconstruct.{name} must be at least 1, got {getattr(self, name)}")
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"reconstruct.batch_size must be at least 1, or null, got {self.batch_size}")
        if not 0.0 < self.strength <= 1.0:
            raise ValueError(f"reconstruct.strength must lie in (0, 1], got {self.strength}")
        if num_denoising_steps(self.steps, self.strength) < 1:
            raise ValueError(
                f"reconstruct.strength {self.strength} × reconstruct.steps {self.steps} leaves no denoising step; "
                "raise one of them"
            )
        if self.guidance < 1.0:
            raise ValueError(f"reconstruct.guidance must be at least 1 (no guidance), got {self.guidance}")


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One picture to draw: for a segment (a row of the index) and the number of the sample."""

    row: int
    sample: int = 0


class Reconstructor:
    """Draws pictures of a run's rows. Models load when a row first needs them."""

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
        """`run`: the folder with the stages' exports. `model`: a folder in diffusers' layout."""
        self.run = run
        self.dataset = dataset
        self.model = model
        self.config = config
        self.subjects = subjects
        self.device = torch.device(device)
        self.image_size_px = image_size_px(model)
        self._loaded: dict[str | Path, Any] = {}

    def with_config(self, config: ReconstructConfig) -> "Reconstructor":
        """The same under other settings. Both use the models that either has loaded, so `dtype` and `compile` must be
        the same."""
        for setting in ("dtype", "compile"):
            if getattr(config, setting) != getattr(self.config, setting):
                raise UserError(f"reconstruct.{setting} cannot differ between reconstructors that share their models.")
        other = copy.copy(self)
        other.config = config
        return other

    def _load(self, key: str | Path, load: Callable[[], Any]) -> Any:
        """What `load` gives, once for each key."""
        if key not in self._loaded:
            self._loaded[key] = load()
        return self._loaded[key]

    def export(self, part: Literal["saliency", "semantic", "semantic_detailed", "fine_tuned"]) -> Path:
        """Folder of the exported networks of a stage."""
        names = {
            "saliency": self.config.saliency,
            "semantic": self.config.semantic,
            "semantic_detailed": self.config.semantic_detailed,
            "fine_tuned": self.config.fine_tuned,
        }
        return self.run / names[part] / "export"

    def needs(self, name: str) -> list[Path]:
        """The exports that a row is drawn with."""
        spec = ROWS[name]
        needed = []
        if spec.start in ("map", "stimulus at map size"):
            needed.append(self.export("saliency"))
        if spec.prompt in ("semantic", "semantic_detailed", "fine_tuned"):
            needed.append(self.export(spec.prompt))
        return needed

    def rows(self) -> tuple[list[str], dict[str, str]]:
        """The rows to make, and for those left out of the default the reason.

        Raises UserError when the configuration names a row whose stage has not been trained, or when nothing has been.
        """
        missing = {name: f"{path} does not exist" for name in ROWS for path in self.needs(name) if not path.is_dir()}
        if self.config.rows is not None:
            for name in self.config.rows:
                if name in missing:
                    raise UserError(
                        f"row {name} cannot be made: {missing[name]}. Train that stage, or leave the row out."
                    )
            return list(self.config.rows), {}
        if "full" in missing:
            raise UserError(f"{self.run} cannot be reconstructed from: {missing['full']}. Train that stage first.")
        return [name for name in ROWS if name not in missing], missing

    def settings(self, name: str) -> dict[str, object]:
        """Everything that decides a row's pictures, as JSON values."""
        spec, config = ROWS[name], self.config
        settings: dict[str, object] = {
            "seed": config.seed,
            "split": config.split,
            "subjects": None if self.subjects is None else list(self.subjects),
            "samples": self.num_samples(name),
            "image_size_px": self.image_size_px,
            "data": self.dataset.digest,
            "exports": {path.parent.name: folders_digest(path)[:16] for path in self.needs(name)},
        }
        if spec.prompt is not None:
            settings |= {"steps": config.steps, "scheduler": config.scheduler, "guidance": config.guidance}
            settings |= {"strength": config.strength if spec.start else 1.0, "dtype": config.dtype}
        if spec.prompt == "fine_tuned":
            settings["unet_digest"] = folders_digest(self.export("fine_tuned") / UNET_FOLDER)[:16]
        if spec.prompt is not None or name == "vae_round_trip":
            settings |= {"model": self.model.resolve().name, "model_digest": model_digest(self.model)}
        return settings

    def num_samples(self, name: str) -> int:
        """Pictures a segment: one where nothing is random."""
        random = ROWS[name].prompt is not None or ROWS[name].start == "map"
        return self.config.samples if random else 1

    def pictures(self, name: str) -> list[Picture]:
        """What a row consists of: segment after segment, sample after sample."""
        rows = self.dataset.rows(self.config.split, self.subjects)
        if len(rows) == 0:
            raise UserError(f"the data set has no {self.config.split} segments of subjects {self.subjects or 'all'}.")
        return [Picture(row=int(row), sample=sample) for row in rows for sample in range(self.num_samples(name))]

    def batch_size(self, name: str) -> int:
        """Pictures of a row to draw at once: as configured, else by the memory that is free now."""
        if self.config.batch_size is not None:
            return self.config.batch_size
        if ROWS[name].prompt is None:
            return MAX_PICTURES
        return self._diffusion_of(name).largest_batch_size(
            guidance=self.config.guidance, scheduler=self.config.scheduler
        )

    @torch.inference_mode()
    def draw(self, name: str, pictures: Sequence[Picture]) -> np.ndarray:
        """Pictures of a row, uint8 [n, 3, S, S]."""
        spec, config = ROWS[name], self.config
        rows = np.array([picture.row for picture in pictures])
        start = self._start(spec.start, pictures, rows) if spec.start else None
        if spec.prompt is None:
            assert start is not None
            if spec.start == "stimulus":
                start = self.diffusion.decode(self.diffusion.encode(start))
            return to_uint8(start)
        latents = self._diffusion_of(name).denoise(
            self.noise(pictures),
            self._hidden(spec.prompt, pictures, rows),
            steps=config.steps,
            guidance=config.guidance,
            scheduler=config.scheduler,
            start=None if start is None else self.diffusion.encode(start),
            strength=config.strength,
        )
        return to_uint8(self.diffusion.decode(latents))

    def noise(self, pictures: Sequence[Picture]) -> Tensor:
        """Standard normal float32 [n, C, h, w]; each from its own generator on the CPU."""
        return self._normal("diffusion", pictures, self.diffusion.latent_shape)

    def maps(self, pictures: Sequence[Picture]) -> Tensor:
        """Saliency maps [n, 3, s, s] in [-1, 1], s the size that the generator draws."""
        rows = [picture.row for picture in pictures]
        z = self._normal("saliency", pictures, (self.saliency_model.noise_size,))
        return self.saliency_model(self._eeg(rows), z.to(self.device), self._subjects(rows))

    # --- what a row is made from -----------------------------------------------------------------------------------

    def _start(self, kind: str, pictures: Sequence[Picture], rows: np.ndarray) -> Tensor:
        """Starting pictures [n, 3, S, S] in [-1, 1]."""
        if kind == "map":
            return resize(self.maps(pictures), self.image_size_px)
        if kind == "mean stimulus":
            return self.mean_stimulus.expand(len(pictures), -1, -1, -1)
        size_px = self.image_size_px if kind == "stimulus" else self.saliency_model.image_size_px
        images = self.dataset.stimuli.images(self.dataset.index.stimulus[rows], size_px)
        return resize(from_uint8(torch.from_numpy(images)).to(self.device), self.image_size_px)

    def _hidden(self, prompt: str, pictures: Sequence[Picture], rows: np.ndarray) -> Tensor:
        """Conditioning [n, L, D]."""
        if prompt in ("semantic", "semantic_detailed", "fine_tuned"):
            if prompt == "fine_tuned":
                semantic_model = self.fine_tuned_semantic_model
            else:
                semantic_model = self.semantic_model if prompt == "semantic" else self.detailed_semantic_model
            return semantic_model(self._eeg(rows), self._subjects(rows))
        labels = self.dataset.index.label[rows] if prompt == "true class" else self._random_labels(pictures)
        captions, places = np.unique([self._class_captions[int(label)] for label in labels], return_inverse=True)
        return self.diffusion.prompt(captions.tolist())[torch.from_numpy(places).to(self.device)]

    def _random_labels(self, pictures: Sequence[Picture]) -> list[int]:
        """A class drawn for each picture, uniformly; it may be the true one, as chance has it."""
        labels = sorted(self._class_captions)
        seeds = (self._seed("random class", picture) for picture in pictures)
        return [labels[int(np.random.default_rng(seed).integers(len(labels)))] for seed in seeds]

    def _eeg(self, rows: Sequence[int] | np.ndarray) -> Tensor:
        return torch.from_numpy(np.stack([self.dataset.eeg(int(row)) for row in rows])).to(self.device)

    def _subjects(self, rows: Sequence[int] | np.ndarray) -> Tensor:
        """int64 [n]."""
        return torch.from_numpy(self.dataset.index.subject[rows].astype(np.int64)).to(self.device)

    def _normal(self, purpose: str, pictures: Sequence[Picture], shape: tuple[int, ...]) -> Tensor:
        seeds = (self._seed(purpose, picture) for picture in pictures)
        return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])

    def _seed(self, purpose: str, picture: Picture) -> int:
        return derive_seed(self.config.seed, "reconstruct", purpose, segment_key(picture.row), picture.sample)

    def _diffusion_of(self, name: str) -> LatentDiffusion:
        return self.fine_tuned_diffusion if ROWS[name].prompt == "fine_tuned" else self.diffusion

    @property
    def diffusion(self) -> LatentDiffusion:
        model: LatentDiffusion = self._load("diffusion", lambda: self._load_diffusion(None))
        return model

    @property
    def fine_tuned_diffusion(self) -> LatentDiffusion:
        unet = self.export("fine_tuned") / UNET_FOLDER
        model: LatentDiffusion = self._load(unet, lambda: self._load_diffusion(unet))
        return model

    def _load_diffusion(self, unet: Path | None) -> LatentDiffusion:
        return load_latent_diffusion(
            self.model,
            device=self.device,
            dtype=getattr(torch, self.config.dtype),
            unet=unet,
            compile_backend="inductor" if self.config.compile else None,
        )

    @property
    def fine_tuned_semantic_model(self) -> SemanticModel:
        model: SemanticModel = self._load(self.export("fine_tuned"), lambda: self._load_semantic("fine_tuned"))
        return model

    @property
    def saliency_model(self) -> SaliencyModel:
        model: SaliencyModel = self._load(self.export("saliency"), self._load_saliency)
        return model

    @property
    def semantic_model(self) -> SemanticModel:
        model: SemanticModel = self._load(self.export("semantic"), lambda: self._load_semantic("semantic"))
        return model

    @property
    def detailed_semantic_model(self) -> SemanticModel:
        model: SemanticModel = self._load(
            self.export("semantic_detailed"), lambda: self._load_semantic("semantic_detailed")
        )
        return model

    def _load_saliency(self) -> SaliencyModel:
        model = SaliencyModel.from_pretrained(self.export("saliency"), device=self.device)
        self._require_same_eeg(model.encoder, self.export("saliency"))
        return model

    def _load_semantic(self, part: Literal["semantic", "semantic_detailed", "fine_tuned"]) -> SemanticModel:
        model = SemanticModel.from_pretrained(self.export(part), device=self.device)
        self._require_same_eeg(model.encoder, self.export(part))
        if model.text_shape != self.diffusion.text_shape:
            raise UserError(
                f"{self.export(part)} predicts hidden states of shape {model.text_shape}, the text encoder of "
                f"{self.model} has {self.diffusion.text_shape}. Use the model that it was trained for."
            )
        return model

    def _require_same_eeg(self, encoder: EEGEncoder, export: Path) -> None:
        metadata = self.dataset.metadata
        if (encoder.n_channels, encoder.n_samples) != (metadata.n_channels, metadata.n_samples):
            raise UserError(
                f"{export} reads EEG of {encoder.n_channels} channels × {encoder.n_samples} samples, the data set has "
                f"{metadata.n_channels} × {metadata.n_samples}. Reconstruct the data that it was trained on."
            )

    @cached_property
    def mean_stimulus(self) -> Tensor:
        """The mean of the stimuli of the training part, each counted once: [1, 3, S, S] in [-1, 1]."""
        stimuli = np.unique(self.dataset.index.stimulus[self.dataset.rows("train", self.subjects)])
        total = torch.zeros(3, self.image_size_px, self.image_size_px, dtype=torch.float64)
        for start in range(0, len(stimuli), 64):
            images = self.dataset.stimuli.images(stimuli[start : start + 64], self.image_size_px)
            total += torch.from_numpy(images).double().sum(0)
        return from_uint8(total / len(stimuli)).to(self.device)[None]

    @cached_property
    def _class_captions(self) -> dict[int, str]:
        """Label → caption, of the classes that have a stimulus; the first stimulus of a class speaks for it."""
        stimuli = self.dataset.stimuli
        return dict(zip(stimuli.labels.tolist()[::-1], stimuli.captions[::-1], strict=True))


def resize(pictures: Tensor, size_px: int) -> Tensor:
    """Pictures [B, 3, s, s] → [B, 3, size_px, size_px], bilinear."""
    if pictures.shape[-1] == size_px:
        return pictures
    return F.interpolate(pictures, size=(size_px, size_px), mode="bilinear", align_corners=False, antialias=True)
