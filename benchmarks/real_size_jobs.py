"""The measurements of `bench real-size`, one loop per process: `python -m neuroimagen.benchmarks.real_size_jobs JOB`.

In a process of its own a loop's peak memory is its own, and running out of memory does not affect the others.
"""

import dataclasses
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from neuroimagen.benchmarks.feed import StageBatches
from neuroimagen.benchmarks.machine import matrix_peak, timed
from neuroimagen.benchmarks.noise_data import open_noise_latents, write_noise, write_noise_latents
from neuroimagen.benchmarks.stable_diffusion import STABLE_DIFFUSION_1_5, TINY, DiffusionSizes
from neuroimagen.benchmarks.train_steps import SEED, WARM_UP_STEPS, Step, alone, bare_step, engine_step
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.loading.reader import Batch
from neuroimagen.trainer.batches.stage_data import BatchNeeds, Shapes
from neuroimagen.trainer.networks.eeg_unet import NoiseSchedule
from neuroimagen.trainer.networks.encoders.base import EncoderConfig
from neuroimagen.trainer.networks.encoders.eeg_encoder import encoder_arguments
from neuroimagen.trainer.networks.encoders.registry import encoder_config
from neuroimagen.trainer.networks.model_folder_unet import STABLE_DIFFUSION_1_SCHEDULER, LoadedUNet
from neuroimagen.trainer.networks.semantic import SemanticModel
from neuroimagen.trainer.recipe.recipe import Recipe
from neuroimagen.trainer.stages.base import Stage
from neuroimagen.trainer.stages.contrastive import ContrastiveConfig
from neuroimagen.trainer.stages.diffusion import DiffusionStage
from neuroimagen.trainer.stages.diffusion_config import DiffusionConfig
from neuroimagen.trainer.stages.diffusion_networks import conditioned_on_eeg
from neuroimagen.trainer.stages.masked import MaskedConfig
from neuroimagen.trainer.stages.semantic import SemanticConfig
from neuroimagen.trainer.training.build import build_stage
from neuroimagen.trainer.training.speed import peak_memory_gib

LOOPS = {
    "contrastive": ("engine", "streaming", "bare"),
    "masked": ("engine", "streaming", "bare"),
    "semantic": ("engine", "streaming", "bare"),
    "diffusion": ("engine", "streaming", "bare", "encoding", "diffusers"),
}
"""Stage → its loops. engine: ours with its defaults, with which data that fit stay on the GPU; streaming: ours with
`data.resident_gib: 0`; bare: plain PyTorch on the networks and batches of the first; encoding: the bare loop from
images, with the VAE in it; diffusers: that library's published loop. `compiled` is ours with `compile: true`."""

DRAINED_STEPS = 4
"""Steps before a timed block, which use up the batches that the reader had ready."""

