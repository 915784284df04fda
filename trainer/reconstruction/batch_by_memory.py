"""How many pictures are drawn at once: as many as fit, by what one and two of them take."""

from collections.abc import Callable

import torch

MAX_PICTURES = 32
"""At once, where memory does not decide: a GPU is busy with far fewer."""
_MARGIN = 0.8
"""Share of the free memory that is planned with: allocators fragment, and others may use the GPU too."""


def fitting_batch_size(free_bytes: int, *, unet: tuple[int, int], vae: int, vae_slice: int) -> int:
    """The largest power of two up to MAX_PICTURES that fits; 1 at least, to fail there by name if it must.

    free_bytes: beyond the weights. unet: peak bytes of denoising one and two pictures, from which more are
    extrapolated. vae: peak bytes of decoding one picture; `vae_slice` are decoded at once, or a smaller batch whole.
    """
    each = max(unet[1] - unet[0], 1)
    fixed = max(unet[0] - each, 0)
    size = MAX_PICTURES
    while size > 1 and max(fixed + size * each, min(size, vae_slice) * vae) > _MARGIN * free_bytes:
        size //= 2
    return size


def peak_bytes(work: Callable[[], object], device: torch.device) -> int:
    """GPU memory that `work` takes at its peak, beyond what is allocated before."""
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    work()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def free_bytes(device: torch.device) -> int:
    """GPU memory that this process can still get: nobody's, and what its allocator holds in reserve."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
