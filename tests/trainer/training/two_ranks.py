"""Run by test_two_ranks.py on one, two or four ranks: compares DeepSpeed engines with plain PyTorch on the joint batch.

Each rank trains its half through the loop's train_step; the reference is one process on the whole batch, with torch's
own AdamW. Rank 0 writes what it found to the file named first, by task: `weights` is how far the weights are apart,
`losses` the losses, `memory` what a rank holds. The second argument is a model folder, the others are the tasks.
"""

import copy
import gc
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from neuroimagen.data_shards.frozen_models.ip_adapter import NEW, IPAdapterConfig
from neuroimagen.data_shards.loading.reader import Batch
from neuroimagen.trainer.batches.augmentation import AugmentConfig
from neuroimagen.trainer.batches.stage_data import Shapes
from neuroimagen.trainer.networks.encoders.registry import encoder_config
from neuroimagen.trainer.networks.randomness import StepRandom, derive_seed, reseed_dropout
from neuroimagen.trainer.recipe.recipe import ModelConfig, Recipe
from neuroimagen.trainer.stages.alignment import AlignmentConfig
from neuroimagen.trainer.stages.base import Stage
from neuroimagen.trainer.stages.classifier import ClassifierConfig
from neuroimagen.trainer.stages.contrastive import ContrastiveConfig
from neuroimagen.trainer.stages.diffusion_config import DiffusionConfig
from neuroimagen.trainer.stages.masked import MaskedConfig
from neuroimagen.trainer.stages.prior import PriorConfig
from neuroimagen.trainer.stages.registry import STAGES
from neuroimagen.trainer.stages.saliency import SaliencyConfig
from neuroimagen.trainer.stages.semantic import SemanticConfig, SemanticDetailedConfig
from neuroimagen.trainer.stages.vae_latent import VaeLatentConfig
from neuroimagen.trainer.training.build import build_stage
from neuroimagen.trainer.training.dry_run import rank_memory
from neuroimagen.trainer.training.engines.deepspeed_adapter import init_gloo
from neuroimagen.trainer.training.engines.ema import EMA
from neuroimagen.trainer.training.engines.engine import Frozen, build_engines, set_learning_rates
from neuroimagen.trainer.training.evaluation_networks import evaluation_networks
from neuroimagen.trainer.training.loop import train_step
from neuroimagen.trainer.training.process_group import ProcessGroup

CPU = torch.device("cpu")
STEPS = 4
SEED = 11
TOTAL = 16
ADAPTER = "adapter"
"""The diffusion stage that trains an IP-Adapter with the U-Net, as a case beside the stages."""
CASES = (*STAGES.names(), ADAPTER)
OVER_THE_BATCH = ("contrastive", "alignment")
"""Stages whose loss is one over the whole batch, and which refuse accumulation."""
SHAPES = Shapes(
    n_channels=6,
    n_samples=40,
    num_classes=4,
    text_shape=(5, 7),
    latent_shape=(4, 8, 8),
    latents={"image": (9,)},
    subjects=tuple(range(12)),  # of 16: the others get the mean of their layers
)

WIDE = replace(SHAPES, text_shape=(40, 64))


@dataclass(frozen=True)
class Alone:
    """Stands in for ProcessGroup in the reference."""

    rank: int = 0
    world_size: int = 1


def shapes(case: str) -> Shapes:
    """The stage's shapes; the diffusion stage's are those of the model folder, the second argument."""
    return replace(SHAPES, text_shape=(24, 32)) if stage_of(case) == "diffusion" else SHAPES


def stage_of(case: str) -> str:
    """The stage of a case."""
    return "diffusion" if case == ADAPTER else case


def build(case: str, **settings: Any) -> Stage:
    """The stage of a case with its recipe and shapes."""
    return build_stage(recipe(case, **settings), stage_of(case), shapes(case))


