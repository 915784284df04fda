"""Training as a command: what is checked before ranks start."""

from pathlib import Path

import pytest

from neuroimagen.launch.cli import main


@pytest.mark.parametrize(
    ("setting", "message"),
    [("contrastive.num_classes=400", "400 classes a batch asked for"), ("data.path=nowhere", "nowhere")],
)
def test_a_refused_training_leaves_nothing(
    job_recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], setting: str, message: str
) -> None:
    words = ["train", "contrastive", "--config", str(job_recipe), "--cpu", "--num-ranks", "1", "--set", setting]
    run = tmp_path / "run"
    assert main([*words, "--run", str(run)]) == 1
    assert message in capsys.readouterr().err
    assert not run.exists()
    (run / "saliency").mkdir(parents=True)
    assert main([*words, "--run", str(run)]) == 1
    assert list(run.iterdir()) == [run / "saliency"]


def test_another_recipe_s_run_stays_as_it_is(
    job_recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.yaml").write_text("seed: 77\n", encoding="utf-8")
    words = ["train", "contrastive", "--config", str(job_recipe), "--cpu", "--num-ranks", "1", "--run", str(tmp_path)]
    assert main(words) == 1
    assert "another recipe's run" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]
