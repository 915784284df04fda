"""The optimisation loop that every component of the bundled model is trained with."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def fast_matmul() -> AbstractContextManager[Any]:
    """bfloat16 autocast where the CPU has AMX. Fused attention is slow in it on a CPU: use plain attention."""
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=torch.cpu._is_amx_tile_supported())


def random_batches(count: int, size: int, steps: int, *, seed: int) -> Iterator[Tensor]:
    """Random batches without replacement, epoch after epoch, `steps` of them."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.empty(0, dtype=torch.int64)
    for _ in range(steps):
        while len(order) < size:
            order = torch.cat([order, torch.randperm(count, generator=generator)])
        yield order[:size]
        order = order[size:]


def fit(
    name: str,
    parameters: list[nn.Parameter],
    loss_of: Callable[[Tensor], Tensor],
    *,
    count: int,
    batch_size: int,
    steps: int,
    learning_rate: float,
    seed: int,
    after_step: Callable[[int], None] | None = None,
) -> None:
    """Train `parameters` with AdamW, a warm-up and a cosine decay; print the mean loss every twentieth of the steps.

    loss_of: the loss of the stimuli at an index, int64 [batch_size]. count: stimuli in all. after_step: called with the
    number of each finished step. Raises FloatingPointError when the loss is not finite.
    """
    optimiser = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.01, betas=(0.9, 0.99))
    warm_up = min(200, max(1, steps // 10))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser,
        lambda step: min((step + 1) / warm_up, 0.5 * (1 + np.cos(np.pi * min(1.0, step / steps))) + 0.01),
    )
    running, start = 0.0, time.monotonic()
    every = max(1, steps // 20)
    for step, index in enumerate(random_batches(count, batch_size, steps, seed=seed)):
        loss = loss_of(index)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"{name}: the loss is {loss.item()} at step {step}")
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        schedule.step()
        running += loss.item()
        if after_step is not None:
            after_step(step)
        if (step + 1) % every == 0:
            seconds = time.monotonic() - start
            print(f"{name}: step {step + 1}/{steps}  loss {running / every:.4f}  {seconds:.0f} s", flush=True)
            running = 0.0
