"""Rows in class order, the positives of an anchor, and the frame that mining works in."""

import pytest
import torch
from device_traffic import DeviceTraffic

from neuroimagen.kernels.triplets.class_layout import (
    SMALL_LIMIT,
    PositiveSampler,
    centred,
    class_layout,
    frame,
    power_of_two_above,
)

LABELS = torch.tensor([7, 3, 7, 3, 3, 9])


def test_classes_are_ranges_of_columns_in_the_rows_order():
    layout = class_layout(LABELS, LABELS, 0)
    assert layout.candidate_order.tolist() == [1, 3, 4, 0, 2, 5]
    assert layout.start.tolist() == [0, 0, 0, 3, 3, 5]
    assert layout.end.tolist() == [3, 3, 3, 5, 5, 6]
    assert layout.own_column.tolist() == list(range(6))
    assert layout.num_positives().tolist() == [2, 2, 2, 1, 1, 0]
    assert layout.num_positives(1).tolist() == [1, 1, 1, 1, 1, 0]


def test_anchors_within_and_outside_the_candidates():
    anchors = LABELS[2:4]
    within = class_layout(anchors, LABELS, 2)
    assert within.anchor_order.tolist() == [1, 0]  # labels 3, 7
    assert within.own_column.tolist() == [1, 4]
    outside = class_layout(anchors, LABELS, None)
    assert outside.own_column.tolist() == [-1, -1]
    assert outside.num_positives().tolist() == [3, 2]
    unknown = class_layout(torch.tensor([8]), LABELS, None)
    assert unknown.start.tolist() == unknown.end.tolist() == [5]


def test_an_anchor_without_negatives_has_no_positives():
    same = torch.zeros(4, dtype=torch.int64)
    assert class_layout(same, same, 0).num_positives().tolist() == [0] * 4


@pytest.mark.parametrize("limit", [None, 1, 2])
def test_positives_are_others_of_the_class(limit):
    layout = class_layout(LABELS, LABELS, 0)
    sampler = PositiveSampler(layout, limit, torch.Generator().manual_seed(1))
    columns, exists = sampler.columns(torch.arange(6), 3)
    assert exists.sum(1).tolist() == layout.num_positives(limit).tolist()
    assert sampler.most() == (limit or 2)
    for anchor in range(6):
        found = columns[anchor][exists[anchor]].tolist()
        others = set(range(int(layout.start[anchor]), int(layout.end[anchor]))) - {anchor}
        assert found == sorted(set(found))
        assert set(found) <= others
        assert limit is not None or set(found) == others


@pytest.mark.parametrize(("limit", "fetches"), [(None, 1), (4, 0), (SMALL_LIMIT, 0), (SMALL_LIMIT + 1, 1)])
def test_the_largest_number_of_positives_is_fetched_once_or_not_at_all(limit, fetches):
    """Each fetch waits for everything that is queued on the GPU, which the meta device plays."""
    labels = torch.zeros(40, dtype=torch.int64, device="meta")
    with DeviceTraffic() as traffic:
        sampler = PositiveSampler(class_layout(labels, labels, 0), limit)
        assert [sampler.most() for _ in range(3)] == [sampler.most()] * 3
    # Nothing is drawn on the CPU and copied, either.
    assert [crossing.what for crossing in traffic.crossings] == ["number out"] * fetches


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_power_of_two_is_exact_whatever_pow_does(monkeypatch, dtype):
    """On a GPU ldexp multiplies by a power that need not be exact."""

    def inexact(value, exponent):
        return value * torch.pow(2.0, exponent).mul(1 + 1e-6)

    monkeypatch.setattr(torch, "ldexp", inexact)
    for exponent in (-140, -120, -119, -1, 0, 1, 5, 100, 126):
        found = power_of_two_above(torch.tensor(1.5 * 2.0**exponent, dtype=dtype))
        assert found.dtype == dtype
        assert float(found) == 2.0 ** max(-120, exponent + 1)
    assert float(power_of_two_above(torch.zeros((), dtype=dtype))) == 1
    assert float(power_of_two_above(torch.tensor(0.995, dtype=dtype))) == 2  # a hundredth is left for rounding


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_in_the_frame_norms_are_below_one_and_short_fractions_stay_exact(scale):
    rows = torch.randn(30, 5, generator=torch.Generator().manual_seed(0)) * scale + 3 * scale
    _, unit = frame(rows, rows)
    anchors, candidates, same_unit = centred(rows, rows)
    assert anchors is candidates
    assert unit == same_unit
    assert anchors.norm(dim=1).max() < 1
    assert torch.frexp(unit).mantissa == 0.5  # a power of two
    lattice = torch.randint(0, 2, (30, 5), generator=torch.Generator().manual_seed(1)) / 2 - 0.25
    moved, _, unit = centred(lattice, lattice)
    exact = (lattice.double()[:, None] - lattice.double()[None]).square().sum(-1)
    assert torch.equal((moved[:, None] - moved[None]).square().sum(-1).double() * unit.double() ** 2, exact)
