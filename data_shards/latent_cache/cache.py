"""Caches latents of a data set's stimuli: each is computed once, on as many devices as there are ranks.

Every image and every distinct caption goes through its encoder once, not once per segment. Encoders run in float32, and
the result is rounded once, when it is stored. dataset/latent_format.py has the format, write.py how an interrupted job
continues.

The device is kept busy: threads read, decode and resize the images of the coming batches, another thread writes the
last shard, and latents are copied from the device once per shard. None of that changes a number.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.process_share import ProcessShare
from neuroimagen.data_shards.common.progress import track
from neuroimagen.data_shards.common.thread_map import map_in_threads
from neuroimagen.data_shards.dataset.latent_format import SHARD_BYTES, SHARD_ITEMS, LatentMetadata
from neuroimagen.data_shards.dataset.latent_items import LatentItems
from neuroimagen.data_shards.dataset.latent_store import LatentStore
from neuroimagen.data_shards.frozen_models.encoder import DTYPES
from neuroimagen.data_shards.frozen_models.latent_kinds import (
    CaptionKind,
    LatentKind,
    TowerKind,
    kind_names,
    latent_kind,
)
from neuroimagen.data_shards.frozen_models.loading import LoadedModels
from neuroimagen.data_shards.frozen_models.model_folder import (
    ModelFolders,
    require_captioner_folder,
    require_diffusion_folder,
)
from neuroimagen.data_shards.frozen_models.text import TextEncoder
from neuroimagen.data_shards.frozen_models.towers.config import TowerConfig
from neuroimagen.data_shards.frozen_models.vae import exact_convolutions
from neuroimagen.data_shards.latent_cache.encode import BatchEncoder, EncodableStimuli, batch_encoder
from neuroimagen.data_shards.latent_cache.write import LatentWriter


class CacheableDataset(Protocol):
    """What caching needs to know of a data set."""

    @property
    def folder(self) -> Path: ...
    @property
    def stimuli(self) -> EncodableStimuli: ...


@dataclass(frozen=True, kw_only=True)
class CachedLatents:
    """The cached latents of one kind."""

    kind: str
    store: LatentStore
    made: bool
    """False: they were cached already."""
    cut: str | None = None
    """Which captions were longer than the text encoder takes, as a sentence; None if none was, or not made now."""


def applicable_kinds(dataset: CacheableDataset, folders: ModelFolders) -> tuple[list[str], dict[str, str]]:
    """The kinds that can be cached with these folders, and for each of the others the reason why it cannot.

    Towers that are not made by default are among them only if the user named them.
    """
    reasons: dict[str, str] = {}
    no_captions = any(not caption for caption in dataset.stimuli.detailed_captions)
    names = []
    # The towers that the user configured and did not call by a known name come last.
    for name in dict.fromkeys((*kind_names(), *folders.towers)):
        kind = latent_kind(name, folders.towers)
        if isinstance(kind, TowerKind) and not kind.tower.by_default and name not in folders.towers:
            continue
        names.append(name)
        reason = kind.missing(folders)
        if kind.source == "detailed caption" and no_captions:
            reason = "the data set has no detailed captions"
        if reason is not None:
            reasons[name] = reason
    return [name for name in names if name not in reasons], reasons


class LatentCache:
    """Caches latents of `dataset` made by the model in a folder; its networks load when first needed and are shared."""

    def __init__(
        self,
        dataset: CacheableDataset,
        model: Path | None,
        *,
        towers: Mapping[str, TowerConfig] | None = None,
        captioner: Path | None = None,
        batch_size: int = 32,
        dtype: str = "float16",
        shard_items: int = SHARD_ITEMS,
        ranks: ProcessShare | None = None,
    ) -> None:
        """`model`: a folder in the layout of diffusers; None where the towers have folders of their own. `towers`: kind
        of latent → the image tower that makes it, for towers that are not in `model` or not as they are.
        `captioner`: folder of a BLIP captioner. `ranks`: this process among those that share the work.
        """
        if batch_size < 1:
            raise UserError(f"batch size {batch_size}; it must be at least 1.")
        if dtype not in DTYPES:
            raise UserError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}.")
        self._dataset = dataset
        folders = ModelFolders(
            model=None if model is None else require_diffusion_folder(model),
            towers=towers or {},
            captioner=require_captioner_folder(captioner) if captioner else None,
        )
        self._batch_size = batch_size
        self._dtype = dtype
        self._shard_items = shard_items
        self._ranks = ranks or ProcessShare()
        self._models = LoadedModels(folders, device=self._ranks.device)

    def cache(self, kind: str) -> CachedLatents:
        """Make the store of `kind` unless it is there. All ranks call it; all return when it is finished.

        Raises UserError if the folders cannot make the kind, or if a latent is not finite.
        """
        metadata, items = self.describe(kind)
        root = self._dataset.folder / "latents"
        # The digest names the content; the model's name in front of it is for people.
        existing = sorted(root.glob(f"{kind}-*-{metadata.digest}/latents.json"))
        if existing:
            return CachedLatents(kind=kind, store=LatentStore.open(existing[0].parent), made=False)
        self._ranks.wait()  # no rank may finish the store while another still looks whether it is there
        encoder = self._encoder(kind, items)
        writer = LatentWriter(root, metadata, items)
        pending = writer.pending(rank=self._ranks.rank, world_size=self._ranks.world_size)
        batches = [(shard, rows) for shard in pending for rows in self._batches(writer.rows(shard))]
        latents: list[torch.Tensor] = []
        texts: list[str] = []
        written: Future[None] | None = None
        inputs = map_in_threads(lambda batch: self._prepare(encoder, batch[1]), batches)
        with closing(inputs), ThreadPoolExecutor(1) as writing:
            for (shard, rows), prepared in track(
                zip(batches, inputs, strict=True), total=len(batches), desc=f"cache {kind}", unit="batch"
            ):
                try:
                    encoded, captions = self._encode(encoder, metadata, rows, prepared)
                except torch.OutOfMemoryError as error:
                    raise UserError(
                        f"{self._batch_size} items at once do not fit into the memory of {self._ranks.device}. Lower "
                        "--batch-size; finished shards are kept."
                    ) from error
                latents.append(encoded)
                texts.extend(captions)
                if rows[-1] == writer.rows(shard)[-1]:
                    if written is not None:
                        written.result()  # its error ends the job here; at most one shard waits for the disk
                    written = writing.submit(writer.write, shard, torch.cat(latents), list(texts) or None)
                    latents.clear()
                    texts.clear()
            if written is not None:
                written.result()
        self._ranks.wait()
        if self._ranks.rank == 0:
            writer.finish()
        self._ranks.wait()
        store = LatentStore.open(writer.folder)
        return CachedLatents(kind=kind, store=store, made=True, cut=self._cut(kind, items, store))

    def _cut(self, kind: str, items: LatentItems, store: LatentStore) -> str | None:
        """Which captions of a store the text encoder read only the beginning of, as a sentence."""
        if not isinstance(self._declared(kind), CaptionKind) or self._ranks.rank != 0:
            return None
        encoder = self._models.get(TextEncoder, require_diffusion_folder(self._models.folders.model))
        found = encoder.cut([str(text) for text in store.texts or ()])
        if not found.rows:
            return None

        def named(rows: tuple[int, ...]) -> str:
            """The first stimulus of each caption."""
            stimuli = [self._dataset.stimuli.keys[int((items.latent_of == row).argmax())] for row in rows[:5]]
            return ", ".join(stimuli) + (", …" if len(rows) > 5 else "")

        sentence = (
            f"{len(found.rows)} of {len(items.keys)} captions are longer than the {found.num_tokens} tokens that the "
            f"text encoder takes, and were cut (of the stimuli {named(found.rows)})."
        )
        if found.alike:
            sentence += f" {len(found.alike)} of them do not differ from another any more ({named(found.alike)})."
        return sentence

    def check(self, cached: CachedLatents, *, num_latents: int = 8, seed: int = 0) -> float:
        """Recompute some latents and compare; returns the largest difference relative to the latent's largest number.

        Raises UserError naming the stimulus when it exceeds the kind's tolerance, and CorruptSampleError when a stored
        latent does not match its CRC.
        """
        kind, store = cached.kind, cached.store
        metadata, items = self.describe(kind)
        tolerance = self._declared(kind).check_tolerance[metadata.dtype]
        rng = np.random.default_rng(seed)
        rows = np.sort(rng.choice(len(items.keys), size=min(num_latents, len(items.keys)), replace=False))
        first_stimulus = {int(row): stimulus for stimulus, row in reversed(list(enumerate(items.latent_of)))}
        stimuli = [first_stimulus[int(row)] for row in rows]
        stored = store.get(stimuli).flatten(1)
        encoder = self._encoder(kind, items, stored=store)
        again = torch.cat(
            [
                self._encode(encoder, metadata, batch, self._prepare(encoder, batch))[0].cpu()
                for batch in self._batches(rows.tolist())
            ]
        ).flatten(1)
        difference = (stored - again).abs().amax(1) / again.abs().amax(1).clamp(min=1e-12)
        worst = int(difference.argmax())
        if not difference[worst] <= tolerance:
            raise UserError(
                f"the stored {kind} latent of {self._dataset.stimuli.keys[stimuli[worst]]} differs from the "
                f"recomputed one by {float(difference[worst]):.2g} of its largest number (rounding explains at most "
                f"{tolerance:.2g}). Remove {store.folder} and cache it again."
            )
        return float(difference[worst])

    def describe(self, kind: str) -> tuple[LatentMetadata, LatentItems]:
        """What the store of `kind` says of itself before it is filled, and what it holds; loads no weights.

        Raises UserError if the folders, or the captions of the data set, cannot make the kind.
        """
        declared, folders = self._declared(kind), self._models.folders
        if reason := declared.missing(folders):
            raise UserError(f"{kind} cannot be cached: {reason}.")
        identity = declared.identity(folders)
        items = LatentItems.of(self._dataset.stimuli, kind, declared)
        metadata = LatentMetadata(
            kind=kind,
            model_id=identity.model_id,
            revision=identity.revision,
            preprocessing=identity.preprocessing,
            shape=identity.shape,
            dtype=self._dtype,
            inputs=items.digest,
            shard_items=1,
            scaling_factor=identity.scaling_factor,
        )
        # Most latents are so small that `shard_items` decides; SHARD_BYTES is for latents of megabytes.
        shard_items = max(1, min(self._shard_items, SHARD_BYTES // metadata.npy_bytes))
        return dataclasses.replace(metadata, shard_items=shard_items), items

    def _declared(self, kind: str) -> LatentKind:
        return latent_kind(kind, self._models.folders.towers)

    def _batches(self, rows: Sequence[int]) -> list[Sequence[int]]:
        return [rows[start : start + self._batch_size] for start in range(0, len(rows), self._batch_size)]

    def _encoder(self, kind: str, items: LatentItems, *, stored: LatentStore | None = None) -> BatchEncoder:
        """Load the networks of `kind`, in this thread. `stored`: its store, if there is one, for BLIP's captions."""
        declared = self._declared(kind)
        captions = items.texts
        if isinstance(declared, CaptionKind) and declared.captions_from is not None:
            # Without a store all ranks are here, so that they may make the other kind's first.
            source = stored or self.cache(declared.captions_from).store
            captions = [str(text) for text in source.texts]
        return batch_encoder(declared, self._dataset.stimuli, captions, self._models)

    def _prepare(self, encoder: BatchEncoder, rows: Sequence[int]) -> torch.Tensor | None:
        prepared = encoder.prepare(rows)
        # From pinned memory, copying to the device does not interrupt what runs there.
        return prepared.pin_memory() if prepared is not None and self._ranks.device.type == "cuda" else prepared

    def _encode(
        self, encoder: BatchEncoder, metadata: LatentMetadata, rows: Sequence[int], prepared: torch.Tensor | None
    ) -> tuple[torch.Tensor, list[str]]:
        """Latents float32 [len(rows), *shape] on the device, and the captions that were encoded."""
        with exact_convolutions() if self._dtype == "float32" else nullcontext():
            latents, captions = encoder.encode(rows, prepared)
        expected = (len(rows), *metadata.shape)
        if latents.shape != expected or latents.dtype != torch.float32:
            raise UserError(
                f"the encoder of {metadata.kind} latents returned {tuple(latents.shape)} of {latents.dtype} where it "
                f"declares {expected} of torch.float32. Correct its `identity` or its `encode`."
            )
        return latents, captions
