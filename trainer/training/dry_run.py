"""Check a stage's recipe without data or weights: real shapes on the meta device, parameter counts, memory per rank."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.loading.reader import Batch
from neuroimagen.trainer.batches.stage_data import Shapes
from neuroimagen.trainer.networks.randomness import StepRandom
from neuroimagen.trainer.recipe.recipe import Recipe
from neuroimagen.trainer.stages.base import Stage
from neuroimagen.trainer.training.build import build_stage, sized_recipe
from neuroimagen.trainer.training.engines.engine import ZERO_3_ELEMENTS, Frozen, engine_config, reduction_elements
from neuroimagen.trainer.training.inputs import expected_shapes

_GIB = float(1 << 30)


@dataclass(frozen=True, kw_only=True)
class NetworkSize:
    """One network of a stage."""

    name: str
    parameters: int
    trained: int


@dataclass(frozen=True, kw_only=True)
class RankMemory:
    """Device memory that the networks take on each rank, in bytes, with float32 for all of it."""

    weights: int
    """At ZeRO 3 this rank's shards."""
    gradients: int
    optimizer: int
    """Adam's two moments, and from ZeRO 1 the optimiser's own copy of the weights."""
    average: int
    """The moving average of the weights; at ZeRO 3 of this rank's shards."""
    reduction: int
    """The buffer from which ZeRO 2 and 3 reduce gradients."""
    gathered: int
    """At ZeRO 3 the weights that are whole during a step, at most."""
    evaluation: int
    """At ZeRO 3 the weights that are whole during validation and export, but not during a step."""

    @property
    def between_steps(self) -> int:
        """Memory that is used all the time; up to ZeRO 2 gradients and their buffer exist during a step only."""
        return self.weights + self.gradients + self.optimizer + self.average + self.reduction


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """What a stage would train, and the memory that it would take."""

    stage: str
    shapes: Shapes
    batch_shapes: dict[str, tuple[int, ...]]
    """Name → shape of the tensors in one rank's batch."""
    networks: tuple[NetworkSize, ...]
    num_ranks: int
    global_batch_size: int
    zero_stage: int
    memory: RankMemory
    activations_bytes: int
    """Tensors kept for the backward pass of the largest phase, in float32."""
    batch_bytes: int
    notes: tuple[str, ...] = ()
    """What became of lengths in ms, where they are not used as the recipe has them."""

    @property
    def total_bytes(self) -> int:
        """The largest memory per rank: during a step, or at ZeRO 3 during validation if that takes more."""
        step = self.memory.gathered + self.activations_bytes + self.batch_bytes
        return self.memory.between_steps + max(step, self.memory.evaluation)


def dry_run(recipe: Recipe, name: str, *, num_ranks: int) -> DryRun:
    """Build stage `name` on the meta device, pass one rank's batch through every phase, and count."""
    shapes = expected_shapes(recipe, name)
    with torch.device("meta"):
        stage = build_stage(recipe, name, shapes)
    settings = engine_config(stage.config, global_batch_size=stage.global_batch_size, world_size=num_ranks)
    batch_size = settings["train_micro_batch_size_per_gpu"]
    batch = _meta_batch(stage, shapes, batch_size)
    return DryRun(
        stage=name,
        shapes=shapes,
        batch_shapes=_named_shapes(batch),
        networks=network_sizes(stage),
        num_ranks=num_ranks,
        global_batch_size=stage.global_batch_size,
        zero_stage=stage.config.zero_stage,
        memory=rank_memory(stage, num_ranks=num_ranks),
        activations_bytes=max(_saved_bytes(stage, index, batch, batch_size) for index in range(len(stage.phases))),
        batch_bytes=sum(t.numel() * t.element_size() for t in _tensors(batch)),
        notes=tuple(sized_recipe(recipe, name, shapes)[1]),
    )


def network_sizes(stage: Stage) -> tuple[NetworkSize, ...]:
    """Parameters of each of the stage's networks."""
    return tuple(
        NetworkSize(
            name=name,
            parameters=sum(p.numel() for p in network.parameters()),
            trained=sum(p.numel() for p in network.parameters() if p.requires_grad),
        )
        for name, network in stage.networks.items()
    )


def rank_memory(stage: Stage, *, num_ranks: int) -> RankMemory:
    """The memory of the stage's networks on each of `num_ranks` ranks."""
    config = stage.config
    zero = config.zero_stage
    sizes = network_sizes(stage)
    parameters = sum(size.parameters for size in sizes)
    trained = sum(size.trained for size in sizes)
    sent = sum(reduction_elements(config, size.trained) for size in sizes)
    weights = parameters // (num_ranks if zero == 3 else 1)
    copies = 2 if zero == 0 else 3
    return RankMemory(
        weights=4 * weights,
        gradients=4 * trained // (num_ranks if zero >= 2 else 1),
        optimizer=4 * copies * trained // (num_ranks if zero >= 1 else 1),
        average=4 * weights if config.ema_decay is not None else 0,
        # At ZeRO 1 the buffer holds the gradients themselves.
        reduction=4 * sent if zero >= 2 else 0,
        # Those that are needed again soon, and those that are gathered ahead.
        gathered=4 * sum(min(size.parameters, 2 * ZERO_3_ELEMENTS) for size in sizes) if zero == 3 else 0,
        evaluation=4 * parameters if zero == 3 else 0,
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
    """Bytes that autograd keeps for one phase's backward pass, without the weights, which are counted elsewhere."""
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
        raise UserError(
            f"{stage.name}: the loss of {phase.network} has shape {tuple(loss.shape)}; it must be a scalar."
        )
    return sum(tensor.numel() * tensor.element_size() for tensor in seen.values())


def describe(result: DryRun) -> str:
    """The dry run as text."""
    shapes = result.shapes
    pooled = "" if shapes.pooled_size is None else f", pooled state {shapes.pooled_size}"
    lines = [
        f"{result.stage}: the recipe is valid",
        f"  EEG           {shapes.n_channels} channels × {shapes.n_samples} samples, {shapes.num_classes} classes",
        f"  hidden states {shapes.text_shape[0]} × {shapes.text_shape[1]}{pooled}",
        f"  batch         {result.global_batch_size} over {result.num_ranks} ranks; each: "
        + ", ".join(f"{name} {list(shape)}" for name, shape in result.batch_shapes.items()),
    ]
    for size in result.networks:
        trained = "" if size.trained == size.parameters else f", {size.trained:,} of them trained"
        lines.append(f"  network       {size.name}: {size.parameters:,} parameters{trained}")
    memory = result.memory
    shares = {
        "weights": memory.weights,
        "gradients": memory.gradients,
        "optimiser": memory.optimizer,
        "average": memory.average,
        "reduction buffer": memory.reduction,
        "gathered weights": memory.gathered,
        "activations": result.activations_bytes,
        "batch": result.batch_bytes,
    }
    listed = ", ".join(f"{name} {size / _GIB:.3f}" for name, size in shares.items() if size)
    lines.append(f"  memory        {result.total_bytes / _GIB:.2f} GiB per rank at ZeRO {result.zero_stage}: {listed}")
    if memory.evaluation:
        lines.append(
            f"                during validation {memory.evaluation / _GIB:.3f} for whole weights in place of "
            "gathered weights, activations and batch"
        )
    lines += [f"  note          {sentence}" for sentence in result.notes]
    return "\n".join(lines)
