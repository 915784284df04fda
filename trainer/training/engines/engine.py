"""Engines: one of DeepSpeed's for each network that a stage trains, with its configuration and its steps."""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.trainer.stages.base import Stage, StageConfig
from neuroimagen.trainer.training.engines import deepspeed_adapter
from neuroimagen.trainer.training.engines.network_structure import structure_of, with_tensors

REDUCTION_ELEMENTS = 500_000_000
"""Gradients that ZeRO 1 and 2 reduce at a time, in elements; DeepSpeed's default."""
ZERO_3_ELEMENTS = 50_000_000
"""At ZeRO 3, in elements: gradients that are reduced at a time; weights that stay gathered because they are used again
soon; weights that are gathered ahead. With DeepSpeed's default of a billion every network here would be whole on each
rank during a step.
"""


def learning_rate_factor(step: int, config: StageConfig) -> float:
    """Linear warm-up, then a cosine from 1 down to `final_learning_rate_fraction`; of the step alone (0-based)."""
    if step < config.warmup_steps:
        return (step + 1) / (config.warmup_steps + 1)
    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    floor = config.final_learning_rate_fraction
    return floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))


def compute_dtype(config: StageConfig, device: torch.device) -> Literal["bfloat16", "float16"] | None:
    """The type that autocast computes in on `device`; None is float32. Raises UserError where the device lacks it."""
    able = device.type == "cuda" and torch.cuda.is_bf16_supported()
    if config.precision == "bf16" and not able:
        raise UserError("precision: bf16 needs a GPU that supports it. Set precision to auto or fp32.")
    if config.precision == "fp16":
        if device.type != "cuda":
            raise UserError("precision: fp16 needs a GPU. Set precision to auto or fp32.")
        return "float16"
    return "bfloat16" if able and config.precision != "fp32" else None


def engine_config(
    config: StageConfig,
    *,
    global_batch_size: int,
    world_size: int,
    num_trained: int | None = None,
    dtype: str | None = None,
) -> dict[str, Any]:
    """DeepSpeed's configuration for the engine of one network. Weights and optimiser stay float32.

    num_trained: elements of the network's trained parameters; None where the network is not known.
    dtype: the type that autocast computes in; None is float32.

    Raises UserError if the ranks cannot share the global batch evenly.
    """
    blocks = config.gradient_accumulation
    if global_batch_size % (world_size * blocks):
        raise UserError(
            f"a global batch of {global_batch_size} cannot be shared by {world_size} ranks"
            f"{f' in {blocks} blocks each' if blocks > 1 else ''}. Use a number of ranks that divides it."
        )
    zero: dict[str, Any] = {"stage": config.zero_stage, "reduce_bucket_size": reduction_elements(config, num_trained)}
    if config.zero_stage == 3:
        zero |= {
            # Small parameters (norms, biases) stay whole: gathering one costs more than it saves.
            "stage3_param_persistence_threshold": 10_000,
            "stage3_max_live_parameters": ZERO_3_ELEMENTS,
            "stage3_max_reuse_distance": ZERO_3_ELEMENTS,
            "stage3_prefetch_bucket_size": ZERO_3_ELEMENTS,
        }
    if config.offload_optimizer:
        zero |= {"offload_optimizer": {"device": "cpu"}}
    settings: dict[str, Any] = {
        "train_batch_size": global_batch_size,
        "train_micro_batch_size_per_gpu": global_batch_size // (world_size * blocks),
        "gradient_accumulation_steps": blocks,
        "zero_optimization": zero,
        "zero_force_ds_cpu_optimizer": False,  # its CPU Adam needs a compiler; torch's fused one does not
        "steps_per_print": 2**31,  # metrics.jsonl has the losses
        "wall_clock_breakdown": False,
        # The throughput timer, on by default, waits for the GPU before every forward pass and after every step.
        "timers": {"throughput": {"enabled": False}},
        # 0 means no clipping; DeepSpeed's default is 1.
        "gradient_clipping": 0.0 if clips_itself(config, dtype) else config.gradient_clip or 0.0,
    }
    if dtype is not None:
        settings["torch_autocast"] = {"enabled": True, "dtype": dtype}
    return settings


def reduction_elements(config: StageConfig, num_trained: int | None) -> int:
    """Gradients, in elements, that ZeRO 1 to 3 reduce at a time: the size of a buffer, allocated as a whole."""
    largest = ZERO_3_ELEMENTS if config.zero_stage == 3 else REDUCTION_ELEMENTS
    return largest if num_trained is None else max(1, min(largest, num_trained))


def clips_itself(config: StageConfig, dtype: str | None) -> bool:
    """Whether `Engine.step` clips the gradients instead of DeepSpeed, which at ZeRO 0 launches two kernels per weight
    and waits for the GPU between them. DeepSpeed clips sharded gradients and those of a scaled loss.
    """
    return config.gradient_clip is not None and config.zero_stage == 0 and dtype != "float16"


