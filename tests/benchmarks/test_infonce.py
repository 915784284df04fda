"""`bench infonce`: the losses that it compares agree, its file has every figure, memory is the tile's and not the
matrix's."""

import json

import pytest
import torch

from neuroimagen.benchmarks import infonce
from neuroimagen.launch.cli import main

CPU = torch.device("cpu")


def test_the_losses_agree_in_value_and_gradients():
    results = []
    for loss in infonce.losses(CPU).values():
        leaves = infonce.inputs(50, 8, CPU)
        _, _, value = infonce.timed_pass(loss, leaves)
        results.append((torch.tensor(value), *(leaf.grad for leaf in leaves)))
    for ours, dense in zip(*results, strict=True):
        torch.testing.assert_close(ours, dense, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_the_command_writes_every_figure(tmp_path, capsys):
    file = tmp_path / "deep" / "infonce.json"
    arguments = ["--sizes", "32", "64", "--features", "8", "--large", "128", "--repeats", "2", "--device", "cpu"]
    assert not main(["bench", "infonce", *arguments, "--json", str(file)])
    report = json.loads(file.read_text())
    assert report["configuration"]["device"]
    assert report["configuration"]["versions"]["torch"] == torch.__version__
    assert [case["size"] for case in report["cases"]] == [32, 64, 128]
    for case in report["cases"][:2]:
        ours, dense = case["losses"]["ours, torch"], case["losses"]["dense"]
        assert ours["ratio"]["min"] <= ours["ratio"]["median"] <= ours["ratio"]["max"]
        assert abs(ours["loss"] - dense["loss"]) < 1e-5
    assert list(report["cases"][2]["losses"]) == ["ours, torch"]
    assert "÷ dense" in capsys.readouterr().out
    assert torch.get_num_threads() == 1


def test_memory_beyond_the_inputs_is_smaller_than_the_matrix():
    """Of 5,000 pairs the logits are 100 MB and their gradients as much again; ours has tiles of 8 MB."""
    ours, dense = (infonce.peak_mb(name, 5000, 16, CPU, 1) for name in ("ours, torch", "dense"))
    assert ours < 130
    assert dense > 200