Figures = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The sizes of networks, batches and data."""

    shapes: Shapes
    diffusion: DiffusionSizes
    recipe: Recipe
    masked_encoder: EncoderConfig
    num_segments: int
    num_stimuli: int
    peak_sizes: tuple[int, ...]

    def batch_size(self, stage: str) -> int:
        contrastive = self.recipe.stages["contrastive"]
        return {
            "contrastive": contrastive.num_classes * contrastive.num_samples,
            "masked": self.recipe.stages["masked"].batch_size,
            "semantic": self.recipe.stages["semantic"].batch_size,
            "diffusion": self.recipe.stages["diffusion"].batch_size,
        }[stage]


def sizes_of(*, tiny: bool, unet_batch: int) -> Sizes:
    """Segments of 128 × 440 and Stable Diffusion 1.5; masked pre-training as large as DreamDiffusion's (Bai et al.
    2023: width 1,024, 24 blocks, decoder 512 × 8). The whole U-Net is trained, as diffusers' loop does.
    """
    diffusion = DiffusionConfig(batch_size=unet_batch, trained="all")
    if tiny:
        return Sizes(
            shapes=_shapes(TINY, n_channels=8, n_samples=40),
            diffusion=TINY,
            recipe=Recipe(
                encoder=encoder_config(spatial_filters=8, temporal_filters=8, kernel_samples=5, feature_size=16),
                stages={
                    "contrastive": ContrastiveConfig(num_classes=8, num_samples=4),
                    "masked": MaskedConfig(batch_size=16, decoder_width=32),
                    "semantic": SemanticConfig(batch_size=16, hidden_size=32, initialise_from=None),
                    "diffusion": diffusion,
                },
            ),
            masked_encoder=encoder_config("transformer", width=32, depth=2, heads=2),
            num_segments=320,
            num_stimuli=40,
            peak_sizes=(64, 128),
        )
    return Sizes(
        shapes=_shapes(STABLE_DIFFUSION_1_5, n_channels=128, n_samples=440),
        diffusion=STABLE_DIFFUSION_1_5,
        recipe=Recipe(
            stages={
                "contrastive": ContrastiveConfig(num_classes=32, num_samples=128),
                "masked": MaskedConfig(batch_size=512, decoder_width=512, decoder_depth=8),
                "semantic": SemanticConfig(batch_size=1024, initialise_from=None),
                "diffusion": diffusion,
            }
        ),
        masked_encoder=encoder_config("transformer", width=1024, depth=24, heads=16),
        num_segments=16384,
        num_stimuli=1000,
        peak_sizes=(4096, 8192, 16384),
    )


def _shapes(diffusion: DiffusionSizes, *, n_channels: int, n_samples: int) -> Shapes:
    return Shapes(
        n_channels=n_channels,
        n_samples=n_samples,
        num_classes=40,
        text_shape=diffusion.text_shape,
        latent_shape=diffusion.latent_shape,
    )


def write_data(folder: Path, sizes: Sizes) -> None:
    """Write segments, images and latents of both kinds that the stages read."""
    dataset = write_noise(
        folder,
        sizes.shapes,
        num_segments=sizes.num_segments,
        num_stimuli=sizes.num_stimuli,
        image_size_px=sizes.diffusion.image_size_px,
    )
    for kind in ("vae", sizes.recipe.stages["semantic"].target):
        write_noise_latents(dataset, kind, sizes.shapes.of_latent(kind))


def make_stage(sizes: Sizes, name: str, device: torch.device, *, zero_stage: int = 0, compiled: bool = False) -> Stage:
    """The stage as `neuroimagen train` makes it, with random weights in the U-Net and the semantic model."""
    changes: dict[str, Any] = {"zero_stage": zero_stage, "compile": compiled}
    recipe = sizes.recipe.with_stage(name, replace(sizes.recipe.stages[name], **changes))
    if name == "masked":
        recipe = replace(recipe, encoder=sizes.masked_encoder)
    if name != "diffusion":
        return build_stage(recipe, name, sizes.shapes)
    torch.manual_seed(SEED)
    shapes = sizes.shapes
    encoder = encoder_arguments(recipe.encoder, n_channels=shapes.n_channels, n_samples=shapes.n_samples, subjects=None)
    head = recipe.stages["semantic"]
    semantic = SemanticModel(
        encoder=encoder, text_shape=shapes.text_shape, hidden_size=head.hidden_size, head_dropout=head.head_dropout
    )
    unet = LoadedUNet(
        network=sizes.diffusion.make_unet(device=device),
        schedule=NoiseSchedule(STABLE_DIFFUSION_1_SCHEDULER),
        scaling_factor=sizes.diffusion.scaling_factor,
        folder=None,
    )
    config = recipe.stages["diffusion"]
    return DiffusionStage(config, network=conditioned_on_eeg(config, unet, semantic.train()), unet=unet)


@dataclass(frozen=True, kw_only=True)
class Job:
    """One loop of one stage."""

    stage: str
    loop: str
    data: str
    """Folder of `write_data`."""
    tiny: bool
    unet_batch: int
    zero_stage: int = 0
    blocks: int = 0
    """Of steps on new batches and of steps on the same batch; 0 measures the peak of memory only."""
    block_steps: int = 1
    workers: int = 0
    """Processes of the DataLoader in diffusers' loop."""


