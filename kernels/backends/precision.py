"""Matrix products in true float32, whatever precision the process has chosen for them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_FULL = ("ieee", "none")
"""Values of `fp32_precision` with which float32 products are computed in float32; "none" is the default."""


@contextmanager
def full_float32() -> Iterator[None]:
    """Matrix products in true float32: TF32 or bfloat16 shortcuts, set globally by a user, would change the mining.

    A process sets them with `torch.set_float32_matmul_precision` or with `torch.backends.….fp32_precision`. The first
    writes the settings of the second, and raises when it is read after both were used; so only the second are read and
    written here, and only those that are not full already.
    """
    changed = [_Setting(owner) for owner in (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)]
    changed = [setting for setting in changed if setting.value not in _FULL]
    for setting in changed:
        setting.owner.fp32_precision = "ieee"
    try:
        yield
    finally:
        for setting in changed:
            setting.restore()


class _Setting:
    """`owner.fp32_precision` as it was found. "none" inherits from `torch.backends.fp32_precision`, and is read as the
    inherited value."""

    def __init__(self, owner: Any) -> None:
        self.owner = owner
        self.value: str = owner.fp32_precision

    def restore(self) -> None:
        """Inherited again if inheriting gives the value that was found, so that later changes are inherited too."""
        self.owner.fp32_precision = "none"
        if self.owner.fp32_precision != self.value:
            self.owner.fp32_precision = self.value
