"""`neuroimagen data simulate`: what it prints, and its defaults."""

import argparse
from pathlib import Path

import pytest

from neuroimagen.data_shards.simulator.forward_model import ForwardModelConfig
from neuroimagen.data_shards.simulator.study import StudyConfig
from neuroimagen.launch.commands.data_actions import simulate


def run_command(*words: str) -> int:
    parser = argparse.ArgumentParser()
    simulate.add_arguments(parser)
    return simulate.run(parser.parse_args(words))


@pytest.mark.parametrize("layout", ["eegcvpr40", "shards"])
def test_the_command_prints_where_and_what_can_be_reached(
    layout: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ["--classes", "2", "--images-per-class", "3", "--subjects", "1", "--design", "block", "--drift", "1"]
    assert run_command("--out", str(out), "--format", layout, *words) == 0
    printed = capsys.readouterr().out
    assert str(out) in printed
    assert "best accuracy that any decoder of the class could reach: 0.9" in printed
    assert "uses the drift" in printed
    assert (out / ("study.json" if layout == "eegcvpr40" else "dataset.json")).is_file()


def test_the_command_defaults_are_the_study_s() -> None:
    parser = argparse.ArgumentParser()
    simulate.add_arguments(parser)
    args, study, model = parser.parse_args(["--out", "x"]), StudyConfig(), ForwardModelConfig()
    assert (args.classes, args.subjects, args.seed) == (model.num_classes, model.num_subjects, model.seed)
    assert args.channels == model.n_channels
    assert (args.snr, args.variability, args.drift) == (model.snr_db, model.variability, model.drift)
    assert (args.images_per_class, args.design, args.image_size) == (
        study.images_per_class,
        study.design,
        study.image_size_px,
    )
