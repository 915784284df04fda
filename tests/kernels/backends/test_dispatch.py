"""Which backend a call takes, by device, number of positives, dtype and what is installed."""

import importlib.util

import pytest
import torch

from neuroimagen.kernels.backends.dispatch import MAX_SCANNED_POSITIVES, choose_backend

GPU = torch.device("cuda")


def test_the_dispatcher_on_a_cpu_and_with_many_positives():
    assert choose_backend("auto", torch.device("cpu"), 4) == "torch"
    assert choose_backend("auto", GPU, MAX_SCANNED_POSITIVES + 1) == "torch"
    assert choose_backend("torch", GPU, 4) == "torch"


@pytest.mark.parametrize(("capability", "chosen"), [((7, 5), "torch"), ((8, 0), "triton"), ((12, 0), "triton")])
def test_an_nvidia_gpu_needs_sm_80(monkeypatch, capability, chosen):
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert choose_backend("auto", GPU, MAX_SCANNED_POSITIVES) == chosen
    if chosen == "torch":
        with pytest.raises(ValueError, match=r"compute capability 7\.5 is below 8\.0"):
            choose_backend("triton", GPU, 4)


def test_float64_and_a_missing_triton_leave_it_to_pytorch(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert choose_backend("auto", GPU, 4, torch.float64) == "torch"
    with pytest.raises(ValueError, match="float64"):
        choose_backend("triton", GPU, 4, torch.float64)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert choose_backend("auto", GPU, 4) == "torch"
    with pytest.raises(ValueError, match="not installed"):
        choose_backend("triton", GPU, 4)
