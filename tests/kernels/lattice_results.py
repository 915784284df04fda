"""The results of the Triton kernels for batches on the lattice, as one JSON object.

`python lattice_results.py`: interpreted with TRITON_INTERPRET=1, else compiled for this machine's GPU;
test_semihard_gpu.py compares the two.
"""

import json

import torch

from neuroimagen.kernels.backends.semihard_reference import lattice_batch
from neuroimagen.kernels.semihard import SemiHardTripletLoss, mine_semihard

CASES = {
    "one row more than a tile": {"num_rows": 129, "num_classes": 30},
    "features beyond a product tile": {"num_rows": 140, "num_classes": 40, "num_features": 160},
    "few classes": {"num_rows": 96, "num_classes": 5},
    "singletons": {"num_rows": 64, "num_classes": 500},
}
"""Arguments of `lattice_batch`. Small enough for the interpreter; several tiles, ragged borders, many ties."""


def lattice_case(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows [N, D] whose distances are exact in every precision, and labels [N]."""
    rows, labels = lattice_batch(**CASES[name])
    # Longer rows, so that some pairs have nothing beyond them.
    return torch.cat([rows * 0.5, rows[:3]]), torch.cat([labels, labels[:3]])


def results(device: torch.device) -> dict[str, dict[str, list[list[float]]]]:
    """Case and precision → triplets with is_fallback; loss and gradient."""
    found = {}
    for name in CASES:
        rows, labels = (tensor.to(device) for tensor in lattice_case(name))
        for precision in ("fast", "exact"):
            mined = mine_semihard(rows, labels, backend="triton", precision=precision)
            leaf = rows.clone().requires_grad_()
            loss = SemiHardTripletLoss(margin=0.1, backend="triton", precision=precision)(leaf, labels)
            loss.backward()
            found[f"{name}, {precision}"] = {
                "triplets": torch.stack([*mined, mined.is_fallback.long()], dim=1).tolist(),
                "loss": [[float(loss.detach())]],
                "gradient": leaf.grad.tolist(),
            }
    return found


if __name__ == "__main__":
    print(json.dumps(results(torch.device("cuda" if torch.cuda.is_available() else "cpu"))))
