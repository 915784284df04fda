"""Parts of the torch backend: the log-sum-exps of large logits, means by label, and the memory of a large batch."""

import subprocess
import sys

import pytest
import torch

from neuroimagen.kernels.backends import infonce_operator, infonce_torch


def test_logsumexps_of_large_logits_do_not_overflow(monkeypatch):
    monkeypatch.setattr(infonce_torch, "TILE_ELEMENTS", 16 * 50)
    generator = torch.Generator().manual_seed(0)
    rows, targets = 30 * torch.randn(50, 8, generator=generator), 30 * torch.randn(50, 8, generator=generator)
    groups = infonce_operator.LabelGroups.of(torch.arange(50))
    of_rows, of_targets, _ = infonce_operator.logit_sums(rows[:50], targets, torch.tensor(100.0), groups, own=slice(50))
    logits = 100 * rows.double() @ targets.double().T
    torch.testing.assert_close(of_rows.double(), logits.logsumexp(1), rtol=1e-5, atol=0)
    torch.testing.assert_close(of_targets.double(), logits.logsumexp(0), rtol=1e-5, atol=0)


def test_means_and_shares_of_labels():
    rows = torch.arange(10.0).reshape(5, 2)
    groups = infonce_operator.LabelGroups.of(torch.tensor([7, 3, 7, 3, -1]))
    expected = torch.tensor([[2.0, 3.0], [4.0, 5.0], [2.0, 3.0], [4.0, 5.0], [8.0, 9.0]])
    assert torch.equal(groups.means(rows)[groups.place], expected)
    # A rank that holds rows 1 and 2: half of label 3's two rows, half of label 7's, and nothing of label −1.
    shares = groups.shares(rows[1:3], slice(1, 3))[groups.place]
    assert torch.equal(shares, torch.tensor([[2.0, 2.5], [1.0, 1.5], [2.0, 2.5], [1.0, 1.5], [0.0, 0.0]]))
    assert not groups.shares(rows[:0], slice(0, 0)).any()


_LARGE_BATCH = """
import resource, torch
from neuroimagen.kernels.infonce import InfoNCELoss
torch.manual_seed(0)
rows, targets = (torch.nn.functional.normalize(torch.randn({n}, {d})).requires_grad_() for _ in range(2))
labels = torch.arange({n}) // 2
InfoNCELoss()(rows[:64], targets[:64], labels[:64], logit_scale=14.0).backward()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
InfoNCELoss()(rows, targets, labels, logit_scale=torch.tensor(14.0, requires_grad=True)).backward()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize(
    ("num_rows", "num_features", "limit_mib"),
    [(4096, 64, 48), pytest.param(16_384, 1024, 500, marks=pytest.mark.slow)],
)
def test_memory_is_that_of_rows_not_of_the_matrix(num_rows, num_features, limit_mib):
    """The matrix of logits alone would take 64 MiB for 4,096 rows, and 1 GiB for 16,384; its gradient as much again."""
    script = _LARGE_BATCH.format(n=num_rows, d=num_features)
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(result.stdout) < limit_mib * 1024
