"""Retrieval among the stimuli of the validation split: the figures that select weights of embeddings."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from neuroimagen.data_shards.common.arrays import Floats, Integers
from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.trainer.batches.stage_data import StageData


@dataclass(frozen=True, kw_only=True)
class ValidationGallery:
    """The distinct latents of one kind that the validation stimuli have, and the segments' places among them."""

    rows: Integers
    """Validation segments: rows of the index, [N]."""
    stimuli: Integers
    """Their stimuli, [N]."""
    gallery: Integers
    """A stimulus of every distinct latent, [S]."""
    place: Integers
    """Place of every segment's stimulus among them, [N]."""
    latents: Tensor
    """float32 [S, E], on the device that trains."""

    @classmethod
    def of(cls, data: StageData, kind: str) -> Self:
        rows = data.rows("val")
        stimuli = data.dataset.index.stimulus[rows]
        gallery, place = data.latents[kind].distinct(stimuli)
        latents = data.latents[kind].get(gallery).to(data.device)
        return cls(rows=rows, stimuli=stimuli, gallery=gallery, place=place, latents=latents)


def require_gallery(data: StageData) -> None:
    """Raise UserError where the validation split has a single stimulus."""
    if len(np.unique(data.dataset.index.stimulus[data.rows("val")])) < 2:
        raise UserError(
            "the validation split has one stimulus, and retrieval among validation stimuli selects the weights. Make "
            "another split."
        )


def ranks_of(similarity: Tensor, own: Tensor) -> Tensor:
    """Ranks [B], from 1, of the stimuli at places `own` int64 [B] by similarity [B, S]; ties count against."""
    return (similarity >= similarity.gather(1, own[:, None])).sum(1)


def retrieval_values(ranks: Tensor, num_stimuli: int) -> Mapping[str, Floats]:
    """Figure → its value for every segment, from ranks [N] among `num_stimuli`.

    top1, top5: whether the stimulus is the nearest, or among the nearest five. mrr: 1 / rank. two_way: share of the
    other stimuli that are less similar.
    """
    rank = ranks.double().cpu().numpy()
    return {
        "top1": (rank <= 1).astype(np.float64),
        "top5": (rank <= 5).astype(np.float64),
        "mrr": 1 / rank,
        "two_way": 1 - (rank - 1) / max(1, num_stimuli - 1),
    }


def no_ranks(data: StageData) -> Tensor:
    """Ranks of no segments, for a rank of a job that has none."""
    return torch.empty(0, dtype=torch.int64, device=data.device)
