"""`neuroimagen adapt` from the command line, on an untrained run of a tiny study."""

import json
import re
import shutil
from pathlib import Path

import pytest
from new_subject_study import write_new_subject_study, write_untrained_run

from neuroimagen.launch.cli import main
from neuroimagen.launch.commands import adapt
from neuroimagen.trainer.adaptation.methods import METHODS, NOTHING
from neuroimagen.trainer.adaptation.opening import STAGES

FEW = ["--steps", "2", "--seeds", "1", "--cpu", "--set", "evaluate.num_resamples=100"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, tiny_diffusion_folder: Path) -> Path:
    return write_new_subject_study(tmp_path_factory.mktemp("adapt") / "data", tiny_diffusion_folder, num_stimuli=80)


@pytest.fixture
def run(tmp_path: Path, data: Path, tiny_diffusion_folder: Path) -> Path:
    return write_untrained_run(tmp_path / "run", data, tiny_diffusion_folder)


def test_the_choices_are_those_that_there_are() -> None:
    assert (NOTHING, *adapt.METHODS) == tuple(METHODS)
    assert adapt.STAGES == STAGES


def test_table_files_and_where_they_are(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["adapt", "--run", str(run), "--subject", "3", *FEW]
    assert main([*command, "--minutes", "0.1", "0.2", "15"]) == 0
    printed = capsys.readouterr()
    out = run / "adapt" / "subject-3"
    assert printed.out.endswith(f"adaptation: {out}\n")
    for words in ("contrastive", "classifier", "alignment", "subject map", "15 minutes are cut to that", "0.5 s"):
        assert words in printed.out
    assert not printed.err  # bars are for terminals
    tree = json.loads((out / "adapt.json").read_text())
    assert {item["method"] for item in tree["figures"]} == set(METHODS)
    assert {item["num_segments"] for item in tree["figures"]} == {0, 12, 24, 64}
    settings = {"steps": 2, "passes": 20.0, "batch_size": 64, "learning_rate": None, "pull": 1.0}
    assert tree["fine_tuning"] == settings
    assert main(command) == 1
    assert "subject-3 exists and is not empty" in capsys.readouterr().err


def test_options_reach_the_measurement(
    run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--data", str(data), "--minutes", "0.2", "--methods", "head", "--stages", "alignment", "--order", "time"]
    words += ["--learning-rate", "0.01", "--pull", "0", "--batch-size", "8", "--out", str(tmp_path / "out")]
    assert main(["adapt", "--run", str(run), "--subject", "3", *FEW, *words]) == 0
    tree = json.loads((tmp_path / "out" / "adapt.json").read_text())
    assert {(item["stage"], item["method"]) for item in tree["figures"]} == {
        ("alignment", "nothing"),
        ("alignment", "head"),
    }
    assert (tree["order"], tree["learning_rates"]) == ("time", {"head": 0.01})
    assert "accuracy" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--subject", "1"], 1, "was trained with subject 1, so the subject is not new to it"),
        (["--subject", "zz"], 2, "--subject zz: .* has no such subject; it has 1, 2, 3"),
        (["--subject", "9"], 1, "has no segments of subject 9; it has those of 1, 2, 3"),
        (["--subject", "3", "--minutes", "0"], 2, "--minutes 0: minutes of calibration are positive"),
        (["--subject", "3", "--seeds", "0"], 2, "--seeds is 0"),
        (["--subject", "3", "--steps", "0"], 2, "--steps must be at least 1"),
        (["--subject", "3", "--methods", "head", "--save", "all"], 2, "--save all: it is not among --methods head"),
        (["--subject", "3", "--data", "gone"], 1, "gone"),
    ],
)
def test_mistakes_are_named(
    run: Path, words: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["adapt", "--run", str(run), "--cpu", *words]) == code
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert re.search(message, printed), printed
    assert not (run / "adapt").exists()


def test_a_run_chosen_on_test_is_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "alignment" / "environment.json").write_text(json.dumps([{"selection_split": "test"}]))
    assert main(["adapt", "--run", str(run), "--subject", "3"]) == 1
    assert "'test' split chose the alignment checkpoint" in capsys.readouterr().err


def test_a_run_without_encoders_is_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for stage in STAGES:
        shutil.rmtree(run / stage)
    assert main(["adapt", "--run", str(run), "--subject", "3"]) == 1
    assert "there is no encoder to adapt" in capsys.readouterr().err
