"""Batch sizes from what one and two images take, and how that is measured."""

import copy
from collections.abc import Callable

import pytest
import torch

from neuroimagen.trainer.reconstruction.batch_by_memory import MAX_IMAGES, fitting_batch_size
from neuroimagen.trainer.reconstruction.pipelines import generator as generator_module
from neuroimagen.trainer.reconstruction.pipelines.generator import Generator

GIB = 2**30


class SimulatedGPU(str):
    """A device of the CPU that says it is a GPU."""

    type = "cuda"


def fits(free: float, **changes: float) -> int:
    """On a GPU with `free` GiB: U-Net 1 GiB and 0.5 GiB per image, VAE 1.25 GiB per image in slices of 4."""
    needs = {"one": 1.5, "two": 2.0, "vae": 1.25, **changes}
    return fitting_batch_size(
        int(free * GIB),
        unet=(int(needs["one"] * GIB), int(needs["two"] * GIB)),
        vae=int(needs["vae"] * GIB),
        vae_slice=4,
    )


def test_the_largest_power_of_two_that_fits() -> None:
    # 0.8 of the free memory against max(1 + n / 2, 1.25 · min(n, 4)).
    assert [fits(free) for free in (80, 22, 21, 12, 11, 7, 6.2, 6, 3.2, 3, 1)] == [
        32,
        32,
        16,
        16,
        8,
        8,
        2,
        2,
        2,
        1,
        1,
    ]


def test_a_vae_that_takes_more_decides() -> None:
    assert fits(20, vae=5.0) == 2


def test_images_that_take_nothing_measurable() -> None:
    assert fits(8, one=1.5, two=1.5) == 32


def test_what_is_measured_on_a_gpu(generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU's allocator is simulated: denoising takes 1 GiB and half a GiB per image, decoding a quarter."""
    sizes: list[int] = []
    denoise = Generator.denoise

    def seen_denoise(self: Generator, generators: list[torch.Generator], *args: object, **options: object) -> object:
        sizes.append(len(generators))
        return denoise(self, generators, *args, **options)  # type: ignore[arg-type]

    def peak_bytes(work: Callable[[], object], device: torch.device) -> int:
        before = len(sizes)
        work()
        return int((1 + sizes[-1] / 2 if len(sizes) > before else 0.25) * GIB)

    monkeypatch.setattr(Generator, "denoise", seen_denoise)
    monkeypatch.setattr(generator_module, "peak_bytes", peak_bytes)
    monkeypatch.setattr(generator_module, "free_bytes", lambda device: 12 * GIB)
    assert generator.largest_batch_size(guidance=2.0, scheduler="ddim") == MAX_IMAGES == 32
    on_gpu = copy.copy(generator)
    on_gpu.device = SimulatedGPU("cpu")  # type: ignore[assignment]
    assert on_gpu.largest_batch_size(guidance=2.0, scheduler="ddim") == 16
    assert sizes == [1, 1, 2]
