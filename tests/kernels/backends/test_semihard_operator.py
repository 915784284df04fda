"""The loss's operator: PyTorch's contract, torch.compile, no second derivative."""

import pytest
import torch

from neuroimagen.kernels.backends.semihard_operator import semihard_loss_sum
from neuroimagen.kernels.semihard import SemiHardTripletLoss


def batch(num_rows=60, num_classes=7, num_features=12):
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(num_rows, num_features, generator=generator, dtype=torch.float64) * 0.4
    return rows.float(), torch.randint(0, num_classes, (num_rows,), generator=generator)


def value_and_gradient(loss, rows, labels):
    rows = rows.clone().requires_grad_()
    value = loss(rows, labels)
    value.backward()
    return value.detach(), rows.grad


def test_compiled_it_is_one_graph_with_the_same_numbers():
    rows, labels = batch()
    loss = SemiHardTripletLoss(distance="cosine")
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    value, gradient = value_and_gradient(compiled, rows, labels)
    expected, expected_gradient = value_and_gradient(loss, rows, labels)
    assert torch.allclose(value, expected, rtol=0, atol=1e-7)
    assert torch.allclose(gradient, expected_gradient, rtol=0, atol=1e-7)


@pytest.mark.parametrize("with_candidates", [False, True])
def test_the_operator_keeps_pytorchs_contract(with_candidates):
    rows, labels = batch(20, 4)
    rows.requires_grad_()
    extra = (rows.detach().clone().requires_grad_(), labels, None) if with_candidates else (None, None, None)
    arguments = (rows, labels, *extra, None, 1.0, "sqeuclidean", "exact", "auto", True)
    torch.library.opcheck(semihard_loss_sum, arguments)


def test_a_cuda_graph_must_not_record_the_operator():
    """It waits for the sizes of the classes; mode="reduce-overhead" reads the tag."""
    assert torch.Tag.cudagraph_unsafe in torch.ops.neuroimagen.semihard_loss_sum.default.tags


def test_only_the_sum_can_be_differentiated():
    rows, labels = batch(20, 4)
    arguments = (None, None, None, None, 1.0, "sqeuclidean", "exact", "auto", True)
    found = semihard_loss_sum(rows.requires_grad_(), labels, *arguments)
    assert [tensor.requires_grad for tensor in found] == [True, False, False, False]


@pytest.mark.parametrize("num_rows", [0, 5])
def test_counts_are_on_the_embeddings_device(num_rows):
    """The meta device plays the GPU. Over NCCL, a rank without rows would sum its counts on the CPU, and the others wait."""
    rows, labels = torch.empty(num_rows, 3, device="meta"), torch.zeros(0, dtype=torch.int64)
    candidates, candidate_labels = torch.empty(0, 3, device="meta"), torch.zeros(0, dtype=torch.int64)
    options = (None, None, 1.0, "sqeuclidean", "exact", "torch", True)
    if num_rows:
        labels = torch.zeros(num_rows, dtype=torch.int64)
        found = semihard_loss_sum(rows, labels, candidates, candidate_labels, *options)
    else:
        found = semihard_loss_sum(rows, labels, None, None, *options)
    assert {tensor.device.type for tensor in found} == {"meta"}


def test_a_second_derivative_is_refused():
    rows, labels = batch()
    rows.requires_grad_()
    (gradient,) = torch.autograd.grad(SemiHardTripletLoss()(rows, labels), rows, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        gradient.square().sum().backward()
