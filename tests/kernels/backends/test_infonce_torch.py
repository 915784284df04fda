"""Parts of the torch backend: the log-sum-exps of large logits, logits that are kept, the memory of a large batch."""

import pytest
import torch
from allocations import peak_tensor_bytes

from neuroimagen.kernels.backends import infonce_torch
from neuroimagen.kernels.backends.infonce_reference import dense_infonce
from neuroimagen.kernels.infonce import InfoNCELoss


def test_logsumexps_of_large_logits_do_not_overflow(monkeypatch):
    monkeypatch.setattr(infonce_torch, "TILE_ELEMENTS", 16 * 50)
    generator = torch.Generator().manual_seed(0)
    rows, targets = 30 * torch.randn(50, 8, generator=generator), 30 * torch.randn(50, 8, generator=generator)
    of_rows, largest, total = infonce_torch.logsumexps(rows, targets, torch.tensor(100.0))
    logits = 100 * rows.double() @ targets.double().T
    torch.testing.assert_close(of_rows.double(), logits.logsumexp(1), rtol=1e-5, atol=0)
    torch.testing.assert_close((largest + total.log()).double(), logits.logsumexp(0), rtol=1e-5, atol=0)


def test_few_logits_are_kept_and_give_the_same():
    generator = torch.Generator().manual_seed(0)
    rows, targets = torch.randn(30, 8, generator=generator), torch.randn(40, 8, generator=generator)
    scale = torch.tensor(3.0)
    kept = infonce_torch.few_logits(rows, targets, scale)
    before = kept.clone()
    found, again = (infonce_torch.logsumexps(rows, targets, scale, logits=logits) for logits in (kept, None))
    weights = torch.rand(30, generator=generator), torch.rand(40, generator=generator)
    lse = found[0], found[1] + found[2].log()
    products = [
        infonce_torch.slope_products(rows, targets, scale, lse, weights, of_rows=True, of_targets=True, logits=logits)
        for logits in (kept, None)
    ]
    for first, second in zip((*found, *products[0]), (*again, *products[1]), strict=True):
        assert torch.equal(first, second)
    assert torch.equal(kept, before)  # a second backward pass needs them too
    many = torch.empty(3000, 1)
    assert infonce_torch.few_logits(many, many, scale) is None


@pytest.mark.parametrize(
    ("num_rows", "num_features", "limit_mib"),
    [(4096, 64, 32), pytest.param(16_384, 1024, 256, marks=pytest.mark.slow)],
)
def test_memory_is_that_of_rows_not_of_the_matrix(num_rows, num_features, limit_mib):
    """The matrix of logits alone would take 64 MiB for 4,096 rows, and 1 GiB for 16,384; its gradient as much again."""
    generator = torch.Generator().manual_seed(0)
    sides = (torch.randn(num_rows, num_features, generator=generator) for _ in range(2))
    rows, targets = (torch.nn.functional.normalize(side).requires_grad_() for side in sides)
    scale = torch.tensor(14.0, requires_grad=True)
    labels = torch.arange(num_rows) // 2
    peak = peak_tensor_bytes(lambda: InfoNCELoss()(rows, targets, labels, logit_scale=scale).backward())
    gradients = rows.grad.nbytes + targets.grad.nbytes
    assert gradients < peak < limit_mib * 2**20


def test_the_count_of_memory_sees_the_matrix():
    """The dense loss holds the logits and their gradient: what the test above measures would be seen."""
    rows, targets = (torch.ones(512, 4, requires_grad=True) for _ in range(2))
    peak = peak_tensor_bytes(lambda: dense_infonce(rows, targets, logit_scale=1.0).backward())
    assert peak > 2 * 512 * 512 * 4
