"""What a stage sees of the data: its shapes, batches of any rows, and results gathered over ranks."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.dataset.latent_store import LatentStore
from neuroimagen.data_shards.loading.plan import BlockShufflePlan, Plan, SequentialPlan, ShufflePlan
from neuroimagen.data_shards.loading.reader import Batch, Reader
from neuroimagen.trainer.batches.device_feed import Feed, StreamedFeed, on_device
from neuroimagen.trainer.batches.folds import folds_of_rows, rows_of_folds, without_fold
from neuroimagen.trainer.batches.resident import ResidentFeed, resident_bytes

RESIDENT_SHARE = 1 / 16
"""Of a GPU's memory, for data that stay there, where the recipe names no number: a batch or two of activations."""


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """The sizes that networks are built for."""

    n_channels: int
    n_samples: int
    num_classes: int
    text_shape: tuple[int, int]
    """(L, D) of the hidden states that the U-Net takes of a caption."""
    pooled_size: int | None = None
    """Width of the pooled state that the U-Net takes beside them (SDXL); None where it takes none."""
    subjects: tuple[int, ...] | None = None
    """Whom the training segments are of; None where neither recipe nor data set says (a dry run)."""
    latent_shape: tuple[int, int, int] | None = None
    """(C, h, w) of the VAE's latents, for stages that use them."""
    latents: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Shape of one cached latent by its kind, where the sizes above do not say it."""
    sfreq: float | None = None
    """Sampling rate in Hz; None where neither recipe nor data set says (a dry run)."""

    def of_latent(self, kind: str) -> tuple[int, ...]:
        """Shape of one cached latent."""
        if kind in self.latents:
            return self.latents[kind]
        if kind == "vae":
            assert self.latent_shape is not None
            return (2, *self.latent_shape)
        return self.text_shape


@dataclass(frozen=True, kw_only=True)
class BatchNeeds:
    """What a stage's batches carry beside EEG and labels."""

    latents: tuple[str, ...] = ()
    """Kinds of cached latent."""
    pooled: str | None = None
    """Kind of cached latent that belongs to them where the model's U-Net takes a pooled state (SDXL)."""
    ip_adapters: bool = False
    """The kinds of cached image embedding that the model's IP-Adapters take."""
    image_size_px: int | None = None
    """Size of the stimuli, if they are needed."""

    def of_model(self, *, takes_pooled: bool = False, adapter_kinds: Sequence[str] = ()) -> "BatchNeeds":
        """These needs with a model whose U-Net takes a pooled state, or takes none, and whose IP-Adapters take
        `adapter_kinds`.
        """
        more = [self.pooled] if self.pooled is not None and takes_pooled else []
        more += adapter_kinds if self.ip_adapters else []
        latents = tuple(dict.fromkeys((*self.latents, *more)))
        return dataclasses.replace(self, latents=latents, pooled=None, ip_adapters=False)


@dataclass(frozen=True, kw_only=True)
class OrderConfig:
    """In which order training reads. It is for the stages that shuffle; contrastive batches are class-balanced."""

    kind: Literal["shuffled", "windowed", "resampled"] = "shuffled"
    """shuffled: over the whole split. windowed: within a window that moves over the shards, for data sets behind a URL
    that the cache cannot hold; as exact. resampled: the webdataset library's stream, shards with replacement; a
    resumed run sees other samples than one never stopped.
    """
    window_shards: int = 4
    """windowed: shards read at a time."""
    num_streams: int = 1
    """windowed: sets of shards that every batch takes equal parts of; a multiple of the number of nodes."""
    shuffle_buffer: int = 1000
    """resampled: samples held to be shuffled."""

    def __post_init__(self) -> None:
        for name in ("window_shards", "num_streams", "shuffle_buffer"):
            if getattr(self, name) < 1:
                raise ValueError(f"order.{name} must be at least 1, got {getattr(self, name)}")


