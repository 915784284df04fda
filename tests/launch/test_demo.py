"""The demo: its steps are a pure list, finished steps are not repeated, and all of it runs."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.launch import demo
from neuroimagen.launch.cli import main


def test_the_steps_are_commands_that_parse(tmp_path: Path) -> None:
    from neuroimagen.launch.cli import parse

    steps = demo.demo_steps(demo.DemoConfig(out=tmp_path / "run", num_ranks=1))
    assert [step.name for step in steps] == [
        *("simulate", "ingest", "cache"),
        *("contrastive", "alignment", "saliency", "semantic", "semantic_detailed", "prior", "vae_latent"),
        *("reconstruct", "evaluate", "report"),
    ]
    for step in steps:
        parse(step.arguments)


def test_a_folder_of_something_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo's files would be among those of a data set."""
    monkeypatch.setattr(demo, "subprocess", SimpleNamespace(run=lambda *_, **__: SimpleNamespace(returncode=1)))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dataset.json").write_text("{}")
    with pytest.raises(UserError, match="data exists and is not empty"):
        demo.run_demo(demo.DemoConfig(out=tmp_path / "data"))
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["dataset.json"]
    for _ in range(2):  # a demo that failed in its first step goes on
        with pytest.raises(UserError, match="step simulate failed"):
            demo.run_demo(demo.DemoConfig(out=tmp_path / "new"))


def test_an_interrupted_demo_goes_on_and_refuses_other_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[str] = []

    def fake_run(command: list[str], check: bool) -> SimpleNamespace:
        called.append(command[3])
        failing = command[3] == "cache" and called.count("cache") == 1
        return SimpleNamespace(returncode=1 if failing else 0)

    monkeypatch.setattr(demo, "subprocess", SimpleNamespace(run=fake_run))
    config = demo.DemoConfig(out=tmp_path / "run")
    with pytest.raises(UserError, match="step cache failed"):
        demo.run_demo(config)
    demo.run_demo(config)
    assert called[:4] == ["data", "data", "cache", "cache"]  # simulate and ingest once, cache twice
    before = len(called)
    demo.run_demo(config)
    assert len(called) == before
    with pytest.raises(UserError, match="other settings"):
        demo.run_demo(demo.DemoConfig(out=tmp_path / "run", seed=1))


def test_quick_demo_from_eeg_to_report(tmp_path: Path) -> None:
    """Every process of the demo; only the study and the numbers of steps are small."""
    out = tmp_path / "a run"  # with a space
    done = subprocess.run(
        [sys.executable, "-m", "neuroimagen.launch.cli", "demo", "--out", str(out), "--quick", "--num-ranks", "2"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    results = json.loads((out / "report" / "results.json").read_text())
    conditions = {entry["condition"] for entry in results}
    assert conditions >= {"full", "semantic_only", "saliency_only", "full_detailed", "semantic_only_detailed"}
    assert conditions >= {"oracle_class", "random_class", "vae_round_trip", "perfect_saliency", "mean_image"}
    assert conditions >= {"chance", "ceiling"}
    assert (out / "report" / "report.html").stat().st_size > 10_000
    assert (out / "report" / "grid.png").exists()
    assert str(out / "report" / "report.html") in done.stdout
    assert main(["data", "verify", str(out / "data")]) == 0
