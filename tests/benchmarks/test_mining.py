"""`bench mining`: every method that claims our loss computes it; the command's figures, file and plot."""

import json

import pytest
import torch

from neuroimagen.benchmarks.mining import Case, _timed_pass
from neuroimagen.benchmarks.mining_methods import methods
from neuroimagen.launch.cli import main


def small_case():
    return Case(size=60, features=16, classes=7, positives="all", device="cpu", threads=1)


def test_methods_of_the_same_loss_agree_in_value_and_gradient():
    rows, labels = small_case().inputs()
    rows.requires_grad_()
    results = {}
    for method in methods("cpu"):
        _, _, loss = _timed_pass(method.build("all"), rows, labels)
        if method.same_loss:
            results[method.name] = loss, rows.grad.clone()
    assert {"neuroimagen torch", "dense, TensorFlow Addons"} <= set(results)
    loss, gradient = results["neuroimagen torch"]
    for name, (other, other_gradient) in results.items():
        assert abs(other - loss) < 1e-5, name
        assert torch.allclose(other_gradient, gradient, rtol=0, atol=1e-5), name


def test_the_command_lists_its_targets(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["bench", "--help"])
    assert ended.value.code == 0
    assert "mining" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["bench", "flying"])
    assert ended.value.code == 2


@pytest.mark.slow
def test_the_command_writes_figures_and_plot(tmp_path, capsys):
    threads = torch.get_num_threads()
    arguments = ["--sizes", "64", "96", "--positives", "all", "2", "--features", "8", "--repeats", "1"]
    outputs = ["--json", str(tmp_path / "m.json"), "--plot", str(tmp_path / "m.png")]
    assert main(["bench", "mining", *arguments, *outputs, "--device", "cpu"]) == 0
    torch.set_num_threads(threads)
    report = json.loads((tmp_path / "m.json").read_text())
    assert len(report["cases"]) == 4
    for case in report["cases"]:
        ours = case["methods"]["neuroimagen torch"]
        assert ours["total_ms"]["median"] > 0
        assert ours["peak_mb"] >= 0
        assert (len(case["methods"]) > 1) == (case["positives"] == "all")
    assert (tmp_path / "m.png").stat().st_size > 5000
    assert "neuroimagen torch" in capsys.readouterr().out
