"""`neuroimagen demo`: its options reach the demo."""

from pathlib import Path

import pytest

from neuroimagen.launch import demo
from neuroimagen.launch.cli import main
from neuroimagen.launch.demo import DemoConfig


def test_the_options_are_the_demo_s_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    configs: list[DemoConfig] = []
    monkeypatch.setattr(demo, "run_demo", configs.append)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1})
    assert main(["demo"]) == 0
    assert main(["demo", "--out", "a", "--seed", "3", "--num-ranks", "2", "--quick"]) == 0
    assert configs == [
        DemoConfig(out=Path("runs/demo"), stages_at_once=2),
        DemoConfig(out=Path("a"), seed=3, num_ranks=2, quick=True),
    ]
