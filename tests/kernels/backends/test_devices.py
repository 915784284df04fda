"""Architectures by range of capability, and launches on the device of the rows."""

from contextlib import contextmanager

import pytest
import torch

from neuroimagen.kernels.backends import devices
from neuroimagen.kernels.backends.devices import family, launches_kernels, launching_on, shared_memory


@pytest.mark.parametrize(
    ("arch", "unit", "kib"),
    [
        (80, "ampere", 163),
        (86, "ampere", 99),
        (89, "ampere", 99),
        (90, "hopper", 227),
        (100, "blackwell", 227),
        (103, "blackwell", 227),
        (110, "blackwell", 227),
        (120, "ampere", 99),
        (121, "ampere", 99),
        (200, "ampere", 99),  # what no one has seen yet gets what runs everywhere
        ("gfx942", "cdna", 64),
    ],
)
def test_architectures_by_range(arch, unit, kib):
    assert family(arch) == unit
    assert shared_memory(arch) == kib * 1024


def test_what_is_too_old_is_refused():
    with pytest.raises(ValueError, match=r"8\.0 or later, not 7\.5"):
        family(75)


def test_launches_are_on_the_device_of_the_rows(monkeypatch):
    """Two devices, the current one not the rows': seen without a GPU by what PyTorch is asked for."""
    entered, current = [], [torch.device("cuda", 0)]

    @contextmanager
    def device(wanted):
        entered.append(wanted)
        current.append(wanted)
        yield
        current.pop()

    class Rows:
        device = torch.device("cuda", 1)

    monkeypatch.setattr(torch.cuda, "device", device)
    with launching_on(Rows.device):
        assert current[-1] == Rows.device

    @launches_kernels
    def launch(rows, *, twice):
        return current[-1], twice

    assert launch(Rows, twice=2) == (Rows.device, 2)
    assert current == [torch.device("cuda", 0)]
    assert launch(torch.zeros(1), twice=1) == (torch.device("cuda", 0), 1)  # nothing to choose on a CPU
    assert entered == [Rows.device] * 2


def test_multiprocessors_of_a_cpu():
    assert devices.num_multiprocessors(torch.device("cpu")) == 1
