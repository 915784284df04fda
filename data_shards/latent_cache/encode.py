"""Computes latents of a data set's stimuli once each, on as many devices as there are ranks.

Every stimulus and every distinct caption goes through its encoder once, not once a segment. Encoders run in float32 and
the result is rounded once, on storing. latents.py has the format, latent_writer.py how an interrupted job continues.

The encoder never waits: threads read, decode and resize the pictures of the coming batches, another writes the last
shard, and latents leave the device once a shard. None of it changes a number.
"""

import dataclasses
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.process_share import ProcessShare
from neuroimagen.data_shards.common.progress import track
from neuroimagen.data_shards.common.thread_map import map_in_threads
from neuroimagen.data_shards.dataset.latent_store import (
    SHARD_BYTES,
    SHARD_ITEMS,
    LatentItems,
    LatentMetadata,
    LatentStore,
    StimulusTable,
)
from neuroimagen.data_shards.dataset.stimuli import square_image
from neuroimagen.data_shards.frozen_models.encoders import (
    Captioner,
    ImageEncoder,
    TextEncoder,
    VaeEncoder,
    exact_convolutions,
)
from neuroimagen.data_shards.frozen_models.latent_kinds import DTYPES, KINDS, encoder_identity, require_kind
from neuroimagen.data_shards.frozen_models.model_folder import (
    clip_folder,
    folders_digest,
    require_captioner_folder,
    require_diffusion_folder,
)
from neuroimagen.data_shards.latent_cache.write import LatentWriter

CHECK_TOLERANCE = {"float16": 2e-3, "bfloat16": 1.6e-2, "float32": 2e-4}
"""Largest difference that `LatentCache.check` accepts, relative to the latent's largest number: the rounding of the
stored dtype, and what another device or library version may do to float32. Convolutions in TF32, PyTorch's default on
GPUs, keep within the first two, so only latents stored as float32 are made without; the VAE in bfloat16 would not."""


class Stimuli(StimulusTable, Protocol):
    """Stimuli with their pictures."""

    def image(self, index: int) -> Image.Image:
        """RGB, in its own size. Called by several threads at once."""
        ...


class CacheableDataset(Protocol):
    """A data set, as far as caching goes."""

    @property
    def folder(self) -> Path: ...
    @property
    def stimuli(self) -> Stimuli: ...


@dataclass(frozen=True, kw_only=True)
class CachedLatents:
    """What became of one kind."""

    kind: str
    store: LatentStore
    made: bool
    """False: it was there already."""


def applicable_kinds(
    dataset: CacheableDataset, model: Path, *, clip: Path | None = None, captioner: Path | None = None
) -> tuple[list[str], dict[str, str]]:
    """The kinds that can be cached from what is given, and for the others the reason why not."""
    reasons: dict[str, str] = {}
    if any(not caption for caption in dataset.stimuli.detailed_captions):
        reasons |= dict.fromkeys(("text-detailed", "pooled-detailed"), "the data set has no detailed captions")
    if captioner is None:
        reasons |= dict.fromkeys(("text-blip", "pooled-blip"), "no --blip captioner given")
    if clip_folder(clip or model) is None:
        reasons["image"] = f"{clip or model} holds no CLIP image tower; --clip gives one"
    return [kind for kind in KINDS if kind not in reasons], reasons


