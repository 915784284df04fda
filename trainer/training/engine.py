"""DeepSpeed engines: one for each network that a stage trains."""

import copy
import importlib
import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import nn

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.trainer.stages.base import Stage, StageConfig
from neuroimagen.trainer.training.engine_state import gathered


def learning_rate_factor(step: int, config: StageConfig) -> float:
    """Linear warm-up, then a cosine from 1 down to `final_learning_rate_fraction`; a pure function of the step
    (0-based).
    """
    if step < config.warmup_steps:
        return (step + 1) / (config.warmup_steps + 1)
    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    floor = config.final_learning_rate_fraction
    return floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))


def compute_dtype(config: StageConfig, device: torch.device) -> Literal["bfloat16", "float16"] | None:
    """What the stage computes in on `device`; None is float32. Raises UserError where a wish cannot be met."""
    able = device.type == "cuda" and torch.cuda.is_bf16_supported()
    if config.precision == "bf16" and not able:
        raise UserError("precision: bf16 needs a GPU that has it. Set precision to auto or fp32.")
    if config.precision == "fp16":
        if device.type != "cuda":
            raise UserError("precision: fp16 needs a GPU. Set precision to auto or fp32.")
        return "float16"
    return "bfloat16" if able and config.precision != "fp32" else None


def engine_config(
    config: StageConfig, *, global_batch_size: int, world_size: int, dtype: str | None = None
) -> dict[str, Any]:
    """DeepSpeed's configuration of a stage's engines. Weights and optimiser stay float32; `dtype` is autocast's."""
    parts = config.gradient_accumulation
    if global_batch_size % (world_size * parts):
        raise UserError(
            f"a global batch of {global_batch_size} cannot be shared by {world_size} ranks"
            f"{f' in {parts} parts each' if parts > 1 else ''}. Use a number of ranks that divides it."
        )
    zero: dict[str, Any] = {"stage": config.zero_stage}
    if config.zero_stage == 3:
        # Small parameters (norms, biases) stay whole: gathering one costs more than it saves.
        zero |= {"stage3_param_persistence_threshold": 10_000}
    if config.offload_optimizer:
        zero |= {"offload_optimizer": {"device": "cpu"}}
    settings: dict[str, Any] = {
        "train_batch_size": global_batch_size,
        "train_micro_batch_size_per_gpu": global_batch_size // (world_size * parts),
        "gradient_accumulation_steps": parts,
        "zero_optimization": zero,
        "zero_force_ds_cpu_optimizer": False,  # its CPU Adam is compiled at first use; torch's fused one needs nothing
        "steps_per_print": 2**31,  # our own log says it
        "wall_clock_breakdown": False,
        # Its throughput timer, on by default, waits for the GPU before every forward pass and after every step.
        "timers": {"throughput": {"enabled": False}},
        # 0 is none; its default is 1.
        "gradient_clipping": 0.0 if clips_itself(config, dtype) else config.gradient_clip or 0.0,
    }
    if dtype is not None:
        settings["torch_autocast"] = {"enabled": True, "dtype": dtype}
    return settings


def clips_itself(config: StageConfig, dtype: str | None) -> bool:
    """Whether `take_step` clips the gradients, not DeepSpeed, whose way at ZeRO 0 is two launches a weight with a wait
    for the GPU between them. Sharded gradients, and those of a scaled loss, are clipped where they are put together.
    """
    return config.gradient_clip is not None and config.zero_stage == 0 and dtype != "float16"


def take_step(engine: Any) -> None:
    """Step the optimiser, with clipped gradients, if this was the last part of a batch."""
    if engine.own_clip is not None and engine.is_gradient_accumulation_boundary():
        torch.nn.utils.clip_grad_norm_(engine.trained_parameters, engine.own_clip)
    engine.step()


def build_engines(stage: Stage, *, world_size: int, device: torch.device) -> dict[str, Any]:
    """Network name → DeepSpeed engine. Only parameters that require gradients are given to the optimiser."""
    import deepspeed

    config = stage.config
    dtype = compute_dtype(config, device)
    settings = engine_config(config, global_batch_size=stage.global_batch_size, world_size=world_size, dtype=dtype)
    engines = {}
    for name, network in stage.networks.items():
        parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(
            parameters,
            lr=stage.learning_rate(name),
            betas=config.adam_betas,
            weight_decay=config.weight_decay,
            # One launch for all weights; on a CPU it is for ZeRO's offloaded ones, where time is memory traffic.
            fused=device.type == "cuda" or config.offload_optimizer or None,
        )
        # ZeRO 3 takes the network's own weights apart.
        whole = copy.deepcopy(network).requires_grad_(False).to(device) if config.zero_stage == 3 else None
        engine, *_ = deepspeed.initialize(
            model=network, model_parameters=parameters, optimizer=optimizer, config=dict(settings)
        )
        if config.compile:
            # In place, so that names stay as they are; copies (averages, exports) are not compiled.
            engine.module.compile(backend=config.compile_backend, dynamic=False)
        if world_size == 1 and config.zero_stage == 0:
            # One rank's reduction copies every gradient into a buffer and back, to add nothing.
            engine.enable_backward_allreduce = False
        engine.own_clip = config.gradient_clip if clips_itself(config, dtype) else None
        engine.trained_parameters = parameters
        engine.whole = [whole]  # in a list: a module as an attribute would become one of the engine's own
        engines[name] = engine
    return engines


@torch.no_grad()
def whole_networks(engines: Mapping[str, Any]) -> dict[str, nn.Module]:
    """Network name → the network with all of its weights, as they are now. A collective at ZeRO 3."""
    networks: dict[str, nn.Module] = {}
    for name, engine in engines.items():
        (whole,) = engine.whole
        if whole is not None:
            weights = gathered(engine)
            for key, parameter in whole.named_parameters():
                parameter.copy_(weights[key])
            for copied, buffer in zip(whole.buffers(), engine.module.buffers(), strict=True):
                copied.copy_(buffer)
        networks[name] = engine.module if whole is None else whole
    return networks


def set_learning_rates(stage: Stage, engines: Mapping[str, Any], step: int) -> float:
    """Give every engine this step's learning rate; returns that of the first."""
    factor = learning_rate_factor(step, stage.config)
    for name, engine in engines.items():
        for group in engine.optimizer.param_groups:
            group["lr"] = stage.learning_rate(name) * factor
    return stage.learning_rate(next(iter(engines))) * factor


class Frozen:
    """Context in which networks' parameters take no gradients; each comes back as it was."""

    def __init__(self, networks: list[nn.Module]) -> None:
        self._parameters = [p for network in networks for p in network.parameters() if p.requires_grad]

    def __enter__(self) -> None:
        for parameter in self._parameters:
            parameter.requires_grad_(False)

    def __exit__(self, *_: object) -> None:
        for parameter in self._parameters:
            parameter.requires_grad_(True)


def init_gloo() -> None:
    """`deepspeed.init_distributed` for CPU ranks, over plain gloo.

    DeepSpeed would compile a shared-memory reduction of its own at the first use: it needs a compiler, a minute and a
    path without spaces (its linker flags are not quoted). gloo does the same work without.
    """
    import deepspeed

    # Not `import … as`: the attribute `deepspeed.comm.torch` is PyTorch itself.
    backend: Any = importlib.import_module("deepspeed.comm.torch")
    backend.build_shm_op = _no_op
    deepspeed.init_distributed("gloo")


def _no_op() -> None:
    return None
