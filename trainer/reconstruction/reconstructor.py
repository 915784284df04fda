"""Draws the images of a data set's split: which conditions and segments, and what decides their images.

drawing.py draws. Conditions that need what was shown (oracles, floors) read it of the data set.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from neuroimagen.data_shards.common.arrays import Floats, Integers
from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.dataset.latent_store import LatentStore
from neuroimagen.data_shards.frozen_models.ip_adapter import IPAdapterConfig
from neuroimagen.data_shards.frozen_models.model_folder import folders_digest
from neuroimagen.trainer.networks.eeg_unet import UNET_FOLDER
from neuroimagen.trainer.reconstruction.conditions import ImageCondition
from neuroimagen.trainer.reconstruction.config import ReconstructConfig, plain_scale
from neuroimagen.trainer.reconstruction.drawing import Drawing
from neuroimagen.trainer.reconstruction.noise import SegmentSample
from neuroimagen.trainer.reconstruction.pipelines.conditioning import UNCLIP
from neuroimagen.trainer.reconstruction.pipelines.generator import model_digest
from neuroimagen.trainer.reconstruction.segment_subset import even_subset
from neuroimagen.trainer.reconstruction.shown_stimuli import ShownStimuli


class DatasetSegments:
    """The EEG of a data set, by rows of its index."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset

    def eeg(self, rows: Integers) -> Floats:
        """float32 [n, C, T]."""
        return np.stack([self._dataset.eeg(row) for row in rows.tolist()])

    def subjects(self, rows: Integers) -> Integers:
        """int64 [n]."""
        return self._dataset.index.subject[rows].astype(np.int64)


class Reconstructor(Drawing):
    """Draws the images of a run's conditions for the segments of a data set."""

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

        subjects: those whose segments are drawn and whose training stimuli are averaged; None: all. The others:
        Drawing.
        """
        metadata = dataset.metadata
        super().__init__(
            run,
            model,
            config,
            segments=DatasetSegments(dataset),
            eeg_shape=(metadata.n_channels, metadata.n_samples),
            adapters=adapters,
            open_latents=open_latents,
            device=device,
        )
        self.dataset = dataset
        self.subjects = subjects
        self.shown = ShownStimuli(dataset, self.allowed.stores, subjects=subjects, device=self.device)

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

    def _image_settings(self, condition: ImageCondition) -> dict[str, object]:
        """What decides the image embeddings, and how they count."""
        config, allowed = self.config, self.allowed
        targets = allowed.targets_of(condition)
        settings: dict[str, object] = {"image": dict(targets)}
        if condition.image in ("true", "other", "mean"):
            settings["latents"] = {kind: store.folder.name for kind, store in allowed.stores().items()}
        if any(taker != UNCLIP for taker in targets):
            settings["adapter_scale"] = plain_scale(config.adapter_scale)
        if UNCLIP in targets:
            settings["noise_level"] = config.noise_level
        if any(allowed.through_prior(condition).values()):
            settings |= {"prior_guidance": config.prior_guidance, "prior_steps": config.prior_steps}
        return settings

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
