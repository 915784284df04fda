"""Which backend a call takes, by device, number of positives, dtype and what is installed."""

import importlib.util
import logging
import shutil

import pytest
import torch

from neuroimagen.kernels.backends import dispatch
from neuroimagen.kernels.backends.dispatch import MAX_SCANNED_POSITIVES, choose_backend

GPU = torch.device("cuda")


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """A machine with an H100, a C compiler and a driver that starts; nothing is remembered."""
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(dispatch, "_start_driver", lambda: None)
    monkeypatch.setenv("CC", "cc")
    caches = (dispatch._installation_obstacle, dispatch._warn_once)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


def test_the_dispatcher_on_a_cpu_and_with_many_positives():
    assert choose_backend("auto", torch.device("cpu"), num_positives=4) == "torch"
    assert choose_backend("auto", GPU, num_positives=MAX_SCANNED_POSITIVES + 1) == "torch"
    assert choose_backend("torch", GPU) == "torch"


@pytest.mark.parametrize(("capability", "chosen"), [((7, 5), "torch"), ((8, 0), "triton"), ((12, 0), "triton")])
def test_an_nvidia_gpu_needs_sm_80(monkeypatch, capability, chosen):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert choose_backend("auto", GPU, num_positives=MAX_SCANNED_POSITIVES) == chosen
    if chosen == "torch":
        with pytest.raises(ValueError, match=r"compute capability 7\.5 is below 8\.0"):
            choose_backend("triton", GPU)


def test_float64_is_left_to_pytorch():
    assert choose_backend("auto", GPU, dtype=torch.float64) == "torch"
    with pytest.raises(ValueError, match="float64"):
        choose_backend("triton", GPU, dtype=torch.float64)


def remove_triton(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)


def remove_compilers(monkeypatch):
    monkeypatch.delenv("CC")
    monkeypatch.setattr(shutil, "which", lambda name: None)


def break_the_driver(monkeypatch):
    def start():
        raise RuntimeError("gcc: fatal error:\nPython.h: No such file or directory")

    monkeypatch.setattr(dispatch, "_start_driver", start)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (remove_triton, "triton is not installed"),
        (remove_compilers, "Triton needs a C compiler"),
        (break_the_driver, "does not start .RuntimeError: gcc: fatal error: Python.h"),
    ],
)
def test_where_triton_cannot_launch_pytorch_serves_and_it_is_said_once(monkeypatch, caplog, damage, reason):
    damage(monkeypatch)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert choose_backend("auto", GPU, num_positives=4) == "torch"
    assert len(caplog.records) == 1
    caplog.records[0].getMessage().index("The losses use PyTorch")
    with pytest.raises(ValueError, match=reason):
        choose_backend("triton", GPU)


def test_without_triton_a_cpu_says_nothing_unless_triton_is_asked_for(monkeypatch, caplog):
    remove_triton(monkeypatch)
    assert choose_backend("auto", torch.device("cpu")) == "torch"
    assert not caplog.records
    with pytest.raises(ValueError, match="not installed"):
        choose_backend("triton", torch.device("cpu"))
