"""Checks a stage's recipe without data or weights: real shapes on the meta device, parameter counts, memory a rank."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.loading.reader import Batch
from neuroimagen.trainer.batches.stage_data import Shapes
from neuroimagen.trainer.networks.randomness import StepRandom
from neuroimagen.trainer.recipe.recipe import Recipe
from neuroimagen.trainer.stages.base import Stage
from neuroimagen.trainer.training.build import build_stage
from neuroimagen.trainer.training.engine import Frozen, engine_config
from neuroimagen.trainer.training.inputs import expected_shapes

_GIB = float(1 << 30)


@dataclass(frozen=True, kw_only=True)
class NetworkSize:
    """One network of a stage."""

    name: str
    parameters: int
    trained: int


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """What a stage would train, and what that takes."""

    stage: str
    shapes: Shapes
    batch_shapes: dict[str, tuple[int, ...]]
    """What one rank's batch holds."""
    networks: tuple[NetworkSize, ...]
    num_ranks: int
    global_batch_size: int
    zero_stage: int
    weights_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    average_bytes: int
    activations_bytes: int
    """Tensors kept for the backward pass of the largest phase, in float32."""
    batch_bytes: int

    @property
    def total_bytes(self) -> int:
        return (
            self.weights_bytes
            + self.gradients_bytes
            + self.optimizer_bytes
            + self.average_bytes
            + self.activations_bytes
            + self.batch_bytes
        )


def dry_run(recipe: Recipe, name: str, *, num_ranks: int) -> DryRun:
    """Build stage `name` on the meta device, pass one rank's batch through every phase, and count."""
    shapes = expected_shapes(recipe, name)
    with torch.device("meta"):
        stage = build_stage(recipe, name, shapes)
    settings = engine_config(stage.config, global_batch_size=stage.global_batch_size, world_size=num_ranks)
    batch_size = settings["train_micro_batch_size_per_gpu"]
    batch = _meta_batch(stage, shapes, batch_size)
    activations = max(_saved_bytes(stage, index, batch, batch_size) for index in range(len(stage.phases)))
    networks = tuple(
        NetworkSize(
            name=key,
            parameters=sum(p.numel() for p in network.parameters()),
            trained=sum(p.numel() for p in network.parameters() if p.requires_grad),
        )
        for key, network in stage.networks.items()
    )
    parameters = sum(size.parameters for size in networks)
    trained = sum(size.trained for size in networks)
    zero = stage.config.zero_stage
    # float32 throughout: weights, gradients, Adam's two moments. ZeRO keeps the optimiser's own copy of the weights.
    copies = 2 if zero == 0 else 3
    return DryRun(
        stage=name,
        shapes=shapes,
        batch_shapes=_named_shapes(batch),
        networks=networks,
        num_ranks=num_ranks,
        global_batch_size=stage.global_batch_size,
        zero_stage=zero,
        weights_bytes=4 * parameters,
        gradients_bytes=4 * trained // (num_ranks if zero >= 2 else 1),
        optimizer_bytes=4 * copies * trained // (num_ranks if zero >= 1 else 1),
        average_bytes=4 * parameters if stage.config.ema_decay is not None else 0,
        activations_bytes=activations,
        batch_bytes=sum(t.numel() * t.element_size() for t in _tensors(batch)),
    )


def _meta_batch(stage: Stage, shapes: Shapes, batch_size: int) -> Batch:
    meta = torch.device("meta")
    index = torch.empty(batch_size, dtype=torch.int64, device=meta)
    size = stage.needs.image_size_px
    return Batch(
        rows=index,
        eeg=torch.empty(batch_size, shapes.n_channels, shapes.n_samples, device=meta),
        label=index,
        subject=index,
        stimulus=index,
        images=None if size is None else torch.empty(batch_size, 3, size, size, dtype=torch.uint8, device=meta),
        latents={kind: torch.empty(batch_size, *shapes.of_latent(kind), device=meta) for kind in stage.needs.latents},
    )


def _tensors(batch: Batch) -> list[Tensor]:
    images = [] if batch.images is None else [batch.images]
    return [batch.eeg, *images, *batch.latents.values()]


def _named_shapes(batch: Batch) -> dict[str, tuple[int, ...]]:
    named = {"EEG": tuple(batch.eeg.shape)}
    if batch.images is not None:
        named["stimuli"] = tuple(batch.images.shape)
    return named | {kind: tuple(values.shape) for kind, values in batch.latents.items()}


def _saved_bytes(stage: Stage, phase_index: int, batch: Batch, batch_size: int) -> int:
    """Bytes that autograd keeps for one phase's backward pass. Weights, kept as well, are counted elsewhere."""
    phase = stage.phases[phase_index]
    random = StepRandom(0, 0, first=0, count=batch_size, device=torch.device("meta"))
    weights = {id(p) for network in stage.networks.values() for p in network.parameters()}
    seen: dict[int, Tensor] = {}

    def remember(tensor: Tensor) -> Tensor:
        # Kept alive, so that no two tensors share an id.
        if id(tensor) not in weights:
            seen[id(tensor)] = tensor
        return tensor

    others: list[nn.Module] = [network for key, network in stage.networks.items() if key != phase.network]
    with torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor), Frozen(others):
        loss, _ = phase.loss(stage.networks, batch, random)
    if loss.shape != ():
        raise UserError(f"{stage.name}: the loss of {phase.network} has shape {tuple(loss.shape)}, not a number.")
    return sum(tensor.numel() * tensor.element_size() for tensor in seen.values())


def describe(result: DryRun) -> str:
    """The dry run in words."""
    shapes = result.shapes
    lines = [
        f"{result.stage}: the recipe is sound",
        f"  EEG           {shapes.n_channels} channels × {shapes.n_samples} samples, {shapes.num_classes} classes",
        f"  hidden states {shapes.text_shape[0]} × {shapes.text_shape[1]}",
        f"  batch         {result.global_batch_size} over {result.num_ranks} ranks; each: "
        + ", ".join(f"{name} {list(shape)}" for name, shape in result.batch_shapes.items()),
    ]
    for size in result.networks:
        trained = "" if size.trained == size.parameters else f", {size.trained:,} of them trained"
        lines.append(f"  network       {size.name}: {size.parameters:,} parameters{trained}")
    parts = {
        "weights": result.weights_bytes,
        "gradients": result.gradients_bytes,
        "optimiser": result.optimizer_bytes,
        "average": result.average_bytes,
        "activations": result.activations_bytes,
        "batch": result.batch_bytes,
    }
    shares = ", ".join(f"{name} {size / _GIB:.3f}" for name, size in parts.items() if size)
    lines.append(f"  memory a rank {result.total_bytes / _GIB:.2f} GiB at ZeRO {result.zero_stage}: {shares}")
    return "\n".join(lines)
