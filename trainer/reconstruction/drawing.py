"""EEG → images: networks, conditions and noise. A data set is not needed; reconstructor.py adds one.

    EEG → saliency map → image size → VAE encoder → noise at `strength` ┐
    EEG → semantic embedding (the U-Net's cross-attention input) ───────┼→ denoising → VAE decoder → image
    EEG → image embedding → prior → IP-Adapter or unCLIP ───────────────┘
    (Lan et al. 2023, §3.4; Ye et al. 2023)

What a run has no stage for is left out: run_conditions.py says which conditions that leaves.

Every random number is a function of (seed, segment, sample): a segment's image does not depend on the batch it is drawn
in, on the other segments, or on the number of devices. All conditions share their noise, so they compare in pairs.

Shapes: n images to draw, C channels and T samples of EEG, S side of the model's image in px, s side of a saliency map,
K latent channels, h×w latent size, L tokens, D width of the text encoder, E length of an image embedding.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Protocol, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from neuroimagen.data_shards.common.arrays import Floats, Integers
from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.dataset.latent_store import LatentStore
from neuroimagen.data_shards.frozen_models.ip_adapter import IPAdapterConfig
from neuroimagen.trainer.networks.alignment import AlignmentModel
from neuroimagen.trainer.networks.eeg_unet import UNET_FOLDER
from neuroimagen.trainer.networks.pixels import to_uint8
from neuroimagen.trainer.reconstruction.batch_by_memory import MAX_IMAGES
from neuroimagen.trainer.reconstruction.conditions import PREDICTED_PROMPTS, ImageCondition, ImageSource, Prompt, Start
from neuroimagen.trainer.reconstruction.config import ReconstructConfig, plain_scale
from neuroimagen.trainer.reconstruction.networks import Networks
from neuroimagen.trainer.reconstruction.noise import SegmentSample, normal_noise, random_labels, segment_generators
from neuroimagen.trainer.reconstruction.pipelines.conditioning import Conditioning
from neuroimagen.trainer.reconstruction.pipelines.generator import Generator
from neuroimagen.trainer.reconstruction.pipelines.model_sizes import read_sizes
from neuroimagen.trainer.reconstruction.pipelines.run_adapters import run_adapters
from neuroimagen.trainer.reconstruction.run_conditions import Export, RunConditions
from neuroimagen.trainer.reconstruction.shown_stimuli import ShownStimuli


class Segments(Protocol):
    """The EEG that images are drawn from. A segment has a number: its row in the index, or what the caller says."""

    def eeg(self, rows: Integers) -> Floats:
        """float32 [n, C, T]."""
        ...

    def subjects(self, rows: Integers) -> Integers:
        """Whose EEG it is, int64 [n]."""
        ...


class Drawing:
    """Draws the images of a run's conditions. Networks load when a condition first needs them."""

    def __init__(
        self,
        run: Path,
        model: Path,
        config: ReconstructConfig,
        *,
        segments: Segments,
        eeg_shape: tuple[int, int],
        adapters: Mapping[str, IPAdapterConfig] | None = None,
        open_latents: Callable[[str], LatentStore] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        """`run`: the folder with the stages' exports. `model`: a folder in diffusers' layout.

        eeg_shape: channels and samples of a segment. adapters: the recipe's model.ip_adapters. open_latents: kind →
        the data set's cached latents of it, which conditions with a true, other or mean image embedding read.
        """
        self.run = run
        self.model = model
        self.config = config
        self.segments = segments
        self.shown: ShownStimuli | None = None
        """What was shown; None: only conditions that are drawn from the EEG alone can be drawn."""
        self.adapters = dict(adapters or {})
        trained = self.run_adapters = run_adapters(run / config.fine_tuned / "export", self.adapters)
        self.device = torch.device(device)
        self.sizes = read_sizes(model, adapters=trained.frozen)
        self.image_size_px = self.sizes.image_size_px
        self.allowed = RunConditions(
            run=run,
            model=model,
            config=config,
            # An unCLIP model takes the embeddings of its own image encoder, which are cached as `image`.
            targets={taker: self.sizes.targets.get(taker, "image") for taker in self.sizes.image_sizes},
            fine_tuned_targets=self._fine_tuned_targets() if trained.with_unet else {},
            widths=self.sizes.image_sizes,
            trained=trained.trained,
            untrained=trained.untrained,
            configured=frozenset(self.adapters),
            open_latents=open_latents,
        )
        self.networks = Networks(
            model,
            eeg_shape=eeg_shape,
            device=self.device,
            dtype=getattr(torch, config.dtype),
            compile_unet=config.compile,
            adapters=trained.frozen,
        )

    def _fine_tuned_targets(self) -> Mapping[str, str]:
        """IP-Adapters of the fine-tuned U-Net, which it was trained with → the kind of embedding that each takes."""
        unet = self.run / self.config.fine_tuned / "export" / UNET_FOLDER
        return read_sizes(self.model, unet=unet, adapters=self.run_adapters.frozen).targets

    def with_config(self, config: ReconstructConfig, *, every_condition_is_side: bool = False) -> Self:
        """The same under other settings. Both use the networks that either has loaded, so `dtype`, `compile` and
        `fine_tuned` must be the same. every_condition_is_side: `side_segments` holds for the headline too.
        """
        for setting in ("dtype", "compile", "fine_tuned"):
            if getattr(config, setting) != getattr(self.config, setting):
                raise UserError(f"reconstruct.{setting} cannot differ between reconstructors that share their models.")
        other = copy.copy(self)
        other.config = config
        other.allowed = replace(self.allowed, config=config, every_condition_is_side=every_condition_is_side)
        return other

    def with_segments(self, segments: Segments) -> Self:
        """The same for other EEG of the same shape; both use the networks that either has loaded."""
        other = copy.copy(self)
        other.segments = segments
        return other

    def export(self, key: Export) -> Path:
        """Folder of the exported networks of the stage that a key of the configuration names."""
        return self.allowed.export(key)

    def made_of(self, name: str) -> str:
        """In words, what a condition's images are made from in this run."""
        condition = self.allowed.resolved(name)
        made_of = condition.made_of
        if condition.image == "predicted" and any(self.allowed.through_prior(condition).values()):
            made_of = made_of.replace("image embedding", "image embedding (through the prior)")
        if condition.image is not None and self.allowed.trained:
            made_of += f"; IP-Adapter as the {self.config.fine_tuned} stage trained it"
        return made_of

    def num_samples(self, name: str) -> int:
        """Images per segment: one where nothing is random."""
        condition = self.allowed.resolved(name)
        return self.config.samples if condition.is_denoised or condition.start == "saliency map" else 1

    def batch_size(self, name: str) -> int:
        """Images of a condition to draw at once: as configured, else by the memory that is free now."""
        if self.config.batch_size is not None:
            return self.config.batch_size
        if not self.allowed.resolved(name).is_denoised:
            return MAX_IMAGES
        return self._generator_of(name).largest_batch_size(
            guidance=self.config.guidance, scheduler=self.config.scheduler
        )

    def draw_batch(self, name: str, items: Sequence[SegmentSample], *, usual_size: int) -> np.ndarray:
        """`draw`, for one of several batches that are of `usual_size` but for the last."""
        # A compiled pass serves one size of batch, and compiling another for the last few images would not pay.
        odd = self.config.compile and len(items) < usual_size
        with torch.compiler.set_stance("force_eager") if odd else nullcontext():
            return self.draw(name, items)

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

    @torch.inference_mode()
    def saliency_maps(self, items: Sequence[SegmentSample]) -> Tensor:
        """Saliency maps [n, 3, s, s] in [-1, 1]."""
        model = self.networks.saliency(self.export("saliency"))
        z = normal_noise(self.config.seed, "saliency", items, (model.noise_size,))
        return model(self._eeg(items), z.to(self.device), self._subjects(items))

    def _start_latents(self, kind: Start, items: Sequence[SegmentSample]) -> Tensor:
        """The scaled latents that denoising starts from, [n, K, h, w]."""
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
        shown = self._require_shown()
        if kind == "mean stimulus":
            return shown.mean_image(self.image_size_px).expand(len(items), -1, -1, -1)
        size_px = self.image_size_px
        if kind == "stimulus at saliency map size":
            size_px = self.networks.saliency(self.export("saliency")).image_size_px
        return resize(shown.images(_rows(items), size_px), self.image_size_px)

    def _text(self, prompt: Prompt, items: Sequence[SegmentSample]) -> tuple[Tensor, Tensor | None]:
        """The text that conditions the U-Net: hidden states [n, L, D], and the pooled embedding where it takes one."""
        if prompt in PREDICTED_PROMPTS:
            model = self.networks.semantic(self.export(prompt))  # type: ignore[arg-type]
            return model.condition(self._eeg(items), self._subjects(items))
        shown = self._require_shown()
        if prompt == "true class":
            labels = shown.labels(_rows(items))
        else:
            labels = random_labels(self.config.seed, items, sorted(shown.class_captions))
        captions, places = np.unique([shown.class_captions[label] for label in labels], return_inverse=True)
        made, which = self.generator.prompt(captions.tolist()), torch.from_numpy(places).to(self.device)
        assert made.text is not None  # a caption has hidden states
        return made.text[which], None if made.pooled is None else made.pooled[which]

    def _image(
        self, source: ImageSource, items: Sequence[SegmentSample], *, condition: ImageCondition
    ) -> dict[str, Tensor]:
        """What takes an image embedding → the embeddings [n, E] that it gets."""
        targets = self.allowed.targets_of(condition)
        if source in ("predicted", "predicted without prior"):
            through_prior = self.allowed.through_prior(condition)
            return {taker: self._predicted(kind, items, prior=through_prior[taker]) for taker, kind in targets.items()}
        shown = self._require_shown()
        if source == "mean":
            return {taker: shown.mean_embedding(kind).expand(len(items), -1) for taker, kind in targets.items()}
        if source == "true":
            return {taker: shown.embeddings(kind, _rows(items)) for taker, kind in targets.items()}
        seed, split = self.config.seed, self.config.split
        return {taker: shown.other_embeddings(kind, items, seed=seed, split=split) for taker, kind in targets.items()}

    def _predicted(self, kind: str, items: Sequence[SegmentSample], *, prior: bool) -> Tensor:
        """The image embeddings [n, E] of a kind that are predicted from the EEG, through the prior if `prior`."""
        model = self.alignment_model()
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

    def alignment_model(self) -> AlignmentModel:
        """The network of the alignment stage, which must be there (`export("alignment")`)."""
        return self.networks.alignment(self.export("alignment"), fit_lengths=self._fit_lengths)

    def _fit_lengths(self, model: AlignmentModel) -> None:
        """Say how long image embeddings are, where an export of an earlier version does not and the data are there."""
        if self.shown is not None:
            model.fit_lengths(self.shown.stores(), self.shown.training)

    def _require_shown(self) -> ShownStimuli:
        assert self.shown is not None, "the condition is drawn from the stimulus, which is not known"
        return self.shown

    @property
    def generator(self) -> Generator:
        """The frozen model with its own U-Net."""
        return self.networks.generator()

    def _generator_of(self, name: str) -> Generator:
        if self.allowed.resolved(name).prompt == "fine_tuned":
            return self.networks.generator(self.export("fine_tuned") / UNET_FOLDER)
        return self.generator

    def _eeg(self, items: Sequence[SegmentSample]) -> Tensor:
        """EEG float32 [n, C, T]."""
        return torch.from_numpy(self.segments.eeg(_rows(items))).to(self.device)

    def _subjects(self, items: Sequence[SegmentSample]) -> Tensor:
        """int64 [n]."""
        return torch.from_numpy(self.segments.subjects(_rows(items))).to(self.device)


def _rows(items: Sequence[SegmentSample]) -> Integers:
    """Numbers of the segments, int64 [n]."""
    return np.array([item.row for item in items], dtype=np.int64)


def resize(images: Tensor, size_px: int) -> Tensor:
    """Images [n, 3, s, s] → [n, 3, size_px, size_px], bilinear with antialiasing."""
    if images.shape[-1] == size_px:
        return images
    return F.interpolate(images, size=(size_px, size_px), mode="bilinear", align_corners=False, antialias=True)
