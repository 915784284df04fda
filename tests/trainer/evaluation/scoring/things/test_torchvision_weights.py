"""A state dict is checked by names and shapes before anything is drawn, and read as it is."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision_files import random_entries, write_state_dict

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.trainer.evaluation.scoring.things.torchvision_weights import (
    check_torchvision_weights,
    load_torchvision_weights,
)

NETWORK = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


def test_weights_are_read_in_float32_without_what_is_not_used(tmp_path: Path) -> None:
    entries = random_entries(NETWORK)
    half = {name: value.half() for name, value in entries.items()}
    counters = {"1.num_batches_tracked": torch.tensor(7), "fc.weight": torch.ones(2)}
    folder = write_state_dict(tmp_path, half, more=counters)
    with torch.device("meta"):
        shapes = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).state_dict()
    assert check_torchvision_weights(folder, shapes, title="Net", unused=("fc.",)).name == "weights.safetensors"
    read = load_torchvision_weights(folder, shapes, title="Net", unused=("fc.",))
    assert read.keys() == entries.keys()
    for name, value in read.items():
        assert value.dtype == torch.float32
        assert torch.equal(value, half[name].float())


def test_what_is_wrong_with_a_file_is_said(tmp_path: Path) -> None:
    entries, wanted = random_entries(NETWORK), NETWORK.state_dict()
    without = {name: value for name, value in entries.items() if name != "0.bias"}
    cases = {
        "missing": (without, r"1 of its 6 entries are missing and 0 are unknown \(0\.bias\)"),
        "unknown": (
            {**entries, "2.bias": torch.ones(1)},
            r"0 of its 6 entries are missing and 1 are unknown \(2\.bias\)",
        ),
        "shape": ({**entries, "0.bias": torch.ones(5)}, r"another shape \(0\.bias \(5,\) instead of \(4,\)\)"),
    }
    for name, (weights, message) in cases.items():
        with pytest.raises(UserError, match=message):
            check_torchvision_weights(write_state_dict(tmp_path / name, weights), wanted, title="Net")
    with pytest.raises(UserError, match="there is no folder"):
        check_torchvision_weights(tmp_path / "nothing", wanted, title="Net")
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "net.pth").write_bytes(b"")
    with pytest.raises(UserError, match=r"has 0 safetensors files.*torchvision's Net.*docs/how-to/things-figures\.md"):
        check_torchvision_weights(pickled, wanted, title="Net")
    (pickled / "net.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match="cannot read"):
        check_torchvision_weights(pickled, wanted, title="Net")