def recipe(stage: str, **settings: Any) -> Recipe:
    common: dict[str, Any] = {
        "steps": 100,
        "warmup_steps": 0,
        "learning_rate": 1e-2,
        "gradient_clip": 0.5,
        "augment": AugmentConfig(shift_samples=3, scale_std=0.2, drop_channels=0.2),
        **settings,
    }
    common_encoder: dict[str, Any] = {
        "feature_size": 8,
        "dropout": 0.3,
        "subject_layers": stage in ("masked", "classifier"),
    }
    if stage == "masked":
        encoder = encoder_config("transformer", **common_encoder, width=32, heads=2, depth=2)
    else:
        filters = {"spatial_filters": 6, "temporal_filters": 8, "kernel_samples": 5, "stride_samples": 2}
        encoder = encoder_config(**common_encoder, **filters)
    widths = {
        "image_size_px": 16,
        "noise_size": 4,
        "generator_width": 16,
        "generator_hidden_size": 12,
        "discriminator_width": 8,
    }
    accumulation = common.pop("gradient_accumulation", 1)
    mined = ContrastiveConfig(**common, num_classes=4, num_samples=4)
    aligned = AlignmentConfig(**common, batch_size=TOTAL, targets={"image": 1.0}, mse_weight=0.1, cosine_weight=0.1)
    common["gradient_accumulation"] = accumulation
    diffusion: dict[str, Any] = {"alignment_weight": 0.1}
    adapters: dict[str, IPAdapterConfig] = {}
    if stage == ADAPTER:
        diffusion = {"train": "both", "embeddings": "stimulus"}
        adapters = {"mine": IPAdapterConfig(path=NEW, target="image")}
    return Recipe(
        model=ModelConfig(path=sys.argv[2], ip_adapters=adapters),
        encoder=encoder,
        stages={
            "diffusion": DiffusionConfig(**common, batch_size=TOTAL, **diffusion),
            "masked": MaskedConfig(**common, batch_size=TOTAL, decoder_width=32),
            "classifier": ClassifierConfig(**common, batch_size=TOTAL),
            "contrastive": mined,
            "alignment": aligned,
            "saliency": SaliencyConfig(**common, **widths, batch_size=TOTAL, discriminator_learning_rate=1e-2),
            "prior": PriorConfig(**common, batch_size=TOTAL, embeddings="naive", sizes=(16, 8), time_size=8),
            "vae_latent": VaeLatentConfig(**common, batch_size=TOTAL, head_width=16),
            "semantic": SemanticConfig(**common, batch_size=TOTAL, hidden_size=8),
            "semantic_detailed": SemanticDetailedConfig(**common, batch_size=TOTAL, hidden_size=8),
        },
    )


def batches(stage: Stage, steps: int, shapes: Shapes = SHAPES) -> list[Batch]:
    """The global batches, the same everywhere."""
    generator = torch.Generator().manual_seed(0)
    index = torch.arange(TOTAL)
    made = []
    for _ in range(steps):
        images = None
        if stage.needs.image_size_px is not None:
            images = torch.randint(0, 256, (TOTAL, 3, 16, 16), dtype=torch.uint8, generator=generator)
        latents = {
            kind: torch.randn(TOTAL, *shapes.of_latent(kind), generator=generator) for kind in stage.needs.latents
        }
        eeg = torch.randn(TOTAL, 6, 40, generator=generator)
        made.append(
            Batch(rows=index, eeg=eeg, label=index % 4, subject=index, stimulus=index, images=images, latents=latents)
        )
    return made


