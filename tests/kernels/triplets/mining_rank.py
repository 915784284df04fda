"""One rank of test_global_batch.py in its own process (gloo_ranks.py); the sizes are the local batches, as 5, 0, 9."""

import os

import numpy as np
import torch
import torch.distributed as dist

from neuroimagen.kernels.batch_hard import BatchHardTripletLoss
from neuroimagen.kernels.semihard import SemiHardTripletLoss

SETTINGS = {
    "pairs": {"margin": 0.5},
    "active-euclidean": {"margin": 0.3, "distance": "euclidean", "reduction": "active"},
    "cosine-mean": {"margin": 0.2, "distance": "cosine", "gradients": "mean"},
    "hard": {"loss": BatchHardTripletLoss, "margin": 0.5},
    "hard-active-cosine-mean": {
        **{"loss": BatchHardTripletLoss, "margin": 0.3, "distance": "cosine"},
        **{"reduction": "active", "gradients": "mean"},
    },
}


def global_batch(num_rows):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(num_rows, 10, generator=generator), torch.randint(0, 4, (num_rows,), generator=generator)


def encoder():
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Linear(10, 16), torch.nn.Tanh(), torch.nn.Linear(16, 6))


def loss_and_gradient(settings, inputs, labels):
    """Loss, and the gradient of every parameter in one vector, of the rows that this process holds."""
    model = encoder()
    options = dict(settings)
    loss = options.pop("loss", SemiHardTripletLoss)(**options)(model(inputs), labels)
    loss.backward()
    return float(loss.detach()), torch.cat([parameter.grad.flatten() for parameter in model.parameters()]).numpy()


def main(rank, sizes, rendezvous, out):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=len(sizes))
    inputs, labels = global_batch(sum(sizes))
    first = sum(sizes[:rank])
    mine = slice(first, first + sizes[rank])
    results = {}
    for name, settings in SETTINGS.items():
        loss, gradient = loss_and_gradient(settings, inputs[mine], labels[mine])
        results[f"{name}/loss"], results[f"{name}/gradient"] = np.float64(loss), gradient
    local = SemiHardTripletLoss(global_batch=False)(inputs[mine], labels[mine])
    results["local/loss"] = np.float64(float(local))
    # A row that is not finite on one rank makes the loss NaN on every rank.
    broken = inputs[mine].clone()
    if rank == len(sizes) - 1:
        broken[0, 0] = float("nan")
    results["broken/loss"] = np.float64(float(SemiHardTripletLoss()(broken, labels[mine])))
    results["broken/hard loss"] = np.float64(float(BatchHardTripletLoss()(broken, labels[mine])))
    np.savez(out, **results)
    dist.barrier()
    dist.destroy_process_group()
    # gloo's threads may still be ending when the interpreter's own teardown destroys them, which aborts the process.
    os._exit(0)
