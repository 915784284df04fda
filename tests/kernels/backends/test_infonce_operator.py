"""The sums as autograd functions: means and shares by label; which results and gradients there are."""

import torch

from neuroimagen.kernels.backends import infonce_operator


def test_means_and_shares_of_labels():
    rows = torch.arange(10.0).reshape(5, 2)
    groups = infonce_operator.LabelGroups.of(torch.tensor([7, 3, 7, 3, -1]))
    expected = torch.tensor([[2.0, 3.0], [4.0, 5.0], [2.0, 3.0], [4.0, 5.0], [8.0, 9.0]])
    assert torch.equal(groups.means(rows)[groups.place], expected)
    # A rank that holds rows 1 and 2: half of label 3's two rows, half of label 7's, and nothing of label −1.
    shares = groups.shares(rows[1:3], slice(1, 3))[groups.place]
    assert torch.equal(shares, torch.tensor([[2.0, 2.5], [1.0, 1.5], [2.0, 2.5], [1.0, 1.5], [0.0, 0.0]]))
    assert not groups.shares(rows[:0], slice(0, 0)).any()


def test_without_columns_their_sum_is_a_constant():
    rows, targets = (torch.rand(6, 3, requires_grad=True) for _ in range(2))
    groups = infonce_operator.LabelGroups.of(torch.arange(6))
    scale = torch.tensor(2.0)
    sums = infonce_operator.logit_sums(rows, targets, scale, groups, own=slice(0, 6), columns=False)
    assert [value.requires_grad for value in sums] == [True, False, True]
    logits = 2 * rows @ targets.T
    expected = torch.autograd.grad(logits.logsumexp(1).sum() + logits.diagonal().sum(), (rows, targets))
    found = torch.autograd.grad(sums[0].sum() + sums[2].float(), (rows, targets))
    for mine, true in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, true, rtol=0, atol=1e-6)