class Engine:
    """One network in training, with DeepSpeed's engine, which is called in its place."""

    def __init__(self, engine: Any, *, trained: list[nn.Parameter], clip: float | None, structure: nn.Module) -> None:
        """
        Args:
            engine: DeepSpeed's.
            trained: the parameters that its optimiser has.
            clip: the largest norm of the gradients, where DeepSpeed does not clip them.
            structure: the network with its tensors on the meta device (network_structure.py).
        """
        self.deepspeed = engine
        self._trained = trained
        self._clip = clip
        self.structure = structure

    @property
    def module(self) -> nn.Module:
        """The network. At ZeRO 3 its weights are whole only while DeepSpeed runs it."""
        module: nn.Module = self.deepspeed.module
        return module

    def backward(self, loss: Tensor) -> None:
        self.deepspeed.backward(loss)

    def step(self) -> None:
        """Step the optimiser, with clipped gradients, if this was the last block of a batch."""
        if self._clip is not None and self.deepspeed.is_gradient_accumulation_boundary():
            torch.nn.utils.clip_grad_norm_(self._trained, self._clip)
        self.deepspeed.step()

    def set_learning_rate(self, rate: float) -> None:
        for group in self.deepspeed.optimizer.param_groups:
            group["lr"] = rate

    def trained(self) -> dict[str, nn.Parameter]:
        """Name → parameter that the optimiser has, whether `requires_grad` is on at the moment or not (`Frozen`)."""
        given = {id(parameter) for parameter in self._trained}
        return {name: p for name, p in self.module.named_parameters() if id(p) in given}

    def held_weights(self) -> list[Tensor]:
        """Every parameter, in the network's order: whole, or at ZeRO 3 the flat shard that this rank holds."""
        return [deepspeed_adapter.held_weight(parameter) for parameter in self.module.parameters()]

    @torch.no_grad()
    def gathered(self, held: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yields the whole tensors of `held`, which has the shapes of `held_weights`; at ZeRO 0 to 2 those given.

        A collective at ZeRO 3: every rank iterates to the end.
        """
        for parameter, tensor in zip(self.module.parameters(), held, strict=True):
            yield deepspeed_adapter.gather(parameter, tensor)

    def network(self, held: Iterable[Tensor]) -> nn.Module:
        """A network with the whole weights of `held`, of the shapes of `held_weights`, and the module's buffers.

        A collective at ZeRO 3, where it takes a whole network's memory on the device for as long as it is referenced.
        """
        return with_tensors(self.structure, self.gathered(held), self.module.buffers())

    def whole_network(self) -> nn.Module:
        """The network with whole weights, as they are now: the module itself, or at ZeRO 3 a copy made by `network`."""
        if deepspeed_adapter.zero_stage(self.deepspeed) < 3:
            return self.module
        return self.network(self.held_weights())


Engines = Mapping[str, Engine]
"""Network name → engine."""


def build_engines(stage: Stage, *, world_size: int, device: torch.device) -> dict[str, Engine]:
    """An engine for each of the stage's networks. Only parameters that require gradients are given to the optimiser."""
    import deepspeed

    config = stage.config
    dtype = compute_dtype(config, device)
    engines = {}
    for name, network in stage.networks.items():
        trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
        settings = engine_config(
            config,
            global_batch_size=stage.global_batch_size,
            world_size=world_size,
            num_trained=sum(parameter.numel() for parameter in trained),
            dtype=dtype,
        )
        optimizer = torch.optim.AdamW(
            trained,
            lr=stage.learning_rate(name),
            betas=config.adam_betas,
            weight_decay=config.weight_decay,
            # One kernel launch for all weights. On a CPU only for offloaded ones, where memory traffic is the cost.
            fused=device.type == "cuda" or config.offload_optimizer or None,
        )
        structure = structure_of(network)  # before ZeRO 3 takes the network's own weights apart
        engine, *_ = deepspeed.initialize(model=network, model_parameters=trained, optimizer=optimizer, config=settings)
        if config.compile:
            # In place, so that names do not change; copies (averages, exports) are not compiled.
            engine.module.compile(backend=config.compile_backend, dynamic=False)
        if world_size == 1 and config.zero_stage == 0:
            deepspeed_adapter.leave_gradients_in_place(engine)
        clip = config.gradient_clip if clips_itself(config, dtype) else None
        engines[name] = Engine(engine, trained=trained, clip=clip, structure=structure)
    return engines


def set_learning_rates(stage: Stage, engines: Engines, step: int) -> float:
    """Give every engine this step's learning rate; returns that of the first."""
    factor = learning_rate_factor(step, stage.config)
    for name, engine in engines.items():
        engine.set_learning_rate(stage.learning_rate(name) * factor)
    return stage.learning_rate(next(iter(engines))) * factor


class Frozen:
    """Context in which the networks' parameters require no gradients; afterwards each is as it was before."""

    def __init__(self, networks: list[nn.Module]) -> None:
        self._parameters = [p for network in networks for p in network.parameters() if p.requires_grad]

    def __enter__(self) -> None:
        for parameter in self._parameters:
            parameter.requires_grad_(False)

    def __exit__(self, *_: object) -> None:
        for parameter in self._parameters:
            parameter.requires_grad_(True)