class StageData:
    """A data set as one rank of a stage sees it."""

    def __init__(
        self,
        dataset: Dataset,
        *,
        needs: BatchNeeds,
        latents: Mapping[str, LatentStore],
        subjects: tuple[int, ...] | None,
        device: torch.device,
        order: OrderConfig | None = None,
        resident_gib: float | None = None,
        leave_out: tuple[int, int] | None = None,
        validation_fold: tuple[int, int] | None = None,
    ) -> None:
        """`resident_gib`: how much of the device's memory the training data may take; None: RESIDENT_SHARE of a GPU's,
        nothing of a CPU's. `leave_out`: (k, n), train without fold k of n of the training stimuli. `validation_fold`:
        (k, n), fold k of n of the training and validation segments together is the validation split, and the others are
        the training split.
        """
        self.dataset = dataset
        self.order = order or OrderConfig()
        self.needs = needs
        self.latents = latents
        self.subjects = subjects
        self.leave_out = leave_out
        self.validation_fold = validation_fold
        self.device = device
        self._resident_limit = memory_share(device) if resident_gib is None else int(resident_gib * (1 << 30))
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.world_size = dist.get_world_size() if dist.is_initialized() else 1

    def rows(self, split: str) -> np.ndarray:
        """Rows of one split, of the recipe's subjects. Training reads "train" and "val"; nothing here reads "test"."""
        if split not in ("train", "val"):
            raise ValueError(f"training looks at train and val only, not {split!r}")
        if self.validation_fold is not None:
            return self._folded_rows(split, *self.validation_fold)
        rows = self.dataset.rows(split, self.subjects)
        if split == "train" and self.leave_out is not None:
            rows = without_fold(self.dataset, rows, self.leave_out)
        if len(rows) == 0:
            if not len(self.dataset.rows(split)):
                raise UserError(
                    f"{self.dataset.location} has no {split} split, and training needs one: make the data set again "
                    "with one."
                )
            raise UserError(
                f"the data set has no {split} segments for subjects {self.subjects or 'all'}. Choose others."
            )
        return rows

    def _folded_rows(self, split: str, fold: int, num_folds: int) -> np.ndarray:
        rows = rows_of_folds(self.dataset, self.subjects)
        own = folds_of_rows(self.dataset, rows, num_folds) == fold
        chosen = rows[own if split == "val" else ~own]
        if len(chosen) == 0:
            raise UserError(
                f"fold {fold} of {num_folds} leaves no {split} segments of the {len(rows)} for training and "
                "validation. Choose fewer folds."
            )
        return chosen

    def shuffled(self, rows: np.ndarray, seed: int, global_batch_size: int) -> Plan:
        """`rows` in the recipe's order, full batches only. Raises UserError if they do not fill one."""
        if self.order.kind == "windowed":
            return BlockShufflePlan(
                rows,
                self.dataset.index.shard[rows],
                seed,
                global_batch_size,
                window_shards=self.order.window_shards,
                num_streams=self.order.num_streams,
                drop_last=True,
            )
        return ShufflePlan(rows, seed, global_batch_size, drop_last=True)

    def feed(self, plan: Plan) -> Feed:
        """This rank's share of a plan's batches, on the device: gathered there where all of them fit, else streamed.

        Batches are the same either way. What is behind a URL, or read in an order made for that, is streamed.
        """
        rows = getattr(plan, "rows", None)
        far = any(source.remote is not None for source in self.dataset.sources)
        if rows is None or far or self.order.kind != "shuffled":
            return StreamedFeed(self.reader(plan), self.device)
        content: dict[str, Any] = {"latents": self.latents, "image_size_px": self.needs.image_size_px}
        if resident_bytes(self.dataset, rows, **content) > self._resident_limit:
            return StreamedFeed(self.reader(plan), self.device)
        return ResidentFeed(
            self.dataset,
            plan,
            np.unique(rows),
            **content,
            device=self.device,
            rank=self.rank,
            world_size=self.world_size,
        )

    def reader(self, plan: Plan) -> Reader:
        """This rank's share of a plan's batches, with all that the stage needs."""
        options: dict[str, Any] = {
            **{"rank": self.rank, "world_size": self.world_size},
            **{"latents": self.latents, "image_size_px": self.needs.image_size_px},
            "as_stored": self.device.type == "cuda",
        }
        if self.order.kind == "resampled" and isinstance(plan, ShufflePlan):
            from neuroimagen.data_shards.loading.webdataset_source import ResampledReader

            if len(self.dataset.sources) > 1:
                raise UserError("data.order.kind resampled streams one data set, not several. Choose windowed.")
            return ResampledReader(
                self.dataset,
                plan.rows,
                plan.global_batch_size,
                seed=plan.seed,
                shuffle=self.order.shuffle_buffer,
                **options,
            )
        return Reader(self.dataset, plan, **options)

    def share(self, rows: np.ndarray) -> np.ndarray:
        """This rank's contiguous share of `rows`; the shares of all ranks in rank order are `rows`."""
        start, stop = (len(rows) * rank // self.world_size for rank in (self.rank, self.rank + 1))
        return rows[start:stop]

    def batches(self, rows: np.ndarray, batch_size: int, *, eeg_only: bool = False) -> Iterator[Batch]:
        """`rows` in order, on this rank alone."""
        if len(rows) == 0:
            return
        reader = Reader(
            self.dataset,
            SequentialPlan(rows, batch_size),
            latents={} if eeg_only else self.latents,
            image_size_px=None if eeg_only else self.needs.image_size_px,
            as_stored=self.device.type == "cuda",
        )
        yield from on_device(reader.epoch(0), self.device)

    def gather(self, share: Tensor) -> Tensor:
        """Concatenate every rank's rows, in rank order, on the CPU; ranks may hold different numbers of them."""
        if self.world_size == 1:
            return share.detach().cpu()
        sizes = torch.zeros(self.world_size, dtype=torch.int64, device=share.device)
        sizes[self.rank] = len(share)
        dist.all_reduce(sizes)
        padded = share.new_zeros((int(sizes.max()), *share.shape[1:]))
        padded[: len(share)] = share.detach()
        parts = [torch.empty_like(padded) for _ in range(self.world_size)]
        dist.all_gather(parts, padded)
        return torch.cat([part[:size].cpu() for part, size in zip(parts, sizes.tolist(), strict=True)])


def memory_share(device: torch.device) -> int:
    """Bytes of a GPU's memory that training data may take where the recipe does not say."""
    if device.type != "cuda":
        return 0
    return int(torch.cuda.get_device_properties(device).total_memory * RESIDENT_SHARE)
