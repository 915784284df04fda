"""`neuroimagen data show` as a user calls it."""

from pathlib import Path

import pytest

from neuroimagen.launch.cli import main


def test_the_training_split_is_drawn_unless_another_is_asked_for(
    tiny_dataset_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from neuroimagen.trainer.report import data_averages

    asked: list[str] = []
    average = data_averages.average

    def seeing_average(dataset: object, **options: object) -> object:
        asked.append(str(options["split"]))
        return average(dataset, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(data_averages, "average", seeing_average)
    words = ["data", "show", str(tiny_dataset_folder), "--out", str(tmp_path / "views.html")]
    assert main(words) == 0
    assert (tmp_path / "views.html").stat().st_size
    assert main([*words, "--split", "test"]) == 0
    assert main([*words, "--part", "val"]) == 0  # the option's former name
    assert asked == ["train", "test", "val"]


def test_subjects_that_are_not_there_are_one_line(
    tiny_dataset_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["data", "show", str(tiny_dataset_folder), "--out", str(tmp_path / "views.html"), "--subjects", "9"]
    assert main(words) == 1
    error = capsys.readouterr().err
    assert "subject 9 is not in the data set" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "views.html").exists()