def measure(job: Job, device: torch.device) -> Figures:
    """Times in ms per step, one for each block.

    fed_ms: with batches as in training. same_batch_ms: with one batch, already on the device, for every step: the time
    without any cost of data. wait_share: of the fed blocks, as the training loop logs it. peak_gib: peak memory after
    a few fed steps. flops: operations of one step's matrix products and convolutions, forward and backward (of the bare
    loop).
    """
    sizes = sizes_of(tiny=job.tiny, unet_batch=job.unet_batch)
    dataset = Dataset.open(job.data)
    if job.loop == "diffusers":
        return _measure_diffusers(job, sizes, dataset, device)
    stage = make_stage(sizes, job.stage, device, zero_stage=job.zero_stage, compiled=job.loop == "compiled")
    if job.loop in ("bare", "encoding"):
        step = bare_step(stage, device)
    else:
        alone(device)
        step = engine_step(stage, device)
    feed = _feed(job, sizes, stage, dataset, device)
    fed = _on(step, feed.__next__)
    timed(fed, WARM_UP_STEPS, device)
    figures: Figures = {"peak_gib": peak_memory_gib(), "fed_ms": [], "same_batch_ms": [], "wait_share": []}
    if job.blocks:
        batch = next(feed)
        same = _on(step, lambda: batch)
        for _ in range(job.blocks):
            timed(fed, DRAINED_STEPS, device)
            waited = feed.wait_seconds
            seconds = timed(fed, job.block_steps, device)
            figures["fed_ms"].append(1e3 * seconds)
            figures["wait_share"].append((feed.wait_seconds - waited) / (seconds * job.block_steps))
            figures["same_batch_ms"].append(1e3 * timed(same, job.block_steps, device))
        if job.loop == "bare":
            figures["flops"] = count_flops(lambda: step(0, batch))
    feed.close()
    return figures


def _feed(job: Job, sizes: Sizes, stage: Stage, dataset: Dataset, device: torch.device) -> StageBatches:
    if job.loop != "encoding":
        latents = {kind: open_noise_latents(dataset, kind) for kind in stage.needs.latents}
        resident_gib = 0 if job.loop == "streaming" else None
        return StageBatches(dataset, stage, device, needs=stage.needs, latents=latents, resident_gib=resident_gib)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    vae = sizes.diffusion.make_vae(device=device, dtype=dtype)

    @torch.no_grad()
    def posterior(batch: Batch) -> Tensor:
        assert batch.images is not None
        found = vae.encode((batch.images.float() / 127.5 - 1).to(dtype)).latent_dist
        return torch.stack([found.mean, found.std], dim=1).float()

    needs = BatchNeeds(image_size_px=sizes.diffusion.image_size_px)
    return StageBatches(dataset, stage, device, needs=needs, latents={}, encode={"vae": posterior})


def _on(step: Step, batch: Callable[[], Batch]) -> Callable[[int], None]:
    def run(number: int) -> None:
        step(number, batch())

    return run


def _measure_diffusers(job: Job, sizes: Sizes, dataset: Dataset, device: torch.device) -> Figures:
    from neuroimagen.benchmarks.diffusers_loop import DiffusersLoop

    loop = DiffusersLoop(
        dataset,
        sizes.diffusion,
        STABLE_DIFFUSION_1_SCHEDULER,
        batch_size=sizes.batch_size("diffusion"),
        device=device,
        num_workers=job.workers,
    )

    def step(_: int) -> None:
        loop.step()

    timed(step, WARM_UP_STEPS, device)
    figures: Figures = {"peak_gib": peak_memory_gib(), "fed_ms": []}
    for _ in range(job.blocks):
        timed(step, DRAINED_STEPS, device)
        figures["fed_ms"].append(1e3 * timed(step, job.block_steps, device))
    return figures


def count_flops(step: Callable[[], None]) -> int:
    """Floating-point operations of the matrix products, convolutions and attention that a step calls, two per
    multiply-add. Custom kernels (the mining) and element-wise operations are not counted.
    """
    with FlopCounterMode(display=False) as counter:
        step()
    return int(counter.get_total_flops())


def answer(question: Figures) -> Figures:
    """{"job": …} → the figures of `measure`, or {"failed": why}; {"peak": tiny} → the device's matrix peak."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if "peak" in question:
        sizes = sizes_of(tiny=question["peak"], unet_batch=1).peak_sizes
        return matrix_peak(device, torch.bfloat16 if device.type == "cuda" else torch.float32, sizes=sizes)
    try:
        return measure(Job(**question["job"]), device)
    except torch.OutOfMemoryError:
        return {"failed": "out of memory"}


def ask(job: Job) -> Figures:
    """The argument for this module's command line that measures `job`."""
    return {"job": dataclasses.asdict(job)}


if __name__ == "__main__":
    print(json.dumps(answer(json.loads(sys.argv[1]))))
