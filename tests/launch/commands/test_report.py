"""`neuroimagen report`: which report is written, and what it asks for."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from new_subject_study import write_new_subject_study, write_untrained_run

from neuroimagen.launch.cli import main
from neuroimagen.trainer.evaluation.evaluate import DETAILS_FILE
from neuroimagen.trainer.report import comparison, page


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Two runs, of which only the first has been evaluated."""
    folders = [tmp_path / "runs" / name for name in ("first", "second")]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text("seed: 0\n")
    (folders[0] / "report").mkdir()
    (folders[0] / "report" / DETAILS_FILE).write_text('{"data": "nowhere"}')
    return folders


def test_without_a_run_it_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report"]) == 2
    assert "give a run: `neuroimagen report --run RUN`" in capsys.readouterr().err


def test_a_run_that_is_none_or_was_not_evaluated_is_named(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", "--run", str(tmp_path / "none")]) == 1
    assert str(tmp_path / "none") in capsys.readouterr().err
    assert main(["report", str(runs[1])]) == 1
    error = capsys.readouterr().err
    assert f"{runs[1]} has not been evaluated. Run `neuroimagen evaluate --run {runs[1]}` first." in error


def test_out_is_for_comparisons(runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--run", str(runs[0]), "--out", str(tmp_path / "out")]) == 2
    assert "--out is for a comparison of several runs" in capsys.readouterr().err


def test_one_run_is_reported_with_the_data_that_it_names_or_that_were_moved(
    runs: list[Path], tiny_dataset_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written: list[tuple[Path, int]] = []

    def write_report(run: Path, dataset: Any) -> Path:
        written.append((run, len(dataset)))
        (run / "report" / "grid.png").touch()  # a run without images has none
        return run / "report" / "report.html"

    monkeypatch.setattr(page, "write_report", write_report)
    assert main(["report", "--run", str(runs[0])]) == 1
    assert "nowhere" in capsys.readouterr().err
    assert main(["report", "--run", str(runs[0]), "--data", str(tiny_dataset_folder)]) == 0
    assert written == [(runs[0], 24)]
    printed = capsys.readouterr().out
    assert f"report: {runs[0] / 'report' / 'report.html'}" in printed
    assert f"grid:   {runs[0] / 'report' / 'grid.png'}" in printed


def test_several_runs_are_compared_in_the_order_given(
    runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[list[Path], Path]] = []

    def write_comparison(folders: list[Path], out: Path, *, data: Path | None) -> Path:
        asked.append((folders, out))
        return out / "compare.html"

    monkeypatch.setattr(comparison, "write_comparison", write_comparison)
    first, second = runs
    assert main(["report", str(second), str(first)]) == 0
    assert main(["report", "--run", str(first), str(second), "--out", str(tmp_path / "out")]) == 0
    assert asked == [([second, first], first.parent / "comparison"), ([first, second], tmp_path / "out")]
    assert f"comparison: {tmp_path / 'out' / 'compare.html'}" in capsys.readouterr().out


def test_a_run_of_one_stage_that_draws_nothing_has_a_report(
    tmp_path: Path, tiny_diffusion_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_new_subject_study(tmp_path / "data", tiny_diffusion_folder, num_stimuli=80)
    for stage, words in (
        ("contrastive", "nearest class centroid"),
        ("classifier", "classifier stage"),
        ("alignment", "Retrieval of the stimulus from the EEG"),
    ):
        run = write_untrained_run(tmp_path / stage, data, tiny_diffusion_folder)
        for other in {"contrastive", "classifier", "alignment"} - {stage}:
            shutil.rmtree(run / other)
        assert main(["evaluate", "--run", str(run), "--cpu", "--set", "evaluate.num_resamples=100"]) == 0
        assert words in capsys.readouterr().out, stage
        assert main(["report", "--run", str(run)]) == 0
        assert capsys.readouterr().out == f"report: {run / 'report' / 'report.html'}\n"
        assert stage in (run / "report" / "report.html").read_text(encoding="utf-8")
