"""A scalar's copy on the CPU is its value, whatever was queued after it."""

import pytest
import torch

from neuroimagen.trainer.training.scalar_copy import ScalarCopy


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_the_copy_is_the_value(device: str) -> None:
    values = torch.linspace(-3, 3, 7, device=device, requires_grad=True)
    copies = [ScalarCopy(value.square()) for value in values]
    later = values.detach() @ values.detach()  # queued behind the copies
    assert [copy.value() for copy in copies] == pytest.approx([9.0, 4.0, 1.0, 0.0, 1.0, 4.0, 9.0])
    assert later.item() == pytest.approx(28)


def test_a_scalar_that_changes_later_was_copied_before() -> None:
    """A CPU's tensor is not copied; a loss is made anew at each step, never changed in place."""
    loss = torch.tensor(2.5)
    copy = ScalarCopy(loss)
    loss = loss + 1
    assert copy.value() == 2.5