class LatentCache:
    """Caches latents of `dataset` by the diffusers folder `model`; encoders load when first needed and are shared."""

    def __init__(
        self,
        dataset: CacheableDataset,
        model: Path,
        *,
        clip: Path | None = None,
        captioner: Path | None = None,
        batch_size: int = 32,
        dtype: str = "float16",
        shard_items: int = SHARD_ITEMS,
        ranks: ProcessShare | None = None,
    ) -> None:
        """`clip`: folder of a CLIPModel, default `model` or its clip/. `captioner`: folder of a BLIP captioner."""
        if batch_size < 1:
            raise UserError(f"batch size {batch_size}; it must be at least 1.")
        if dtype not in DTYPES:
            raise UserError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}.")
        self._dataset = dataset
        self._model = require_diffusion_folder(model)
        self._clip = clip or model
        self._captioner_folder = require_captioner_folder(captioner) if captioner else None
        self._batch_size = batch_size
        self._dtype = dtype
        self._shard_items = shard_items
        self._ranks = ranks or ProcessShare()

    def cache(self, kind: str) -> CachedLatents:
        """Make the store of `kind` unless it is there. All ranks call it; all return when it is finished."""
        metadata, items = self._metadata(kind)
        root = self._dataset.folder / "latents"
        # The digest names the content; the slug of the model's name in front of it is for people.
        existing = sorted(root.glob(f"{kind}-*-{metadata.digest}/latents.json"))
        if existing:
            return CachedLatents(kind=kind, store=LatentStore.open(existing[0].parent), made=False)
        self._ranks.wait()  # nobody may finish the store while another rank still looks whether it is there
        if kind == "pooled-blip":
            _ = self._blip_captions  # made here, where all ranks are
        writer = LatentWriter(root, metadata, items)
        pending = writer.pending(rank=self._ranks.rank, world_size=self._ranks.world_size)
        batches = [(shard, rows) for shard in pending for rows in self._batches(writer.rows(shard))]
        self._load_encoders(kind)
        latents: list[torch.Tensor] = []
        texts: list[str] = []
        written: Future[None] | None = None
        inputs = map_in_threads(lambda batch: self._pictures(kind, batch[1]), batches)
        with closing(inputs), ThreadPoolExecutor(1) as writing:
            for (shard, rows), pictures in track(
                zip(batches, inputs, strict=True), total=len(batches), desc=f"cache {kind}", unit="batch"
            ):
                try:
                    encoded, captions = self._encode(kind, items, rows, pictures)
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
        return CachedLatents(kind=kind, store=LatentStore.open(writer.folder), made=True)

    def check(self, cached: CachedLatents, *, num_latents: int = 8, seed: int = 0) -> float:
        """Recompute some latents and compare; returns the largest difference relative to the latent's largest number.

        Raises UserError naming the stimulus when it exceeds CHECK_TOLERANCE, and CorruptSampleError when a stored
        latent does not match its CRC.
        """
        metadata, items = self._metadata(cached.kind)
        rng = np.random.default_rng(seed)
        rows = np.sort(rng.choice(len(items.keys), size=min(num_latents, len(items.keys)), replace=False))
        first_stimulus = {int(row): stimulus for stimulus, row in reversed(list(enumerate(items.latent_of)))}
        stimuli = [first_stimulus[int(row)] for row in rows]
        stored = cached.store.get(stimuli).flatten(1)
        self._load_encoders(cached.kind)
        again = torch.cat(
            [
                self._encode(cached.kind, items, batch, self._pictures(cached.kind, batch))[0].cpu()
                for batch in self._batches(rows.tolist())
            ]
        ).flatten(1)
        difference = (stored - again).abs().amax(1) / again.abs().amax(1).clamp(min=1e-12)
        worst = int(difference.argmax())
        if not difference[worst] <= CHECK_TOLERANCE[metadata.dtype]:
            raise UserError(
                f"the stored {cached.kind} latent of {self._dataset.stimuli.keys[stimuli[worst]]} differs from the "
                f"recomputed one by {float(difference[worst]):.2g} of its largest number (at most "
                f"{CHECK_TOLERANCE[metadata.dtype]:.2g} is rounding). Remove {cached.store.folder} and cache it again."
            )
        return float(difference[worst])

    def _batches(self, rows: Sequence[int]) -> list[Sequence[int]]:
        return [rows[start : start + self._batch_size] for start in range(0, len(rows), self._batch_size)]

    def _metadata(self, kind: str) -> tuple[LatentMetadata, LatentItems]:
        require_kind(kind)
        identity = encoder_identity(kind, self._clip if KINDS[kind].output == "embedding" else self._model)
        items = LatentItems.of(self._dataset.stimuli, kind)
        preprocessing = dict(identity.preprocessing)
        if KINDS[kind].source == "blip caption":
            preprocessing["captioner"] = self._captioner_identity(kind)
        metadata = LatentMetadata(
            kind=kind,
            model_id=identity.model_id,
            revision=identity.revision,
            preprocessing=preprocessing,
            shape=identity.shape,
            dtype=self._dtype,
            inputs=items.digest,
            shard_items=1,
            scaling_factor=identity.scaling_factor,
        )
        # Far below SHARD_BYTES for every model of today; the bound is for latents of megabytes.
        shard_items = max(1, min(self._shard_items, SHARD_BYTES // metadata.npy_bytes))
        return dataclasses.replace(metadata, shard_items=shard_items), items

    def _captioner_identity(self, kind: str) -> dict[str, object]:
        if self._captioner_folder is None:
            raise UserError(f"{kind} encodes BLIP captions: give the folder of a BLIP captioner with --blip.")
        return {
            "revision": folders_digest(self._captioner_folder),
            "num_beams": Captioner.NUM_BEAMS,
            "max_new_tokens": Captioner.MAX_NEW_TOKENS,
        }

    def _load_encoders(self, kind: str) -> None:
        """In this thread: the libraries load in one thread only."""
        source, output = KINDS[kind].source, KINDS[kind].output
        if output == "posterior":
            _ = self._vae
        elif output == "embedding":
            _ = self._image_encoder
        else:
            _ = self._text_encoder
            if source == "blip caption" and output == "hidden":
                _ = self._captioner

    def _pictures(self, kind: str, rows: Sequence[int]) -> torch.Tensor | None:
        """What the encoder sees of the pictures, on the CPU: uint8 [n, 3, S, S] for the VAE, float32 for the others.

        None where captions are encoded. Runs in several threads.
        """
        stimuli, source, output = self._dataset.stimuli, KINDS[kind].source, KINDS[kind].output
        if output == "posterior":
            size_px = self._vae.image_size_px
            # Not stimuli.images(): what it keeps in memory would never be asked for again.
            pictures = torch.from_numpy(np.stack([square_image(stimuli.image(row), size_px) for row in rows]))
        elif output == "embedding":
            pictures = self._image_encoder.pixels([stimuli.image(row) for row in rows])
        elif source == "blip caption" and output == "hidden":
            pictures = self._captioner.pixels([stimuli.image(row) for row in rows])
        else:
            return None
        # Pinned, the copy to the device does not stop what runs there.
        return pictures.pin_memory() if self._ranks.device.type == "cuda" else pictures

    def _encode(
        self, kind: str, items: LatentItems, rows: Sequence[int], pictures: torch.Tensor | None
    ) -> tuple[torch.Tensor, list[str]]:
        """Latents float32 [len(rows), *shape] on the device, and the captions made on the way (BLIP's only)."""
        with exact_convolutions() if self._dtype == "float32" else nullcontext():
            source, output = KINDS[kind].source, KINDS[kind].output
            if output == "posterior":
                assert pictures is not None
                pixels = pictures.to(self._ranks.device, non_blocking=True).float() / 127.5 - 1
                return self._vae.posterior(pixels), []
            if output == "embedding":
                assert pictures is not None
                return self._image_encoder.encode(pictures), []
            if source != "blip caption":
                assert items.texts is not None
                captions, made = [items.texts[row] for row in rows], []
            elif output == "hidden":
                assert pictures is not None
                captions = made = self._captioner.caption(pictures)
            else:
                captions = made = [self._blip_captions[row] for row in rows]
            hidden, pooled = self._text_encoder.encode(captions)
            return (hidden if output == "hidden" else pooled), made

    @cached_property
    def _vae(self) -> VaeEncoder:
        return VaeEncoder(self._model, device=self._ranks.device)

    @cached_property
    def _text_encoder(self) -> TextEncoder:
        return TextEncoder(self._model, device=self._ranks.device)

    @cached_property
    def _image_encoder(self) -> ImageEncoder:
        folder = clip_folder(self._clip)
        assert folder is not None  # encoder_identity has looked
        return ImageEncoder(folder, device=self._ranks.device)

    @cached_property
    def _captioner(self) -> Captioner:
        assert self._captioner_folder is not None  # _captioner_identity has looked
        return Captioner(self._captioner_folder, device=self._ranks.device)

    @cached_property
    def _blip_captions(self) -> list[str]:
        """Captions of the text-blip store: one captioning serves hidden and pooled states."""
        return [str(text) for text in self.cache("text-blip").store.texts]
