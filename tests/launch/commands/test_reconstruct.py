"""`neuroimagen reconstruct` as a user calls it, on a run of untrained networks."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from untrained_run import files, write_untrained_run

from neuroimagen.launch.cli import main
from neuroimagen.trainer.reconstruction.headline import read_choice
from neuroimagen.trainer.reconstruction.manifest import read_reconstructions


@pytest.fixture
def run(tiny_dataset_folder: Path, tiny_diffusion_folder: Path, tmp_path: Path) -> Path:
    """A run with a recipe and two exports."""
    return write_untrained_run(tmp_path / "run", data=tiny_dataset_folder, model=tiny_diffusion_folder)


def test_makes_what_the_run_allows_and_keeps_it(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reconstruct", "--run", str(run)]) == 0
    output = capsys.readouterr().out
    assert output.count("made in") == 8
    assert "full_detailed                  left out:" in output
    made = read_reconstructions(run)
    assert set(made) == {
        "full",
        "semantic_only",
        "saliency_only",
        "oracle_class",
        "random_class",
        "perfect_saliency",
        "vae_round_trip",
        "mean_image",
    }
    assert all(len(condition) == 6 for condition in made.values())
    assert main(["reconstruct", "--run", str(run)]) == 0
    assert capsys.readouterr().out.count("kept") == 8


def test_the_headline_is_chosen_first_and_drawn_for_every_segment(
    tiny_dataset_folder: Path, tiny_diffusion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_untrained_run(
        tmp_path / "run",
        data=tiny_dataset_folder,
        model=tiny_diffusion_folder,
        reconstruct={
            **{"steps": 4, "guidance": 2.0, "side_segments": 4, "conditions": ["full", "saliency_only", "mean_image"]},
            "choose": {"conditions": ["full", "saliency_only"], "segments": 4, "by": {"ssim": 1.0}},
        },
        evaluate={name: str(tiny_diffusion_folder / name) for name in ("classifier", "clip")},
    )
    assert main(["reconstruct", "--run", str(run)]) == 0
    choice = read_choice(run)
    assert choice is not None
    assert choice.sentence in capsys.readouterr().out
    made = read_reconstructions(run)
    assert {name: len(found) for name, found in made.items()} == {
        name: 6 if name == choice.condition else 4 for name in ("full", "saliency_only", "mean_image")
    }
    assert main(["reconstruct", "--run", str(run)]) == 0
    assert capsys.readouterr().out.count("kept") == 3
    assert main(["reconstruct", "--run", str(run), "--set", "reconstruct.choose.by={fid: 1.0}"]) == 1
    assert "reconstruct.choose.by: there is no metric 'fid'" in capsys.readouterr().err
    assert main(["reconstruct", "--run", str(run), "--set", "reconstruct.choose.by={pixcorr: 1.0}"]) == 1
    assert "Give --overwrite to choose again" in capsys.readouterr().err


def test_options_change_the_recipe(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["reconstruct", "--run", str(run), "--conditions", "full", "--strength", "0.5"]
    assert main([*words, "--set", "reconstruct.samples=2"]) == 0
    assert len(read_reconstructions(run)["full"]) == 12
    assert main([*words, "--guidance", "3"]) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert main([*words, "--guidance", "3", "--overwrite"]) == 0
    settings = read_reconstructions(run)["full"].settings
    assert (settings["strength"], settings["guidance"], settings["samples"]) == (0.5, 3.0, 1)


def test_names_of_earlier_versions_are_still_accepted(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--rows` and the recipe's `reconstruct.rows`, which are called conditions now."""
    assert main(["reconstruct", "--run", str(run), "--rows", "mean_image", "vae_round_trip"]) == 0
    assert set(read_reconstructions(run)) == {"mean_image", "vae_round_trip"}
    assert main(["reconstruct", "--run", str(run), "--set", "reconstruct.rows=[saliency_only]"]) == 0
    assert set(read_reconstructions(run)) == {"mean_image", "vae_round_trip", "saliency_only"}
    recipe = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump({**recipe, "reconstruct": {"rows": ["semantic_only"], "steps": 4}}))
    assert main(["reconstruct", "--run", str(run)]) == 0
    assert set(read_reconstructions(run)) == {"mean_image", "vae_round_trip", "saliency_only", "semantic_only"}
    assert main(["reconstruct", "--run", str(run), "--conditions", "mean_image"]) == 0
    with pytest.raises(SystemExit):
        main(["reconstruct", "--help"])
    assert "--rows" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--conditions", "fulll"], "Did you mean 'full'"),
        (["--strength", "2"], "strength must lie in"),
        (["--set", "reconstruct.guidence=3"], "did you mean 'reconstruct.guidance'"),
        (["--set", "data.path=nowhere"], "nowhere"),
        (["--set", "model.path=nowhere"], r"nowhere"),
    ],
)
def test_mistakes_are_one_line(run: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reconstruct", "--run", str(run), *words]) == 1
    error = capsys.readouterr().err.strip()
    assert message in error
    assert len(error.splitlines()) == 1
    assert not (run / "reconstructions").exists()


def test_untrained_run(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for stage in ("saliency", "semantic"):
        shutil.rmtree(run / stage)
    assert main(["reconstruct", "--run", str(run)]) == 1
    error = capsys.readouterr().err
    assert "saliency/export does not exist" in error
    assert "Train a stage that images are drawn with first." in error
    assert main(["reconstruct", "--run", str(tmp_path / "no")]) == 1
    assert "there is no run" in capsys.readouterr().err


def test_a_full_disk_is_one_line_and_the_condition_is_not_there(
    run: Path, small_disk: Callable[[int], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    page = 4096
    used = sum(-(-path.stat().st_size // page) * page for path in run.rglob("*") if path.is_file())
    full = shutil.copytree(run, small_disk(used + 4 * page) / "run")
    assert main(["reconstruct", "--run", str(full), "--conditions", "mean_image", "vae_round_trip"]) == 1
    error = capsys.readouterr().err
    assert "No space left on device" in error
    assert error.count("\n") == 1
    assert "vae_round_trip" not in read_reconstructions(full)


@pytest.mark.slow
def test_launched_on_two_ranks_it_gives_the_bytes_of_one(
    run: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes whose rank and device accelerate says: each draws its batches, rank 0 writes the manifest.

    One rank is launched too: on a CPU, bytes depend on the number of threads, which a launcher divides among ranks.
    """
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    words = ["reconstruct", "--cpu", "--run", str(run), "--conditions", "full", "mean_image"]
    words += ["--set", "reconstruct.batch_size=2"]
    made = []
    for num_ranks in ("1", "2"):
        assert main(["launch", "--num-ranks", num_ranks, "--", *words]) == 0
        assert capfd.readouterr().out.count("made in") == 2  # one line per condition
        made.append({name: files(run / "reconstructions" / name) for name in ("full", "mean_image")})
        shutil.rmtree(run / "reconstructions")
    assert made[0] == made[1]
