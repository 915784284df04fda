"""InfoNCE's value and gradients against the float64 reference, over ranks, and for batches without a pair.

The torch backend; with TRITON_INTERPRET=1, as test_infonce_triton.py runs it, the Triton backend.
"""

import functools
import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from gloo_ranks import run_ranks
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroimagen.kernels.backends import infonce_torch
from neuroimagen.kernels.backends.infonce_reference import dense_infonce, reference_infonce
from neuroimagen.kernels import infonce

BACKEND = "triton" if os.environ.get("TRITON_INTERPRET") == "1" else "torch"
InfoNCELoss = functools.partial(infonce.InfoNCELoss, backend=BACKEND)
float64 = pytest.mark.skipif(BACKEND == "triton", reason="float64 rows are left to the torch backend")
WORKER = Path(__file__).with_name("infonce_rank.py")
OPTIONS = [
    {},
    {"directions": "rows"},
    {"soft_targets": 0.3},
    {"soft_targets": 1.0, "soft_target_scale": 4.0, "directions": "rows"},
]


def batch(num_rows, num_features, num_labels, dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    rows, targets = (torch.randn(num_rows, num_features, generator=generator, dtype=torch.float64) for _ in range(2))
    rows, targets = (torch.nn.functional.normalize(side).to(dtype).requires_grad_() for side in (rows, targets))
    return rows, targets, torch.randint(0, num_labels, (num_rows,), generator=generator)


def both(rows, targets, labels, scale, options):
    """[(loss, gradients of rows, targets and scale)] of ours and of the reference."""
    results = []
    for loss in (InfoNCELoss(**options), lambda *args, **more: reference_infonce(*args, **more, **options)):
        scale_tensor = torch.tensor(scale, dtype=rows.dtype, requires_grad=True)
        value = loss(rows, targets, labels, logit_scale=scale_tensor)
        results.append((value.detach(), *torch.autograd.grad(value, (rows, targets, scale_tensor))))
    return results


@float64
@settings(deadline=None, max_examples=30)
@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 50), st.floats(0.5, 100), st.integers(0, 1000))
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_in_float64_it_is_the_reference(options, num_rows, num_features, num_labels, scale, seed):
    ours, reference = both(*batch(num_rows, num_features, num_labels, torch.float64, seed), scale, options)
    for mine, expected in zip(ours, reference, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("tile", [16 * 300, infonce_torch.TILE_ELEMENTS] if BACKEND == "torch" else [1])
@pytest.mark.parametrize("num_labels", [1, 40, 10_000], ids=["one label", "40 labels", "distinct"])
def test_in_float32_it_is_the_reference_to_1e_6_whatever_the_tiles(monkeypatch, options, tile, num_labels):
    monkeypatch.setattr(infonce_torch, "TILE_ELEMENTS", tile)
    num_rows = 300 if BACKEND == "torch" else 140  # two of the kernels' tiles
    ours, reference = both(*batch(num_rows, 32, num_labels, torch.float32), 14.3, options)
    for mine, expected in zip(ours, reference, strict=True):
        torch.testing.assert_close(mine.double(), expected.double(), rtol=0, atol=1e-6)


def test_equal_rows_and_a_single_row():
    """All rows of one stimulus, shown again: the loss is log N. One row: nothing to choose from."""
    row = torch.nn.functional.normalize(torch.ones(1, 5))
    rows = row.repeat(8, 1).requires_grad_()
    loss = InfoNCELoss()(rows, rows.detach(), torch.zeros(8, dtype=torch.int64), logit_scale=20.0)
    assert float(loss.detach()) == pytest.approx(np.log(8), abs=1e-5)  # the logits are 20 ± 1e-6
    assert InfoNCELoss()(row, row, torch.zeros(1, dtype=torch.int64), logit_scale=50.0).abs() < 1e-5


@float64
def test_a_shown_again_stimulus_is_no_negative_of_itself():
    """With distinct labels the loss is CLIP's; with equal labels a pair of equal targets attracts both rows."""
    rows, targets, _ = batch(12, 6, 1, torch.float64)
    labels = torch.arange(12)
    dense = dense_infonce(rows, targets, logit_scale=10.0)
    ours = InfoNCELoss()(rows, targets, labels, logit_scale=10.0)
    assert float(ours.detach()) == pytest.approx(float(dense.detach()), abs=1e-12)
    targets = targets.detach()
    targets[1] = targets[0]
    labels[1] = labels[0]
    perfect = targets.clone().requires_grad_()
    InfoNCELoss()(perfect, targets, labels, logit_scale=10.0).backward()
    assert torch.allclose(perfect.grad[0], perfect.grad[1])


@float64
def test_the_gradient_is_that_of_the_loss():
    rows, targets, labels = batch(7, 3, 4, torch.float64)
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)

    def loss(rows, targets, scale):
        return InfoNCELoss()(rows, targets, labels, logit_scale=scale)

    assert torch.autograd.gradcheck(loss, (rows, targets, scale))
    only_scale = torch.autograd.grad(loss(rows.detach(), targets.detach(), scale), scale)
    torch.testing.assert_close(only_scale, torch.autograd.grad(loss(rows, targets, scale), scale))


