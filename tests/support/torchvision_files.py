"""Folders with random weights under the names of torchvision's state dicts, and their entries to compute with."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

Entries = dict[str, torch.Tensor]


def random_entries(network: nn.Module, *, seed: int = 0) -> Entries:
    """Random weights and statistics for every entry of a network, of a size that keeps activations near 1."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, value in network.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        if value.ndim > 1:
            noise = torch.randn(value.shape, generator=generator)
            found[name] = noise * (2 / value[0].numel()) ** 0.5
        elif name.endswith(("running_var", "weight")):
            found[name] = 0.5 + torch.rand(value.shape, generator=generator)
        else:
            found[name] = 0.2 * torch.randn(value.shape, generator=generator)
    return found


def write_state_dict(folder: Path, entries: Entries, *, more: Entries | None = None) -> Path:
    """A folder as docs/how-to/things-figures.md says; `more`: entries of the layers that are not used."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({**entries, **(more or {})}, folder / "weights.safetensors")
    return folder


def normalised(w: Entries, name: str, x: torch.Tensor, *, eps: float) -> torch.Tensor:
    """Batch normalisation with stored statistics, by its formula."""
    mean, var, scale, shift = (
        w[f"{name}.{entry}"][None, :, None, None] for entry in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / (var + eps).sqrt() * scale + shift
