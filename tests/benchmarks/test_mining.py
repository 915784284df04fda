"""`bench mining`: the methods with the same loss agree; the command's figures, file and plot; its worker."""

import json
import os
import subprocess
import sys
import time

import pytest
import torch

from neuroimagen.benchmarks import mining
from neuroimagen.benchmarks.mining_chunked import ChunkedLoss, nearest_by_minimum, nearest_by_sort
from neuroimagen.benchmarks.mining_methods import methods
from neuroimagen.benchmarks.mining_worker import Case, Worker, timed_pass
from neuroimagen.kernels.backends.semihard_reference import lattice_batch, reference_distances
from neuroimagen.launch.cli import main


def small_case():
    return Case(size=60, features=16, classes=7, positives="all", device="cpu", threads=1)


def test_methods_of_the_same_loss_agree_in_value_and_gradient():
    rows, labels = small_case().inputs()
    rows.requires_grad_()
    results = {}
    for method in methods("cpu"):
        _, _, loss = timed_pass(method.build("all"), rows, labels)
        if method.same_loss:
            results[method.name] = loss, rows.grad.clone()
    assert {"neuroimagen torch", "dense, TensorFlow Addons", "chunked PyTorch"} <= set(results)
    loss, gradient = results["neuroimagen torch"]
    for name, (other, other_gradient) in results.items():
        assert abs(other - loss) < 1e-5, name
        assert torch.allclose(other_gradient, gradient, rtol=0, atol=1e-5), name


def test_chunks_of_any_size_give_the_same_loss(monkeypatch):
    rows, labels = small_case().inputs()
    whole = ChunkedLoss("all")(rows, labels)
    monkeypatch.setattr("neuroimagen.benchmarks.mining_chunked.CHUNK_ELEMENTS", {"cpu": 7 * 60})
    assert torch.allclose(ChunkedLoss("all")(rows, labels), whole)
    # As many positives as the largest class has are all of them.
    assert torch.allclose(ChunkedLoss(8)(rows, labels), whole)


def test_both_searches_find_the_nearest_negative_strictly_farther():
    rows, labels = lattice_batch(40, 8)
    squared, same = reference_distances(rows, rows), labels[:, None] == labels[None]
    found = [nearest_by_sort(squared, same), nearest_by_minimum(squared, same, squared)]
    for anchor in range(40):
        others = squared[anchor][~same[anchor]]
        for column in range(40):
            beyond = others[others > squared[anchor, column]]
            expected = beyond.min() if len(beyond) else others.max()
            for columns in found:
                assert squared[anchor, columns[anchor, column]] == expected
                assert not same[anchor, columns[anchor, column]]


@pytest.mark.slow
def test_the_worker_outlives_errors_crashes_and_delays():
    threads = torch.get_num_threads()
    case = vars(small_case())
    question = {"case": case, "probe": "neuroimagen torch", "memory_gb": 8}
    with Worker() as worker:
        assert worker.ask(question, time_limit=120)["seconds"] > 0
        assert worker.ask(question | {"probe": "unknown"}, time_limit=120)["failed"].startswith("KeyError")
        large = question | {"case": case | {"size": 400}, "probe": "dense, TensorFlow Addons", "memory_gb": 0.2}
        assert worker.ask(large, time_limit=120)["failed"] == "out of memory (0.2 GB)"
        began = time.monotonic()
        assert worker.ask(question, time_limit=0)["failed"] == "no answer within 0 s"
        assert time.monotonic() - began < 60
        worker.ask(question, time_limit=120)
        os.kill(worker._process.pid, 9)
        assert worker.ask(question, time_limit=120)["failed"] == "ended with code -9"
        again = worker.ask({"case": case, "methods": ["neuroimagen torch"], "repeats": 2}, time_limit=120)
        assert again["neuroimagen torch"]["total_ms"]["median"] > 0
    assert torch.get_num_threads() == threads


def test_what_fails_is_not_tried_with_more_rows(tmp_path, monkeypatch):
    """The full comparison, with a worker for which the dense formula fails from N = 4,096 on."""
    probed = []

    class Fake:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def close(self):
            pass

        def ask(self, question, *, time_limit):
            case = question["case"]
            if "probe" not in question:
                return {name: {"loss": 0.5, **dict.fromkeys(("forward_ms", "backward_ms", "total_ms"), three)}
                        for name in question["methods"]}  # fmt: skip
            probed.append((case["size"], case["features"], case["classes"], case["positives"], question["probe"]))
            if question["probe"].startswith("dense") and case["size"] >= 4096:
                return {"failed": "out of memory"}
            return {"peak_mb": 1.0, "seconds": 99.0 if case["size"] == 131072 else 0.1}

    three = {"median": 1.0, "min": 1.0, "max": 1.0}
    monkeypatch.setattr(mining, "Worker", Fake)
    monkeypatch.setattr(mining, "roofs", lambda device: {"tflops": 1.0})
    threads = torch.get_num_threads()
    path = tmp_path / "full.json"
    assert main(["bench", "mining", "--full", "--device", "cpu", "--json", str(path)]) == 0
    torch.set_num_threads(threads)
    cases = json.loads(path.read_text())["cases"]
    assert len(cases) == 5 * 3 * 2 * 4
    assert {case["size"] for case in cases} == {1024, 4096, 16384, 65536, 131072}
    dense = [place for place in probed if place[-1].startswith("dense")]
    assert {place[0] for place in dense} == {1024, 4096}
    largest = [case for case in cases if case["size"] == 131072 and case["positives"] == "all"]
    for case in largest:
        assert case["methods"]["dense, TensorFlow Addons"] == {"failed": "out of memory at N=4096"}
        assert case["methods"]["neuroimagen torch"] == {"failed": "more than 10 s"}
    # With a number of positives only the methods that can sample take part.
    assert {place[-1] for place in probed if place[3] == 4} == {"neuroimagen torch", "chunked PyTorch"}


def test_it_needs_little_more_than_torch_and_triton():
    """`python -m` runs without the packages that the rest of neuroimagen needs."""
    absent = [
        "deepspeed",
        "diffusers",
        "transformers",
        "webdataset",
        "pyarrow",
        "ray",
        "accelerate",
        "pydantic",
        "yaml",
    ]
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({absent}))\n"
        "from neuroimagen.benchmarks import mining, mining_methods\n"
        "import torch, argparse\n"
        "parser = argparse.ArgumentParser(); mining.add_arguments(parser)\n"
        "parser.parse_args(['--full', '--features', '128'])\n"
        "print([method.name for method in mining_methods.methods('cuda')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in ("neuroimagen triton fast", "dense, compiled", "chunked PyTorch, compiled"):
        assert name in done.stdout


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
        assert ("dense, TensorFlow Addons" in case["methods"]) == (case["positives"] == "all")
    assert (tmp_path / "m.png").stat().st_size > 5000
    assert "neuroimagen torch" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["--sizes", "-3"], ["--positives", "0"], ["--repeats", "0"], ["--classes", "x"]])
def test_numbers_that_cannot_be_measured_are_wrong_usage(words, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["bench", "mining", *words])
    assert stop.value.code == 2
    assert f"argument {words[0]}: {words[1]!r} is not a whole number of at least 1" in capsys.readouterr().err
