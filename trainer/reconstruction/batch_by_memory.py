"""How many images are drawn at once: as many as a GPU's free memory allows, from what one and two of them take."""

from collections.abc import Callable

import torch

MAX_IMAGES = 32
"""Images at once where memory is no limit: far fewer already keep a GPU busy."""
_MARGIN = 0.8
"""Share of the free memory that is planned with: allocators fragment, and other processes may use the GPU too."""


def fitting_batch_size(free_bytes: int, *, unet: tuple[int, int], vae: int, vae_slice: int) -> int:
    """The largest power of two up to MAX_IMAGES that fits. At least 1: where not even that fits, drawing it fails with
    an error that says so.

    free_bytes: beyond the weights. unet: peak bytes of denoising one and two images, from which more are extrapolated.
    vae: peak bytes of decoding one image. vae_slice: images that are decoded at once.
    """
    each = max(unet[1] - unet[0], 1)
    fixed = max(unet[0] - each, 0)
    size = MAX_IMAGES
    while size > 1 and max(fixed + size * each, min(size, vae_slice) * vae) > _MARGIN * free_bytes:
        size //= 2
    return size


def peak_bytes(work: Callable[[], object], device: torch.device) -> int:
    """GPU memory that `work` takes at its peak, beyond what was allocated before."""
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    work()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def free_bytes(device: torch.device) -> int:
    """GPU memory that this process can still get: what no process has, and what its own allocator holds in reserve."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
