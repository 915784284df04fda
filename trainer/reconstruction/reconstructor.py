"""EEG → images, and the images of the ablation, oracle and floor conditions that the figures are compared with.

    EEG → saliency map → image size → VAE encoder → noise at `strength` ┐
    EEG → semantic embedding (the U-Net's cross-attention input) ───────┼→ denoising → VAE decoder → image
    EEG → image embedding → prior → IP-Adapter or unCLIP ───────────────┘
    (Lan et al. 2023, §3.4; Ye et al. 2023)

What a run has no stage for is left out: run_conditions.py says which conditions that leaves.

Every random number is a function of (seed, segment, sample): a segment's image does not depend on the batch it is drawn
in, on the other segments, or on the number of devices. All conditions share their noise, so they compare in pairs.

Shapes: n images to draw, S side of the model's image in px, s side of a saliency map, C latent channels, h×w latent
size, L tokens, D width of the text encoder, E length of an image embedding.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from neuroimagen.data_shards.common.arrays import Integers
from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.dataset.latent_store import LatentStore
from neuroimagen.data_shards.frozen_models.ip_adapter import IPAdapterConfig
from neuroimagen.data_shards.frozen_models.model_folder import folders_digest
from neuroimagen.trainer.networks.eeg_unet import UNET_FOLDER
from neuroimagen.trainer.networks.pixels import from_uint8, to_uint8
from neuroimagen.trainer.reconstruction.batch_by_memory import MAX_IMAGES
from neuroimagen.trainer.reconstruction.conditions import PREDICTED_PROMPTS, ImageCondition, ImageSource, Prompt, Start
from neuroimagen.trainer.reconstruction.config import ReconstructConfig, plain_scale
from neuroimagen.trainer.reconstruction.image_embeddings import CachedEmbeddings
from neuroimagen.trainer.reconstruction.networks import Networks
from neuroimagen.trainer.reconstruction.noise import (
    SegmentSample,
    normal_noise,
    other_stimuli,
    random_labels,
    segment_generators,
)
from neuroimagen.trainer.reconstruction.pipelines.conditioning import UNCLIP, Conditioning
from neuroimagen.trainer.reconstruction.pipelines.generator import Generator, model_digest
from neuroimagen.trainer.reconstruction.pipelines.model_sizes import read_sizes
from neuroimagen.trainer.reconstruction.run_conditions import Export, RunConditions
from neuroimagen.trainer.reconstruction.segment_subset import even_subset


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
        adapters: Mapping[str, IPAdapterConfig] | None = None,
        open_latents: Callable[[str], LatentStore] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        """`run`: the folder with the stages' exports. `model`: a folder in diffusers' layout.

        subjects: those whose segments are drawn and whose training stimuli are averaged; None: all. adapters: the
        recipe's model.ip_adapters. open_latents: kind → the data set's cached latents of it, which conditions with a
        true, other or mean image embedding read.
        """
        self.run = run
        self.dataset = dataset
        self.model = model
        self.config = config
        self.subjects = subjects
        self.adapters = dict(adapters or {})
        self.device = torch.device(device)
        self.sizes = read_sizes(model, adapters=self.adapters)
        self.image_size_px = self.sizes.image_size_px
        self.allowed = RunConditions(
            run=run,
            model=model,
            config=config,
            # An unCLIP model takes the embeddings of its own image encoder, which are cached as `image`.
            targets={taker: self.sizes.targets.get(taker, "image") for taker in self.sizes.image_sizes},
            configured=frozenset(self.adapters),
            open_latents=open_latents,
        )
        self.networks = Networks(
            model,
            dataset.metadata,
            device=self.device,
            dtype=getattr(torch, config.dtype),
            compile_unet=config.compile,
            adapters=self.adapters,
        )

    def with_config(self, config: ReconstructConfig, *, every_condition_is_side: bool = False) -> "Reconstructor":
        """The same under other settings. Both use the networks that either has loaded, so `dtype` and `compile` must be
        the same. every_condition_is_side: `side_segments` holds for the headline too.
        """
        for setting in ("dtype", "compile"):
            if getattr(config, setting) != getattr(self.config, setting):
                raise UserError(f"reconstruct.{setting} cannot differ between reconstructors that share their models.")
        other = copy.copy(self)
        other.config = config
        other.allowed = replace(self.allowed, config=config, every_condition_is_side=every_condition_is_side)
        return other

    # --- which conditions, and what decides their images -----------------------------------------------------------

    def export(self, key: Export) -> Path:
        """Folder of the exported networks of the stage that a key of the configuration names."""
        return self.allowed.export(key)

    def conditions(self) -> tuple[list[str], dict[str, str]]:
        """The conditions to draw, and for those left out of the default the reason (RunConditions.to_draw)."""
        return self.allowed.to_draw()

    def settings(self, name: str) -> dict[str, object]:
        """Everything that decides a condition's images, as JSON values."""
        condition, config = self.allowed.resolved(name), self.config
        settings: dict[str, object] = {
            "seed": config.seed,
            "split": config.split,
            "subjects": None if self.subjects is None else list(self.subjects),
            "samples": self.num_samples(name),
            "image_size_px": self.image_size_px,
            "data": self.dataset.digest,
            "exports": {path.parent.name: folders_digest(path)[:16] for path in self.allowed.needs(name)},
        }
        if len(self._segments(name)) < len(self._split_rows()):
            settings["segments"] = config.side_segments
        if condition.is_denoised:
            settings |= {"steps": config.steps, "scheduler": config.scheduler, "guidance": config.guidance}
            settings |= {"strength": config.strength if condition.start else 1.0, "dtype": config.dtype}
        if condition.prompt == "fine_tuned":
            settings["unet_digest"] = folders_digest(self.export("fine_tuned") / UNET_FOLDER)[:16]
        if condition.image is not None:
            settings |= self._image_settings(condition)
        if condition.is_denoised or condition.start in ("stimulus", "predicted latent"):
            digest = model_digest(self.model, self.adapters)
            settings |= {"model": self.model.resolve().name, "model_digest": digest}
        return settings | {"made_of": self.made_of(name)}

    def made_of(self, name: str) -> str:
        """In words, what a condition's images are made from in this run."""
        condition = self.allowed.resolved(name)
        if condition.image == "predicted" and any(self.allowed.through_prior(condition).values()):
            return condition.made_of.replace("image embedding", "image embedding (through the prior)")
        return condition.made_of

    def _image_settings(self, condition: ImageCondition) -> dict[str, object]:
        """What decides the image embeddings, and how they count."""
        config, allowed = self.config, self.allowed
        settings: dict[str, object] = {"image": dict(allowed.targets)}
        if condition.image in ("true", "other", "mean"):
            settings["latents"] = {kind: store.folder.name for kind, store in allowed.stores().items()}
        if any(taker != UNCLIP for taker in allowed.targets):
            settings["adapter_scale"] = plain_scale(config.adapter_scale)
        if UNCLIP in allowed.targets:
            settings["noise_level"] = config.noise_level
        if any(allowed.through_prior(condition).values()):
            settings |= {"prior_guidance": config.prior_guidance, "prior_steps": config.prior_steps}
        return settings

    def num_samples(self, name: str) -> int:
        """Images per segment: one where nothing is random."""
        condition = self.allowed.resolved(name)
        return self.config.samples if condition.is_denoised or condition.start == "saliency map" else 1

    def segment_samples(self, name: str) -> list[SegmentSample]:
        """The images of a condition: segment after segment, sample after sample.

        Raises UserError when the split has no segments of the subjects.
        """
        rows, samples = self._segments(name), self.num_samples(name)
        return [SegmentSample(row=int(row), sample=sample) for row in rows for sample in range(samples)]

    def _segments(self, name: str) -> Integers:
        """Rows of the segments that a condition is drawn for."""
        rows = self._split_rows()
        if self.config.side_segments is None or not self.allowed.is_side(name):
            return rows
        index = self.dataset.index
        return even_subset(
            rows,
            stimuli=index.stimulus[rows],
            subjects=index.subject[rows],
            labels=index.label[rows],
            num=self.config.side_segments,
        )

    def _split_rows(self) -> Integers:
        rows = self.dataset.rows(self.config.split, self.subjects)
        if len(rows) == 0:
            raise UserError(
                f"the data set has no {self.config.split} segments of subjects {self.subjects or 'all'}. Choose "
                "another reconstruct.split, or other data.subjects."
            )
        return rows

    def batch_size(self, name: str) -> int:
        """Images of a condition to draw at once: as configured, else by the memory that is free now."""
        if self.config.batch_size is not None:
            return self.config.batch_size
        if not self.allowed.resolved(name).is_denoised:
            return MAX_IMAGES
        return self._generator_of(name).largest_batch_size(
            guidance=self.config.guidance, scheduler=self.config.scheduler
        )

    # --- drawing ---------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def draw(self, name: str, items: Sequence[SegmentSample]) -> np.ndarray:
        """Images of a condition, uint8 [n, 3, S, S]."""
        condition, config = self.allowed.resolved(name), self.config
        if not condition.is_denoised and condition.start not in ("stimulus", "predicted latent"):
            assert condition.start is not None
            return to_uint8(self._start(condition.start, items))
        start = self._start_latents(condition.start, items) if condition.start else None
        if not condition.is_denoised:
            assert start is not None
            return to_uint8(self.generator.decode(start))
        generator = self._generator_of(name)
        text, pooled = self._text(condition.prompt, items) if condition.prompt else (None, None)
        latents = generator.denoise(
            segment_generators(config.seed, "diffusion", items),
            Conditioning(
                text=text,
                pooled=pooled,
                image=self._image(condition.image, items, condition=condition) if condition.image else {},
            ),
            steps=config.steps,
            guidance=config.guidance,
            scheduler=config.scheduler,
            start=start,
            strength=config.strength,
            adapter_scale=plain_scale(config.adapter_scale),
            noise_level=config.noise_level,
        )
        return to_uint8(generator.decode(latents))

    def saliency_maps(self, items: Sequence[SegmentSample]) -> Tensor:
        """Saliency maps [n, 3, s, s] in [-1, 1]."""
        model = self.networks.saliency(self.export("saliency"))
        z = normal_noise(self.config.seed, "saliency", items, (model.noise_size,))
        return model(self._eeg(items), z.to(self.device), self._subjects(items))

    def _start_latents(self, kind: Start, items: Sequence[SegmentSample]) -> Tensor:
        """The scaled latents that denoising starts from, [n, C, h, w]."""
        if kind == "predicted latent":
            latents: Tensor = self.networks.vae_latent(self.export("vae_latent"))(
                self._eeg(items), self._subjects(items)
            )
            return latents
        return self.generator.encode(self._start(kind, items))

    def _start(self, kind: Start, items: Sequence[SegmentSample]) -> Tensor:
        """The images that denoising starts from, [n, 3, S, S] in [-1, 1]."""
        if kind == "saliency map":
            return resize(self.saliency_maps(items), self.image_size_px)
        if kind == "mean stimulus":
            return self._mean_stimulus.expand(len(items), -1, -1, -1)
        size_px = self.image_size_px
        if kind == "stimulus at saliency map size":
            size_px = self.networks.saliency(self.export("saliency")).image_size_px
        images = self.dataset.stimuli.images(self._stimuli(items), size_px)
        return resize(from_uint8(torch.from_numpy(images)).to(self.device), self.image_size_px)

    def _text(self, prompt: Prompt, items: Sequence[SegmentSample]) -> tuple[Tensor, Tensor | None]:
        """The text that conditions the U-Net: hidden states [n, L, D], and the pooled embedding where it takes one."""
        if prompt in PREDICTED_PROMPTS:
            model = self.networks.semantic(self.export(prompt))  # type: ignore[arg-type]
            return model.condition(self._eeg(items), self._subjects(items))
        if prompt == "true class":
            labels = self.dataset.index.label[_rows(items)].tolist()
        else:
            labels = random_labels(self.config.seed, items, sorted(self._class_captions))
        captions, places = np.unique([self._class_captions[label] for label in labels], return_inverse=True)
        made, which = self.generator.prompt(captions.tolist()), torch.from_numpy(places).to(self.device)
        assert made.text is not None  # a caption has hidden states
        return made.text[which], None if made.pooled is None else made.pooled[which]

    def _image(
        self, source: ImageSource, items: Sequence[SegmentSample], *, condition: ImageCondition
    ) -> dict[str, Tensor]:
        """What takes an image embedding → the embeddings [n, E] that it gets."""
        targets, cached = self.allowed.targets, self._cached
        if source == "mean":
            return {taker: cached.mean(kind).expand(len(items), -1) for taker, kind in targets.items()}
        if source in ("true", "other"):
            stimuli = self._stimuli(items)
            if source == "other":
                of_split = np.unique(self.dataset.index.stimulus[self._split_rows()]).astype(np.int64)
                if len(of_split) < 2:
                    raise UserError(f"the {self.config.split} split has one stimulus only, so there is no other.")
                stimuli = other_stimuli(self.config.seed, items, own=stimuli, stimuli=of_split)
            return {taker: cached.of(kind, stimuli) for taker, kind in targets.items()}
        through_prior = self.allowed.through_prior(condition)
        return {taker: self._predicted(kind, items, prior=through_prior[taker]) for taker, kind in targets.items()}

    def _predicted(self, kind: str, items: Sequence[SegmentSample], *, prior: bool) -> Tensor:
        """The image embeddings [n, E] of a kind that are predicted from the EEG, through the prior if `prior`."""
        model = self.networks.alignment(
            self.export("alignment"), stores=self.allowed.stores, stimuli=self._training_stimuli
        )
        eeg, subjects = self._eeg(items), self._subjects(items)
        if not prior:
            return model.image_embedding(eeg, subjects, kind)
        network = self.networks.prior(self.export("prior"))
        noise = normal_noise(self.config.seed, "prior", items, (network.embedding_size,))
        return network.sample(
            model.image_embedding(eeg, subjects, network.condition_kind),
            noise.to(self.device),
            steps=self.config.prior_steps,
            guidance=self.config.prior_guidance,
        )

    @property
    def generator(self) -> Generator:
        """The frozen model with its own U-Net."""
        return self.networks.generator()

    def _generator_of(self, name: str) -> Generator:
        if self.allowed.resolved(name).prompt == "fine_tuned":
            return self.networks.generator(self.export("fine_tuned") / UNET_FOLDER)
        return self.generator

    def _eeg(self, items: Sequence[SegmentSample]) -> Tensor:
        """EEG float32 [n, channels, samples]."""
        return torch.from_numpy(np.stack([self.dataset.eeg(item.row) for item in items])).to(self.device)

    def _subjects(self, items: Sequence[SegmentSample]) -> Tensor:
        """int64 [n]."""
        return torch.from_numpy(self.dataset.index.subject[_rows(items)].astype(np.int64)).to(self.device)

    def _stimuli(self, items: Sequence[SegmentSample]) -> Integers:
        """Numbers of the segments' stimuli, int64 [n]."""
        return self.dataset.index.stimulus[_rows(items)].astype(np.int64)

    @cached_property
    def _training_stimuli(self) -> Integers:
        """Numbers of the stimuli of the training split, each once."""
        return np.unique(self.dataset.index.stimulus[self.dataset.rows("train", self.subjects)]).astype(np.int64)

    @cached_property
    def _cached(self) -> CachedEmbeddings:
        return CachedEmbeddings(self.allowed.stores, self._training_stimuli, device=self.device)

    @cached_property
    def _mean_stimulus(self) -> Tensor:
        """The mean of the stimuli of the training split, each counted once: [1, 3, S, S] in [-1, 1]."""
        stimuli = self._training_stimuli
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
