"""The compiled kernels on a GPU: results on the lattice and at size, memory, repeatability.

`pytest --gpu tests/kernels/test_semihard_gpu.py` runs on a machine with PyTorch, Triton and pytest alone.
"""

import importlib.util
import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch

from neuroimagen.kernels.backends.semihard_reference import reference_loss, reference_mine
from neuroimagen.kernels.semihard import SemiHardTripletLoss, mine_semihard

SCRIPT = Path(__file__).parent / "lattice_results.py"
SPEC = importlib.util.spec_from_file_location("lattice_results", SCRIPT)
assert SPEC is not None
assert SPEC.loader is not None
lattice_results = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(lattice_results)


@cache
def interpreted():
    """The results of another process: an interpreted kernel cannot be compiled."""
    # The GPU is hidden, so that the tensors are the CPU's.
    environment = os.environ | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, SCRIPT], env=environment, capture_output=True, text=True)
    if "only 0-dimensional arrays can be converted" in done.stderr:
        pytest.skip(
            "Triton 3.6's interpreter does not know NumPy 2.4; the comparison needs numpy<2.4, or a newer Triton"
        )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


@cache
def compiled():
    return lattice_results.results(torch.device("cuda"))


def check_definition(found, name):
    """Indices, ties, fallbacks, loss and gradient of a case are those of the definition in float64."""
    rows, labels = lattice_results.lattice_case(name)
    leaf = rows.double().requires_grad_()
    loss = reference_loss(leaf, labels, margin=0.1)
    loss.backward()
    expected = reference_mine(rows, labels)
    for precision in ("fast", "exact"):
        case = found[f"{name}, {precision}"]
        assert [(*triplet[:3], bool(triplet[3])) for triplet in case["triplets"]] == expected
        assert case["loss"][0][0] == pytest.approx(float(loss.detach()), abs=1e-6)
        assert (torch.tensor(case["gradient"]) - leaf.grad).abs().max() < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("name", lattice_results.CASES)
def test_interpreted_results_are_the_definition_s(name):
    """The reference of the compiled kernels is right itself."""
    check_definition(interpreted(), name)


@pytest.mark.gpu
@pytest.mark.parametrize("name", lattice_results.CASES)
def test_compiled_results_are_the_definition_s(name):
    check_definition(compiled(), name)


@pytest.mark.gpu
def test_compiled_and_interpreted_agree_on_the_lattice():
    assert compiled().keys() == interpreted().keys()
    for case, found in compiled().items():
        expected = interpreted()[case]
        assert found["triplets"] == expected["triplets"], case
        assert found["loss"][0][0] == pytest.approx(expected["loss"][0][0], abs=1e-6), case
        difference = torch.tensor(found["gradient"]) - torch.tensor(expected["gradient"])
        assert difference.abs().max() < 1e-6, case


def large_batch(num_rows, num_features=128, num_classes=1000):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(num_rows) % num_classes
    centres = torch.randn(num_classes, num_features, generator=generator)
    rows = centres[labels] + 2 * torch.randn(num_rows, num_features, generator=generator)
    return torch.nn.functional.normalize(rows, dim=1).cuda(), labels.cuda()


@pytest.mark.gpu
@pytest.mark.parametrize("num_features", [128, 512, 1024])
@pytest.mark.parametrize("precision", ["fast", "exact"])
def test_random_pairs_of_a_large_batch_are_right(precision, num_features):
    """N = 65,536: of 1,000 pairs, each choice keeps the definition in float64, up to the precision."""
    rows, labels = large_batch(65_536, num_features)
    mined = mine_semihard(
        rows, labels, positives=4, precision=precision, backend="triton", generator=torch.Generator().manual_seed(1)
    )
    assert len(mined.anchor) == 4 * len(rows)
    chosen = torch.randperm(len(mined.anchor), generator=torch.Generator().manual_seed(2))[:1000].cuda()
    tolerance = 2e-3 if precision == "fast" else 1e-5  # of the largest squared distance
    for pairs in chosen.split(50):
        anchor, positive, negative = (part[pairs] for part in mined)
        distance = torch.cdist(rows[anchor].double(), rows.double()).square()
        slack = tolerance * float(distance.max())
        same = labels[anchor][:, None] == labels[None]
        assert not same.gather(1, negative[:, None]).any()
        near, far = (distance.gather(1, column[:, None]) for column in (positive, negative))
        others = distance.masked_fill(same, -torch.inf)
        fallback = mined.is_fallback[pairs][:, None]
        assert (fallback | (far > near - slack)).all()
        assert not (~fallback & (others > near + slack) & (others < far - slack)).any()
        assert not (fallback & ((others > near + slack) | (others > far + slack))).any()


