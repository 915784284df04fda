"""One rank of test_infonce.py, in a process of its own (gloo_ranks.py); the sizes are the local batches, as 5, 0, 9."""

import os

import numpy as np
import torch
import torch.distributed as dist

from neuroimagen.kernels.infonce import InfoNCELoss

BACKEND = "triton" if os.environ.get("TRITON_INTERPRET") == "1" else "torch"
SETTINGS = {
    "both": {},
    "rows-mean": {"directions": "rows", "gradients": "mean"},
    "soft": {"soft_targets": 0.4, "soft_target_scale": 3.0},
    "soft-rows": {"soft_targets": 0.4, "directions": "rows"},
}


class Encoders(torch.nn.Module):
    """An encoder of either side and a learnt logit scale: every gradient that a step needs."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.rows = torch.nn.Linear(10, 6)
        self.targets = torch.nn.Linear(7, 6)
        self.log_scale = torch.nn.Parameter(torch.tensor(1.5))

    def forward(self, rows, targets, labels, **settings):
        loss = InfoNCELoss(backend=BACKEND, **settings)
        return loss(self.rows(rows), self.targets(targets), labels, logit_scale=self.log_scale.exp())


def global_batch(num_rows):
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(num_rows, 10, generator=generator),
        torch.randn(num_rows, 7, generator=generator),
        torch.randint(0, 9, (num_rows,), generator=generator),
    )


def loss_and_gradient(settings, batch):
    """Loss, and the gradient of every parameter in one vector, of the rows that this process holds."""
    model = Encoders()
    loss = model(*batch, **settings)
    loss.backward()
    return float(loss.detach()), torch.cat([parameter.grad.flatten() for parameter in model.parameters()]).numpy()


def main(rank, sizes, rendezvous, out):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=len(sizes))
    first = sum(sizes[:rank])
    mine = tuple(part[first : first + sizes[rank]] for part in global_batch(sum(sizes)))
    results = {}
    for name, settings in SETTINGS.items():
        loss, gradient = loss_and_gradient(settings, mine)
        results[f"{name}/loss"], results[f"{name}/gradient"] = np.float64(loss), gradient
    results["local/loss"] = np.float64(loss_and_gradient({"global_batch": False}, mine)[0])
    broken = mine[0].clone()
    if rank == len(sizes) - 1:
        broken[0, 0] = float("nan")
    results["broken/loss"] = np.float64(loss_and_gradient({}, (broken, *mine[1:]))[0])
    np.savez(out, **results)
    dist.barrier()
    dist.destroy_process_group()
    # gloo's threads may still be ending when the interpreter's own teardown destroys them, which aborts the process.
    os._exit(0)
