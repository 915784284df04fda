"""A training step through the engine, and the same step as a plain PyTorch loop.

Both take the same networks, losses and batches, in the same precision.
"""

import os
import statistics
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from neuroimagen.benchmarks.machine import timed
from neuroimagen.data_shards.frozen_models.latent_kinds import latent_kind
from neuroimagen.data_shards.frozen_models.model_folder import (
    ModelFolders,
    component_folder,
    image_size_px,
    read_config,
    vae_reduction,
)
from neuroimagen.data_shards.frozen_models.model_folder import text_shape as text_shape_of
from neuroimagen.data_shards.loading.reader import Batch
from neuroimagen.launch.nodes.job import free_port
from neuroimagen.trainer.batches.stage_data import Shapes
from neuroimagen.trainer.bundled_model.location import bundled_model_path
from neuroimagen.trainer.networks.encoders.registry import encoder_config
from neuroimagen.trainer.networks.randomness import StepRandom, derive_seed, reseed_dropout
from neuroimagen.trainer.recipe.recipe import Recipe
from neuroimagen.trainer.stages.base import Stage
from neuroimagen.trainer.stages.contrastive import ContrastiveConfig
from neuroimagen.trainer.stages.prior import PriorConfig
from neuroimagen.trainer.training.build import build_stage
from neuroimagen.trainer.training.engines.deepspeed_adapter import init_gloo
from neuroimagen.trainer.training.engines.engine import Frozen, build_engines, compute_dtype, set_learning_rates
from neuroimagen.trainer.training.loop import train_step
from neuroimagen.trainer.training.process_group import ProcessGroup

STAGES = (
    "masked",
    "contrastive",
    "classifier",
    "saliency",
    "semantic",
    "alignment",
    "prior",
    "vae_latent",
    "diffusion",
)
"""Without `semantic_detailed`, whose step is that of `semantic` with other captions."""
SEED = 0
WARM_UP_STEPS = 3

Step = Callable[[int, Batch], None]
"""Takes one optimiser step: (number of the step, its batch)."""


def bundled_shapes() -> Shapes:
    """EEG of 128 channels × 440 samples in 40 classes; latents of the bundled model."""
    model = bundled_model_path()
    side = image_size_px(model) // vae_reduction(model)
    channels = int(read_config(component_folder(model, "vae"))["latent_channels"])
    return Shapes(
        n_channels=128,
        n_samples=440,
        num_classes=40,
        text_shape=text_shape_of(model),
        latent_shape=(channels, side, side),
        latents={"image": latent_kind("image").identity(ModelFolders(model=model)).shape},
    )


def recipe_of(name: str) -> Recipe:
    """The defaults; contrastive and prior at a global batch of 256, the prior with conditions made in the step."""
    recipe = Recipe()
    if name == "masked":
        return replace(recipe, encoder=encoder_config("transformer"))
    if name == "contrastive":
        return recipe.with_stage("contrastive", ContrastiveConfig(num_classes=32, num_samples=8))
    if name == "prior":
        return recipe.with_stage("prior", PriorConfig(batch_size=256, embeddings="naive"))
    return recipe


def make_batch(stage: Stage, shapes: Shapes, device: torch.device) -> Batch:
    """Noise in the shapes of a stage's batch, 8 segments a class."""
    generator = torch.Generator().manual_seed(0)
    total = stage.global_batch_size
    index = torch.arange(total)
    size = stage.needs.image_size_px
    images = None
    if size is not None:
        images = torch.randint(0, 256, (total, 3, size, size), dtype=torch.uint8, generator=generator).to(device)
    latents = {
        kind: torch.randn(total, *shapes.of_latent(kind), generator=generator).to(device)
        for kind in stage.needs.latents
    }
    return Batch(
        rows=index,
        eeg=torch.randn(total, shapes.n_channels, shapes.n_samples, generator=generator).to(device),
        label=(index // 8 % shapes.num_classes).to(device),
        subject=index.to(device),
        stimulus=index.to(device),
        images=images,
        latents=latents,
    )


def alone(device: torch.device) -> None:
    """Make this process the only rank of a process group, which DeepSpeed needs."""
    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free_port()))
    if device.type == "cuda":
        import deepspeed

        deepspeed.init_distributed()
    else:
        init_gloo()


def engine_step(stage: Stage, device: torch.device) -> Step:
    """The stage's step as the training loop takes it; call `alone` first."""
    for network in stage.networks.values():
        network.to(device)
    engines = build_engines(stage, world_size=1, device=device)
    group = ProcessGroup()

    def step(number: int, batch: Batch) -> None:
        set_learning_rates(stage, engines, number)
        train_step(stage, engines, batch, SEED, number, group)

    return step


def bare_step(stage: Stage, device: torch.device) -> Step:
    """The stage's step without engine: zero_grad, loss (in autocast where the engine would), backward, clip, AdamW."""
    config, total = stage.config, stage.global_batch_size
    low = compute_dtype(config, device)
    assert low != "float16"  # it would want a scaled loss
    optimizers = {}
    for name, network in stage.networks.items():
        trained = [p for p in network.to(device).parameters() if p.requires_grad]
        optimizers[name] = torch.optim.AdamW(
            trained,
            lr=stage.learning_rate(name),
            betas=config.adam_betas,
            weight_decay=config.weight_decay,
            fused=device.type == "cuda" or None,  # as the engine's
        )

    def step(number: int, batch: Batch) -> None:
        for phase in stage.phases:
            seed = derive_seed(SEED, phase.network)
            random = StepRandom(seed, number, first=0, count=total, device=device)
            for network in stage.networks.values():
                reseed_dropout(network, random)
            with Frozen([network for name, network in stage.networks.items() if name != phase.network]):
                optimizers[phase.network].zero_grad()
                with torch.autocast(device.type, dtype=torch.bfloat16, enabled=low is not None):
                    loss, _ = phase.loss(stage.networks, batch, random)
                loss.backward()
                assert config.gradient_clip is not None
                torch.nn.utils.clip_grad_norm_(stage.networks[phase.network].parameters(), config.gradient_clip)
                optimizers[phase.network].step()

    return step


def compare_steps(name: str, device: torch.device, *, blocks: int, block_steps: int) -> dict[str, Any]:
    """Median time of a step, engine and bare, in ms; and the median overhead over pairs of successive blocks."""
    shapes = bundled_shapes()
    stages = [build_stage(recipe_of(name), name, shapes) for _ in range(2)]
    batch = make_batch(stages[0], shapes, device)
    ours, bare = engine_step(stages[0], device), bare_step(stages[1], device)
    for step in (ours, bare):
        for number in range(WARM_UP_STEPS):
            step(number, batch)
    times: dict[str, list[float]] = {"engine": [], "bare": []}
    for block in range(blocks):
        order = [("engine", ours), ("bare", bare)]
        for key, step in order if block % 2 else order[::-1]:
            times[key].append(1e3 * timed(_with(step, batch), block_steps, device))
    ratios = [engine / plain - 1 for engine, plain in zip(times["engine"], times["bare"], strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else (ratios[0],) * 3
    return {
        "batch": stages[0].global_batch_size,
        "engine_ms": statistics.median(times["engine"]),
        "bare_ms": statistics.median(times["bare"]),
        "overhead": statistics.median(ratios),
        "overhead_low": low,
        "overhead_high": high,
    }


def _with(step: Step, batch: Batch) -> Callable[[int], None]:
    def run(number: int) -> None:
        step(number, batch)

    return run