@pytest.mark.gpu
def test_memory_is_that_of_inputs_and_lists():
    """Forward and backward at N = 65,536, D = 128, K = 4 stay below 100 MB beyond the inputs: no N × N, no T × D."""
    rows, labels = large_batch(65_536)
    rows.requires_grad_()
    loss = SemiHardTripletLoss(margin=1.0, positives=4, backend="triton")
    loss(*(tensor[:4096].detach() for tensor in (rows, labels)))  # what is allocated once
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    loss(rows, labels).backward()
    gradient_bytes = 4 * rows.numel()
    assert torch.cuda.max_memory_allocated() - before < 100e6 + gradient_bytes


@pytest.mark.gpu
def test_the_same_bits_every_time():
    rows, labels = large_batch(16_384)
    outcomes = []
    for _ in range(2):
        leaf = rows.clone().requires_grad_()
        loss = SemiHardTripletLoss(margin=1.0, backend="triton")(leaf, labels)
        loss.backward()
        outcomes.append((loss.detach(), leaf.grad))
    assert torch.equal(outcomes[0][0], outcomes[1][0])
    assert torch.equal(outcomes[0][1], outcomes[1][1])


def gradient_of(rows, labels, **options):
    leaf = rows.clone().requires_grad_()
    loss = SemiHardTripletLoss(margin=1.0, **options)(leaf, labels)
    loss.backward()
    return loss.detach(), leaf.grad


def check_backends_agree(rows, labels, **options):
    (loss, gradient), (expected, expected_gradient) = (
        gradient_of(rows, labels, backend=backend, **options) for backend in ("triton", "torch")
    )
    assert abs(loss - expected) < 1e-4
    assert torch.nn.functional.cosine_similarity(gradient.flatten(), expected_gradient.flatten(), dim=0) > 0.999


@pytest.mark.gpu
def test_one_large_class_among_small_ones():
    """A class of 64 among classes of 4: most passes of most row blocks are empty."""
    rows, _ = large_batch(16_384)
    check_backends_agree(rows, torch.cat([torch.zeros(64), 1 + torch.arange(16_320) // 4]).long().cuda())


@pytest.mark.gpu
def test_a_large_batch_that_has_collapsed():
    """All rows equal but for one, which is every pair's negative: a list of 200,000 entries."""
    rows = torch.full((65_536, 128), 0.0625, device="cuda")
    rows[7] *= 1.5
    labels = torch.arange(65_536, device="cuda") // 4
    loss, gradient = gradient_of(rows, labels, backend="triton", reduction="pairs")
    # Σ over the pairs of other classes: near 0, far |r_7 − r|² = 0.125, slope 1 / P each.
    hub = (65_536 - 4) * 3 * -2 * 0.03125 / (65_536 * 3)
    assert abs(float(gradient[7].mean()) - hub) < 1e-2 * abs(hub)
    assert torch.isfinite(loss)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")
def test_rows_on_a_device_that_is_not_the_current_one():
    rows, labels = large_batch(4096)
    expected = gradient_of(rows, labels, backend="triton")
    with torch.cuda.device(0):
        found = gradient_of(rows.to("cuda:1"), labels.to("cuda:1"), backend="triton")
    for mine, true in zip(found, expected, strict=True):
        assert torch.equal(mine.cpu(), true.cpu())


@pytest.mark.gpu
def test_a_step_compiled_for_cuda_graphs():
    rows, labels = large_batch(4096)
    linear = torch.nn.Linear(128, 64).cuda()
    loss = SemiHardTripletLoss(margin=1.0, backend="triton")

    def step(rows):
        return loss(torch.nn.functional.normalize(linear(rows), dim=1), labels)

    compiled = torch.compile(step, mode="reduce-overhead")
    for _ in range(3):
        assert abs(compiled(rows).detach() - step(rows).detach()) < 1e-3


@pytest.mark.gpu
def test_batches_of_other_sizes_compile_nothing():
    from neuroimagen.kernels.backends.semihard_triton_kernels import semihard_kernel

    rows, labels = large_batch(4096)
    sizes = (4096, 4095, 4094, 4000, 1)
    mine_semihard(rows, labels, backend="triton", positives=4)
    compiled = sum(len(cache[0]) for cache in semihard_kernel.device_caches.values())
    for size in sizes:
        mine_semihard(rows[:size], labels[:size], backend="triton", positives=4)
    assert sum(len(cache[0]) for cache in semihard_kernel.device_caches.values()) == compiled
