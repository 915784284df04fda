"""Images as bytes and as networks take them."""

import numpy as np
import pytest
import torch

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.trainer.networks.pixels import from_uint8, to_uint8


def test_every_byte_comes_back() -> None:
    every = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    values = from_uint8(every)
    assert values.dtype == torch.float32
    assert (values.min().item(), values.max().item()) == (-1.0, 1.0)
    assert torch.equal(values.flatten().diff().sign(), torch.ones(255))
    back = to_uint8(values)
    assert back.dtype == np.uint8
    assert np.array_equal(back, every.numpy())


def test_what_lies_outside_is_clipped_and_the_rest_rounded() -> None:
    images = torch.tensor([-7.0, -1.0, 0.4 / 127.5 - 1, 0.6 / 127.5 - 1, 1.0, 3.0])
    assert to_uint8(images).tolist() == [0, 0, 0, 1, 255, 255]


def test_a_mean_of_bytes_keeps_its_fraction() -> None:
    assert from_uint8(torch.tensor([127.5], dtype=torch.float64)).tolist() == [0.0]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_what_is_no_number_does_not_become_an_image(value: float, dtype: torch.dtype) -> None:
    images = torch.zeros(2, 3, 4, 4, dtype=dtype)
    images[1, 2, 0, 3] = value
    with pytest.raises(UserError, match="1 of the 96 values of a batch of images are NaN or infinite"):
        to_uint8(images)