@pytest.mark.parametrize("sizes", [(24, 24), (31, 0, 12, 5)], ids=["2-even", "4-uneven"])
def test_ranks_together_are_one_process_on_the_whole_batch(tmp_path, sizes):
    spec = importlib.util.spec_from_file_location("infonce_rank", WORKER)
    worker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(worker)
    whole = worker.global_batch(sum(sizes))
    ranks = run_ranks(WORKER, sizes, tmp_path)
    for name, options in worker.SETTINGS.items():
        loss, gradient = worker.loss_and_gradient(options, whole)
        assert np.abs(gradient).max() > 1e-3
        assert abs(gradient[0]) > 1e-4  # the logit scale's
        for rank in ranks:
            assert abs(rank[f"{name}/loss"] - loss) < 1e-6
        combined = np.sum([rank[f"{name}/gradient"] for rank in ranks], axis=0)
        if options.get("gradients") == "mean":
            combined /= len(sizes)
        np.testing.assert_allclose(combined, gradient, rtol=0, atol=1e-6)
    last = tuple(part[sum(sizes[:-1]) :] for part in whole)
    assert abs(ranks[-1]["local/loss"] - worker.loss_and_gradient({}, last)[0]) < 1e-6
    assert all(np.isnan(rank["broken/loss"]) for rank in ranks)


def test_what_has_no_pair_is_zero_and_what_is_not_finite_is_nan():
    empty = torch.empty(0, 3, requires_grad=True)
    loss = InfoNCELoss()(empty, empty, torch.empty(0, dtype=torch.int64), logit_scale=1.0)
    loss.backward()
    assert float(loss.detach()) == 0
    for bad in (torch.inf, torch.nan):
        rows, targets, labels = batch(5, 3, 5, torch.float32)
        broken = rows.detach().clone()
        broken[2, 1] = bad
        assert torch.isnan(InfoNCELoss()(broken, targets.detach(), labels, logit_scale=1.0))
        assert torch.isnan(InfoNCELoss()(targets.detach(), broken, labels, logit_scale=1.0))


def test_half_precision_is_cast_up_under_autocast_too():
    rows, targets, labels = batch(8, 16, 8, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = InfoNCELoss()(rows, targets, labels, logit_scale=10.0)
    torch.testing.assert_close(loss, InfoNCELoss()(rows, targets, labels, logit_scale=10.0), rtol=0, atol=0)
    assert InfoNCELoss()(rows.bfloat16(), targets.half(), labels, logit_scale=10.0).dtype == torch.float32


def test_it_works_inside_a_compiled_function():
    rows, targets, labels = batch(8, 4, 8, torch.float32)
    loss = InfoNCELoss()

    def step(rows, targets):
        return loss(rows * 2, targets, labels, logit_scale=3.0)

    compiled = torch.compile(step, backend="eager")
    torch.testing.assert_close(compiled(rows, targets), step(rows, targets), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"rows": torch.ones(4)}, ValueError, r"rows must be \[rows, features\]"),
        ({"rows": torch.ones(4, 2).long()}, TypeError, "rows must be floating point"),
        ({"targets": torch.ones(5, 2)}, ValueError, r"rows \(4, 2\) on cpu do not fit targets \(5, 2\)"),
        ({"labels": torch.arange(3)}, ValueError, r"labels must be \[4\]"),
        ({"labels": torch.ones(4)}, TypeError, "labels must be integers"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(change, error, message):
    given = {"rows": torch.ones(4, 2), "targets": torch.ones(4, 2), "labels": torch.arange(4), **change}
    with pytest.raises(error, match=message):
        InfoNCELoss()(**given, logit_scale=1.0)


@pytest.mark.parametrize(
    "options",
    [
        {"directions": "columns"},
        {"gradients": "max"},
        {"soft_targets": 1.5},
        {"soft_targets": float("nan")},
        {"soft_target_scale": 0.0},
        {"backend": "cuda"},
    ],
    ids=str,
)
def test_options_that_mean_nothing_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        infonce.InfoNCELoss(**options)
