"""Training speed as it is logged."""

from types import SimpleNamespace
from typing import Any

import pytest

from neuroimagen.trainer.training import speed


def test_speed_is_that_since_the_last_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    now, feed = [100.0], SimpleNamespace(wait_seconds=5.0)
    monkeypatch.setattr(speed.time, "perf_counter", lambda: now[0])
    meter = speed.SpeedMeter(feed, 64, 10)  # type: ignore[arg-type]

    def read(step: int, *, seconds: float, waited: float) -> dict[str, Any]:
        now[0] += seconds
        feed.wait_seconds += waited
        return meter.read(step)

    found = read(14, seconds=8.0, waited=2.0)
    assert (found["segments_per_second"], found["data_wait_share"]) == (4 * 64 / 8.0, 0.25)
    assert found["memory_gib"] > 0
    assert read(14, seconds=1.0, waited=1.0) == {}  # no step
    now[0] += 1000.0  # of validation
    meter.restart(14)
    found = read(15, seconds=2.0, waited=0.0)
    assert (found["segments_per_second"], found["data_wait_share"]) == (32.0, 0.0)
