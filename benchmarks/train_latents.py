"""Cached latents against encoding on the fly: the same training step with either.

The step, its networks and the segments are the same. Cached: the reader reads the latents that `neuroimagen cache`
wrote. On the fly: the reader reads images, which it decodes once each and keeps (`diffusion`), or nothing (`semantic`),
and the frozen VAE or text encoder runs before the step, without gradients. The steps are bare loops, because the engine
costs the same either way.
"""

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neuroimagen.benchmarks.feed import Encode, StageBatches
from neuroimagen.benchmarks.machine import timed
from neuroimagen.benchmarks.noise_data import write_noise
from neuroimagen.benchmarks.train_steps import WARM_UP_STEPS, Step, bare_step, bundled_shapes, recipe_of
from neuroimagen.data_shards.frozen_models.text import TextEncoder
from neuroimagen.data_shards.frozen_models.vae import VaeEncoder
from neuroimagen.data_shards.latent_cache.cache import LatentCache
from neuroimagen.data_shards.loading.reader import Batch
from neuroimagen.trainer.batches.stage_data import BatchNeeds
from neuroimagen.trainer.bundled_model.location import bundled_model_path
from neuroimagen.trainer.training.build import build_stage

KINDS = {"diffusion": "vae", "semantic": "text-class"}
"""Stage → the kind of latent that it reads."""


def compare_latents(folder: Path, device: torch.device, *, blocks: int, block_steps: int) -> dict[str, Any]:
    """Stage → median ms per step with cached latents and with encoding, and the ratio of the second to the first.

    With the bundled model, on a data set of noise with 480 images of the model's size.
    """
    model, shapes = bundled_model_path(), bundled_shapes()
    vae = VaeEncoder(model, device=device)
    dataset = write_noise(folder / "data", shapes, num_segments=960, num_stimuli=480, image_size_px=vae.image_size_px)
    cache = LatentCache(dataset, model)
    stores = {name: cache.cache(kind).store for name, kind in KINDS.items()}
    text, captions = TextEncoder(model, device=device), dataset.stimuli.captions

    def posterior(batch: Batch) -> Tensor:
        assert batch.images is not None
        return vae.posterior(batch.images.float() / 127.5 - 1)

    def hidden(batch: Batch) -> Tensor:
        return text.encode([captions[row] for row in batch.stimulus.tolist()])[0]

    encoders: dict[str, tuple[Encode, BatchNeeds]] = {
        "diffusion": (posterior, BatchNeeds(image_size_px=vae.image_size_px)),
        "semantic": (hidden, BatchNeeds()),
    }
    found = {}
    for name, (encode, needs) in encoders.items():
        stage = build_stage(recipe_of(name), name, shapes)
        step = bare_step(stage, device)
        kind = KINDS[name]
        cached = StageBatches(dataset, stage, device, needs=stage.needs, latents={kind: stores[name]})
        encoding = StageBatches(dataset, stage, device, needs=needs, latents={}, encode={kind: encode})
        ways = {"cached": cached, "encoding": encoding}
        found[name] = {"batch": stage.global_batch_size, **_take_turns(step, ways, blocks, block_steps, device)}
        cached.close()
        encoding.close()
    return found


def _take_turns(
    step: Step, ways: dict[str, StageBatches], blocks: int, block_steps: int, device: torch.device
) -> dict[str, float]:
    def run(batches: StageBatches) -> Callable[[int], None]:
        return lambda number: step(number, next(batches))

    for batches in ways.values():
        timed(run(batches), WARM_UP_STEPS, device)
    times: dict[str, list[float]] = {way: [] for way in ways}
    for block in range(blocks):
        for way in list(ways)[:: 1 if block % 2 else -1]:
            times[way].append(1e3 * timed(run(ways[way]), block_steps, device))
    ratios = [slow / fast for slow, fast in zip(times["encoding"], times["cached"], strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else (ratios[0],) * 3
    return {
        "cached_ms": statistics.median(times["cached"]),
        "encoding_ms": statistics.median(times["encoding"]),
        "times": statistics.median(ratios),
        "times_low": low,
        "times_high": high,
    }
