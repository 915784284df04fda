"""The loss over ranks: gloo processes against one process on the whole batch."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from gloo_ranks import run_ranks

from neuroimagen.kernels.semihard import SemiHardTripletLoss

WORKER = Path(__file__).with_name("mining_rank.py")


@pytest.fixture(scope="module")
def worker():
    spec = importlib.util.spec_from_file_location("mining_rank", WORKER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("sizes", [(24, 24), (31, 0, 12, 5)], ids=["2-even", "4-uneven"])
def test_ranks_together_are_one_process_on_the_whole_batch(worker, tmp_path, sizes):
    inputs, labels = worker.global_batch(sum(sizes))
    ranks = run_ranks(WORKER, sizes, tmp_path)
    for name, settings in worker.SETTINGS.items():
        loss, gradient = worker.loss_and_gradient(settings, inputs, labels)
        assert np.abs(gradient).max() > 1e-3
        for rank in ranks:
            assert abs(rank[f"{name}/loss"] - loss) < 1e-6
        combined = np.sum([rank[f"{name}/gradient"] for rank in ranks], axis=0)
        if settings.get("gradients") == "mean":
            combined /= len(sizes)
        np.testing.assert_allclose(combined, gradient, rtol=0, atol=1e-6)
    first = sum(sizes[:-1])
    local = SemiHardTripletLoss()(inputs[first:], labels[first:])
    assert abs(ranks[-1]["local/loss"] - float(local)) < 1e-6
    assert all(np.isnan(rank["broken/loss"]) and np.isnan(rank["broken/hard loss"]) for rank in ranks)


@pytest.mark.parametrize("sizes", [[3, 3], [1, 0, 4]], ids=["even", "uneven"])
def test_backward_sends_each_rank_its_own_slice_alone(monkeypatch, sizes):
    """The sum over ranks of every slice on every rank would be twice the traffic."""
    from neuroimagen.kernels.triplets import global_batch

    sent = []

    def reduce_scatter(out, padded):
        sent.append(padded)
        out.copy_(padded.view(len(sizes), -1, *padded.shape[1:])[dist.get_rank()])

    dist = torch.distributed
    monkeypatch.setattr(dist, "get_rank", lambda: len(sizes) - 1)
    monkeypatch.setattr(dist, "all_gather", lambda parts, padded: [part.copy_(padded) for part in parts])
    monkeypatch.setattr(dist, "all_reduce", None)
    monkeypatch.setattr(global_batch, "_reduce_scatter", reduce_scatter)
    rows = torch.zeros(sizes[-1], 2, requires_grad=True)
    weight = torch.arange(2.0 * sum(sizes)).reshape(-1, 2)
    (global_batch.gather_rows(rows, sizes) * weight).sum().backward()
    assert torch.equal(rows.grad, weight[-sizes[-1] :])
    (padded,) = sent
    assert padded.shape == (len(sizes) * max(sizes), 2)
    assert torch.equal(padded.view(len(sizes), max(sizes), 2)[0, : sizes[0]], weight[: sizes[0]])


def test_one_process_without_a_group_needs_none():
    assert not torch.distributed.is_initialized()
    rows = torch.randn(8, 3)
    labels = torch.arange(8) % 2
    assert SemiHardTripletLoss()(rows, labels) == SemiHardTripletLoss(global_batch=False)(rows, labels)
