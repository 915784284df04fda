"""The compiled InfoNCE kernels on a GPU: value and gradients, memory, repeatability.

`pytest --gpu tests/kernels/test_infonce_gpu.py` runs on a machine with PyTorch, Triton and pytest alone.
"""

import pytest
import torch

from neuroimagen.kernels.backends.infonce_reference import reference_infonce
from neuroimagen.kernels.infonce import InfoNCELoss


def batch(num_rows, num_features):
    generator = torch.Generator().manual_seed(0)
    sides = (torch.randn(num_rows, num_features, generator=generator) for _ in range(2))
    rows, targets = (torch.nn.functional.normalize(side).cuda().requires_grad_() for side in sides)
    labels = torch.randint(0, num_rows, (num_rows,), generator=generator).cuda()
    return rows, targets, labels, torch.tensor(20.0, device="cuda", requires_grad=True)


def value_and_gradients(loss, rows, targets, labels, scale):
    value = loss(rows, targets, labels, logit_scale=scale)
    return value.detach(), *torch.autograd.grad(value, (rows, targets, scale))


@pytest.mark.gpu
@pytest.mark.parametrize("num_features", [20, 192, 768, 1024])
@pytest.mark.parametrize("num_rows", [1, 129, 2000])
def test_value_and_gradients_are_the_reference_s(num_rows, num_features):
    given = batch(num_rows, num_features)
    found, expected = (
        value_and_gradients(InfoNCELoss(backend="triton"), *given),
        value_and_gradients(reference_infonce, *given),
    )
    for mine, true in zip(found, expected, strict=True):
        torch.testing.assert_close(mine.double(), true.double(), rtol=0, atol=2e-6)


@pytest.mark.gpu
def test_auto_takes_the_kernels():
    given = batch(500, 64)
    auto, triton = (value_and_gradients(InfoNCELoss(backend=backend), *given) for backend in ("auto", "triton"))
    assert all(torch.equal(*pair) for pair in zip(auto, triton, strict=True))


@pytest.mark.gpu
def test_memory_at_size_and_the_same_bits_every_time():
    """N = 65,536, D = 1,024: the logits would be 17 GB. The gradients are 0.54 GB of the 2."""
    given = batch(65_536, 1024)
    loss = InfoNCELoss(backend="triton")
    value_and_gradients(loss, *batch(256, 1024))
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    first = value_and_gradients(loss, *given)
    assert torch.cuda.max_memory_allocated() - before < 2e9
    second = value_and_gradients(loss, *given)
    assert all(torch.equal(*pair) for pair in zip(first, second, strict=True))
