"""What tests of drawn images share: seeded generators, and the difference of images in grey levels."""

import torch


def seeded(count: int) -> list[torch.Generator]:
    """The generators of `count` images."""
    return [torch.Generator().manual_seed(seed) for seed in range(count)]


def normal(*shape: int, seed: int = 99) -> torch.Tensor:
    """Standard normal numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def grey_levels(images: torch.Tensor, others: torch.Tensor) -> int:
    """Largest difference of images in [-1, 1] and others in [0, 1], in grey levels of 255."""
    return int(((images * 127.5 + 127.5).round() - (others * 255).round()).abs().max())
