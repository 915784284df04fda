"""`neuroimagen evaluate` and `report` as a user types them."""

import json
from pathlib import Path

import pytest
import simulated_run

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.launch.cli import main
from neuroimagen.launch.jobs import trained_controls as controls


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("commands")
    scenes = simulated_run.write_dataset(folder / "data")
    return simulated_run.write_run(folder / "run", folder / "data", scenes)


def test_evaluate_then_report(run: Path, tiny_diffusion_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--run", str(run)]) == 1
    assert "has not been evaluated" in capsys.readouterr().err

    judges = [f"evaluate.{name}={tiny_diffusion_folder / name}" for name in ("classifier", "clip")]
    assert main(["evaluate", "--run", str(run), "--cpu", "--set", *judges, "evaluate.num_resamples=100"]) == 0
    printed = capsys.readouterr().out
    assert "full model" in printed
    assert "Drift" in printed or "drift" in printed
    assert str(run / "report" / "results.json") in printed

    assert main(["report", "--run", str(run)]) == 0
    assert str(run / "report" / "report.html") in capsys.readouterr().out
    assert (run / "report" / "grid.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "evaluate.n_ways=3"], "evaluate.n_way"),
        (["--set", "evaluate.n_way=1"], "at least 2"),
        (["--set", "evaluate.classifier=no/such/folder"], "no/such/folder"),
        (["--data", "nowhere"], "nowhere"),
    ],
)
def test_mistakes_are_one_clear_line(
    run: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["evaluate", "--run", str(run), *arguments]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in error
    assert "Traceback" not in error


def test_a_run_selected_on_the_test_split_is_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    other = tmp_path / "run"
    shutil.copytree(run, other)
    (other / "saliency" / "environment.json").write_text(json.dumps([{"selection_split": "test"}]))
    assert main(["evaluate", "--run", str(other)]) == 1
    assert "would be biased" in capsys.readouterr().err


@pytest.mark.parametrize("options", [[], ["--cpu"]])
def test_the_controls_are_made_on_the_cpu_where_that_was_asked_for(
    run: Path, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    asked: list[bool] = []

    def make_control_runs(*args: object, cpu: bool, **options: object) -> None:
        asked.append(cpu)
        raise UserError("enough seen")

    monkeypatch.setattr(controls, "make_control_runs", make_control_runs)
    assert main(["evaluate", "--run", str(run), "--controls", *options]) == 1
    assert asked == [bool(options)]