def part(batch: Batch, rank: int, world_size: int) -> Batch:
    cut = slice(TOTAL * rank // world_size, TOTAL * (rank + 1) // world_size)
    images = None if batch.images is None else batch.images[cut]
    latents = {kind: values[cut] for kind, values in batch.latents.items()}
    names = ("rows", "eeg", "label", "subject", "stimulus")
    return replace(batch, images=images, latents=latents, **{name: getattr(batch, name)[cut] for name in names})


def train_plainly(stage: Stage) -> Mapping[str, nn.Module]:
    """The reference: the same phases with PyTorch alone. Its loss must not gather over ranks."""
    config = stage.config
    optimizers = {
        name: torch.optim.AdamW(
            network.parameters(),
            lr=stage.learning_rate(name),
            betas=config.adam_betas,
            weight_decay=config.weight_decay,
        )
        for name, network in stage.networks.items()
    }
    from neuroimagen.trainer.training.engines.engine import learning_rate_factor

    for step, batch in enumerate(batches(stage, STEPS)):
        for phase in stage.phases:
            seed = derive_seed(SEED, phase.network)
            random = StepRandom(seed, step, first=0, count=TOTAL, device=CPU)
            for network in stage.networks.values():
                reseed_dropout(network, random)
            with Frozen([network for name, network in stage.networks.items() if name != phase.network]):
                loss, _ = phase.loss(stage.networks, batch, random)
                optimizer = optimizers[phase.network]
                optimizer.zero_grad()
                loss.backward()
                assert config.gradient_clip is not None
                torch.nn.utils.clip_grad_norm_(stage.networks[phase.network].parameters(), config.gradient_clip)
                for group in optimizer.param_groups:
                    group["lr"] = stage.learning_rate(phase.network) * learning_rate_factor(step, config)
                optimizer.step()
    return stage.networks


def train_on_ranks(stage: Stage, group: ProcessGroup, global_batches: list[Batch]) -> list[float]:
    """Train through the loop's own step; returns the losses, and leaves the networks in `stage.trained`."""
    engines = build_engines(stage, world_size=group.world_size, device=CPU)
    losses = []
    for step, batch in enumerate(global_batches):
        set_learning_rates(stage, engines, step)
        figures = train_step(stage, engines, part(batch, group.rank, group.world_size), SEED, step, group)
        losses.append(sum(value for name, value in group.mean(figures).items() if name.endswith("loss")))
    stage.trained = {name: engine.whole_network() for name, engine in engines.items()}  # type: ignore[attr-defined]
    return losses


def distance(first: Mapping[str, nn.Module], second: Mapping[str, nn.Module]) -> float:
    """Root mean square difference over all weights, of the network where it is largest."""
    worst = 0.0
    for name in first:
        pairs = zip(first[name].parameters(), second[name].parameters(), strict=True)
        squares = torch.cat([(a - b).detach().double().square().flatten() for a, b in pairs])
        worst = max(worst, squares.mean().sqrt().item())
    return worst


def variants(name: str) -> dict[str, dict[str, Any]]:
    """Ways to run a stage that must not change what it computes."""
    found: dict[str, dict[str, Any]] = {f"zero {stage}": {"zero_stage": stage} for stage in (0, 1, 2, 3)}
    found["zero 2 offloaded"] = {"zero_stage": 2, "offload_optimizer": True}
    if name not in OVER_THE_BATCH:
        found["zero 1 accumulated"] = {"zero_stage": 1, "gradient_accumulation": 2}
    return found


def compare_weights(group: ProcessGroup) -> dict[str, float]:
    """Root mean square distance of the weights from plain PyTorch's after STEPS steps."""
    differences: dict[str, float] = {}
    for name in CASES:
        reference = build(name)
        if name == "contrastive":
            reference._triplet_loss.global_batch = False  # type: ignore[attr-defined]
        if name == "alignment":
            reference._infonce.global_batch = False  # type: ignore[attr-defined]
        start = copy.deepcopy(reference.networks)
        expected = train_plainly(reference)
        differences[f"{name} moved"] = distance(start, expected)
        for variant, settings in variants(name).items():
            stage = build(name, **settings)
            train_on_ranks(stage, group, batches(stage, STEPS))
            differences[f"{name} {variant}"] = distance(stage.trained, expected)  # type: ignore[attr-defined]
    return differences


def record_losses(group: ProcessGroup) -> dict[str, list[float]]:
    """The losses of 20 steps, the mean over ranks, of every stage and ZeRO stage."""
    losses: dict[str, list[float]] = {}
    for name in CASES:
        for variant in (0, 1, 2, 3):
            stage = build(name, zero_stage=variant, learning_rate=1e-3)
            losses[f"{name} zero {variant}"] = train_on_ranks(stage, group, batches(stage, 20))
    return losses


def live_bytes() -> int:
    """Memory of all tensors that are reachable in this process, each counted once."""
    gc.collect()
    tensors = [thing for thing in gc.get_objects() if type(thing) in (torch.Tensor, nn.Parameter)]
    storages = [tensor.untyped_storage() for tensor in tensors if tensor.device == CPU]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def measure_memory(group: ProcessGroup) -> dict[str, float]:
    """Bytes of this rank's tensors at ZeRO 3 beyond those before the engine: between steps, in evaluation and after it;
    and what a dry run says of the same stage.

    A stage of one network of 1.3 million weights in two layers, with a moving average.
    """
    wide = recipe("semantic", zero_stage=3, ema_decay=0.9)
    wide = wide.with_stage("semantic", replace(wide.stages["semantic"], hidden_size=512))
    at_start = live_bytes()
    stage = build_stage(wide, "semantic", WIDE)
    said = rank_memory(stage, num_ranks=group.world_size)
    engines = build_engines(stage, world_size=group.world_size, device=CPU)
    averages = {name: EMA(engine.held_weights(), 0.9) for name, engine in engines.items()}
    for step, batch in enumerate(batches(stage, 3, WIDE)):
        train_step(stage, engines, part(batch, group.rank, group.world_size), SEED, step, group)
        for name, engine in engines.items():
            averages[name].update(engine.held_weights(), step + 1)
    del batch
    between = live_bytes() - at_start
    with evaluation_networks(engines, averages) as networks:
        during = live_bytes() - at_start
        parameters = sum(p.numel() for network in networks.values() for p in network.parameters())
    return {
        "between": between,
        "during": during,
        "after": live_bytes() - at_start,
        "whole": 4 * parameters,
        "said between": said.between_steps,
        "said in evaluation": said.evaluation,
        "said reduction": said.reduction,
    }


TASKS = {"weights": compare_weights, "losses": record_losses, "memory": measure_memory}


def main() -> None:
    init_gloo()
    group = ProcessGroup()
    found: dict[str, Any] = {task: TASKS[task](group) for task in sys.argv[3:]}  # type: ignore[operator]
    if dist.get_rank() == 0:
        Path(sys.argv[1]).write_text(json.dumps(found), encoding="utf-8")
    dist.barrier()


if __name__ == "__main__":
    main()
