"""`neuroimagen bench`: each target is a module of benchmarks/, imported when it is asked for."""

import importlib.util
from pathlib import Path

import pytest

from neuroimagen.launch.cli import main
from neuroimagen.launch.commands import bench

BENCHMARKS = Path(__file__).resolve().parents[3] / "benchmarks"


def test_every_target_has_a_module() -> None:
    assert all((BENCHMARKS / f"{target.replace('-', '_')}.py").is_file() for target in bench.TARGETS)


def test_a_target_s_help_has_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["bench", "mining", "--help"])
    assert stop.value.code == 0
    assert "--repeats" in capsys.readouterr().out


def test_without_the_repository_one_line_says_where_the_benchmarks_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for words in (["bench", "mining"], ["bench", "mining", "--help"]):
        assert main(words) == 1
        printed = capsys.readouterr()
        assert printed.err.startswith("neuroimagen bench: the benchmarks come with the repository, not with the wheel")
        assert printed.err.count("\n") == 1
        assert printed.out == ""
